"""Shard files of Zarr v3 (`sharding_indexed`), encoded and decoded here instead of by a library.

A shard holds the inner chunks of `shard_rows` rows one after the other, then the index: offset and
length of every inner chunk as little-endian uint64, 2^64 - 1 twice for a chunk that has no rows,
and the CRC-32C of the index (https://zarr-specs.readthedocs.io, sharding codec, index at the end).
The last chunk is filled up to `chunk_rows` rows. Any Zarr v3 reader opens such files.

Shapes: R rows, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.errors import CodecError, ConfigError
from isae.store.checksum import crc32c
from isae.store.codecs import codec_from_metadata
from isae.store.row_codecs import RowCodec

Array = npt.NDArray[Any]
ABSENT = np.uint64(2**64 - 1)
CHECKSUM_BYTES = 4
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
INDEX_CODECS = [_LITTLE, {"name": "crc32c"}]


@dataclass(frozen=True)
class ShardFormat:
    """How the rows of one array lie in its shard files."""

    rows: int
    columns: int
    dtype: np.dtype[Any]
    """Of the stored numbers."""
    chunk_rows: int
    shard_rows: int
    codec: RowCodec

    @property
    def shards(self) -> int:
        """Number of shard files."""
        return -(-self.rows // self.shard_rows)

    @cached_property
    def index_bytes(self) -> int:
        """Length of the index at the end of a shard."""
        return self.shard_rows // self.chunk_rows * 16 + CHECKSUM_BYTES

    @property
    def fill_value(self) -> float | int:
        """What stands where no row was written: never a plausible number of a float array."""
        if self.dtype.kind == "f":
            return float("nan")
        return -1 if self.dtype.kind == "i" else 0

    def metadata(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """The array's zarr.json."""
        inner = {
            "chunk_shape": [self.chunk_rows, self.columns],
            "codecs": self.codec.zarr_codecs,
            "index_codecs": INDEX_CODECS,
            "index_location": "end",
        }
        shape = {"chunk_shape": [self.shard_rows, self.columns]}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.rows, self.columns],
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": shape},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if self.dtype.kind == "f" else self.fill_value,
            "codecs": [{"name": "sharding_indexed", "configuration": inner}],
            "attributes": attributes,
            "storage_transformers": [],
        }

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> ShardFormat:
        """The format that an array's zarr.json describes; ValueError for any other array."""
        try:
            rows, columns = metadata["shape"]
            dtype = np.dtype(metadata["data_type"])
            (sharding,) = metadata["codecs"]
            inner = sharding["configuration"]
            shard_rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
            sharded = sharding["name"] == "sharding_indexed"
            if not sharded or inner.get("index_location", "end") != "end":
                raise ValueError("the array is not sharded with its index at the end")
            codec = codec_from_metadata(inner["codecs"], dtype, columns)
            form = cls(rows, columns, dtype, inner["chunk_shape"][0], shard_rows, codec)
            form._check(metadata, inner)
            return form
        except (KeyError, TypeError, ConfigError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _check(self, metadata: dict[str, Any], inner: dict[str, Any]) -> None:
        """Raise ValueError unless the files lie as in arrays of isae."""
        if self.chunk_rows < 1 or self.shard_rows % self.chunk_rows:
            raise ValueError(f"chunks of {self.chunk_rows} rows in shards of {self.shard_rows}")
        mine = self.metadata({})
        (sharding,) = mine["codecs"]
        for key in ("chunk_grid", "chunk_key_encoding"):
            if metadata[key] != mine[key]:
                raise ValueError(f"{key} {metadata[key]}")
        for key in ("chunk_shape", "index_codecs"):
            if inner[key] != sharding["configuration"][key]:
                raise ValueError(f"{key} {inner[key]}")


def encode_shard(form: ShardFormat, rows_RC: Array) -> bytes:
    """One shard file of at most `shard_rows` rows [R, C]."""
    index = np.full((form.shard_rows // form.chunk_rows, 2), ABSENT, dtype="<u8")
    chunks, offset = [], 0
    for number, start in enumerate(range(0, len(rows_RC), form.chunk_rows)):
        chunk = rows_RC[start : start + form.chunk_rows]
        if len(chunk) < form.chunk_rows:
            whole = np.full((form.chunk_rows, form.columns), form.fill_value, dtype=form.dtype)
            whole[: len(chunk)] = chunk
            chunk = whole
        data = form.codec.encode(np.ascontiguousarray(chunk))
        index[number] = offset, len(data)
        chunks.append(data)
        offset += len(data)
    table = index.tobytes()
    return b"".join([*chunks, table, _checksum(table).to_bytes(4, "little")])


def chunk_sums(form: ShardFormat, data: bytes) -> str:
    """The CRC-32C that each chunk of a shard ends in, as hex, in the order of the chunks."""
    index = decode_index(form, data[-form.index_bytes :], len(data))
    ends = [int(offset + length) for offset, length in index if offset != ABSENT]
    return "".join(data[end - CHECKSUM_BYTES : end].hex() for end in ends)


def decode_index(form: ShardFormat, data: bytes, shard_bytes: int) -> npt.NDArray[np.uint64]:
    """Offsets and lengths [chunks, 2] from the end of a shard; CodecError if they are damaged."""
    table, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(data) != form.index_bytes:
        raise CodecError(f"an index of {len(data)} bytes instead of {form.index_bytes}")
    if _checksum(table) != int.from_bytes(checksum, "little"):
        raise CodecError("an index whose CRC-32C does not fit")
    index: npt.NDArray[np.uint64] = np.frombuffer(table, dtype="<u8").reshape(-1, 2)
    present = index[index[:, 0] != ABSENT]
    if len(present) and int(present.astype(object).sum(axis=1).max()) > shard_bytes:
        raise CodecError("an index that points behind the end of the shard")
    return index


def _checksum(table: bytes) -> int:
    return crc32c(np.frombuffer(table, dtype=np.uint8))
