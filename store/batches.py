"""Shuffled batches of rows, read ahead in threads; which row comes when is store/order.py's.

Blocks are read and decoded straight into the buffer of their window; the rows of a few batches (a
slab) are then gathered from it in their shuffled order, and batches are views of their slab. So
each byte is written twice and read once besides decoding. Rows that are in memory anyway are
gathered from where they are, without a window's buffer.

In memory at once, beside what the caller keeps: two windows (`WINDOW_BLOCKS` blocks of
`BLOCK_ROWS` rows each; none where rows are in memory) and `threads` + 3 slabs, a slab being the
larger of a batch and about `SLAB_BYTES` or a quarter of a window.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from isae.config import check
from isae.store.order import Deal, Ints, Order, Window, make_order
from isae.store.pipeline import Allocate, Array, Memory, Pipeline, plan_windows

SLAB_BYTES = 8 << 20
MOST_THREADS = 64


class RowSource(Protocol):
    """Rows by slice: a StoredArray, or any array.

    Read by several threads at once, unless `threads` is 1: one more than that where rows are waited
    for.
    """

    def __getitem__(self, rows: slice, /) -> Array:
        """Rows [R, C]."""


def shuffled_batches(
    source: RowSource,
    rows: int,
    batch_size: int,
    *,
    seed: int,
    start_batch: int = 0,
    threads: int = 2,
    rank: int = 0,
    ranks: int = 1,
    first_row: int = 0,
    epochs: int | None = None,
    drop_last: bool = False,
) -> Iterator[Array]:
    """Batches [batch_size, C] of rows [first_row, first_row + rows) of `source`, in its dtype.

    Endless, or `epochs` passes over the rows, of which the last batch may be short or missing on
    some ranks (`drop_last`: every rank gets the same number of whole batches). The sequence is the
    same for any number of `threads`. A batch stays as it is for as long as it is kept; keeping it
    keeps its slab. Closing the iterator ends its threads. Each rank decodes every window that holds
    a row of its batches. Raises ConfigError for numbers out of range, StoreError if there are no
    rows, and while reading what the source raises, at the first batch that needs what failed.
    """
    deal = Deal(batch_size, rank, ranks, start_batch)
    order = make_order(rows, deal, seed, epochs, drop_last)
    return dealt_batches(source, order, deal, threads=threads, first_row=first_row)


def dealt_batches(
    source: RowSource,
    order: Order,
    deal: Deal,
    *,
    threads: int = 2,
    first_row: int = 0,
    pinned: bool = False,
) -> Iterator[Any]:
    """Batches of an order and a deal: NumPy arrays, or with `pinned` torch tensors that a GPU can
    copy from without waiting. Raises ConfigError for a number of threads out of range.
    """
    check_threads(threads)
    return _batches(source, order, deal, threads, first_row, pinned)


def check_threads(threads: int) -> None:
    """Raise ConfigError unless so many threads may read."""
    check(1 <= threads <= MOST_THREADS, f"1 to {MOST_THREADS} threads", threads)


def read_block(source: RowSource, out_RC: Array, start: int) -> None:
    """Rows from `start` on straight into memory, where the source can do that."""
    read_into = getattr(source, "read_into", None)
    if read_into is None:
        out_RC[:] = source[start : start + len(out_RC)]
    else:
        read_into(start, start + len(out_RC), out_RC)


def _batches(
    source: RowSource, order: Order, deal: Deal, threads: int, first_row: int, pinned: bool
) -> Iterator[Any]:
    columns, dtype = _kind(source)
    size = deal.batch_size
    rows = min(SLAB_BYTES // max(1, columns * dtype.itemsize), order.largest_window // 4)
    together = max(1, rows // size)
    pipeline = Pipeline(
        plan_windows(order, deal, together),
        _memory(source, order, first_row),
        (_pinned if pinned else _ordinary)(columns, dtype, threads + 3),
        threads,
        gives_way=not pinned,  # a GPU that waits for rows costs more than any core
    )
    try:
        for whole, held in pipeline.results():
            for start in range(0, held, size):
                yield whole[start : start + size]
    finally:
        pipeline.close()


def _kind(source: RowSource) -> tuple[int, np.dtype[Any]]:
    known: Any = source if hasattr(source, "dtype") else source[0:0]
    return int(known.shape[1]), np.dtype(known.dtype)


def _ordinary(columns: int, dtype: np.dtype[Any], most: int) -> Allocate:
    # Memory that nobody looks at any more is used again: fresh pages cost as much as the gathering.
    # A batch is a view of its slab's array, so that array lives as long as any of its batches. The
    # memory is no array's: NumPy lets views of views refer to the array that owns the memory.
    lent: list[tuple[weakref.ref[Array], bytearray]] = []

    def allocate(rows: int) -> tuple[Any, Array]:
        size = rows * columns * dtype.itemsize
        for place, (user, memory) in enumerate(lent):
            if user() is None and len(memory) == size:
                del lent[place]
                break
        else:
            memory = bytearray(size)
            del lent[: max(0, len(lent) + 1 - most)]
        array: Array = np.ndarray((rows, columns), dtype, buffer=memory)
        lent.append((weakref.ref(array), memory))
        return array, array

    return allocate


def _pinned(columns: int, dtype: np.dtype[Any], most: int) -> Allocate:
    import torch

    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    # torch keeps freed pinned memory for the next slab, and until copies from it have ended.
    pin = torch.cuda.is_available()

    def allocate(rows: int) -> tuple[Any, Array]:
        tensor = torch.empty(rows, columns, dtype=kind, pin_memory=pin)
        return tensor, tensor.numpy()

    return allocate


class _Buffers:
    """A buffer for each open window, used again for later ones."""

    def __init__(self, source: RowSource, order: Order, first_row: int) -> None:
        self.source, self.first_row = source, first_row
        self.size = order.largest_window
        self.free: list[Array] = []
        self.held: dict[Window, Array] = {}

    def open(self, window: Window) -> None:
        columns, dtype = _kind(self.source)
        self.held[window] = self.free.pop() if self.free else np.empty((self.size, columns), dtype)

    def read(self, window: Window, block: int) -> None:
        at = sum(stop - start for start, stop in window.blocks[:block])
        start, stop = window.blocks[block]
        out_RC = self.held[window][at : at + stop - start]
        read_block(self.source, out_RC, start + self.first_row)

    def places(self, window: Window) -> Ints:
        return window.shuffle()

    def rows(self, window: Window) -> Array:
        return self.held[window]

    def close(self, window: Window) -> None:
        self.free.append(self.held.pop(window))


class _Resident:
    """Rows that are in memory, or that `ensure(start, stop)` keeps there once it read them."""

    def __init__(
        self, rows_RC: Array, first_row: int, ensure: Callable[[int, int], None] | None
    ) -> None:
        self.rows_RC, self.first_row, self.ensure = rows_RC, first_row, ensure

    def open(self, window: Window) -> None:
        pass

    def read(self, window: Window, block: int) -> None:
        if self.ensure is not None:
            start, stop = window.blocks[block]
            self.ensure(start + self.first_row, stop + self.first_row)

    def places(self, window: Window) -> Ints:
        return window.row_numbers() + self.first_row

    def rows(self, window: Window) -> Array:
        return self.rows_RC

    def close(self, window: Window) -> None:
        pass


def _memory(source: RowSource, order: Order, first_row: int) -> Memory:
    if isinstance(source, np.ndarray):
        return _Resident(source, first_row, None)
    resident = getattr(source, "resident_RC", None)
    if resident is not None:
        return _Resident(resident, first_row, source.ensure)  # type: ignore[attr-defined]
    return _Buffers(source, order, first_row)
