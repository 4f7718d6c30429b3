"""Read a store: `open_store(path)`.

Nothing is read that was not checked: every chunk carries a checksum, and a shard file that is
missing or has another size than the manifest says is an error (Zarr alone would return the fill
value for it). Only whole chunks are asked of Zarr, then cut in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr

from isae.errors import StoreCorruptError, unknown_name
from isae.files import sha256
from isae.store import manifest
from isae.store.feed import Feed, arrays, tensors
from isae.store.layout import (
    IMAGES,
    INDEX,
    STATISTICS,
    shard_count,
    shard_file,
    zarrs_pipeline,
)
from isae.store.lookup import GridRows, places_on, row_numbers
from isae.store.positions import Ints
from isae.store.statistics import ChannelStatistics, load_statistics

if TYPE_CHECKING:
    from isae.store.dataset import StoreDataset

Array = npt.NDArray[Any]
Rows = SupportsIndex | slice | Sequence[int] | npt.NDArray[Any]
Columns = SupportsIndex | slice | Sequence[int] | npt.NDArray[Any]


@dataclass(frozen=True)
class StoredLayer:
    """One layer of a store."""

    name: str
    channels: int
    rows: int
    """All rows; [0, train_rows) are of training images, the rest of held-out images."""
    train_rows: int
    grid: tuple[int, int]
    """Cells (H, W) of the layer's map."""
    stride: int
    receptive_field: int
    branches: Mapping[str, tuple[int, int]]
    """Channel range [start, stop) of each branch; empty if the layer has none."""
    dtype: str
    array: str
    """Path of the array inside the store."""
    note: str = ""
    """What a reader must know of this layer's branches."""


