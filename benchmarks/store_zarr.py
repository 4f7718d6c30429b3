"""Zarr arrays with the shards and chunks of a store, through other code than isae's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from isae.benchmarks.store_codec import zstd_json
from isae.benchmarks.store_peer import Array, BlockPeer
from isae.store.codecs import named_codec

SHARDING = "sharding_indexed"


class ZarrDefault(BlockPeer):
    """A sharded Zarr array with shards, chunks and codecs as the store's, by zarr-python alone."""

    name, note, package = "zarr", "zarr-python, default pipeline, the store's codecs", "zarr"
    codec: ClassVar[str | None] = None
    """A codec by isae's name, or JSON; None: the store's."""
    settings: ClassVar[dict[str, Any]] = {}

    def metadata(self) -> dict[str, Any]:
        """Metadata of the array.

        Raises ValueError where the store's codecs are not for the values that it gives: it keeps
        one byte of each.
        """
        found: dict[str, Any] = json.loads(self.job.array)
        if self.codec is None and found["data_type"] != self.job.dtype:
            raise ValueError(f"the store keeps {self.job.dtype} values as {found['data_type']}")
        if self.codec is not None:
            shard = next(one for one in found["codecs"] if one["name"] == SHARDING)
            shard["configuration"]["codecs"] = list(named_codec(self.codec).zarr_codecs)
            found |= {"data_type": self.job.dtype, "fill_value": "NaN"}
        return {**found, "shape": [self.job.rows, self.job.channels], "attributes": {}}

    @property
    def redundant(self) -> bool:
        """Whether this is the store's own array, which `ZarrDefault` reads already."""
        own = json.loads(self.job.array)["codecs"]
        return self.codec is not None and not self.settings and self.metadata()["codecs"] == own

    def write(self, rows_NC: Array) -> None:
        """Write shard by shard."""
        (self.folder / "zarr.json").write_text(json.dumps(self.metadata()))
        array = self._array("r+")
        for start in range(0, len(rows_NC), self.job.block):
            array[start : start + self.job.block] = rows_NC[start : start + self.job.block]

    def open(self) -> Callable[[int, int], Array]:
        """Slices of the array."""
        array = self._array("r")
        return lambda start, stop: np.asarray(array[start:stop])

    def _array(self, mode: str) -> Any:
        import zarr

        with zarr.config.set(self.settings):
            return zarr.open_array(self.folder, mode=mode, zarr_format=3)


class ZarrSmall(ZarrDefault):
    """The codec of isae-store build --codec small."""

    name, note, codec = "zarr-small", "zarr-python, default pipeline, codec small", "small"


class ZarrFast(ZarrDefault):
    """The codec of isae-store build --codec fast."""

    name, note, codec = "zarr-fast", "zarr-python, default pipeline, codec fast", "fast"


class ZarrZstd(ZarrDefault):
    """Bytes, zstd level 1, crc32c."""

    name, note, codec = "zarr-zstd1", "zarr-python, default pipeline, zstd-1", zstd_json(1)


class ZarrZstd3(ZarrDefault):
    """Bytes, zstd level 3, crc32c."""

    name, note, codec = "zarr-zstd3", "zarr-python, default pipeline, zstd-3", zstd_json(3)


class Zarrs(ZarrZstd):
    """The same array through the zarrs pipeline, which is compiled."""

    name, note, package = "zarrs-zstd1", "zarr-python, zarrs pipeline, zstd-1", "zarrs"
    settings: ClassVar[dict[str, Any]] = {
        "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
        "codec_pipeline.strict": True,
    }
