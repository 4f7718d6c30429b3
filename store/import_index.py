"""Which image and cell each imported row is of.

Shapes: R rows, I images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.errors import DataError
from isae.images.opening import MOST_IMAGES
from isae.progress import Meter
from isae.store.import_config import INDEX_FILE, ImportConfig
from isae.store.row_files import INDEX_TENSOR, RowFiles, has_tensor, npy_rows, safetensors_rows

Places = npt.NDArray[np.int32]
PIECE_ROWS = 1 << 18
GAP = 10_000
"""So many places for each row may be left out."""
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class Span:
    """What an index holds."""

    present_I: npt.NDArray[np.bool_]
    """Whether an image has rows."""
    height: int
    width: int
    """Cells that the largest y and x need."""

    @property
    def images(self) -> int:
        """Images, with and without rows."""
        return len(self.present_I)


class Index(ABC):
    """Places (image, y, x) of rows."""

    paths: Sequence[Path] = ()
    """The files that it is read from."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Places:
        """int32 [R, 3] of rows [start, stop)."""

    @abstractmethod
    def scan(self, meter: Meter) -> Span:
        """Look at all of it; DataError if it is no index or a place comes twice."""


class CountedIndex(Index):
    """Row r is of image r // N, y = 0, x = r % N."""

    def __init__(self, rows: int, rows_per_image: int) -> None:
        self.rows, self.rows_per_image = rows, rows_per_image

    def read(self, start: int, stop: int) -> Places:
        """Counted."""
        image, x = np.divmod(np.arange(start, stop, dtype=np.int64), self.rows_per_image)
        return np.stack([image, np.zeros_like(x), x], axis=1).astype(np.int32)

    def scan(self, meter: Meter) -> Span:
        """Nothing to look at."""
        images = -(-self.rows // self.rows_per_image)
        if images >= MOST_IMAGES:
            raise DataError(
                f"expected fewer than {MOST_IMAGES:,} images, found {images:,}; "
                "give --rows-per-image"
            )
        meter.advance(self.rows)
        present_I = np.ones(images, dtype=np.bool_)
        return Span(present_I, 1, min(self.rows_per_image, self.rows))


class StoredIndex(Index):
    """Places from files."""

    def __init__(self, files: RowFiles, rows: int) -> None:
        self.files, self.rows = files, rows
        self.paths = [one.path for one in files.files]
        name = files.files[0].path
        if files.columns != 3 or files.kind not in WHOLE:
            raise DataError(
                f"expected an index of whole numbers [rows, 3] (image, y, x) in {name}, found "
                f"{files.kind} [{len(files)}, {files.columns}]; write it so"
            )
        if len(files) != rows:
            raise DataError(
                f"expected one place for each of {rows:,} rows, found {len(files):,} in {name}; "
                "give the index of these arrays"
            )

    def read(self, start: int, stop: int) -> Places:
        """Read; within int32 after `scan`."""
        return self.files.read(start, stop).astype(np.int32)

    def scan(self, meter: Meter) -> Span:
        """The largest numbers, then every place once: one bit for each cell of each image."""
        largest = np.zeros(3, dtype=np.int64)
        for piece in self._pieces(meter, count=False):
            largest = np.maximum(largest, piece.max(axis=0).astype(np.int64))
        images, height, width = (int(number) + 1 for number in largest)
        if images * height * width > GAP * (self.rows + GAP):
            raise DataError(
                f"expected images and cells numbered from 0 with few gaps, found up to "
                f"{largest.tolist()} in {self.rows:,} rows; number them anew"
            )
        present_I = np.zeros(images, dtype=np.bool_)
        taken = np.zeros(-(-images * height * width // 8), dtype=np.uint8)
        for piece in self._pieces(meter, count=True):
            image, y, x = piece.astype(np.int64).T
            present_I[image] = True
            self._take(taken, (image * height + y) * width + x)
        return Span(present_I, height, width)

    def _pieces(self, meter: Meter, count: bool) -> Any:
        for start in range(0, self.rows, PIECE_ROWS):
            stop = min(start + PIECE_ROWS, self.rows)
            piece = self.files.read(start, stop)
            if (piece < 0).any() or (piece >= MOST_IMAGES).any():
                row = int(np.flatnonzero(((piece < 0) | (piece >= MOST_IMAGES)).any(axis=1))[0])
                raise DataError(
                    f"expected image, y and x in [0, {MOST_IMAGES}), found {piece[row].tolist()} "
                    f"in {self.files.where(start + row)}; mend the index"
                )
            yield piece
            if count:
                meter.advance(stop - start)

    def _take(self, taken: npt.NDArray[np.uint8], cell_R: npt.NDArray[np.int64]) -> None:
        once = np.unique(cell_R)
        byte, bit = once >> 3, np.left_shift(1, once & 7).astype(np.uint8)
        if len(once) < len(cell_R) or (taken[byte] & bit).any():
            name = self.files.files[0].path
            raise DataError(
                f"expected each place (image, y, x) once in {name}, found some twice; rows of one "
                "place cannot be told apart: leave them out, or give no index"
            )
        np.bitwise_or.at(taken, byte, bit)


def open_index(
    config: ImportConfig, paths: Sequence[Path], meta: dict[str, Any] | None, rows: int
) -> Index:
    """The index of the rows: the file asked for, one beside or in the files, or counted."""
    source = Path(config.source)
    if config.index is not None:
        return StoredIndex(RowFiles([npy_rows(Path(config.index))]), rows)
    having = [config.format == "safetensors" and has_tensor(one, INDEX_TENSOR) for one in paths]
    if all(having):
        return StoredIndex(RowFiles([safetensors_rows(one, INDEX_TENSOR) for one in paths]), rows)
    if any(having):
        raise DataError(
            f"expected a tensor '{INDEX_TENSOR}' in every file or in none, found none in "
            f"{paths[having.index(False)]}; add it there, or give --index"
        )
    named = meta["layers"][config.layer].get("index") if meta is not None else None
    beside = (source if source.is_dir() else source.parent) / (named or INDEX_FILE)
    if beside.is_file() and (source.is_dir() or meta is not None):
        return StoredIndex(RowFiles([npy_rows(beside)]), rows)
    if meta is not None:
        raise DataError(
            f"expected the index of the export in {source}, found neither {beside.name} nor "
            f"tensors '{INDEX_TENSOR}'; copy the whole folder, or give --index"
        )
    return CountedIndex(rows, config.rows_per_image)
