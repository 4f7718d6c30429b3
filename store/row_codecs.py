"""Codes chunks of rows to checksummed bytes: raw, one zstd frame, or the bitmap codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from isae.errors import CodecError, DataError
from isae.store import bitmap
from isae.store.bitmap_zarr import BitmapCodec, check_dtype
from isae.store.checksum import crc32c
from isae.store.zstd_frames import decompress

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[Any]
Metadata = dict[str, Any]
CRC_BYTES = 4


class RowCodec(ABC):
    """Codes chunks [rows, columns] of one array."""

    zarr_codecs: list[Metadata]
    """Zarr v3 metadata of the codecs, crc32c last."""

    def __init__(self, dtype: np.dtype[Any], columns: int, zarr_codecs: Sequence[Metadata]) -> None:
        self.dtype, self.columns = dtype, columns
        self.zarr_codecs = list(zarr_codecs)

    def encode(self, rows_RC: Rows) -> bytes:
        """A chunk's bytes: always the same for the same rows. Rows of another type: DataError."""
        self._check_rows(rows_RC)
        body = self._encode(np.ascontiguousarray(rows_RC))
        return body + crc32c(_bytes(body)).to_bytes(CRC_BYTES, "little")

    def decode(self, data: bytes | memoryview, out_RC: Rows) -> None:
        """Fill C-contiguous `out` from a chunk's bytes.

        Raises CodecError for anything but what `encode` gives for as many rows; `out` may be partly
        filled then. Other Python threads run during the heavy parts.
        """
        self._check_rows(out_RC)
        if not (out_RC.flags.c_contiguous and out_RC.flags.writeable):
            raise DataError("expected rows that are C-contiguous and writable, found others")
        stored = _bytes(data)
        body, end = stored[:-CRC_BYTES], stored[-CRC_BYTES:]
        if len(end) < CRC_BYTES or crc32c(body) != int.from_bytes(end.tobytes(), "little"):
            raise CodecError("expected a chunk that fits its checksum, found a damaged one")
        self._decode(body, out_RC)

    @abstractmethod
    def _encode(self, rows_RC: Rows) -> bytes: ...

    @abstractmethod
    def _decode(self, body: Bytes, out_RC: Rows) -> None: ...

    def _check_rows(self, rows_RC: Rows) -> None:
        if rows_RC.dtype != self.dtype or rows_RC.ndim != 2 or rows_RC.shape[1] != self.columns:
            raise DataError(
                f"expected rows of {self.columns} columns of {self.dtype}, found "
                f"{rows_RC.dtype} {list(rows_RC.shape)}"
            )


class RawRows(RowCodec):
    """[bytes]: as they are."""

    def _encode(self, rows_RC: Rows) -> bytes:
        return rows_RC.tobytes()

    def _decode(self, body: Bytes, out_RC: Rows) -> None:
        if body.size != out_RC.nbytes:
            raise CodecError(f"expected a chunk of {out_RC.nbytes} bytes, found {body.size}")
        np.copyto(_flat(out_RC), body)


class ZstdRows(RowCodec):
    """[bytes, zstd]: one frame."""

    def __init__(self, *args: Any, zstd: Zstd) -> None:
        super().__init__(*args)
        self.zstd = zstd

    def _encode(self, rows_RC: Rows) -> bytes:
        return bytes(self.zstd.encode(rows_RC))

    def _decode(self, body: Bytes, out_RC: Rows) -> None:
        decompress(body, _flat(out_RC))


class BitmapRows(RowCodec):
    """[isae.bitmap]."""

    def __init__(self, *args: Any, codec: BitmapCodec) -> None:
        super().__init__(*args)
        check_dtype(self.dtype)
        self.codec = codec

    def _encode(self, rows_RC: Rows) -> bytes:
        return self.codec.encode_values(rows_RC)

    def _decode(self, body: Bytes, out_RC: Rows) -> None:
        bitmap.decode(body, out_RC)


def _bytes(data: Any) -> Bytes:
    """An array of the bytes, not writable: loops are compiled for that kind alone."""
    array = np.frombuffer(data, np.uint8)
    array.flags.writeable = False
    return array


def _flat(rows_RC: Rows) -> Bytes:
    return rows_RC.reshape(-1).view(np.uint8)
