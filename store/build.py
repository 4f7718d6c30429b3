"""Build a store: decode, forward pass, segments; then unit by unit sort, compress, write.

Decoding (processes), the forward pass (a thread), cutting out rows (the main thread) and writing
segments (a thread) overlap. What is done is kept in the work folder (see store/work.py), so a
build that was ended goes on from there with `resume`. Under torchrun each process takes a share of
the segments and of the units; the first one completes the store.

Memory does not grow with the images: batches in flight, two segments, later one layer's rows of a
unit for each thread. What grows is the source's own list of names (see isae.images).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from isae.errors import ImageError, StoreError
from isae.images import BadImageTally
from isae.interrupts import Interrupts, deferred_interrupts
from isae.progress import QUIET, Reporter
from isae.store import manifest
from isae.store.assemble import Assembly, commit, write_arrays
from isae.store.claim import claimed
from isae.store.config import BuildConfig
from isae.store.describe import Counts, describe
from isae.store.images_table import ImagesTable
from isae.store.ownership import forget
from isae.store.plan import Plan, make_plan
from isae.store.ranks import find_ranks
from isae.store.segment_watch import bad_of, check_times
from isae.store.segmenting import max_bad, segments_of, write_segments
from isae.store.work import BUILD


def build_store(
    config: BuildConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    same_photos: bool = False,
    reporter: Reporter = QUIET,
) -> manifest.Manifest:
    """Build the store that `config` describes; its manifest.

    `resume` goes on with a build of the same configuration that was ended before, if there is one,
    and returns the manifest of a store that is complete already; `overwrite` begins anew. With
    `same_photos` files of other times than at the begin, but of the same names and sizes, are taken
    for the same.

    Raises a subclass of IsaeError for everything that a user can mend, KeyboardInterrupt for SIGINT
    and SIGTERM. What is done stays for `resume`, unless no segment was; readers refuse the store
    until it is complete.
    """
    ranks = find_ranks()
    with ranks.together():
        plan = make_plan(config, ranks)
        with deferred_interrupts() as stop, ExitStack() as stack:
            ranks.check = stop.check
            finished = None
            if ranks.first:
                finished = stack.enter_context(claimed(plan, overwrite, resume, reporter, ranks))
                if finished is None:
                    check_times(plan, reporter, same_photos)
            name = ranks.share("claimed", plan.work.build if finished is None else None)
            if name is not None:
                _check_shared(plan, name)
                finished = _build(plan, reporter if ranks.first else QUIET, stop)
            return finished or manifest.read(plan.place)


def _build(plan: Plan, reporter: Reporter, stop: Interrupts) -> manifest.Manifest | None:
    """Segments, units and commit; the manifest in the first process."""
    counts = Counts()
    write_segments(plan, counts, reporter, stop)
    counts.extracted = plan.ranks.total("segments", counts.extracted)
    started = time.monotonic()
    found: manifest.Manifest | None = None
    if plan.ranks.first:
        _count(plan, counts)
        _check_images(plan, counts, reporter)
    plan.ranks.barrier("counted")
    assembly = Assembly(
        plan.place,
        plan.work,
        plan.grids,
        plan.config.dtype,
        plan.config.codec,
        plan.ranks,
        reporter,
        stop,
    )
    done = write_arrays(assembly, plan.segments)
    if done is not None:
        counts.write_seconds = time.monotonic() - started
        described = describe(plan, counts, done)
        found = commit(assembly, done, described, lambda path: _write_images(plan, path))
    plan.ranks.barrier("complete")
    return found


def _check_shared(plan: Plan, name: str) -> None:
    """Raise StoreError unless this process sees the work folder that the first one began."""
    begun, asked = plan.work.plan or {}, {**plan.identity(), BUILD: name}
    if any(begun.get(key) != value for key, value in asked.items()):
        raise StoreError(
            f"expected {plan.work.folder}, as the first process of this build began it, in "
            f"process {plan.ranks.rank} too, found nothing or another build there; give --scratch "
            "(and --out) on a disk that all machines share"
        )
    plan.work.go_on()


def _count(plan: Plan, counts: Counts) -> None:
    """What all segments hold together."""
    tally = BadImageTally(max_bad(plan))
    for segment in segments_of(plan):
        tally.add(bad_of(segment))
        readable = np.flatnonzero(segment.sizes_S2[:, 0]) + segment.facts["first"]
        counts.images += len(readable)
        counts.held_out += int(plan.split.held_out(readable.astype(np.int64)).sum())
    counts.unreadable = tally


def _check_images(plan: Plan, counts: Counts, reporter: Reporter) -> None:
    if not counts.images:
        names = counts.unreadable.names() if counts.unreadable else ""
        forget(plan.place, plan.work)
        raise ImageError(
            f"expected readable pictures in {plan.source.spec}, found none: {names}; "
            "give another --images"
        )
    if plan.config.holdout > 0 and not counts.held_out:
        reporter.warn("no image is held out: the readable ones are too few for --holdout")


def _write_images(plan: Plan, path: Path) -> None:
    with ImagesTable(path, plan.source, plan.split) as table:
        for segment in segments_of(plan):
            first, sizes = int(segment.facts["first"]), segment.sizes_S2.tolist()
            table.add(
                {first + i: (w, h) for i, (w, h) in enumerate(sizes) if w},
                range(first, first + len(sizes)),
            )


def main() -> None:
    """`python -m isae.store.build`, for torchrun: the options of `isae-store build`."""
    import sys

    from isae.store.cli import main as run

    sys.argv = [sys.argv[0], "build", *sys.argv[1:]]
    run()


if __name__ == "__main__":
    main()
