"""Batches: every row once an epoch, any batch can be the first, the same whatever the reading."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.errors import ConfigError, StoreError
from isae.store import batches
from isae.store.batches import shuffled_batches


def rows_of(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)[:, None]


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BLOCK_ROWS", 16)
    monkeypatch.setattr(batches, "WINDOW_BLOCKS", 3)


@given(
    rows=st.integers(1, 200),
    batch=st.integers(1, 90),
    start=st.integers(0, 40),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None, max_examples=80)
def test_any_batch_can_be_the_first(rows: int, batch: int, start: int, seed: int) -> None:
    source = rows_of(rows + 7)
    whole = list(islice(shuffled_batches(source, rows, batch, seed=seed), start + 4))
    part = list(islice(shuffled_batches(source, rows, batch, seed=seed, start_batch=start), 4))
    for expected, found in zip(whole[start:], part, strict=True):
        assert found.shape == (batch, 1)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 48, 131])
@pytest.mark.parametrize("batch", [1, 10, 64])
def test_each_epoch_has_every_row_once(rows: int, batch: int) -> None:
    count = -(-3 * rows // batch)
    stream = np.concatenate(
        list(islice(shuffled_batches(rows_of(rows + 5), rows, batch, seed=1), count))
    )[:, 0]
    epochs = [stream[epoch * rows : (epoch + 1) * rows] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(rows))
    if rows > 20:
        assert not np.array_equal(epochs[0], epochs[1])


def test_seeds_differ() -> None:
    first, second = (next(shuffled_batches(rows_of(100), 100, 50, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(StoreError, match="expected training rows, found none"):
        shuffled_batches(rows_of(4), 0, 2, seed=0)


def test_empty_batches_are_an_error() -> None:
    with pytest.raises(ConfigError, match="batch size of at least 1"):
        shuffled_batches(rows_of(4), 4, 0, seed=0)


def test_an_error_while_reading_ahead_reaches_the_caller() -> None:
    class Failing:
        def __getitem__(self, rows: slice) -> np.ndarray:
            raise StoreError("broken")

    with pytest.raises(StoreError, match="broken"):
        next(shuffled_batches(Failing(), 100, 10, seed=0))
