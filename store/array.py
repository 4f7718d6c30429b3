"""Rows of one array of a store, every chunk checked before it is given out.

Nothing is read that was not checked: every chunk carries a CRC-32C, the shard's index another, the
metadata file a hash in the manifest, and a shard that is missing or has another size than the
manifest says is an error. (Zarr alone would return the fill value for a missing shard.)

Shapes: R rows, C columns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from isae.errors import CodecError, StoreCorruptError
from isae.store.file_hash import fits
from isae.store.layout import metadata_file, shard_key
from isae.store.place import Place, Stamp
from isae.store.quantise import ATTRIBUTE, Quantiser
from isae.store.shards import ABSENT, ShardFormat, decode_index

Array = npt.NDArray[Any]
Rows = SupportsIndex | slice | Sequence[int] | npt.NDArray[Any]
Columns = SupportsIndex | slice | Sequence[int] | npt.NDArray[Any]
QUANTISED_OUT = np.dtype(np.float16)


class StoredArray:
    """Rows of one array [rows, columns]; index with an int, a slice, or integers.

    Reading is safe from several threads at once, and decodes outside the interpreter's lock.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        files: Mapping[str, Mapping[str, Any]],
        check_mark: Callable[[], None] = lambda: None,
    ) -> None:
        """`check_mark` raises a StoreError if the place holds another store by now."""
        self.place, self.name, self.check_mark = place, name, check_mark
        metadata = self._metadata(files)
        try:
            self.form = ShardFormat.from_metadata(metadata)
        except ValueError as error:
            raise damaged(f"{place.url}/{name}", str(error)) from error
        attributes = metadata["attributes"]
        self.quantiser = (
            Quantiser.from_attributes(attributes, self.form.columns)
            if ATTRIBUTE in attributes
            else None
        )
        self.shape: tuple[int, int] = (self.form.rows, self.form.columns)
        self.dtype = self.form.dtype if self.quantiser is None else QUANTISED_OUT
        self.chunk_rows, self.shard_rows = self.form.chunk_rows, self.form.shard_rows
        mine = [files[shard_key(name, shard)] for shard in range(self.form.shards)]
        self.sizes = [one["bytes"] for one in mine]
        self.sums = [str(one.get("chunks", "")) for one in mine]
        """The chunks' own checksums, so that no chunk can stand in the place of another one."""
        self.indexes: dict[int, npt.NDArray[np.uint64]] = {}
        self.stamps: dict[int, Stamp] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """All rows: `np.asarray(store.positions("mixed4a"))`; ValueError with copy=False."""
        if copy is False:
            raise ValueError("expected leave to copy: the rows are decoded from files")
        return self[:] if dtype is None else self[:].astype(dtype)

    def __getitem__(self, rows: Rows | tuple[Rows, Columns]) -> Array:
        """Rows as NumPy: [C] for an int, else [R, C]; `[rows, columns]` too.

        In the stored dtype; float16 for quantised arrays. Lists or arrays for both rows and columns
        give all combinations [R, C], where NumPy would pair them.
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
        chosen = np.asarray(rows)
        found = self._gather(row_numbers(chosen, len(self)))
        return found if chosen.ndim else found.reshape(-1)

    def read_into(self, start: int, stop: int, out_RC: Array) -> None:
        """Rows [start, stop) into `out_RC`, C-contiguous [stop - start, C] of this array's dtype.

        Raises as indexing does, and IndexError where the rows or `out_RC` do not fit.
        """
        fits = out_RC.shape == (stop - start, self.shape[1]) and out_RC.dtype == self.dtype
        if not (0 <= start <= stop <= len(self)) or not fits or not out_RC.flags.c_contiguous:
            raise IndexError(
                f"expected rows in [0, {len(self)}] and a contiguous {self.dtype} array "
                f"[{stop - start}, {self.shape[1]}], found rows {start} to {stop} and "
                f"{out_RC.dtype} {out_RC.shape}"
            )
        while start < stop:
            last = min(stop, (start // self.shard_rows + 1) * self.shard_rows)
            self._read_shard(start, last, out_RC[: last - start])
            out_RC, start = out_RC[last - start :], last

    def check_sizes(self) -> None:
        """Raise StoreCorruptError unless every shard file has the size that was written."""
        found = dict(self.place.keys(self.name))
        for shard in range(len(self.sizes)):
            self._compare_size(shard, found.get(shard_key(self.name, shard)))

    def _metadata(self, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        key = metadata_file(self.name)
        try:
            data = self.place.read(key)
        except FileNotFoundError as error:
            self.check_mark()
            raise damaged(f"{self.place.url}/{key}", "no file") from error
        if key not in files or not fits(data, files[key]):
            self.check_mark()
            raise damaged(f"{self.place.url}/{key}", "another hash than the manifest's")
        metadata: dict[str, Any] = json.loads(data)
        return metadata

    def _range(self, start: int, stop: int) -> Array:
        found = np.empty((stop - start, self.shape[1]), dtype=self.dtype)
        self.read_into(start, stop, found)
        return found

    def _gather(self, rows: npt.NDArray[np.int64]) -> Array:
        found = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        if not rows.size:
            return found
        order = np.argsort(rows, kind="stable")
        chunks, starts = np.unique(rows[order] // self.chunk_rows, return_index=True)
        for chunk, members in zip(chunks, np.split(order, starts[1:]), strict=True):
            first = int(chunk) * self.chunk_rows
            block = self._range(first, min(first + self.chunk_rows, len(self)))
            found[members] = block[rows[members] - first]
        return found

    def _read_shard(self, start: int, stop: int, out_RC: Array) -> None:
        """Rows of one shard: one read of all their chunks, then chunk by chunk."""
        shard, key = start // self.shard_rows, shard_key(self.name, start // self.shard_rows)
        base = shard * self.shard_rows
        first = (start - base) // self.chunk_rows
        last = -(-(stop - base) // self.chunk_rows)
        try:
            index = self._index(shard)[first:last]
            if (index[:, 0] == ABSENT).any():
                raise CodecError("chunks that were never written")
            low, high = int(index[:, 0].min()), int(index.sum(axis=1).max())
            data = memoryview(self._read(shard, low, high))
            for number, (offset, length) in enumerate(index.tolist(), first):
                chunk = data[offset - low : offset - low + length]
                sums = self.sums[shard][8 * number : 8 * number + 8]
                if sums and chunk[-4:].hex() != sums:
                    raise CodecError("a chunk that belongs elsewhere, or was written later")
                self._decode(chunk, base + number * self.chunk_rows, start, out_RC)
        except FileNotFoundError:
            self._compare_size(shard, None)
        except CodecError as error:
            self.check_mark()
            raise damaged(f"{self.place.url}/{key}", f"rows {start} to {stop}: {error}") from error

    def _decode(self, data: memoryview, begins: int, start: int, out_RC: Array) -> None:
        """Decode the chunk whose first row is `begins` to where it belongs in rows from `start`."""
        low, high = max(begins, start), min(begins + self.chunk_rows, start + len(out_RC))
        part_RC = out_RC[low - start : high - start]
        whole = len(part_RC) == self.chunk_rows
        if self.quantiser is None:
            rows_RC = part_RC if whole else np.empty((self.chunk_rows, self.shape[1]), self.dtype)
            self.form.codec.decode(data, rows_RC)
        else:
            rows_RC = np.empty((self.chunk_rows, self.shape[1]), dtype=np.uint8)
            self.form.codec.decode(data, rows_RC)
            self.quantiser.decode(rows_RC[low - begins : high - begins], part_RC)
            return
        if not whole:
            part_RC[:] = rows_RC[low - begins : high - begins]

    def _index(self, shard: int) -> npt.NDArray[np.uint64]:
        if shard not in self.indexes:
            size = self.sizes[shard]
            tail = self._read(shard, size - self.form.index_bytes, size)
            self.indexes[shard] = decode_index(self.form, tail, size)
        return self.indexes[shard]

    def _read(self, shard: int, start: int, stop: int) -> bytes:
        """Bytes of a shard, of this store: chunks of another one have right checksums too."""
        data, stamp = self.place.read_stamped(shard_key(self.name, shard), start, stop)
        if stamp != self.stamps.get(shard):
            self._compare_size(shard, stamp.size)
            self.check_mark()
            self.stamps[shard] = stamp
        return data

    def _compare_size(self, shard: int, size: int | None) -> None:
        if size != self.sizes[shard]:
            self.check_mark()
            found = "no file" if size is None else f"{size} bytes"
            raise damaged(
                f"{self.place.url}/{shard_key(self.name, shard)}",
                f"{found} instead of {self.sizes[shard]} bytes",
            )


def row_numbers(rows: Rows, count: int) -> npt.NDArray[np.int64]:
    """Row numbers [R] of an int, a slice, integers or a mask of `count` rows.

    Raises IndexError as NumPy does for what is none of these or out of range.
    """
    if isinstance(rows, slice):
        return np.arange(*rows.indices(count), dtype=np.int64)
    chosen = np.asarray(rows)
    if chosen.dtype == np.bool_ and chosen.shape == (count,):
        return np.flatnonzero(chosen)
    chosen = np.atleast_1d(chosen)
    if chosen.ndim != 1:
        raise IndexError(f"expected one axis of rows, found {chosen.ndim} axes")
    if chosen.size and chosen.dtype.kind not in "iu":
        raise IndexError(f"expected integer rows, a slice or a mask of {count} rows")
    if chosen.size and not (-count <= chosen.min() and chosen.max() < count):
        raise IndexError(f"expected rows in [0, {count}), found {chosen.min()}, {chosen.max()}")
    chosen = chosen.astype(np.int64)
    return np.where(chosen < 0, chosen + count, chosen)


def damaged(path: str | os.PathLike[str], found: str) -> StoreCorruptError:
    """The error for a file of a store that is not what was written."""
    return StoreCorruptError(
        f"expected {path} as it was written, found {found}; run isae-store verify for a full "
        "list, then isae-store repair, or build the store again with --overwrite"
    )
