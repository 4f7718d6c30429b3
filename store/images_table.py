"""The images table of a store, and which images are held out.

Columns: image (row number, as in the index arrays), name, label, split ('train', 'holdout', or
'unreadable' for a file that could not be decoded), width and height in pixels before resizing
(null if unreadable), then the source's own columns. Written a row group at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from isae.images import ImageSource
from isae.randomness import hash64, keyed_seed

GROUP_ROWS = 8192
HASH_BLOCK = 1 << 20
BIN_BITS = 16
TRAIN, HOLDOUT, UNREADABLE = "train", "holdout", "unreadable"
_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64()}


class Sides(Protocol):
    """What knows which images are held out."""

    def held_out(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each image is."""


class Split:
    """Which images are held out: round(share * images) of them, by hash of (seed, image).

    At least one image is held out if the share is above zero and there are two images. An image
    is held out if its hash is at most the bound below which `count` hashes lie.
    """

    def __init__(self, seed: int, images: int, share: float) -> None:
        self.stream = keyed_seed(seed, "holdout")
        wanted = max(round(share * images), 1) if share > 0 else 0
        self.count = min(wanted, max(images - 1, 0))
        self.bound = _smallest(self.stream, images, self.count) if self.count else None

    def held_out(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each image is held out."""
        if self.bound is None:
            return np.zeros(len(images), dtype=np.bool_)
        return hash64(self.stream, images) <= self.bound


def _smallest(stream: int, images: int, count: int) -> np.uint64:
    """The `count`-th smallest hash of the images, in memory that does not grow with them.

    A histogram of the leading bits says in which bin it lies; only that bin's hashes are kept.
    """

    def hashes() -> Iterator[npt.NDArray[np.uint64]]:
        for start in range(0, images, HASH_BLOCK):
            yield hash64(stream, np.arange(start, min(start + HASH_BLOCK, images)))

    shift = np.uint64(64 - BIN_BITS)
    histogram = np.zeros(1 << BIN_BITS, dtype=np.int64)
    for keys in hashes():
        histogram += np.bincount((keys >> shift).astype(np.int64), minlength=1 << BIN_BITS)
    upto = np.cumsum(histogram)
    chosen = int(np.searchsorted(upto, count))
    inside = np.concatenate([keys[keys >> shift == np.uint64(chosen)] for keys in hashes()])
    rank = count - int(upto[chosen] - histogram[chosen]) - 1
    return np.uint64(np.partition(inside, rank)[rank])


class ImagesTable:
    """Writes the images table in order of the images, a row group at a time."""

    def __init__(self, path: Path, source: ImageSource, split: Sides) -> None:
        self.source, self.split = source, split
        fields = [("image", pa.int64()), ("name", pa.string()), ("label", pa.string())]
        fields += [("split", pa.string()), ("width", pa.int32()), ("height", pa.int32())]
        fields += [(name, _TYPES[kind]) for name, kind in source.columns.items()]
        self.schema = pa.schema(fields)
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")
        self.rows: list[dict[str, Any]] = []
        self.images = 0

    def add(self, sizes: dict[int, tuple[int, int]], images: Sequence[int]) -> None:
        """Add the next images in order; `sizes` has (width, height) of the readable ones."""
        held_out = self.split.held_out(np.asarray(images, dtype=np.int64))
        for image, out in zip(images, held_out, strict=True):
            width, height = sizes.get(image, (None, None))
            split = UNREADABLE if width is None else HOLDOUT if out else TRAIN
            head = {"image": image, "split": split, "width": width, "height": height}
            self.rows.append({**self.source.row(image), **head})
        self.images += len(images)
        while len(self.rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Write a row group, of the same rows whatever the pieces they were added in."""
        if self.rows:
            group, self.rows = self.rows[:GROUP_ROWS], self.rows[GROUP_ROWS:]
            self.writer.write_table(pa.Table.from_pylist(group, schema=self.schema))

    def __enter__(self) -> ImagesTable:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._flush()
        self.writer.close()
