"""Statistics against NumPy in float64 over all rows at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isae.errors import StoreCorruptError
from isae.store.statistics import Accumulator, load_statistics, save_statistics


@pytest.mark.parametrize("rows", [1, 7, 1023, 1024, 1025, 5003])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_statistics_are_those_of_all_rows(rows: int, dtype: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(rows)
    # A large mean and a small spread: naive sums of squares would lose the variance.
    values = np.maximum(generator.normal([0, 1, 100, -9, 0.5], 1, (rows, 5)), 0).astype(dtype)
    accumulator = Accumulator(5)
    for piece in np.array_split(values, 13):
        accumulator.add(piece)
    save_statistics(tmp_path / "s.safetensors", {"mixed4a": accumulator.finish()})
    found = load_statistics((tmp_path / "s.safetensors").read_bytes(), "mixed4a")
    exact = values.astype(np.float64)
    assert found.count == rows
    # float64 sums of at most 5,003 values: relative error below 5,003 * 2^-53 < 1e-12.
    np.testing.assert_allclose(found.mean_C, exact.mean(axis=0), rtol=1e-11)
    np.testing.assert_allclose(found.var_C, exact.var(axis=0), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(found.max_C, exact.max(axis=0))
    np.testing.assert_allclose(found.nonzero_C, (exact != 0).mean(axis=0), rtol=1e-12)
    assert found.total_variance == pytest.approx(exact.var(axis=0).sum(), rel=1e-9)


def test_pieces_do_not_matter() -> None:
    values = np.random.default_rng(0).random((4000, 3), dtype=np.float32)
    found = []
    for pieces in (1, 9, 400):
        accumulator = Accumulator(3)
        for piece in np.array_split(values, pieces):
            accumulator.add(piece)
        found.append(accumulator.finish())
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].var_C, other.var_C)
        np.testing.assert_array_equal(found[0].mean_C, other.mean_C)


@pytest.mark.parametrize("parts", [[1], [16384, 5], [3, 0, 1000, 1024]])
def test_parts_join_to_the_whole(parts: list[int]) -> None:
    values = np.random.default_rng(1).normal(3, 1, (sum(parts), 4)).astype(np.float16)
    whole, start = Accumulator(4), 0
    for rows in parts:
        part = Accumulator(4)
        part.add(values[start : start + rows])
        whole.merge(Accumulator.from_arrays(part.arrays()))
        start += rows
    found, exact = whole.finish(), values.astype(np.float64)
    assert found.count == len(values)
    np.testing.assert_allclose(found.mean_C, exact.mean(axis=0), rtol=1e-11)
    np.testing.assert_allclose(found.var_C, exact.var(axis=0), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(found.max_C, exact.max(axis=0))


def one_at_a_time(rows_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sum of squares of one block, as arithmetic 1 has them."""
    sum_C, square_C = np.zeros((2, rows_RC.shape[1]))
    for row in rows_RC.astype(np.float64):
        offset = row - rows_RC[0]
        sum_C, square_C = sum_C + offset, square_C + offset * offset
    return rows_RC[0] + sum_C / len(rows_RC), square_C - sum_C**2 / len(rows_RC)


def test_older_sums_can_be_made_again_to_the_bit() -> None:
    values = np.random.default_rng(2).standard_normal((1023, 64)).astype(np.float32)
    older, newer = Accumulator(64, 1), Accumulator(64)
    for one in (older, newer):
        one.add_part(values)
    mean_C, m2_C = one_at_a_time(values)
    np.testing.assert_array_equal(older.mean_C, mean_C)
    np.testing.assert_array_equal(older.m2_C, m2_C)
    assert (newer.m2_C != m2_C).any()
    np.testing.assert_allclose(newer.m2_C, m2_C, rtol=1e-12)


def test_a_file_without_the_layer_is_refused() -> None:
    with pytest.raises(StoreCorruptError, match="expected channel statistics of mixed4a"):
        load_statistics(b"nonsense", "mixed4a")
