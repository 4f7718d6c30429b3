"""Which training row comes when: a definition, without any reading.

The rows are already in random order on disk. Each epoch visits their blocks of `BLOCK_ROWS` rows
in a new random order, joins `WINDOW_BLOCKS` of them to a window, and shuffles within the window.
The rows of all epochs form one long stream. Of it, batch i of rank r among R ranks is rows
[(i R + r) B, (i R + r + 1) B): the ranks' batches number i together are the batch number i of a
single process with R B rows a batch, and no row is given twice. So a batch depends on (seed, B, r,
R, i) alone, any batch can be the first, and each epoch has every row exactly once.

Since the stored order is a uniformly random permutation, so is every fixed rearrangement of it: a
batch is as well mixed as one of a full permutation. The windows make the epochs differ.

Shapes: P places of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from isae.config import check
from isae.errors import StoreError
from isae.randomness import keyed_rng

Ints = npt.NDArray[np.int64]
BLOCK_ROWS = 8192
WINDOW_BLOCKS = 8


@dataclass(frozen=True)
class Window:
    """A few blocks of one epoch, shuffled together: rows [start, stop) of the stream."""

    seed: int
    epoch: int
    number: int
    """Within the epoch."""
    start: int
    stop: int
    blocks: tuple[tuple[int, int], ...]
    """Row ranges [first, last), in the order in which they are joined."""

    def __len__(self) -> int:
        return self.stop - self.start

    def shuffle(self) -> Ints:
        """The place among the joined blocks of each of the window's rows [P]."""
        return keyed_rng(self.seed, "window", self.epoch, self.number).permutation(len(self))

    def row_numbers(self) -> Ints:
        """The row numbers of the window's rows [P], in the order of the stream."""
        joined = np.concatenate([np.arange(*block) for block in self.blocks])
        return joined[self.shuffle()]


class Order:
    """The stream of all epochs of `rows` rows; `epochs` None: it never ends."""

    def __init__(self, rows: int, seed: int, epochs: int | None = None) -> None:
        self.rows, self.seed = rows, seed
        self.total = None if epochs is None else rows * epochs
        self._epoch = -1
        self._blocks: Ints = np.empty(0, dtype=np.int64)
        self._starts: Ints = np.empty(0, dtype=np.int64)

    @property
    def largest_window(self) -> int:
        """Rows of the largest window."""
        return min(self.rows, BLOCK_ROWS * WINDOW_BLOCKS)

    def window_at(self, row: int) -> Window:
        """The window of a row of the stream."""
        epoch, offset = divmod(row, self.rows)
        if epoch != self._epoch:
            self._plan(epoch)
        number = int(np.searchsorted(self._starts, offset, side="right")) - 1
        blocks = self._blocks[number * WINDOW_BLOCKS : (number + 1) * WINDOW_BLOCKS].tolist()
        first = epoch * self.rows
        return Window(
            self.seed,
            epoch,
            number,
            first + int(self._starts[number]),
            first + int(self._starts[number + 1]),
            tuple((b * BLOCK_ROWS, min((b + 1) * BLOCK_ROWS, self.rows)) for b in blocks),
        )

    def _plan(self, epoch: int) -> None:
        count_ = -(-self.rows // BLOCK_ROWS)
        self._blocks = keyed_rng(self.seed, "blocks", epoch).permutation(count_)
        sizes = np.minimum(BLOCK_ROWS, self.rows - self._blocks * BLOCK_ROWS)
        sizes = np.add.reduceat(sizes, np.arange(0, count_, WINDOW_BLOCKS))
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._epoch = epoch


@dataclass(frozen=True)
class Deal:
    """Which batches of the stream one reader gets: of rank `rank`, `first`, `first + step`, ..."""

    batch_size: int
    rank: int = 0
    ranks: int = 1
    first: int = 0
    step: int = 1

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "a batch size of at least 1", self.batch_size)
        check(self.first >= 0, "a first batch of at least 0", self.first)
        check(self.step >= 1, "every batch, or every 2nd, 3rd, ...", self.step)
        check(self.ranks >= 1, "at least one rank", self.ranks)
        check(0 <= self.rank < self.ranks, f"a rank in [0, {self.ranks})", self.rank)

    def starts(self, number: int, batches: int) -> Ints:
        """The stream rows at which this reader's batches `number`, ... start."""
        batch = self.first + (number + np.arange(batches, dtype=np.int64)) * self.step
        starts: Ints = (batch * self.ranks + self.rank) * self.batch_size
        return starts

    def stream_rows(self, number: int, batches: int, total: int | None) -> Ints:
        """The stream rows of `batches` batches from `number` on, less those from `total` on."""
        starts = self.starts(number, batches)
        rows: Ints = (starts[:, None] + np.arange(self.batch_size, dtype=np.int64)).ravel()
        return rows if total is None else rows[rows < total]


def make_order(
    rows: int, deal: Deal, seed: int, epochs: int | None = None, drop_last: bool = False
) -> Order:
    """The stream; with `epochs` it ends, and with `drop_last` after the last whole batch of all
    ranks (there is none where a batch of all ranks has more rows than all epochs).

    Raises StoreError if there are no rows, ConfigError for fewer epochs than 1.
    """
    if rows < 1:
        raise StoreError(
            "expected rows to read, found none: every image is on the other side of the split or "
            "unreadable; build the store with more images or another --holdout"
        )
    check(epochs is None or epochs >= 1, "at least one epoch", epochs)
    order = Order(rows, seed, epochs)
    if order.total is not None and drop_last:
        order.total -= order.total % (deal.batch_size * deal.ranks)
    return order


def split_by_window(order: Order, stream_rows: Ints) -> Iterator[tuple[Window, Ints]]:
    """The windows of rising stream rows, each with the places in it that are asked for."""
    at = 0
    while at < len(stream_rows):
        window = order.window_at(int(stream_rows[at]))
        end = at + int(np.searchsorted(stream_rows[at:], window.stop))
        yield window, stream_rows[at:end] - window.start
        at = end


def batch_rows(order: Order, deal: Deal) -> Iterator[Ints]:
    """Row numbers of every batch of one reader, in order: the definition, and for other arrays.

    Indices, images and layers of the same grid have the same row numbers.
    """
    held: tuple[Window, Ints] | None = None
    for number in count():
        parts = []
        for window, places in split_by_window(order, deal.stream_rows(number, 1, order.total)):
            if held is None or held[0] != window:
                held = window, window.row_numbers()
            parts.append(held[1][places])
        if not parts:
            return
        yield np.concatenate(parts) if len(parts) > 1 else parts[0]
