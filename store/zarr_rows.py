"""Chunks of rows through zarr-python's own codecs, for chains that have no faster way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.abc.codec import Codec, CodecPipeline
from zarr.codecs import GzipCodec
from zarr.codecs.numcodecs import GZip
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import Buffer
from zarr.core.buffer.core import default_buffer_prototype
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.dtype import get_data_type_from_native_dtype
from zarr.core.sync import sync
from zarr.registry import get_codec_class

from isae.errors import CodecError, ConfigError
from isae.store.row_codecs import RowCodec

_GZIP_TIME = slice(4, 8)  # MTIME in the header (RFC 1952, section 2.3)


class ZarrRows(RowCodec):
    """Any chain that zarr knows; crc32c is left to RowCodec."""

    def __init__(
        self, dtype: np.dtype[Any], columns: int, zarr_codecs: Sequence[dict[str, Any]]
    ) -> None:
        super().__init__(dtype, columns, zarr_codecs)
        try:
            self.kind = get_data_type_from_native_dtype(dtype)
            self.pipeline = self._pipeline(parse_codecs(zarr_codecs[:-1]))
            # Some mistakes show only when something is coded.
            probe = np.arange(columns).astype(dtype).reshape(1, -1)
            self._decode(np.frombuffer(self._encode(probe), np.uint8), np.empty_like(probe))
        except ConfigError:
            raise
        except Exception as error:  # zarr and numcodecs raise all sorts
            names = [one.get("name") for one in zarr_codecs]
            raise ConfigError(
                f"expected Zarr v3 codecs that can code {dtype}, found {names}: {_said(error)}"
            ) from error

    def _pipeline(self, codecs: list[Codec]) -> CodecPipeline:
        spec = self._spec(1)
        fitting = []
        for codec in codecs:
            fitting.append(codec.evolve_from_array_spec(spec))
            spec = fitting[-1].resolve_metadata(spec)
        return BatchedCodecPipeline.from_codecs(fitting)

    def _spec(self, rows: int) -> ArraySpec:
        return ArraySpec(
            shape=(rows, self.columns),
            dtype=self.kind,
            fill_value=self.kind.default_scalar(),
            config=ArrayConfig(order="C", write_empty_chunks=True),
            prototype=default_buffer_prototype(),
        )

    def _encode(self, rows_RC: npt.NDArray[Any]) -> bytes:
        spec = self._spec(len(rows_RC))
        array = spec.prototype.nd_buffer.from_numpy_array(rows_RC)
        (coded,) = sync(self.pipeline.encode([(array, spec)]))
        if coded is None:
            raise CodecError("expected bytes of zarr's codecs, found none")
        return bytes(coded.to_bytes())

    def _decode(self, body: npt.NDArray[np.uint8], out_RC: npt.NDArray[Any]) -> None:
        spec = self._spec(len(out_RC))
        data = spec.prototype.buffer.from_array_like(body)
        try:
            (array,) = sync(self.pipeline.decode([(data, spec)]))
            rows = np.asarray(array.as_numpy_array() if array is not None else None)
        except Exception as error:  # zarr and numcodecs raise all sorts
            raise CodecError(f"expected a chunk of the store's codec, found: {error}") from error
        if rows.shape != out_RC.shape or rows.dtype.newbyteorder("=") != out_RC.dtype:
            raise CodecError(f"expected rows {out_RC.shape}, found {rows.shape} of {rows.dtype}")
        np.copyto(out_RC, rows)


class _TimelessGzipCodec(GzipCodec):
    """gzip whose header tells no time: the same rows give the same bytes at any time."""

    async def _encode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        coded = await super()._encode_single(chunk_bytes, chunk_spec)
        return None if coded is None else _without_time(coded, chunk_spec)


class _TimelessGZip(GZip, codec_name="gzip"):
    """The same of "numcodecs.gzip"."""

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        coded = await super()._encode_single(chunk_data, chunk_spec)
        return _without_time(coded, chunk_spec)


def _without_time(coded: Buffer, spec: ArraySpec) -> Buffer:
    data = bytearray(coded.to_bytes())
    data[_GZIP_TIME] = bytes(4)
    return spec.prototype.buffer.from_bytes(bytes(data))


_TIMELESS: dict[type[Codec], type[Codec]] = {GzipCodec: _TimelessGzipCodec, GZip: _TimelessGZip}


def parse_codecs(codecs: Sequence[Mapping[str, Any]]) -> list[Codec]:
    """Zarr's codecs of these metadata; ConfigError for one that it does not know."""
    found = []
    for one in codecs:
        try:
            kind = get_codec_class(one["name"])
            found.append(_TIMELESS.get(kind, kind).from_dict(dict(one)))
        except Exception as error:  # zarr and numcodecs raise all sorts
            raise ConfigError(
                f"expected a Zarr v3 codec that is installed, found {dict(one)}: {_said(error)}"
            ) from error
    return found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
