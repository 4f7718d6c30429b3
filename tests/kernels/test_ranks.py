"""The k largest by ranks, against a stable sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.compiled import compiled
from isae.kernels.cpu.ranks import (
    EQUAL_SHIFT,
    MOST_RANKED,
    count_above,
    kth_largest,
    rank_k_largest,
)
from isae.kernels.cpu.selection import LANES

Array = np.ndarray[Any, Any]
COUNTS = st.one_of(st.integers(0, 70), st.integers(MOST_RANKED - 20, MOST_RANKED))
DIFFERENT = st.sampled_from([1, 2, 5, 10**6])
"""Few make many ties."""


@compiled()
def counted(numbers: Array, value: float) -> int:
    return count_above(numbers.ctypes.data, numbers.shape[0] // LANES, value)


@compiled()
def ranked(found: Array, indices: Array, count: int, values_K: Array, indices_K: Array) -> None:
    rank_k_largest(found, indices, count, values_K, indices_K)


@compiled()
def kth(found: Array, count: int, k: int) -> float:
    return kth_largest(found, count, k)


@settings(max_examples=150, deadline=None)
@given(count=COUNTS, k=st.integers(1, 80), different=DIFFERENT, seed=st.integers(0, 10**6))
def test_ranks_put_numbers_where_a_stable_sort_does(
    count: int, k: int, different: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    found = np.full(count + LANES, np.nan, np.float32)
    found[:count] = rng.integers(-different, different, count) / 8
    found[:count][rng.random(count) < 0.05] = -np.inf
    indices = rng.permutation(10 * count + 1)[: count + 1]  # in no order, as candidates come
    order = np.lexsort((indices[:count], -found[:count]))[:k]
    wanted = found[order].copy(), indices[order].copy()

    values_K, indices_K = np.full(k, np.nan, np.float32), np.full(k, -7)
    ranked(found, indices, count, values_K, indices_K)
    np.testing.assert_array_equal(values_K[: len(order)], wanted[0])
    np.testing.assert_array_equal(indices_K[: len(order)], wanted[1])
    assert np.isnan(values_K[len(order) :]).all(), "what is missing stays as it was"
    assert (indices_K[len(order) :] == -7).all()


@settings(max_examples=150, deadline=None)
@given(
    count=COUNTS.filter(bool), share=st.floats(0, 1), different=DIFFERENT, seed=st.integers(0, 99)
)
def test_the_kth_largest_is_that_of_a_sort(
    count: int, share: float, different: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    found = np.full(count + LANES, np.nan, np.float32)
    found[:count] = rng.integers(-different, different, count) / 8
    k = 1 + round(share * (count - 1))
    wanted = np.sort(found[:count])[-k]
    assert kth(found, count, k) == wanted


def test_there_may_be_no_kth_largest() -> None:
    found = np.full(LANES, 1.0, np.float32)
    found[:4] = (3, np.nan, 2, np.nan)
    assert kth(found.copy(), 4, 2) == 2
    assert np.isnan(kth(found.copy(), 4, 3))
    assert np.isnan(kth(found.copy(), 0, 1))


@pytest.mark.parametrize("vectors", [1, 2, 5])
def test_larger_and_equal_numbers_are_counted_apart(vectors: int) -> None:
    rng = np.random.default_rng(vectors)
    numbers = rng.integers(-3, 4, vectors * LANES).astype(np.float32)
    for value in range(-4, 5):
        larger, equal = (numbers > value).sum(), (numbers == value).sum()
        assert counted(numbers, np.float32(value)) == larger + (equal << EQUAL_SHIFT)
