"""Phase 1 of a build: pictures to segments of rows, stage by stage at the same time.

Shapes: S images of a segment.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from isae.freed_memory import keep_freed_memory
from isae.images import BadImage, BadImageTally, ImageBatch, decode_batches, default_max_bad
from isae.interrupts import Interrupts
from isae.progress import Meter, Reporter
from isae.store.describe import Counts
from isae.store.extract import Extractor
from isae.store.extrema import largest_sizes
from isae.store.plan import Plan
from isae.store.positions import Ints
from isae.store.scratch import Scratch
from isae.store.segment_watch import bad_of, usable_segments, watched
from isae.store.segments import HELD_OUT, GridRows, Segment, SegmentFile, write_segment
from isae.store.threads import one_threaded_pool

_scratch = Scratch()


@dataclass
class _Collector:
    """Rows of the segment that is being filled."""

    first: int
    count: int
    sizes_S2: Any = field(init=False)
    parts: list[dict[int, GridRows]] = field(default_factory=list)
    bad: list[BadImage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sizes_S2 = np.zeros((self.count, 2), dtype=np.int32)

    def segment(self, plan: Plan) -> Segment:
        grids, arrays = {}, {}
        for grid in plan.grids:
            mine = [part[grid.stride] for part in self.parts]
            grids[grid.stride] = joined(mine, grid.channels, plan.extractor.dtype, _scratch)
        training = {
            str(stride): int((rows.key_R < HELD_OUT).sum()) for stride, rows in grids.items()
        }
        if plan.config.quantised:
            arrays = {
                f"{name}/largest": largest_sizes(values)
                for rows in grids.values()
                for name, values in rows.layers.items()
            }
        bad = [[image.index, image.name, image.reason] for image in self.bad]
        facts = {"first": self.first, "images": self.count, "bad": bad, "train_rows": training}
        return Segment(grids, self.sizes_S2, plan.work.signed(facts), arrays)


def joined(
    parts: Sequence[GridRows],
    channels: Mapping[str, int],
    dtype: torch.dtype,
    scratch: Scratch | None = None,
) -> GridRows:
    """The rows of all `parts`, one after the other; of none, none.

    With `scratch` the layers' rows are in its buffers.
    """
    empty = np.dtype(str(dtype).removeprefix("torch."))
    key_R = np.concatenate([np.empty(0, dtype=np.uint64), *(part.key_R for part in parts)])
    place_R3 = np.concatenate([np.empty((0, 3), np.int32), *(part.place_R3 for part in parts)])
    layers = {}
    for name, size in channels.items():
        out_RC = None if scratch is None else scratch.take(name, (len(key_R), size), empty)
        arrays = [np.empty((0, size), empty), *(part.layers[name] for part in parts)]
        layers[name] = np.concatenate(arrays, out=out_RC)
    return GridRows(key_R, place_R3, layers)


def write_segments(plan: Plan, counts: Counts, reporter: Reporter, stop: Interrupts) -> None:
    """Phase 1: every segment of this rank that is missing."""
    config, ranks = plan.config, plan.ranks
    mine = range(ranks.rank, plan.segments, ranks.size)
    done = usable_segments(plan, mine, reporter)
    todo = [number for number in mine if number not in done]
    spans = {number: _span(plan, number) for number in mine}
    tally = BadImageTally(max_bad(plan))
    for number in mine:
        if number in done:
            tally.add(bad_of(plan.work.open(plan.work.segment(number))))
    wanted = [np.arange(*spans[number]) for number in todo]
    total = sum(stop_at - start for start, stop_at in spans.values())
    indices = np.concatenate([np.empty(0, dtype=np.int64), *wanted])
    batches = decode_batches(
        plan.source, plan.size, config.batch_size, config.workers, indices=indices
    )
    started = time.monotonic()
    with (
        watched(plan) as watch,
        reporter.task(total, "extracting", "images") as meter,
        _Writer(plan) as writer,
    ):
        meter.skip_to(total - len(indices))
        stages = extracted(plan.extractor, batches)
        try:
            for number in todo:
                collector = _fill(plan, spans[number], stages, (tally, meter, reporter, stop))
                counts.extracted += collector.count - len(collector.bad)
                writer.write(number, collector)
                watch.decoded(number)
            writer.finish()
            watch.finish(todo)
        finally:
            stages.close()  # type: ignore[attr-defined]
    counts.extract_seconds = time.monotonic() - started


Rows = list[dict[int, GridRows]]
"""The rows of a batch, piece by piece."""
_Coming = tuple[ImageBatch, list[Future[dict[int, GridRows]]]]


def extracted(
    extractor: Extractor, batches: Iterator[ImageBatch]
) -> Iterator[tuple[ImageBatch, Rows]]:
    """Every batch with its rows, in order; ends `batches` when it is ended itself.

    Threads take pieces of this batch and of those after it, so none waits for the end of a batch.
    Each has one thread of torch's: more would wait for each other after every small operation, and
    take processors from decoding and writing while they do.
    """
    keep_freed_memory()
    threads = extractor.threads
    waiting: deque[_Coming] = deque()

    def rows_of(images: Ints, pixels: torch.Tensor) -> dict[int, GridRows]:
        return extractor.rows(images, extractor.maps(pixels))

    with one_threaded_pool(threads, "isae-extract") as pool:
        try:
            for batch, error in _with_error(batches):
                if batch is not None:
                    pieces = extractor.pieces(batch)
                    waiting.append((batch, [pool.submit(rows_of, *piece) for piece in pieces]))
                least = 2 * threads if error is None and batch is not None else 0
                while waiting and _behind_first(waiting) >= least:
                    yield _whole(waiting.popleft())
                if error is not None:
                    raise error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            batches.close()  # type: ignore[attr-defined]


def _with_error(
    batches: Iterator[ImageBatch],
) -> Iterator[tuple[ImageBatch | None, BaseException | None]]:
    """The batches, then nothing, or the error that ended them: what came before it is not lost."""
    try:
        for batch in batches:
            yield batch, None
    except GeneratorExit:
        raise
    except BaseException as error:
        yield None, error
    else:
        yield None, None


def _behind_first(waiting: Sequence[_Coming]) -> int:
    return sum(len(futures) for _, futures in islice(waiting, 1, None))


def _whole(coming: _Coming) -> tuple[ImageBatch, Rows]:
    return coming[0], [future.result() for future in coming[1]]


def _fill(
    plan: Plan,
    span: tuple[int, int],
    stages: Iterator[tuple[ImageBatch, Rows]],
    watch: tuple[BadImageTally, Meter, Reporter, Interrupts],
) -> _Collector:
    """The rows of images [start, stop)."""
    tally, meter, reporter, stop = watch
    collector = _Collector(span[0], span[1] - span[0])
    seen = 0
    while seen < collector.count:
        batch, rows = next(stages)
        stop.check()
        tally.add(batch.bad)
        for bad in batch.bad:
            reporter.warn(f"skipped {bad.name}: {bad.reason}")
        images = np.asarray(batch.indices, dtype=np.int64)
        if len(images):
            collector.parts += rows
            collector.sizes_S2[images - span[0]] = batch.sizes_B2
        collector.bad += batch.bad
        attempted = len(images) + len(batch.bad)
        seen += attempted
        meter.advance(attempted)
    return collector


class _Writer:
    """Writes segments in a thread, one at a time."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="isae-segment")
        self.last: Future[None] | None = None

    def write(self, number: int, collector: _Collector) -> None:
        """Write this one while the next is filled."""
        self.finish()
        self.last = self.pool.submit(self._write, number, collector)

    def finish(self) -> None:
        """Wait until the last one is on disk."""
        if self.last is not None:
            self.last.result()

    def _write(self, number: int, collector: _Collector) -> None:
        self.plan.work.check_there()
        write_segment(self.plan.work.segment(number), collector.segment(self.plan))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(wait=True)


def _span(plan: Plan, number: int) -> tuple[int, int]:
    size = plan.segment_images
    return number * size, min((number + 1) * size, len(plan.source))


def max_bad(plan: Plan) -> int:
    """More unreadable images than this end the build."""
    wanted = plan.config.max_bad
    return default_max_bad(len(plan.source)) if wanted is None else wanted


def segments_of(plan: Plan) -> Iterator[SegmentFile]:
    """All segments, in order."""
    for number in range(plan.segments):
        yield plan.work.open(plan.work.segment(number))
