"""The estimate before a build: what must be free, on which disk, of what is left to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isae.errors import StoreError
from isae.store.disk import check_disk
from isae.store.places import Place, open_place
from isae.store.segments import GridRows, Segment, write_segment, write_tensors
from isae.store.work import Work

MB = 1_000_000


@dataclass
class SomeJob:
    """A store of `raw` and `stored` bytes in all."""

    place: Place
    work: Work
    raw: int
    stored: int
    segments: int = 4

    def identity(self) -> dict[str, Any]:
        return {}

    def expected_bytes(self) -> tuple[int, int]:
        return self.raw, self.stored


def hold(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


def refused(job: SomeJob, disk: Path, resumed: bool = False) -> bool:
    try:
        check_disk(job, resumed=resumed)
    except StoreError as error:
        return f"GB of free disk in {disk}" in str(error)
    return False


def test_a_new_store_needs_its_rows_and_itself(small_disk: Path, tmp_path: Path) -> None:
    """On a disk of 25 MB."""
    for out, scratch, raw, stored, fits in (
        (small_disk, small_disk, 15, 8, True),
        (small_disk, small_disk, 15, 11, False),
        (small_disk, tmp_path, 30, 20, True),
        (tmp_path, small_disk, 20, 40, True),
        (tmp_path, small_disk, 26, 0, False),
    ):
        place, work = open_place(out / "new" / "store"), Work(scratch / "far" / "work")
        job = SomeJob(place, work, raw * MB, stored * MB)
        assert refused(job, small_disk) == (not fits)
    bucket = SomeJob(open_place("memory://disk"), Work(small_disk / "work"), 20 * MB, 90 * MB)
    assert not refused(bucket, small_disk)


def test_what_is_overwritten_is_free_on_its_own_disk_alone(
    small_disk: Path, tmp_path: Path
) -> None:
    here, there = small_disk / "store", tmp_path / "store"
    hold(here / "stride16" / "mixed4a" / "c" / "0" / "0", 12 * MB)
    hold(here / "work" / "segment-000000.safetensors", 8 * MB)
    hold(there / "stride16" / "mixed4a" / "c" / "0" / "0", 12 * MB)
    hold(small_disk / "mine", 2 * MB)
    inside = Work(here / "work")
    assert not refused(SomeJob(open_place(here), inside, 14 * MB, 8 * MB), small_disk)
    assert refused(SomeJob(open_place(here), inside, 14 * MB, 9 * MB), small_disk)
    elsewhere = Work(small_disk / "scratch")
    assert refused(SomeJob(open_place(there), elsewhere, 4 * MB, 0), small_disk)
    # An old work folder on the scratch disk goes as well.
    (here / "work" / "segment-000000.safetensors").unlink()
    hold(elsewhere.segment(0), 8 * MB)
    assert not refused(SomeJob(open_place(there), elsewhere, 10 * MB, 0), small_disk)
    assert refused(SomeJob(open_place(there), elsewhere, 12 * MB, 0), small_disk)


@pytest.fixture
def begun(small_disk: Path) -> Callable[[int, int], SomeJob]:
    """Some of four segments of 4 MB, and how many of four quarters are units."""

    def make(segments: int, units: int) -> SomeJob:
        place, work = open_place(small_disk / "store"), Work(small_disk / "store" / "work")
        for number in range(segments):
            rows = GridRows(
                np.zeros(1000, np.uint64), np.zeros((1000, 3), np.int32),
                {"a": np.zeros((1000, 2000), np.float16)},
            )  # fmt: skip
            write_segment(work.segment(number), Segment({16: rows}, np.zeros((0, 2), np.int32)))
        for number in range(units):
            write_tensors(work.unit(16, number), {}, {"raw_bytes": 4 * MB})
            hold(small_disk / "store" / "stride16" / "a" / "c" / f"{number}" / "0", MB)
        return SomeJob(place, work, 16 * MB, 8 * MB)

    return make


@pytest.mark.parametrize(
    ("segments", "units", "raw", "stored"),
    [(0, 0, 16, 8), (1, 0, 12, 8), (3, 0, 4, 8), (4, 0, 0, 8), (4, 1, 0, 6), (4, 3, 0, 2)],
)
def test_a_build_that_goes_on_needs_what_is_missing(
    begun: Callable[[int, int], SomeJob],
    small_disk: Path,
    segments: int,
    units: int,
    raw: int,
    stored: int,
) -> None:
    """Units are estimated by their share of the rows: they may be smaller than was expected."""
    job = begun(segments, units)
    said = check_disk(job, resumed=True)
    assert f"up to {raw / 1000:.2f} GB more" in said
    assert f"about {stored / 1000:.2f} GB more in the store" in said
    free = 24 * 1024**2 - (segments * 4 + units) * MB
    spare = free - int((raw + stored) * MB * 1.02)
    hold(small_disk / "mine", max(spare - MB // 2, 0))
    assert not refused(job, small_disk, resumed=True)
    hold(small_disk / "mine", spare + MB // 2)
    assert refused(job, small_disk, resumed=True)
