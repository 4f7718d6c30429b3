"""Sparse codes of a layer, by place and by feature, and how they are pooled to coarser places.

A place is a cell of an image's map. `pool_codes` takes the maximum or the mean over the finer cells
that a coarser cell's window holds (`isae.analysis.layers.windows`); over a whole image the maximum
is a feature's image-level profile.

Memory: 8 bytes an active entry (feature, value) and 24 bytes a place; turned by feature 8 bytes an
entry more. With a folder the entries lie in files that are mapped, so that the system can let go of
them, and what must stay in memory is the bytes per place. Reading takes one pass over the whole
layer, whatever the images: rows are stored in random order, so that nearly every chunk has some of
them.

Legend: P places, Q = P + 1, E entries by place, T entries by feature, N features, M = N + 1,
I images, K active entries a row, G cells of a grid.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.analysis import code_loops
from isae.analysis.activity import Encoder, row_batches
from isae.analysis.arrays import F32, I32, I64
from isae.errors import DataError
from isae.progress import QUIET, Reporter
from isae.store import Store

MAX, MEAN = "max", "mean"


class Room:
    """Where large arrays lie: files of a folder, or memory where there is no folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.made = folder, 0
        if folder is not None:
            folder.mkdir(exist_ok=True)

    def empty(self, length: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
        """An array [length] whose contents are yet to be written.

        Raises DataError where the disk has no room for it.
        """
        if self.folder is None or not length:
            return np.empty(length, dtype)
        self.made += 1
        path, size = self.folder / f"{self.made}.bin", length * np.dtype(dtype).itemsize
        try:
            with path.open("wb") as file:
                # A mapped file with holes would end the process when the disk is full.
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise DataError(
                f"expected room for {size:,} bytes in {self.folder}, found none ({error}); "
                "choose another --out, or lower --max-images"
            ) from error
        return np.asarray(np.memmap(path, dtype, "r+", shape=(length,)))

    def beside(self, name: str) -> Room:
        """A room of its own in a folder of this one's; `clear` gives it back."""
        return Room(None if self.folder is None else self.folder / name)

    def clear(self) -> None:
        """Remove the files; arrays that are still in use stay readable until they are let go of."""
        if self.folder is not None:
            shutil.rmtree(self.folder)


@dataclass(frozen=True)
class Columns:
    """Codes by feature: the entries of feature i are [first_M[i], first_M[i + 1]), places rising.

    place_T: int32; value_T: float32, all above 0.
    """

    first_M: I64
    place_T: I32
    value_T: F32


@dataclass(frozen=True)
class Codes:
    """Codes by place: the entries of place p are [start_Q[p], start_Q[p + 1]); values 0 are none.

    Places are sorted by (image, cell), each at most once; image_P, cell_P: int32, cell = y * W + x;
    images: those numbered [0, images), with or without places; feature_E: int32; value_E: float32.
    """

    features: int
    images: int
    grid: tuple[int, int]
    image_P: I32
    cell_P: I32
    start_Q: I64
    feature_E: I32
    value_E: F32
    room: Room

    @property
    def places(self) -> int:
        """Number of places."""
        return len(self.image_P)

    @cached_property
    def columns(self) -> Columns:
        """The same entries by feature."""
        count_N = np.zeros(self.features, dtype=np.int64)
        code_loops.count_features(self.start_Q, self.feature_E, self.value_E, count_N)
        first_M = np.concatenate([[0], np.cumsum(count_N)])
        place_T = self.room.empty(int(first_M[-1]), np.int32)
        value_T = self.room.empty(int(first_M[-1]), np.float32)
        code_loops.turn(
            self.start_Q, self.feature_E, self.value_E, first_M[:-1].copy(), place_T, value_T
        )
        return Columns(first_M, place_T, value_T)

    @cached_property
    def place_of_cell(self) -> I64:
        """Number of the place of each (image, cell), -1 where there is none -> int64 [I * G]."""
        cells = self.grid[0] * self.grid[1]
        found = np.full(self.images * cells, -1, dtype=np.int64)
        found[self.image_P.astype(np.int64) * cells + self.cell_P] = np.arange(self.places)
        return found

    def partners(self, other: Codes, image_I: I64) -> I64:
        """The place of `other` at the same cell of the image that each image is paired with.

        image_I: int64 [I], for each image of self one of `other`, or -1 for none. -> int64 [P], -1
        where there is none. Raises DataError for another grid.
        """
        if self.grid != other.grid:
            raise DataError(
                f"expected codes on one grid, found {self.grid} and {other.grid} cells; pool the "
                "finer one first (pool_codes)"
            )
        cells = self.grid[0] * self.grid[1]
        partner_P = image_I[self.image_P]
        found_P = other.place_of_cell[np.maximum(partner_P, 0) * cells + self.cell_P]
        return np.where(partner_P >= 0, found_P, -1)


def codes_from_dense(value_PN: npt.NDArray[Any], place_P3: npt.NDArray[Any], grid: Any) -> Codes:
    """Codes from activations [P, N] (those above 0) at places [P, 3] of image, y, x, any order."""
    cell_P = place_P3[:, 1].astype(np.int64) * grid[1] + place_P3[:, 2]
    order_P = np.lexsort((cell_P, place_P3[:, 0]))
    value_PN = np.maximum(value_PN[order_P], 0).astype(np.float32)
    place, feature = np.nonzero(value_PN)
    start_Q = np.searchsorted(place, np.arange(len(value_PN) + 1)).astype(np.int64)
    return Codes(
        features=value_PN.shape[1],
        images=int(place_P3[:, 0].max(initial=-1)) + 1,
        grid=(int(grid[0]), int(grid[1])),
        image_P=place_P3[order_P, 0].astype(np.int32),
        cell_P=cell_P[order_P].astype(np.int32),
        start_Q=start_Q,
        feature_E=feature.astype(np.int32),
        value_E=value_PN[place, feature],
        room=Room(),
    )


def read_codes(
    sae: Encoder,
    store: Store,
    layer: str,
    images_I: I64,
    *,
    batch_size: int = 8192,
    device: torch.device | str = "cpu",
    room: Room | None = None,
    reporter: Reporter = QUIET,
) -> Codes:
    """Codes of all stored places of some images -> Codes, images numbered as in `images_I`.

    images_I: int64 [I], rising numbers of the store's images. Only their rows are encoded. Raises
    DataError where an image's codes are not finite.
    """
    room, stored = room or Room(), store.layer(layer)
    number_J = np.full(store.images.num_rows, -1, dtype=np.int64)
    number_J[images_I] = np.arange(len(images_I))
    cells = stored.grid[0] * stored.grid[1]
    places = store.positions(layer)
    present = np.zeros(len(images_I) * cells, dtype=np.bool_)
    for start in range(0, stored.rows, 1 << 17):
        piece_B3 = places[start : min(start + (1 << 17), stored.rows)]
        present[_cells_of(piece_B3, number_J, stored.grid)[1]] = True
    place_of_cell = np.cumsum(present) - 1
    cell_P = np.flatnonzero(present)
    feature_PK, value_PK = None, None
    with torch.inference_mode(), reporter.task(stored.rows, f"{layer}: codes", "rows") as meter:
        spans = [(0, stored.rows)]
        for x_BC, place_B3 in row_batches(store, layer, spans, batch_size):
            meter.advance(len(x_BC))
            chosen, cell = _cells_of(place_B3, number_J, stored.grid)
            if not len(chosen):
                continue
            x = torch.from_numpy(np.ascontiguousarray(x_BC[chosen], dtype=np.float32))
            value_BK, index_BK = (part.cpu().numpy() for part in sae.encode(x.to(device)))
            if not np.isfinite(value_BK).all():
                raise DataError(
                    f"expected finite codes, found NaN or infinity on rows of '{layer}'; the store "
                    "or the SAE is damaged: run isae-store verify and check the training"
                )
            if feature_PK is None or value_PK is None:
                shape = (len(cell_P), value_BK.shape[1])
                feature_PK = room.empty(shape[0] * shape[1], np.int32).reshape(shape)
                value_PK = room.empty(shape[0] * shape[1], np.float32).reshape(shape)
            feature_PK[place_of_cell[cell]] = index_BK
            value_PK[place_of_cell[cell]] = value_BK
    if feature_PK is None or value_PK is None:
        raise DataError(f"expected rows of '{layer}' in {store.path}, found none; build it again")
    return Codes(
        features=sae.n,
        images=len(images_I),
        grid=stored.grid,
        image_P=(cell_P // cells).astype(np.int32),
        cell_P=(cell_P % cells).astype(np.int32),
        start_Q=np.arange(len(cell_P) + 1, dtype=np.int64) * feature_PK.shape[1],
        feature_E=feature_PK.reshape(-1),
        value_E=value_PK.reshape(-1),
        room=room,
    )


def pool_codes(
    codes: Codes,
    grid: tuple[int, int],
    windows: tuple[I64, I64] | None,
    how: str,
    room: Room | None = None,
) -> Codes:
    """Codes on a coarser grid: MAX or MEAN over the stored finer cells of each window.

    windows: of rows and of columns, int64 [coarser cells, 2]: the first finer cell and the one
    behind the last; windows may overlap and reach over the map. None: the whole image, on a grid of
    (1, 1). A coarser cell without finer ones is no place. room: where the new arrays lie (default:
    beside the old ones). Time and memory: one pass over the entries for each window that holds
    them.
    """
    if how not in (MAX, MEAN):
        raise DataError(f"expected '{MAX}' or '{MEAN}', found '{how}'")
    room = room or codes.room
    place_E, parent_E = _members(codes, grid, windows)
    key_E = codes.image_P[place_E] * np.int64(grid[0] * grid[1]) + parent_E
    order_E = np.argsort(key_E, kind="stable")
    group, first = np.unique(key_E[order_E], return_index=True)
    group_H = np.append(first, len(order_E)).astype(np.int64)
    place_P = place_E[order_E]
    most = int(np.diff(codes.start_Q)[place_P].sum())
    feature_F, value_F = room.empty(most, np.int32), room.empty(most, np.float32)
    start_H = np.zeros(len(group_H), dtype=np.int64)
    written = code_loops.pool(
        place_P, group_H, codes.start_Q, codes.feature_E, codes.value_E, how == MAX,
        np.zeros(codes.features), start_H, feature_F, value_F,
    )  # fmt: skip
    return Codes(
        features=codes.features,
        images=codes.images,
        grid=grid,
        image_P=(group // (grid[0] * grid[1])).astype(np.int32),
        cell_P=(group % (grid[0] * grid[1])).astype(np.int32),
        start_Q=start_H,
        feature_E=feature_F[:written],
        value_E=value_F[:written],
        room=room,
    )


def _members(
    codes: Codes, grid: tuple[int, int], windows: tuple[I64, I64] | None
) -> tuple[I64, I64]:
    """Every (place, coarser cell whose window holds it), places rising within a cell."""
    if windows is None:
        return np.arange(codes.places), np.zeros(codes.places, dtype=np.int64)
    y_P, x_P = np.divmod(codes.cell_P.astype(np.int64), codes.grid[1])
    places, parents = [], []
    rows, columns = (_holders(one, n) for one, n in zip(windows, codes.grid, strict=True))
    for row_G in rows:
        for column_G in columns:
            row_P, column_P = row_G[y_P], column_G[x_P]
            held = np.flatnonzero((row_P >= 0) & (column_P >= 0))
            places.append(held)
            parents.append(row_P[held] * grid[1] + column_P[held])
    place_E, parent_E = np.concatenate(places), np.concatenate(parents)
    order = np.argsort(place_E, kind="stable")
    return place_E[order], parent_E[order]


def _holders(window_G2: I64, cells: int) -> list[I64]:
    """For each place in a window, the coarser cell that has the finer cell there, or -1."""
    found = []
    for offset in range(int((window_G2[:, 1] - window_G2[:, 0]).max(initial=0))):
        holder_F = np.full(cells, -1, dtype=np.int64)
        finer_G = window_G2[:, 0] + offset
        inside = np.flatnonzero((finer_G < window_G2[:, 1]) & (finer_G >= 0) & (finer_G < cells))
        holder_F[finer_G[inside]] = inside
        found.append(holder_F)
    return found


def _cells_of(place_B3: npt.NDArray[Any], number_J: I64, grid: tuple[int, int]) -> tuple[I64, I64]:
    """(rows of chosen images, image * G + cell of each) of a batch of places."""
    number_B = number_J[place_B3[:, 0]]
    chosen = np.flatnonzero(number_B >= 0)
    y, x = place_B3[chosen, 1].astype(np.int64), place_B3[chosen, 2].astype(np.int64)
    return chosen, (number_B[chosen] * grid[0] + y) * grid[1] + x
