"""Masks, their lowest bits and shared counters that compiled loops are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isae.compiled import compiled, prange
from isae.kernels.cpu import instructions
from isae.kernels.cpu.instructions import take
from isae.kernels.cpu.int8_tile import score_panel
from isae.kernels.cpu.reached import lowest_bit, reached_32
from isae.kernels.cpu.selection import BLOCK

Array = np.ndarray[Any, Any]


@compiled()
def mask_of(values: Array, more: float, bound: float) -> int:
    return reached_32(values.ctypes.data, more, bound)


@compiled()
def places_of(mask: int, places: Array) -> int:
    count = 0
    while mask != 0:
        places[count] = lowest_bit(mask)
        mask &= mask - 1
        count += 1
    return count


@compiled(parallel=True)
def take_all(counter: Array, workers: int, taken: Array) -> None:
    for _ in prange(workers):
        part = take(counter.ctypes.data)
        while part < taken.shape[0]:
            taken[part] += 1
            part = take(counter.ctypes.data)


@pytest.mark.parametrize("seed", range(20))
def test_the_bits_are_those_of_the_numbers_that_reach(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few different numbers, so that some are the bound itself.
    values = rng.integers(-4, 5, BLOCK).astype(np.float32)
    values[rng.integers(BLOCK, size=3)] = (np.nan, -np.inf, np.inf)
    more, bound = np.float32(rng.integers(-2, 3)), np.float32(rng.integers(-4, 5))
    places = np.empty(BLOCK, np.int64)
    count = places_of(mask_of(values, more, bound), places)
    np.testing.assert_array_equal(places[:count], np.flatnonzero(values + more >= bound))


def test_a_block_may_begin_anywhere() -> None:
    values = np.full(BLOCK + 1, -1, np.float32)
    values[BLOCK] = 1
    assert mask_of(values[1:], 0.0, 0.0) == 1 << (BLOCK - 1)
    assert mask_of(values[:BLOCK], 0.0, 0.0) == 0


def test_code_in_the_cache_knows_the_file_that_it_was_written_by() -> None:
    for function in (mask_of, places_of, take_all, score_panel):
        assert instructions.__file__ in function._files(set())


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_part_is_taken_once(workers: int) -> None:
    taken = np.zeros(10_000, np.int64)
    take_all(np.zeros(1, np.int64), workers, taken)
    assert (taken == 1).all()
