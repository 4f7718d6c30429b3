"""The shuffle: where units begin in every segment, against one sort of all rows; the keys."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.randomness import hash64
from isae.store import cuts
from isae.store.cuts import Runs, read_cuts, row_keys, write_cuts
from isae.store.segments import HELD_OUT, GridRows, Segment, SegmentFile, write_segment

STRIDE = 16
TOP = int(HELD_OUT)
# Equal keys in plenty, keys at the borders of bins, of the held-out half and of uint64.
FEW_KEYS = [0, 1, (1 << 48) - 1, 1 << 48, TOP - 1, TOP, TOP + 1, 2**64 - 1]
Keys = npt.NDArray[np.uint64]


def write_run(folder: Path, number: int, keys: Sequence[int], first_row: int) -> SegmentFile:
    """A segment with these keys; its places tell rows apart, in no order."""
    rng = np.random.default_rng([number, len(keys)])
    rows = np.arange(first_row, first_row + len(keys))
    place_R3 = np.stack([hash64(1, rows) % np.uint64(7), rows % 5, rows], axis=1).astype(np.int32)
    order = rng.permutation(len(keys))
    key_R = np.array(keys, dtype=np.uint64)
    grid = GridRows(key_R[order], place_R3[order], {})
    path = folder / f"segment-{number:06d}.safetensors"
    write_segment(path, Segment({STRIDE: grid}, np.zeros((0, 2), np.int32)))
    return SegmentFile(path)


def cut_runs(folder: Path, runs: Sequence[Sequence[int]], unit_rows: int) -> list[SegmentFile]:
    """Segments of these keys, with their cuts in cuts.npy."""
    firsts = np.cumsum([0, *map(len, runs)]).tolist()
    segments = [
        write_run(folder, number, keys, first)
        for number, (keys, first) in enumerate(zip(runs, firsts, strict=False))
    ]
    write_cuts(folder / "cuts.npy", Runs(segments, STRIDE), unit_rows)
    return segments


def unit_by_unit(folder: Path, segments: Sequence[SegmentFile]) -> list[npt.NDArray[Any]]:
    """Rows (key, image, y, x) of every unit by the cuts, each sorted alone."""
    found = []
    for low, high in pairwise(read_cuts(folder / "cuts.npy")):
        parts = [np.empty((0, 4), dtype=np.uint64)]
        for segment, start, stop in zip(segments, low, high, strict=True):
            key_R, place_R3 = segment.whole(f"{STRIDE}.key"), segment.whole(f"{STRIDE}.place")
            both = np.column_stack([key_R, place_R3.astype(np.uint64)])
            assert 0 <= start <= stop <= len(both)
            parts.append(both[start:stop])
        rows = np.concatenate(parts)
        found.append(rows[np.lexsort(rows.T[::-1])])
    return found


def everything(segments: Sequence[SegmentFile]) -> npt.NDArray[Any]:
    """All rows (key, image, y, x) in one sort."""
    parts = [np.empty((0, 4), dtype=np.uint64)]
    for one in segments:
        place_R3 = one.whole(f"{STRIDE}.place").astype(np.uint64)
        parts.append(np.column_stack([one.whole(f"{STRIDE}.key"), place_R3]))
    rows = np.concatenate(parts)
    return rows[np.lexsort(rows.T[::-1])]


def check(runs: Sequence[Sequence[int]], unit_rows: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        segments = cut_runs(folder, runs, unit_rows)
        units = unit_by_unit(folder, segments)
        expected = everything(segments)
        assert len(units) == -(-len(expected) // unit_rows)
        for number, unit in enumerate(units):
            mine = expected[number * unit_rows : (number + 1) * unit_rows]
            np.testing.assert_array_equal(unit, mine)


keys = st.one_of(st.sampled_from(FEW_KEYS), st.integers(0, 2**64 - 1))
few = st.sampled_from(FEW_KEYS)
all_runs = st.one_of(
    st.lists(st.lists(keys, max_size=40), min_size=1, max_size=7),
    st.lists(st.lists(few, max_size=40), min_size=1, max_size=7),
    st.lists(st.lists(st.just(TOP), max_size=20), min_size=1, max_size=4),
)


@given(
    runs=all_runs,
    unit_rows=st.integers(1, 50),
    bits=st.sampled_from([1, 3, 16]),
    at_once=st.sampled_from([1, 2, 7, 30, 4 << 20]),
)
@settings(deadline=None, max_examples=150)
def test_units_are_those_of_one_sort_of_all_rows(
    runs: list[list[int]], unit_rows: int, bits: int, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "BIN_BITS", bits)
        patch.setattr(cuts, "KEYS_AT_ONCE", at_once)
        check(runs, unit_rows)


@pytest.mark.parametrize("at_once", [500, 20_000])
@pytest.mark.parametrize("segments", [1, 3, 40])
def test_many_rows_by_their_real_keys(
    monkeypatch: pytest.MonkeyPatch, at_once: int, segments: int
) -> None:
    """More keys than are read at once, from segments longer than a piece."""
    monkeypatch.setattr(cuts, "KEYS_AT_ONCE", at_once)
    rows = np.arange(30_000)
    held_out = rows % 11 == 0
    key_R = row_keys(5, STRIDE, rows // 9, rows % 9 // 3, rows % 3, held_out)
    lengths = np.random.default_rng(segments).multinomial(len(rows), np.ones(segments) / segments)
    check([part.tolist() for part in np.split(key_R, np.cumsum(lengths)[:-1])], 1024)


@pytest.mark.parametrize("runs", [[], [[]], [[], []]])
def test_without_rows_there_are_no_units(tmp_path: Path, runs: list[list[int]]) -> None:
    segments = cut_runs(tmp_path, runs, 8)
    assert read_cuts(tmp_path / "cuts.npy").shape == (1, len(runs))
    assert unit_by_unit(tmp_path, segments) == []


def test_cuts_are_whole_or_not_there(tmp_path: Path) -> None:
    segment = write_run(tmp_path, 0, range(100), 0)
    segment.path.write_bytes(segment.path.read_bytes()[:-2000])
    with pytest.raises(Exception, match="found it shorter"):
        write_cuts(tmp_path / "cuts.npy", Runs([segment], STRIDE), 10)
    assert [path.name for path in tmp_path.iterdir()] == ["segment-000000.safetensors"]


def no_places(rows: int) -> tuple[npt.NDArray[np.int64], ...]:
    return np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)


def plain_keys(seed: int, stride: int, rows: int) -> Keys:
    return row_keys(seed, stride, np.arange(rows), *no_places(rows), np.zeros(rows, dtype=bool))


def test_held_out_rows_come_last_and_keep_their_order() -> None:
    rows = 2000
    held_out = np.arange(rows) % 5 == 4
    without = plain_keys(3, 8, rows)
    found = row_keys(3, 8, np.arange(rows), *no_places(rows), held_out)
    np.testing.assert_array_equal(found, without + np.where(held_out, HELD_OUT, np.uint64(0)))
    order = np.argsort(found)
    assert held_out[order].tolist() == [False] * 1600 + [True] * 400


def test_order_is_a_uniform_permutation() -> None:
    """Ranks of neighbours in the input are unrelated: no trace of the arrival order is left."""
    rows = 50_000
    rank = np.argsort(np.argsort(plain_keys(7, 16, rows))).astype(float)
    for lag in (1, 2, 64, 4096):
        correlation = np.corrcoef(rank[:-lag], rank[lag:])[0, 1]
        # Of independent ranks: standard deviation 1/sqrt(50,000) = 0.0045; 5 sigma.
        assert abs(correlation) < 0.0225
    # The first tenth of the input falls evenly over ten parts of the order: binomial, 5 sigma.
    parts = np.bincount((rank[: rows // 10] * 10 // rows).astype(int), minlength=10)
    np.testing.assert_allclose(parts, rows / 100, atol=5 * np.sqrt(rows / 100))


def test_neighbours_on_the_grid_are_torn_apart() -> None:
    """Places of one image spread over the order as those of different images do."""
    images, side = 400, 12
    image, cell = np.divmod(np.arange(images * side * side), side * side)
    y, x = np.divmod(cell, side)
    key_R = row_keys(1, 16, image, y, x, np.zeros(len(image), dtype=bool))
    part = (np.argsort(np.argsort(key_R)) * 16 // len(key_R)).reshape(images, -1)
    counts = np.stack([(part == one).sum(axis=1) for one in range(16)], axis=1)
    # Pearson's statistic of 400 images over 16 parts: 400 * 15 degrees of freedom, 5 sigma.
    expected = side * side / 16
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - 6000) < 5 * np.sqrt(2 * 6000)


def test_seeds_and_grids_give_different_orders() -> None:
    orders = {
        tuple(np.argsort(plain_keys(seed, stride, 100)).tolist())
        for seed in (0, 1, 2**63 - 1)
        for stride in (8, 16)
    }
    assert len(orders) == 6


def test_keys_have_no_bits_that_are_always_the_same() -> None:
    rows = 4096
    ones = [
        int((plain_keys(2, 8, rows) >> np.uint64(bit) & np.uint64(1)).sum()) for bit in range(63)
    ]
    # Binomial of 4096 at 1/2: sigma 32; 5 sigma over 63 bits.
    assert max(abs(count - rows // 2) for count in ones) < 160


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=300, unique=True))
@settings(deadline=None, max_examples=50)
def test_hash_has_no_collisions_and_ignores_order(values: list[int]) -> None:
    found = hash64(3, np.array(values), np.zeros(len(values)))
    assert len(set(found.tolist())) == len(values)
    backwards = hash64(3, np.array(values[::-1]), np.zeros(len(values)))
    np.testing.assert_array_equal(found[::-1], backwards)
