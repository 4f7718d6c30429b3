"""Shuffled batches of training rows, endless, the same for a seed whatever the threads.

The rows are already in random order on disk. Each epoch visits their blocks in a new random
order, joins a few blocks to a window, and shuffles within the window. The rows of all epochs form
one long stream, and batch number i is rows [i*B, (i+1)*B) of that stream: so a batch depends on
(seed, i, B) alone, any batch can be the first, and each epoch sees every row exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from isae.errors import ConfigError, StoreError
from isae.randomness import keyed_rng

Array = npt.NDArray[Any]
BLOCK_ROWS = 8192
WINDOW_BLOCKS = 8


class RowSource(Protocol):
    """Rows by slice: a StoredArray, or any array."""

    def __getitem__(self, rows: slice, /) -> Array:
        """Rows [R, C]."""


class EpochPlan:
    """The order of one epoch: windows of blocks, and the shuffle within each window."""

    def __init__(self, rows: int, seed: int, epoch: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, epoch
        blocks = -(-rows // BLOCK_ROWS)
        order = keyed_rng(seed, "blocks", epoch).permutation(blocks)
        self.windows = [order[i : i + WINDOW_BLOCKS] for i in range(0, blocks, WINDOW_BLOCKS)]
        sizes = [sum(self._size(block) for block in window) for window in self.windows]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])

    def load(self, source: RowSource, window: int) -> Array:
        """The shuffled rows of one window."""
        blocks = [int(block) * BLOCK_ROWS for block in self.windows[window]]
        parts = [source[start : min(start + BLOCK_ROWS, self.rows)] for start in blocks]
        rows = np.concatenate(parts)
        shuffled: Array = rows[
            keyed_rng(self.seed, "window", self.epoch, window).permutation(len(rows))
        ]
        return shuffled

    def _size(self, block: int) -> int:
        return min(BLOCK_ROWS, self.rows - int(block) * BLOCK_ROWS)


def shuffled_batches(
    source: RowSource, rows: int, batch_size: int, *, seed: int, start_batch: int = 0
) -> Iterator[Array]:
    """Endless batches [batch_size, C] of the first `rows` rows of `source`.

    The next window is read in a thread while the present one is used. Raises ConfigError for a
    batch size below 1 and StoreError if there are no rows.
    """
    if batch_size < 1 or start_batch < 0:
        raise ConfigError(
            f"expected a batch size of at least 1 and a first batch of at least 0, found "
            f"{batch_size} and {start_batch}; choose others"
        )
    if rows < 1:
        raise StoreError(
            "expected training rows, found none: every image is held out or unreadable; "
            "build the store with more images or a smaller --holdout"
        )
    return _cut(_windows(source, rows, seed, start_batch * batch_size), batch_size)


def _windows(source: RowSource, rows: int, seed: int, skip: int) -> Iterator[Array]:
    epoch, offset = divmod(skip, rows)
    plan = EpochPlan(rows, seed, epoch)
    window = int(np.searchsorted(plan.starts, offset, side="right")) - 1
    offset -= int(plan.starts[window])
    with ThreadPoolExecutor(1, thread_name_prefix="isae-read-ahead") as pool:
        future = pool.submit(plan.load, source, window)
        while True:
            loaded = future.result()
            window += 1
            if window == len(plan.windows):
                epoch, window = epoch + 1, 0
                plan = EpochPlan(rows, seed, epoch)
            future = pool.submit(plan.load, source, window)
            yield loaded[offset:]
            offset = 0


def _cut(windows: Iterator[Array], batch_size: int) -> Iterator[Array]:
    parts: list[Array] = []
    held = 0
    for rows in windows:
        start = 0
        while held + len(rows) - start >= batch_size:
            take = batch_size - held
            parts.append(rows[start : start + take])
            yield np.concatenate(parts) if len(parts) > 1 else parts[0]
            parts, held = [], 0
            start += take
        if start < len(rows):
            parts.append(rows[start:])
            held += len(rows) - start
