"""Rows are known by their values, and shuffling is told from order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from isae.benchmarks.shuffle_quality import RowBook, ideal, pairs_of, row_hashes

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("batch", [1, 4, 12, 50])
def test_pairs_under_a_permutation_have_the_mean_and_spread_that_is_said(batch: int) -> None:
    images = np.repeat(np.arange(12), [9, 1, 1, 2, 8, 3, 3, 4, 7, 5, 5, 2])
    batches = len(images) // batch
    _, counts = np.unique(images, return_counts=True)
    mean, sigma = ideal(counts, len(images), batch, batches)
    rng = np.random.default_rng(batch)
    drawn = []
    for _ in range(3000 if 1 < batch < 50 else 30):
        order = rng.permutation(images)
        parts = [order[i * batch : (i + 1) * batch] for i in range(batches)]
        drawn.append(sum(pairs_of(part) for part in parts))
    if batch in (1, 50):  # no pairs at all, or all of them
        assert sigma == pytest.approx(0, abs=1e-4)
        assert set(drawn) == {round(mean)}
        return
    # Of 3000 draws the mean is good to 1/55 of sigma, sigma itself to about 1.3 %.
    assert np.mean(drawn) == pytest.approx(mean, abs=4 * sigma / 3000**0.5)
    assert np.std(drawn) == pytest.approx(sigma, rel=0.07)


@pytest.mark.parametrize("repeated", [0, 300])
def test_an_order_by_image_is_seen_and_a_permutation_passes(
    repeated: int, rows_like: Callable[..., Array]
) -> None:
    rows = rows_like(3000, 24)
    rows[:repeated] = 0  # dead rows, which nobody can tell apart
    images = np.arange(3000) % 150
    book = RowBook(rows, images)
    hashes = row_hashes(rows, rows.dtype)
    by_image = np.argsort(images, kind="stable")
    assert book.told_apart == 1 - repeated / 3000
    assert book.shared(hashes[by_image], 100).z > 50
    orders = [np.random.default_rng(seed).permutation(3000) for seed in range(40)]
    scores = [book.shared(hashes[order], 100).z for order in orders]
    # Of 40 draws the mean is good to 0.16; none is beyond 4 but once in 400 tests.
    assert abs(np.mean(scores)) < 0.65
    assert 0.6 < np.std(scores) < 1.4
    assert max(map(abs, scores)) < 4.5


def test_rows_are_known_by_every_bit_of_their_values_and_their_places(
    rows_like: Callable[..., Array],
) -> None:
    rows = rows_like(5000, 24)
    rows[:2, 3] = 1, 2
    book = RowBook(rows, np.arange(5000))
    order = np.random.default_rng(0).permutation(5000)

    def fault(changed: Array) -> str | None:
        return book.fault(row_hashes(changed[order], np.dtype("float16")))

    assert fault(rows) is None
    assert fault(rows.astype(np.float32)) is None
    assert fault(rows[:, ::-1]) is not None
    exchanged = rows.copy()
    exchanged[[0, 1], 3] = rows[[1, 0], 3]  # every column still holds the same numbers
    assert fault(exchanged) == "expected every row once, found 2 unknown and 0 repeated rows"
    for bit in range(16):
        flipped = rows.copy()
        flipped.view(np.uint16)[4321, 5] ^= np.uint16(1 << bit)
        assert fault(flipped) is not None, bit
    twice = rows.copy()
    twice[10] = twice[11]
    assert fault(twice) == "expected every row once, found 0 unknown and 1 repeated rows"
    short = book.fault(row_hashes(rows[:-1], rows.dtype))
    assert short == "expected 5,000 rows in an epoch, found 4,999"
