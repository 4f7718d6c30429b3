"""Where each unit of the store begins in every segment: the shuffle, without moving a row.

Every row has a 63-bit key, a hash of (seed, grid, image, y, x), with a bit above it for held-out
images. The stored order is the order of the keys, so it is one uniformly random permutation that
depends on the seed and on the images alone: not on batch sizes, workers, ranks or segments.
Segments are sorted runs; unit u holds the rows of rank [u U, (u + 1) U) in the order of all. Its
first key is found from a histogram of the leading bits and, for the bins that hold a first key,
the keys themselves, some `KEYS_AT_ONCE` at a time. Memory does not grow with the rows.

A cut is the number of rows of one segment before a unit: cuts int64 [units + 1, segments]. In their
file each unit's cuts are followed by their CRC-32C.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isae.errors import StoreCorruptError
from isae.files import atomic_path
from isae.randomness import hash64, keyed_seed
from isae.store.checksum import row_checksums
from isae.store.segments import HELD_OUT, U64, SegmentFile

BIN_BITS = 16
KEYS_AT_ONCE = 1 << 20
Ints = npt.NDArray[np.int64]


def row_keys(
    seed: int,
    stride: int,
    image: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    x: npt.NDArray[np.int64],
    held_out: npt.NDArray[np.bool_],
) -> U64:
    """Sort keys [R]: 63 random bits by (seed, grid, image, y, x), top bit set if held out."""
    keys = hash64(keyed_seed(seed, "shuffle", stride), image, y, x) >> np.uint64(1)
    return np.where(held_out, keys | HELD_OUT, keys)


class Runs:
    """The sorted keys of one grid in all segments."""

    def __init__(self, segments: Sequence[SegmentFile], stride: int) -> None:
        self.segments, self.stride = segments, stride
        self.lengths: Ints = np.asarray([s.rows(f"{stride}.key") for s in segments], dtype=np.int64)
        self.rows = int(self.lengths.sum())

    def keys(self, segment: int, start: int, stop: int) -> U64:
        """Keys [start, stop) of a segment."""
        found = np.empty(stop - start, dtype=np.uint64)
        if len(found):
            self.segments[segment].read_into([(f"{self.stride}.key", start, found)])
        return found

    def histogram(self) -> Ints:
        """Rows of all segments by the key's leading bits, int64 [2^BIN_BITS]."""
        total = np.zeros(1 << BIN_BITS, dtype=np.int64)
        for segment, length in enumerate(self.lengths.tolist()):
            bins = (self.keys(segment, 0, length) >> np.uint64(64 - BIN_BITS)).astype(np.int64)
            total += np.bincount(bins, minlength=len(total))
        return total


def write_cuts(path: Path, runs: Runs, unit_rows: int) -> None:
    """Find all cuts of a grid and write them as a NumPy file, whole or not at all."""
    units = -(-runs.rows // unit_rows)
    cuts = (cut for _, cut in _cuts(runs, unit_rows))
    save_cuts(path, (units + 1, len(runs.segments)), chain(cuts, [runs.lengths]))


def save_cuts(path: Path, shape: tuple[int, int], cuts: Iterable[Ints]) -> None:
    """Write cuts of this shape as a NumPy file with their checksums, whole or not at all."""
    about = {"descr": "<i8", "fortran_order": False, "shape": (shape[0], shape[1] + 1)}
    # Not mapped into memory: on a full disk a write to such memory ends the process.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, about)
        for cut in cuts:
            file.write(np.append(cut, _sum_of(cut)).tobytes())


def read_cuts(path: Path) -> Ints:
    """The cuts of a grid, mapped from the file; StoreCorruptError if they are damaged."""
    try:
        found: Ints = np.load(path, mmap_mode="r")
        sound = found.dtype == np.int64 and all(_sum_of(row[:-1]) == row[-1] for row in found)
    except FileNotFoundError:
        raise
    except Exception:  # a damaged header: np.load raises many kinds
        sound = False
    if not sound:
        raise StoreCorruptError(
            f"expected {path} as a build wrote it, found it damaged; run the build again with "
            "--resume, which makes it anew"
        )
    return found[:, :-1]


def _sum_of(cut: Ints) -> int:
    return int(row_checksums(np.ascontiguousarray(cut)[None])[0])


def _cuts(runs: Runs, unit_rows: int) -> Iterator[tuple[int, Ints]]:
    """(unit, cut) of every unit, in order."""
    reached = np.zeros(len(runs.segments), dtype=np.int64)
    unit = 0
    for last_bin in _bin_groups(runs.histogram()):
        limit = None if last_bin == 1 << BIN_BITS else np.uint64(last_bin << (64 - BIN_BITS))
        parts = [_until(runs, s, int(start), limit) for s, start in enumerate(reached)]
        base, after = int(reached.sum()), sum(map(len, parts))
        wanted = np.arange(unit * unit_rows - base, after, unit_rows)
        for first in _sorted(parts)[wanted]:
            inside = [int(np.searchsorted(part, first)) for part in parts]
            cut = reached + np.asarray(inside, dtype=np.int64)
            yield unit, _with_ties(runs, cut, first, unit * unit_rows)
            unit += 1
        reached = reached + np.asarray([len(part) for part in parts], dtype=np.int64)
        del parts  # before the next group's are read


def _sorted(parts: Sequence[U64]) -> U64:
    keys = np.concatenate([np.empty(0, dtype=np.uint64), *parts])
    keys.sort()
    return keys


def _bin_groups(histogram: Ints) -> Iterator[int]:
    """Ends of groups of neighbouring bins that hold about KEYS_AT_ONCE rows."""
    held = 0
    for number, count in enumerate(histogram.tolist()):
        if held and held + count > KEYS_AT_ONCE:
            yield number
            held = 0
        held += count
    yield len(histogram)


def _until(runs: Runs, segment: int, start: int, limit: np.uint64 | None) -> U64:
    """Keys of a segment from number `start`, below `limit`."""
    length = int(runs.lengths[segment])
    if limit is None:
        return runs.keys(segment, start, length)
    found: list[U64] = []
    step = max(1024, 2 * KEYS_AT_ONCE // max(len(runs.segments), 1))
    while start < length:
        piece = runs.keys(segment, start, min(start + step, length))
        inside = int(np.searchsorted(piece, limit))
        found.append(piece[:inside])
        start += len(piece)
        if inside < len(piece):
            break
    return np.concatenate(found) if found else np.empty(0, dtype=np.uint64)


def _with_ties(runs: Runs, cut: Ints, first: np.uint64, rank: int) -> Ints:
    """Move the cut over rows that share the unit's first key but belong to the unit before."""
    missing = rank - int(cut.sum())
    if not missing:
        return cut
    tied: list[tuple[tuple[int, ...], int]] = []
    for segment, start in enumerate(cut.tolist()):
        stop = start
        while stop < runs.lengths[segment] and runs.keys(segment, stop, stop + 1)[0] == first:
            stop += 1
        places = np.empty((stop - start, 3), dtype=np.int32)
        if len(places):
            runs.segments[segment].read_into([(f"{runs.stride}.place", start, places)])
        tied += [(tuple(place), segment) for place in places.tolist()]
    moved = cut.copy()
    for _, segment in sorted(tied)[:missing]:
        moved[segment] += 1
    return moved
