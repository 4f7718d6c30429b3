"""The shuffle: a permutation that depends on the seed and on the rows' names alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.randomness import hash64, keyed_rng
from isae.store import shuffle
from isae.store.shuffle import Buckets, Records, record_type, row_keys

RECORD = record_type({"a": 3, "b": 2}, "float16")


def make_records(images: int, seed: int = 0) -> Records:
    records = np.empty(images * 4, dtype=RECORD)
    image, cell = np.divmod(np.arange(images * 4), 4)
    y, x = np.divmod(cell, 2)
    held_out = image % 5 == 4
    records["key"] = row_keys(seed, 16, image, y, x, held_out)
    records["image"], records["y"], records["x"] = image, y, x
    values = keyed_rng(seed, "values").standard_normal((images * 4, 5))
    records["a"], records["b"] = values[:, :3], values[:, 3:]
    return records


def drained(folder: Path, pieces: list[Records], rows: int) -> Records:
    buckets = Buckets(folder, RECORD, rows)
    for piece in pieces:
        buckets.scatter(piece)
    return np.concatenate(list(buckets.drain()))


@pytest.mark.parametrize("bucket_bytes", [64, 1000, 1 << 20])
@pytest.mark.parametrize("buffer_bytes", [1, 5000])
def test_order_is_that_of_the_keys_whatever_the_buckets_and_the_arrival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_bytes: int, buffer_bytes: int
) -> None:
    monkeypatch.setattr(shuffle, "BUCKET_BYTES", bucket_bytes)
    monkeypatch.setattr(shuffle, "BUFFER_BYTES", buffer_bytes)
    records = make_records(60)
    mixed = records[np.random.default_rng(1).permutation(len(records))]
    found = drained(tmp_path / "x", np.array_split(mixed, 17), len(records))
    expected = records[np.argsort(records["key"])]
    np.testing.assert_array_equal(found, expected)
    assert not (tmp_path / "x").exists()


def test_held_out_rows_come_last(tmp_path: Path) -> None:
    found = drained(tmp_path / "x", [make_records(50)], 200)
    held_out = found["image"] % 5 == 4
    first = int(np.argmax(held_out))
    assert first == 160
    assert held_out[first:].all()


def test_order_is_a_uniform_permutation() -> None:
    """Ranks of neighbours in the input are unrelated: no trace of the arrival order is left."""
    rows = 50_000
    zeros = np.zeros(rows, dtype=np.int64)
    keys = row_keys(7, 16, np.arange(rows), zeros, zeros, zeros.astype(bool))
    rank = np.argsort(np.argsort(keys)).astype(float)
    for lag in (1, 2, 64, 4096):
        correlation = np.corrcoef(rank[:-lag], rank[lag:])[0, 1]
        # Of independent ranks: standard deviation 1/sqrt(50,000) = 0.0045; 5 sigma.
        assert abs(correlation) < 0.0225
    # The first tenth of the input falls evenly over ten parts of the order: binomial, 5 sigma.
    parts = np.bincount((rank[: rows // 10] * 10 // rows).astype(int), minlength=10)
    np.testing.assert_allclose(parts, rows / 100, atol=5 * np.sqrt(rows / 100))


def test_seeds_and_grids_give_different_orders() -> None:
    rows = np.arange(100)
    zeros = np.zeros(100, dtype=np.int64)
    args = (rows, zeros, zeros, zeros.astype(bool))
    orders = {
        tuple(np.argsort(row_keys(seed, stride, *args))) for seed in (0, 1) for stride in (8, 16)
    }
    assert len(orders) == 4


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=300, unique=True))
@settings(deadline=None, max_examples=50)
def test_hash_has_no_collisions_and_ignores_order(values: list[int]) -> None:
    keys = hash64(3, np.array(values), np.zeros(len(values)))
    assert len(set(keys.tolist())) == len(values)
    backwards = hash64(3, np.array(values[::-1]), np.zeros(len(values)))
    np.testing.assert_array_equal(keys[::-1], backwards)
