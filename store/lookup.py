"""From places to rows: all rows of an image, and the same place in layers of other grids.

The index array of a grid says the place (image, y, x) of each row. Here it is turned round once, by
a counting sort that reads it twice in pieces: the rows in order of image, then cell y * W + x. In
memory stay the row number (4 bytes; 8 from 2^31 rows on) and the cell (2 bytes; 4 or 8 for
grids of more than 2^16 or 2^32 cells) of each row and 8 bytes an image: 6 bytes a row in all common
stores.

Shapes: R rows or places asked for, I images, N rows of the grid, M cells inside a coarser one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from isae.errors import DataError, StoreCorruptError
from isae.store.positions import Ints, parent_cells

Array = npt.NDArray[Any]
PIECE_ROWS = 1 << 17
NO_ROW = -1


class Positions(Protocol):
    """The index of a grid: (image, y, x) of every row [N, 3]."""

    def __len__(self) -> int:
        """Rows of the grid."""

    def __getitem__(self, rows: slice, /) -> Array:
        """Places [R, 3]."""


class RowsByPlace:
    """The rows of one grid by place."""

    def __init__(self, positions: Positions, images: int, grid: tuple[int, int]) -> None:
        """Sort a grid's index. Raises StoreCorruptError for places that are not on the grid."""
        self.images, self.grid = images, grid
        self.starts_I = np.zeros(images + 1, dtype=np.int64)
        for image, _, _ in self._pieces(positions):
            first = int(image.min())
            counts = np.bincount(image - first)
            self.starts_I[1 + first : 1 + first + len(counts)] += counts
        np.cumsum(self.starts_I, out=self.starts_I)
        count = len(positions)
        self.rows_N = np.empty(count, np.int32 if count < 2**31 else np.int64)
        self.cells_N = np.empty(count, _whole_numbers(grid[0] * grid[1]))
        self._place(positions)
        self._sort_cells()

    def of_image(self, image: int) -> Ints:
        """Rows of an image, by (y, x); none if it was unreadable. DataError if out of range."""
        if not 0 <= image < self.images:
            raise DataError(
                f"expected an image in [0, {self.images}), found {image}; "
                "the images table of the store lists them"
            )
        return self.rows_N[self.starts_I[image] : self.starts_I[image + 1]].astype(np.int64)

    def at(self, places_R3: npt.ArrayLike) -> Ints:
        """The row of each place (image, y, x) -> int64 [R], -1 where there is none.

        Raises DataError unless the places are integers [R, 3].
        """
        places = np.asarray(places_R3)
        if places.ndim != 2 or places.shape[1] != 3 or places.dtype.kind not in "iu":
            raise DataError(
                f"expected integer places [R, 3] of image, y, x, found {places.dtype} "
                f"{list(places.shape)}; take them from store.positions"
            )
        found: Ints = np.full(len(places), NO_ROW, dtype=np.int64)
        stored = np.flatnonzero(((places >= 0) & (places < self._bounds())).all(axis=1))
        if not len(self) or not len(stored):
            return found
        image, y, x = places[stored].astype(np.int64).T
        cell = y * self.grid[1] + x
        low, last = self.starts_I[image], self.starts_I[image + 1]
        high = last
        while (apart := low < high).any():  # low ends at the first cell that is not before ours
            middle = (low + high) // 2
            before = apart & (self.cells_N[np.minimum(middle, len(self) - 1)] < cell)
            low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
        hit = np.flatnonzero(low < last)
        hit = hit[self.cells_N[low[hit]] == cell[hit]]
        found[stored[hit]] = self.rows_N[low[hit]]
        return found

    def _bounds(self) -> Ints:
        return np.asarray([self.images, *self.grid], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows_N)

    def _pieces(self, positions: Positions) -> Iterator[tuple[Ints, Ints, int]]:
        """Image and cell of each row, a piece at a time, with the number of its first row."""
        for start in range(0, len(positions), PIECE_ROWS):
            places = positions[start : min(start + PIECE_ROWS, len(positions))].astype(np.int64)
            if not ((places >= 0) & (places < self._bounds())).all():
                raise StoreCorruptError(
                    f"expected places on {self.images} images of {self.grid[0]} by {self.grid[1]} "
                    f"cells, found others in rows {start} to {start + len(places)} of the index; "
                    "run isae-store verify"
                )
            yield places[:, 0], places[:, 1] * self.grid[1] + places[:, 2], start

    def _place(self, positions: Positions) -> None:
        # Each image's next free slot; afterwards the start of the next image.
        free = self.starts_I[:-1].copy()
        for image, cell, start in self._pieces(positions):
            order = np.argsort(image, kind="stable")
            present, first, counts = np.unique(image[order], return_index=True, return_counts=True)
            slot = np.repeat(free[present] - first, counts) + np.arange(len(order))
            free[present] += counts
            self.rows_N[slot] = order + start
            self.cells_N[slot] = cell[order]

    def _sort_cells(self) -> None:
        first = 0
        while first < self.images:
            bound = np.searchsorted(self.starts_I, self.starts_I[first] + PIECE_ROWS, side="right")
            last = max(first + 1, int(bound) - 1)
            part = slice(int(self.starts_I[first]), int(self.starts_I[last]))
            image = np.repeat(np.arange(last - first), np.diff(self.starts_I[first : last + 1]))
            order = np.lexsort((self.cells_N[part], image))
            self.rows_N[part] = self.rows_N[part][order]
            self.cells_N[part] = self.cells_N[part][order]
            first = last


def _whole_numbers(count: int) -> type[np.uint16] | type[np.uint32] | type[np.int64]:
    """The smallest of three types for numbers below `count`."""
    return np.uint16 if count <= 2**16 else np.uint32 if count <= 2**32 else np.int64


def places_on(
    places_R3: Array, here: tuple[int, int], there: tuple[int, int], strides: tuple[int, int]
) -> Ints:
    """The cells of another grid that cover places or lie inside them -> int64 [R, M, 3].

    `here` and `there` are the grids (H, W), `strides` their pixels a cell. Where fewer than M cells
    lie inside, y or x is -1.
    """
    image, axes = places_R3[:, 0].astype(np.int64), []
    for axis in (0, 1):
        if strides[1] >= strides[0]:
            parents = parent_cells(here[axis], there[axis], strides[1] // strides[0])
            table = parents[:, None]
        else:
            table = _inside(here[axis], there[axis], strides[0] // strides[1])
        axes.append(table[places_R3[:, 1 + axis]])
    y_RHW, x_RHW = np.broadcast_arrays(axes[0][:, :, None], axes[1][:, None, :])
    image_RHW = np.broadcast_to(image[:, None, None], y_RHW.shape)
    places: Ints = np.stack([image_RHW, y_RHW, x_RHW], axis=-1)
    return places.reshape(len(image), axes[0].shape[1] * axes[1].shape[1], 3)


def _inside(coarse: int, fine: int, ratio: int) -> Ints:
    """The fine cells inside each coarse cell along one axis [coarse, most], padded with -1."""
    parents = parent_cells(fine, coarse, ratio)
    counts = np.bincount(parents, minlength=coarse)
    first = np.cumsum(counts) - counts  # parents never fall from one cell to the next
    place = np.arange(counts.max(initial=1))
    return np.where(place < counts[:, None], first[:, None] + place, NO_ROW)
