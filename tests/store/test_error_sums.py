from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.errors import DataError, StoreCorruptError
from isae.store.error_sums import ErrorSums
from isae.store.quantise import Quantiser, scales

Array = npt.NDArray[Any]


def some_rows(rows: int, channels: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    exact = np.maximum(rng.normal(-0.2, 3, (rows, channels)), 0).astype(np.float32)
    return exact, exact.astype(np.float16)


def sums_of(exact: Array, stored: Array) -> ErrorSums:
    sums = ErrorSums(exact.shape[1])
    sums.add(exact, stored)
    return sums


def assert_same(one: ErrorSums, other: ErrorSums) -> None:
    assert one.count == other.count
    np.testing.assert_array_equal(one.error_C, other.error_C)
    np.testing.assert_array_equal(one.square_C, other.square_C)


def test_sums_and_measures_against_numpy() -> None:
    exact, stored = some_rows(701, 513)  # blocks of 255 rows
    exact[:, 7] = 1000 + exact[:, 7]
    stored[:, 7] = exact[:, 7]
    sums = sums_of(exact, stored)
    wide, near = exact.astype(np.float64), stored.astype(np.float64)
    # Sums of 701 float64 products, in another order.
    np.testing.assert_allclose(sums.error_C, ((wide - near) ** 2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(sums.square_C, (wide**2).sum(0), rtol=1e-12)
    relative = np.linalg.norm(wide - near) / np.linalg.norm(wide)
    assert sums.relative_error == pytest.approx(relative, rel=1e-12)
    # FVU of the reconstruction `near`, with variances about each channel's mean.
    fvu = ((wide - near) ** 2).sum() / ((wide - wide.mean(0)) ** 2).sum()
    assert sums.fvu_floor(wide.var(0).sum()) == pytest.approx(fvu, rel=1e-12)


def test_int8_error_is_that_of_a_uniform_distribution() -> None:
    rng = np.random.default_rng(1)
    exact = rng.uniform(-1, 1, (4000, 50)).astype(np.float32)
    quantiser = Quantiser("int8", scales("int8", np.ones(50)))
    stored = np.empty(exact.shape, dtype=np.float16)
    quantiser.decode(quantiser.encode(exact), stored)
    sums = sums_of(exact, stored)
    # step^2 / 12 of a mean square of 1/3; float16 adds less than 0.1 %; 200,000 draws.
    expected = (1 / 127) ** 2 / 12 / (1 / 3)
    assert sums.relative_error**2 == pytest.approx(expected, rel=0.01)
    assert sums.fvu_floor(50 / 3) == pytest.approx(expected, rel=0.01)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=5))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    exact, stored = some_rows(401, 1023)  # blocks of 128 rows
    sums = ErrorSums(1023)
    edges = [0, *sorted(set(cuts)), 401]
    for start, stop in itertools.pairwise(edges):
        sums.add(exact[start:stop], stored[start:stop])
    assert_same(sums, sums_of(exact, stored))


def test_merge_adds_and_leaves_the_other_alone() -> None:
    exact, stored = some_rows(300, 5)
    left, right = sums_of(exact[:100], stored[:100]), sums_of(exact[100:], stored[100:])
    before = ErrorSums.from_arrays(right.arrays())
    left.merge(right)
    assert_same(right, before)
    whole = sums_of(exact, stored)
    assert left.count == 300
    np.testing.assert_allclose(left.error_C, whole.error_C, rtol=1e-13)
    np.testing.assert_allclose(left.square_C, whole.square_C, rtol=1e-13)
    twice = ErrorSums(5)
    twice.merge(right)
    twice.add(exact, stored)
    assert_same(right, before)
    with pytest.raises(DataError, match="5 channels"):
        left.merge(ErrorSums(6))


def test_arrays_round_trip_and_are_copies() -> None:
    exact, stored = some_rows(30, 5)
    sums = sums_of(exact, stored)
    arrays = sums.arrays()
    again = ErrorSums.from_arrays(arrays)
    assert_same(again, sums)
    arrays["error_C"][:] = 0
    assert_same(again, sums)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", None),
        ("error_C", None),
        ("square_C", None),
        ("count", np.asarray([-1])),
        ("count", np.asarray([], dtype=np.int64)),
        ("error_C", np.asarray([1.0, np.nan])),
        ("error_C", np.asarray([1.0, -1.0])),
        ("error_C", np.asarray([1.0])),
        ("error_C", np.asarray(1.0)),
        ("square_C", np.asarray([[1.0, 2.0]])),
        ("square_C", np.asarray([1.0, np.inf])),
    ],
)
def test_arrays_that_are_not_sums_are_refused(name: str, value: Array | None) -> None:
    arrays = sums_of(*some_rows(3, 2)).arrays()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(StoreCorruptError, match="error_C"):
        ErrorSums.from_arrays(arrays)


def test_nothing_lost_and_nothing_there() -> None:
    exact, _ = some_rows(9, 4)
    assert sums_of(exact, exact).relative_error == 0
    assert ErrorSums(4).relative_error == 0
    assert ErrorSums(4).fvu_floor(0.0) == 0
    zeros = np.zeros((9, 4), dtype=np.float32)
    assert sums_of(zeros, zeros).relative_error == 0
    assert sums_of(zeros, zeros + 1).relative_error == math.inf
    assert sums_of(zeros, zeros + 1).fvu_floor(0.0) == math.inf


def test_bad_rows_are_refused_and_not_added() -> None:
    exact, stored = some_rows(200, 1023)
    sums = sums_of(exact, stored)
    before = ErrorSums.from_arrays(sums.arrays())
    for bad in (np.nan, np.inf):
        wrong = stored.copy()
        wrong[199, 1000] = bad
        for pair in ((exact, wrong), (wrong, stored), (wrong, wrong)):
            with pytest.raises(DataError, match="finite"):
                sums.add(*pair)
    for one, other in ((exact, stored[:-1]), (exact[:, 1:], stored[:, 1:]), (exact, stored[:, 1:])):
        with pytest.raises(DataError):
            sums.add(one, other)
    with pytest.raises(DataError, match="float64"):
        sums.add(exact.astype(np.float64), stored)
    assert_same(sums, before)
