"""Whether what is to be written fits on its disks, told before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from isae.errors import StoreError
from isae.store.ownership import is_apart
from isae.store.places import LocalPlace
from isae.store.plan import Job
from isae.store.work import Work

DISK_MARGIN = 1.02


def check_disk(job: Job, *, resumed: bool) -> str:
    """The estimate in words; raises StoreError if it cannot fit.

    With `resumed` what is done already needs no more room. Otherwise the place and the work folder
    are emptied first, and what is in them now counts as free.
    """
    raw, stored = _missing(job) if resumed else job.expected_bytes()
    place, work = job.place.local, job.work.folder
    amounts = [(work, raw * DISK_MARGIN)]
    if place is not None:
        amounts.append((place, stored * DISK_MARGIN))
    if not resumed:
        freed = [work] if is_apart(job.place, job.work) else []
        freed += [] if place is None else [place]
        amounts += [(folder, -_size(folder)) for folder in freed]
    check_space(
        amounts,
        f"raw rows on their way through the shuffle {raw / 1e9:.2f} GB in {work}, the store about "
        f"{stored / 1e9:.2f} GB",
        "give another disk with --scratch, or use fewer --positions, --layers or images",
    )
    more = " more" if resumed else ""
    return (
        f"up to {raw / 1e9:.2f} GB{more} of raw rows in {work} while it is built, "
        f"about {stored / 1e9:.2f} GB{more} in the store"
    )


def check_space(amounts: Iterable[tuple[Path, float]], about: str, remedy: str) -> None:
    """Raise StoreError unless every disk has room for the bytes that are to be written to it.

    `amounts` are (folder, bytes): less than zero where files will be removed before, and a folder
    need not be there yet. `about` and `remedy` are said in the error.
    """
    disks: dict[int, tuple[Path, float]] = {}
    for folder, amount in amounts:
        there = _existing(folder)
        device = there.stat().st_dev
        first, before = disks.get(device, (there, 0))
        disks[device] = (first, before + amount)
    for there, amount in disks.values():
        free = shutil.disk_usage(there).free
        if amount > free:
            raise StoreError(
                f"expected {amount / 1e9:.2f} GB of free disk in {there} ({about}), found "
                f"{free / 1e9:.2f} GB; free some space, {remedy}"
            )


def _missing(job: Job) -> tuple[int, int]:
    """Raw rows and stored bytes that are still to be written.

    What was expected is corrected by the segments that are done.
    """
    raw, stored = job.expected_bytes()
    done = job.work.segments_done()
    if not done or not raw:
        return raw, stored
    written = sum(job.work.segment(number).stat().st_size for number in done)
    total = written * max(job.segments, len(done)) / len(done)
    share = min(_raw_of_units(job.work) / total, 1.0)
    return int(total) - written, int(stored * total / raw * (1 - share))


def _raw_of_units(work: Work) -> int:
    """Bytes of the raw rows whose units are done."""
    total = 0
    for stride, number in work.units_done():
        with suppress(StoreError):  # a damaged one is made again
            total += int(work.open(work.unit(stride, number)).facts.get("raw_bytes", 0))
    return total


def _size(folder: Path) -> int:
    files = LocalPlace(folder).keys()
    return sum(size for _, size in files)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