class StoredArray:
    """Rows of one array [rows, columns]; index with an int, a slice, or integers."""

    def __init__(self, root: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> None:
        self.path, self.name = root / name, name
        with zarrs_pipeline():
            try:
                array = zarr.open_array(root / name, mode="r", zarr_format=3)
            except Exception as error:
                raise _damaged(self.path, f"{type(error).__name__}: {error}") from error
        self.array = array
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = array.dtype
        self.chunk_rows = int(array.chunks[0])
        self.shard_rows = int((array.shards or array.chunks)[0])
        shards = range(shard_count(self.shape[0], self.shard_rows))
        self.sizes = [files[f"{name}/c/{shard}/0"]["bytes"] for shard in shards]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """All rows: `np.asarray(store.positions("mixed4a"))`."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def __getitem__(self, rows: Rows | tuple[Rows, Columns]) -> Array:
        """Rows as NumPy, in the stored dtype: [C] for an int, else [R, C]; `[rows, columns]` too.

        Raises IndexError out of range, StoreCorruptError if a file is missing or damaged.
        """
        if isinstance(rows, tuple):
            if len(rows) != 2:
                raise IndexError(f"expected [rows] or [rows, columns], found {len(rows)} indices")
            chosen: Array = self[rows[0]][..., rows[1]]
            return chosen
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._range(start, max(start, stop))
            return self[np.arange(start, stop, step)]
        if isinstance(rows, SupportsIndex) and not isinstance(rows, np.ndarray):
            row: Array = self[np.asarray([int(rows)])][0]
            return row
        return self._gather(np.asarray(rows))

    def check_sizes(self) -> None:
        """Raise StoreCorruptError unless every shard file has the size that was written."""
        for shard in range(len(self.sizes)):
            self._check_shard(shard)

    def _range(self, start: int, stop: int) -> Array:
        first = start // self.chunk_rows * self.chunk_rows
        last = min(-(-stop // self.chunk_rows) * self.chunk_rows, len(self))
        if start >= stop:
            return np.empty((0, self.shape[1]), dtype=self.dtype)
        return self._read(first, last)[start - first : stop - first]

    def _gather(self, rows: Array) -> Array:
        if rows.ndim != 1:
            raise IndexError(f"expected one axis of rows, found {rows.ndim} axes")
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows) if len(rows) == len(self) else rows
        if rows.size and rows.dtype.kind not in "iu":
            raise IndexError(f"expected integer rows, a slice or a mask of {len(self)} rows")
        rows = rows.astype(np.int64)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"expected rows in [0, {len(self)}), found {rows.min()}, {rows.max()}")
        rows = np.where(rows < 0, rows + len(self), rows)
        found = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        if not rows.size:
            return found
        order = np.argsort(rows, kind="stable")
        chunks, starts = np.unique(rows[order] // self.chunk_rows, return_index=True)
        for chunk, members in zip(chunks, np.split(order, starts[1:]), strict=True):
            first = int(chunk) * self.chunk_rows
            block = self._read(first, min(first + self.chunk_rows, len(self)))
            found[members] = block[rows[members] - first]
        return found

    def _read(self, first: int, last: int) -> Array:
        for shard in range(first // self.shard_rows, shard_count(last, self.shard_rows)):
            self._check_shard(shard)
        try:
            block: Array = np.asarray(self.array[first:last])
        except Exception as error:
            raise _damaged(self.path, f"rows {first} to {last}: {error}") from error
        return block

    def _check_shard(self, shard: int) -> None:
        path = shard_file(self.path, shard)
        size = path.stat().st_size if path.is_file() else None
        if size != self.sizes[shard]:
            found = "no file" if size is None else f"{size} bytes"
            raise _damaged(path, f"{found} instead of {self.sizes[shard]} bytes")


class Store:
    """A complete store, opened for reading. Cheap to open; reads on demand."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = manifest.read(self.path)
        self.layers = {
            name: StoredLayer(
                name=name,
                channels=one["channels"],
                rows=one["rows"],
                train_rows=one["train_rows"],
                grid=(one["grid"][0], one["grid"][1]),
                stride=one["stride"],
                receptive_field=one["receptive_field"],
                branches={key: (low, high) for key, (low, high) in one["branches"].items()},
                dtype=self.manifest["dtype"],
                array=one["array"],
                note=one["note"],
            )
            for name, one in self.manifest["layers"].items()
        }
        self._arrays: dict[str, StoredArray] = {}
        self._lookups: dict[int, GridRows] = {}
        self.caches: dict[Any, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its path: files and caches are opened anew."""
        return open_store, (self.path,)

    @property
    def content_id(self) -> str:
        """SHA-256 that names the contents; equal ids are equal contents."""
        return str(self.manifest["content_id"])

    def layer(self, name: str) -> StoredLayer:
        """One layer; UnknownNameError with the nearest names if the store does not have it."""
        if name not in self.layers:
            raise unknown_name("layer in this store", name, self.layers)
        return self.layers[name]

    def activations(self, layer: str) -> StoredArray:
        """The activations of a layer: `store.activations("mixed4a")[0:100]` -> [100, C]."""
        return self._open(self.layer(layer).array)

    def positions(self, layer: str) -> StoredArray:
        """(image, y, x) of every row of a layer's grid, int32 [rows, 3]."""
        return self._open(f"{self.layer(layer).array.rpartition('/')[0]}/{INDEX}")

    @cached_property
    def images(self) -> pa.Table:
        """The images table (see store/images_table.py)."""
        return self._checked(IMAGES, pq.read_table)

    def statistics(self, layer: str) -> ChannelStatistics:
        """Per-channel statistics of a layer's training rows."""
        self.layer(layer)
        found: ChannelStatistics = self._checked(
            STATISTICS, lambda path: load_statistics(path, layer)
        )
        return found

    def batches(
        self,
        layer: str,
        batch_size: int,
        *,
        seed: int,
        start_batch: int = 0,
        threads: int = 2,
        rank: int = 0,
        ranks: int = 1,
        cache: str | None = None,
        holdout: bool = False,
        epochs: int | None = None,
        drop_last: bool = False,
    ) -> Iterator[Array]:
        """Shuffled batches [batch_size, C] of training rows, or with `holdout` of held-out rows.

        Endless, or `epochs` passes over the rows, of which the last batch may be short or missing
        on some ranks unless `drop_last`. The order depends on the seed, the batch size and the rank
        alone (store/order.py): not on `threads`, `cache` ('ram': rows stay in RAM once read;
        'auto': if they take at most half of what is free) or `start_batch`, which goes on anywhere.
        A batch stays as it is while it is kept. Raises ConfigError for options out of range,
        StoreError without rows or without the memory that 'ram' takes.
        """
        feed = Feed(
            layer, batch_size, seed, rank, ranks, holdout, epochs, drop_last, threads, cache
        )
        return arrays(self, feed, feed.deal(start_batch))

    def tensors(
        self,
        layer: str,
        batch_size: int,
        *,
        seed: int,
        start_batch: int = 0,
        pin: bool = False,
        cache: str | None = None,
        device: str = "auto",
        **options: Any,
    ) -> Iterator[torch.Tensor]:
        """The batches of `batches` as torch tensors; `options` are the others of `batches`.

        With `pin` in pinned memory, where there is a GPU. With cache='device' all rows are read and
        packed first and stay on `device` ('auto': a GPU if there is one, else the CPU), where
        batches are put together from them.
        """
        feed = Feed(layer, batch_size, seed, pin=pin, cache=cache, device=device, **options)
        return tensors(self, feed, feed.deal(start_batch))

    def dataset(self, layer: str, batch_size: int, *, seed: int, **options: Any) -> StoreDataset:
        """The batches of `tensors` as a `torch.utils.data.IterableDataset` (store/dataset.py).

        For `DataLoader(..., batch_size=None)`, with or without workers, and for resuming by
        `state_dict` and `load_state_dict`. `options` are those of `tensors`, less `start_batch`.
        """
        from isae.store.dataset import StoreDataset

        return StoreDataset(self, Feed(layer, batch_size, seed, **options))

    def drop_caches(self) -> None:
        """Let go of the rows that `cache` kept; iterators in use keep theirs."""
        self.caches.clear()

    def rows_of_image(self, layer: str, image: int) -> Ints:
        """The rows of an image in a layer, by (y, x); none if it was unreadable.

        The first such question about a grid reads its index twice and keeps 6 bytes a row in
        memory (store/lookup.py). DataError for an image that the store does not have.
        """
        return self._grid_rows(layer).of_image(image)

    def rows_at(self, layer: str, places_R3: npt.ArrayLike) -> Ints:
        """The row of each place (image, y, x) of a layer's grid [R], -1 where there is none."""
        return self._grid_rows(layer).at(places_R3)

    def same_place(self, layer: str, rows: Rows, other: str) -> Ints:
        """The rows of layer `other` at the places of `rows` of `layer` -> int64 [R, M].

        On the same grid they are `rows` themselves, on a coarser one the cell that covers the
        place (both M = 1), on a finer one all cells inside it, by (y, x). Padded with -1, which
        also stands for cells that are not stored.
        """
        here, there = self.layer(layer), self.layer(other)
        if here.stride == there.stride:
            return row_numbers(rows, here.rows)[:, None]
        places = self.positions(layer)[rows].reshape(-1, 3)
        strides = (here.stride, there.stride)
        places_RM3 = places_on(places, here.grid, there.grid, strides)
        found = self.rows_at(other, places_RM3.reshape(-1, 3))
        return found.reshape(places_RM3.shape[:2])

    def _grid_rows(self, layer: str) -> GridRows:
        one = self.layer(layer)
        if one.stride not in self._lookups:
            places = GridRows(self.positions(layer), self.images.num_rows, one.grid)
            self._lookups[one.stride] = places
        return self._lookups[one.stride]

    def _open(self, name: str) -> StoredArray:
        if name not in self._arrays:
            array = StoredArray(self.path, name, self.manifest["files"])
            array.check_sizes()
            self._arrays[name] = array
        return self._arrays[name]

    def _checked(self, name: str, read: Any) -> Any:
        """Read a small file after its hash was compared with the manifest's."""
        path = self.path / name
        expected = self.manifest["files"][name]["sha256"]
        if not path.is_file() or sha256(path) != expected:
            raise _damaged(path, "no file or another SHA-256 than the manifest's")
        return read(path)


def open_store(path: str | Path) -> Store:
    """Open a complete store for reading.

    Raises StoreError (nothing there, or not a store), StoreIncompleteError (its build did not
    finish) or StoreCorruptError (a file is missing or damaged).
    """
    return Store(path)


def _damaged(path: Path, found: str) -> StoreCorruptError:
    return StoreCorruptError(
        f"expected {path} as it was written, found {found}; run isae-store verify for a full "
        "list, then restore the file from a copy or build the store again with --overwrite"
    )
