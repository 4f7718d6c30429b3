"""Zarr arrays with the chunks and codecs of a store, through other code than isae's.

A shard is what is read at once, so that Zarr reads whole ones.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from isae.benchmarks.store_codec import zstd_json
from isae.benchmarks.store_peer import Array, BlockPeer, ReadBlock
from isae.store.codecs import named_codec

SHARDING = "sharding_indexed"


class ZarrDefault(BlockPeer):
    """A sharded Zarr array with chunks and codecs as the store's, by zarr-python alone."""

    name, note, package = "zarr", "zarr-python, default pipeline, the store's codecs", "zarr"
    modules: ClassVar[tuple[str, ...]] = ("zarr",)
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
        shard = next(one for one in found["codecs"] if one["name"] == SHARDING)["configuration"]
        if self.codec is not None:
            shard["codecs"] = list(named_codec(self.codec).zarr_codecs)
            found["data_type"] = self.job.dtype
        shard["chunk_shape"][0] = min(shard["chunk_shape"][0], self.job.block)
        found["chunk_grid"]["configuration"]["chunk_shape"][0] = self.job.block
        # The last chunk is filled up: with zeros it is smallest.
        found |= {"fill_value": 0.0, "attributes": {}}
        return {**found, "shape": [self.job.rows, self.job.channels]}

    @property
    def redundant(self) -> bool:
        """Whether this is the store's own array, which `ZarrDefault` reads already."""
        if self.codec is None or self.settings:
            return False
        shard = next(one for one in self.metadata()["codecs"] if one["name"] == SHARDING)
        own = next(one for one in json.loads(self.job.array)["codecs"] if one["name"] == SHARDING)
        return bool(shard["configuration"]["codecs"] == own["configuration"]["codecs"])

    def write(self, rows_NC: Array) -> None:
        """Write shard by shard, as many at once as there are threads."""
        (self.folder / "zarr.json").write_text(json.dumps(self.metadata()))
        array = self._array("r+")

        def write(start: int) -> None:
            array[start : start + self.job.block] = rows_NC[start : start + self.job.block]

        with ThreadPoolExecutor(self.job.threads) as pool:
            list(pool.map(write, range(0, len(rows_NC), self.job.block)))

    def open(self) -> ReadBlock:
        """Slices of the array, straight into memory where the pipeline can."""
        from zarr.core.buffer import default_buffer_prototype

        array = self._array("r")
        kind: Any = default_buffer_prototype().nd_buffer

        def read(start: int, stop: int, out_RC: Array) -> None:
            rows = (slice(start, stop), slice(None))
            array.get_basic_selection(rows, out=kind.from_ndarray_like(out_RC))

        return read

    def _array(self, mode: str) -> Any:
        import zarr

        # Zarr makes its threads once in a process, when an array is first opened.
        with zarr.config.set({**self.settings, "threading.max_workers": self.job.threads}):
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
    modules = ("zarr", "zarrs")
    settings: ClassVar[dict[str, Any]] = {
        "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
        "codec_pipeline.strict": True,
    }
