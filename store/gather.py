"""Stores of rows that exist already: other stores' (store/merge.py), or arrays made elsewhere.

As in a build, rows become segments first, so what is done is kept when the process is killed, and
memory is bounded by a few segments.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from isae.errors import StoreError
from isae.interrupts import Interrupts, deferred_interrupts
from isae.progress import Reporter
from isae.store import manifest
from isae.store.assemble import Assembled, Assembly, commit, write_arrays
from isae.store.claim import claimed
from isae.store.extract import Grid
from isae.store.layout import ARITHMETIC
from isae.store.places import Place, open_place
from isae.store.plan import EXPECTED_SIZE, work_folder
from isae.store.segments import HELD_OUT, Segment, write_segment
from isae.store.threads import in_threads
from isae.store.work import Work

MOST_THREADS = 4
"""Each holds a segment."""


class Origin(Protocol):
    """Where rows come from."""

    @property
    def segments(self) -> int:
        """Number of segments."""

    @property
    def raw_bytes(self) -> int:
        """Bytes of all rows, not compressed."""

    def segment(self, number: int) -> Segment:
        """The rows of a segment; called from several threads."""

    def check_unchanged(self) -> None:
        """Raise StoreError if the rows are not those that were there at first."""

    def describe(self, done: Assembled, work: Work) -> manifest.Manifest:
        """What the manifest says of images, model and layers."""

    def write_images(self, path: Path, work: Work) -> None:
        """Write the images table."""


@dataclass
class Gathering:
    """A store that is made of rows that exist already."""

    place: Place
    work: Work
    grids: Sequence[Grid]
    dtype: str
    codec: str
    origin: Origin
    asked: Mapping[str, Any]
    """What must be the same for another run to go on with this one."""

    @classmethod
    def begin(cls, out: str, scratch: str | None, *rest: Any) -> Gathering:
        """Into the place `out`; `rest` are the fields from `grids` on."""
        place = open_place(out)
        return cls(place, Work(work_folder(place, scratch)), *rest)

    @property
    def segments(self) -> int:
        """Number of segments."""
        return self.origin.segments

    def identity(self) -> dict[str, Any]:
        """What was asked for."""
        return {**self.asked, "arithmetic": ARITHMETIC}

    def expected_bytes(self) -> tuple[int, int]:
        """Raw rows, and what must be free for the store itself."""
        raw = self.origin.raw_bytes
        return raw, int(raw * EXPECTED_SIZE.get(self.codec, 1.0))


def gather(
    job: Gathering, *, overwrite: bool, resume: bool, reporter: Reporter
) -> manifest.Manifest:
    """Make the store; its manifest. Errors as those of `build_store`."""
    with (
        deferred_interrupts() as stop,
        claimed(job, overwrite, resume, reporter) as finished,
    ):
        if finished is not None:
            return finished
        started = time.monotonic()
        _write_segments(job, reporter, stop)
        read_seconds = time.monotonic() - started
        assembly = Assembly(
            job.place,
            job.work,
            job.grids,
            job.dtype,
            job.codec,
            reporter=reporter,
            stop=stop,
        )
        done = write_arrays(assembly, job.segments)
        assert done is not None  # this process is alone
        job.origin.check_unchanged()
        described = {"identity": job.identity(), **job.origin.describe(done, job.work)}
        described["measured"] = {
            "extract_seconds": read_seconds,
            "images_per_second": described["images"]["used"] / max(read_seconds, 1e-9),
            "write_seconds": time.monotonic() - started - read_seconds,
        }
        return commit(
            assembly, done, described, lambda path: job.origin.write_images(path, job.work)
        )


def train_rows(segment: Segment) -> dict[str, int]:
    """The rows of training images, by the grid's stride: a fact that every segment must state."""
    return {
        str(stride): int((rows.key_R < HELD_OUT).sum()) for stride, rows in segment.grids.items()
    }


def check_apart(out: str, inputs: Sequence[Place], *, may_lie_inside: bool = False) -> None:
    """Raise StoreError if an input would lie in what is written, or, unless it may, out in one."""
    place = open_place(out)
    for one in inputs:
        mine, other = _full_name(place), _full_name(one)
        inside = mine.startswith(other) and not (may_lie_inside and mine != other)
        if other.startswith(mine) or inside:
            raise StoreError(
                f"expected --out apart from what is read, found {place.url} in the same place as "
                f"{one.url}; choose another --out"
            )


def _full_name(place: Place) -> str:
    name = place.url if place.local is None else str(place.local.resolve())
    return f"{name.rstrip('/')}/"


def _write_segments(job: Gathering, reporter: Reporter, stop: Interrupts) -> None:
    done = job.work.whole_segments(range(job.segments), reporter.warn)
    todo = [number for number in range(job.segments) if number not in done]
    with reporter.task(job.segments, "reading", "segments") as meter:
        meter.skip_to(len(done))
        for _ in in_threads(lambda number: _write_segment(job, number), todo, stop, few_threads()):
            meter.advance()


def _write_segment(job: Gathering, number: int) -> None:
    segment = job.origin.segment(number)
    segment.facts = job.work.signed(segment.facts)
    job.work.check_there()
    write_segment(job.work.segment(number), segment)


def few_threads() -> int:
    """Threads for work that holds a segment each."""
    return min(torch.get_num_threads(), MOST_THREADS)
