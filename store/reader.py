"""Read a store: `open_store(path)`.

Nothing is given out that was not checked: chunks and the indexes of shards carry checksums, small
files are compared with the manifest's hashes, the manifest with the completion mark's.
A file that was replaced since is read only if the mark is still the same: it could be another
store's.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from isae.errors import StoreError, unknown_name
from isae.store import manifest
from isae.store.array import Rows, StoredArray, damaged, row_numbers
from isae.store.feed import Feed, arrays, tensors
from isae.store.file_hash import fits
from isae.store.layout import IMAGES, INDEX, STATISTICS
from isae.store.lookup import RowsByPlace, places_on
from isae.store.places import open_place
from isae.store.positions import Ints
from isae.store.statistics import ChannelStatistics, load_statistics

if TYPE_CHECKING:
    from isae.store.dataset import StoreDataset

Array = npt.NDArray[Any]


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


class Store:
    """A complete store, opened for reading. Cheap to open; reads on demand."""

    def __init__(
        self, path: str | Path, trusted: tuple[manifest.Manifest, bytes | None] | None = None
    ) -> None:
        """`trusted`: manifest and mark for `verify`, where the files of the two are damaged."""
        self.place = open_place(path)
        self.manifest, self._mark = trusted or manifest.read_marked(self.place)
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
        self._lookups: dict[int, RowsByPlace] = {}
        self.caches: dict[Any, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its path: files and caches are opened anew (see `reopen_store`)."""
        return reopen_store, (self.path, self.content_id)

    @property
    def path(self) -> str:
        """Where the store is, as it was asked for: a folder or an address."""
        return self.place.url

    @property
    def location(self) -> str:
        """Where the store is, from anywhere on this machine: an absolute path, or an address."""
        local = self.place.local
        return self.place.url if local is None else str(local.resolve())

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
        return pq.read_table(io.BytesIO(self.checked_file(IMAGES)))

    def statistics(self, layer: str) -> ChannelStatistics:
        """Per-channel statistics of a layer's training rows."""
        self.layer(layer)
        return load_statistics(self.checked_file(STATISTICS), layer)

    def checked_file(self, name: str) -> bytes:
        """A small file of the store that lies outside of arrays; StoreCorruptError if it is
        missing, or has another hash than the manifest's.
        """
        data = manifest.maybe(self.place, name)
        if data is None or not fits(data, self.manifest["files"][name]):
            self._check_mark()
            raise damaged(f"{self.place.url}/{name}", "no file or another hash than the manifest's")
        return data

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
            layer,
            batch_size,
            seed,
            rank=rank,
            ranks=ranks,
            holdout=holdout,
            epochs=epochs,
            drop_last=drop_last,
            threads=threads,
            cache=cache,
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

    def _grid_rows(self, layer: str) -> RowsByPlace:
        one = self.layer(layer)
        if one.stride not in self._lookups:
            places = RowsByPlace(self.positions(layer), self.images.num_rows, one.grid)
            self._lookups[one.stride] = places
        return self._lookups[one.stride]

    def _open(self, name: str) -> StoredArray:
        if name not in self._arrays:
            array = StoredArray(self.place, name, self.manifest["files"], self._check_mark)
            array.check_sizes()
            self._arrays[name] = array
        return self._arrays[name]

    def _check_mark(self) -> None:
        manifest.check_mark(self.place, self._mark)


def open_store(path: str | Path) -> Store:
    """Open a complete store for reading.

    Raises StoreError (nothing there, or not a store), StoreIncompleteError (its build did not
    finish) or StoreCorruptError (a file is missing or damaged).
    """
    return Store(path)


def reopen_store(path: str, content_id: str) -> Store:
    """As `open_store`; StoreError if by now another store than the one of that id is there."""
    store = open_store(path)
    if store.content_id != content_id:
        raise StoreError(
            f"expected the store in {path} to stay while other processes read it, found another "
            "one there; open it again"
        )
    return store
