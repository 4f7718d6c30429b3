"""Products with and sums of rows that lie anywhere, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isae.compiled import compiled
from isae.kernels.cpu.scattered_rows import (
    LINE,
    TOGETHER,
    add_rows,
    list_rows,
    prefetch_row,
    row_address,
    row_products,
)

Array = np.ndarray[Any, Any]
ROWS = 50


@compiled()
def products_with(x_D: Array, y_BD: Array, indices: Array, at: Array, out: Array) -> int:
    end = list_rows(y_BD, indices, indices.shape[0], at, 0)
    at[end : end + TOGETHER] = at[0]
    row_products(x_D, at, end, out, x_D.itemsize)
    return end


@compiled()
def add_to(factors: Array, y_BD: Array, indices: Array, at: Array, out_D: Array) -> None:
    end = list_rows(y_BD, indices, indices.shape[0], at, 0)
    at[end : end + TOGETHER] = at[0]
    add_rows(factors, at, end, out_D, out_D.itemsize)


@compiled()
def addresses_of(y_BD: Array, indices: Array, start: int, at: Array) -> int:
    return list_rows(y_BD, indices, indices.shape[0], at, start)


@compiled()
def prefetch_all(y_BD: Array) -> int:
    for row in range(y_BD.shape[0]):
        prefetch_row(y_BD, row)
    return row_address(y_BD, y_BD.shape[0])


def rooms(count: int, dtype: type) -> tuple[Array, Array]:
    filled = -(-count // TOGETHER) * TOGETHER
    return np.full(filled + TOGETHER, -1), np.full(filled, np.nan, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 7, 8, 15, 16, 17, 32, 127, 512, 523])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 37])
def test_products_and_sums_are_those_of_float64(dtype: type, d: int, count: int) -> None:
    rng = np.random.default_rng(d * count)
    # A wall of NaN on both sides: what is read beside the rows shows.
    walled = np.full((ROWS + 2, d), np.nan, dtype)
    walled[1:-1] = rng.normal(size=(ROWS, d))
    y_BD, x_D = walled[1:-1], rng.normal(size=d).astype(dtype)
    indices = rng.integers(0, ROWS, count)
    # d roundings of partial sums, each below the sum of sizes.
    allowed = (d + count + 2) * np.finfo(dtype).eps

    at, out = rooms(count, dtype)
    end = products_with(x_D, y_BD, indices, at, out)
    rows_JD = y_BD[indices].astype(np.float64)
    sizes = np.abs(rows_JD) @ np.abs(x_D.astype(np.float64))
    assert (np.abs(out[:count] - rows_JD @ x_D.astype(np.float64)) <= allowed * sizes).all()
    assert (out[count:end] == out[count - 1]).all(), "the last row again"

    factors = np.zeros(end, dtype)
    factors[:count] = rng.normal(size=count)
    before = np.full(d + 2, np.nan, dtype)
    before[1:-1] = rng.normal(size=d)
    sums = before.copy()
    add_to(factors, y_BD, indices, at, sums[1:-1])
    wanted = before[1:-1] + factors[:count].astype(np.float64) @ rows_JD
    sizes_D = np.abs(before[1:-1]) + np.abs(factors[:count]) @ np.abs(rows_JD)
    assert (np.abs(sums[1:-1] - wanted) <= allowed * sizes_D).all()
    assert np.isnan(sums[[0, -1]]).all()


def test_equal_rows_give_equal_bits_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    y_BD = np.tile(rng.normal(size=(1, 333)).astype(np.float32), (ROWS, 1))
    at, out = rooms(37, np.float32)
    products_with(rng.normal(size=333).astype(np.float32), y_BD, np.arange(37), at, out)
    assert len(set(out.tolist())) == 1


def test_a_list_is_filled_up_with_its_last_row() -> None:
    y_BD = np.zeros((ROWS, 3), np.float32)
    at = np.full(12, -1)
    assert addresses_of(y_BD, np.array([5, 2, 9, 0, 7]), 2, at) == 10
    rows = (at[2:10] - y_BD.ctypes.data) // y_BD.strides[0]
    assert rows.tolist() == [5, 2, 9, 0, 7, 7, 7, 7]
    assert at[:2].tolist() == at[10:].tolist() == [-1, -1]


def test_the_address_behind_the_last_row_is_the_end() -> None:
    y_BD = np.full((ROWS, LINE), 3, np.float32)
    assert prefetch_all(y_BD) == y_BD.ctypes.data + y_BD.nbytes
