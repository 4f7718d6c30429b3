"""Other ways to keep rows of activations on disk, behind one interface: same rows, same batches.

Every peer holds the rows in the order of the store, which is a random one. `Memmap` gathers single
rows by a new permutation of all of them in every epoch; `Reservoir` reads shard after shard into
a mixing buffer and draws half of it, as trainers with a cache of raw activations do; the others
read blocks in a new random order and shuffle windows of them, with one thread that reads the next
window ahead, which is how isae reads. Zarr, Arrow and torch use as many threads as they like.

Shapes: N rows, C channels, B rows of a batch, R rows of a block, W rows of a window.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from isae.benchmarks.store_codec import zstd_json
from isae.errors import unknown_name
from isae.randomness import keyed_rng
from isae.store.codecs import named_codec

Array = npt.NDArray[Any]
Batches = Generator[Array, None, None]
SHARDING = "sharding_indexed"
WINDOW_ROWS = 65536
"""Rows that are shuffled together, by readers that read blocks and by the reservoir."""


@dataclass(frozen=True)
class Job:
    """What every reader is asked to do; small enough to be sent to another process."""

    folder: str
    """A folder of its own."""
    rows: int
    channels: int
    dtype: str
    """Type of the stored values."""
    batch: int
    block: int
    """Rows of a shard, and of what is read at once."""
    seed: int
    array: str
    """JSON: Zarr v3 metadata of the stored array."""


class Peer:
    """Rows in files: written once, read in shuffled batches for ever."""

    name: ClassVar[str]
    note: ClassVar[str]
    package: ClassVar[str] = "numpy"

    def __init__(self, job: Job) -> None:
        self.job, self.folder, self.dtype = job, Path(job.folder), np.dtype(job.dtype)

    def write(self, rows_NC: Array) -> None:
        """Write the rows in the order given."""
        raise NotImplementedError

    def batches(self, seed: int) -> Batches:
        """Endless batches [B, C], epochs back to back. Opens the files."""
        read = self.open()
        return cut(windows(read, self.job.rows, self.job.block, seed), self.job.batch)

    def open(self) -> Callable[[int, int], Array]:
        """A function that reads rows [start, stop) of one block."""
        raise NotImplementedError


def windows(read: Callable[[int, int], Array], rows: int, block: int, seed: int) -> Batches:
    """Endless windows [W, C]: blocks in random order, shuffled together, one read ahead."""
    with ThreadPoolExecutor(1, thread_name_prefix="bench-read-ahead") as pool:
        ahead = None
        for epoch in itertools.count():
            blocks = keyed_rng(seed, "peer blocks", epoch).permutation(-(-rows // block))
            each = max(1, WINDOW_ROWS // block)
            for first in range(0, len(blocks), each):
                bounds = [
                    (int(b) * block, min(rows, (int(b) + 1) * block))
                    for b in blocks[first : first + each]
                ]
                rng = keyed_rng(seed, "peer window", epoch, first)
                following = pool.submit(_window, read, bounds, rng)
                if ahead is not None:
                    yield ahead.result()
                ahead = following


def _window(
    read: Callable[[int, int], Array], bounds: list[tuple[int, int]], rng: np.random.Generator
) -> Array:
    rows = np.concatenate([read(start, stop) for start, stop in bounds])
    shuffled: Array = rows[rng.permutation(len(rows))]
    return shuffled


def cut(parts: Batches, batch: int) -> Batches:
    """Pieces of any lengths, joined and cut into batches [B, C]."""
    held: list[Array] = []
    count = 0
    with closing(parts):
        for part in parts:
            start = 0
            while count + len(part) - start >= batch:
                stop = start + batch - count
                held.append(part[start:stop])
                yield np.concatenate(held) if len(held) > 1 else held[0]
                held, count, start = [], 0, stop
            if start < len(part):
                held.append(part[start:])
                count += len(part) - start


class Memmap(Peer):
    """One raw file; every batch gathers its rows by a full permutation."""

    name, note = "memmap", "np.memmap, rows gathered one by one"

    def write(self, rows_NC: Array) -> None:
        """Write it."""
        rows_NC.tofile(self.folder / "rows.bin")

    def batches(self, seed: int) -> Batches:
        """Batches of rows at random places of the file."""
        shape = (self.job.rows, self.job.channels)
        rows = np.memmap(self.folder / "rows.bin", self.dtype, "r", shape=shape)
        return cut(self._gathered(rows, seed), self.job.batch)

    def _gathered(self, rows: Array, seed: int) -> Batches:
        for epoch in itertools.count():
            order = keyed_rng(seed, "memmap", epoch).permutation(self.job.rows)
            for start in range(0, len(order), self.job.batch):
                yield rows[order[start : start + self.job.batch]]


class ZarrDefault(Peer):
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


class Arrow(Peer):
    """An Arrow IPC file, memory-mapped: fixed-size lists, a record batch for each block."""

    name, note, package = "arrow", "Arrow IPC file, memory-mapped, raw", "pyarrow"
    compression: ClassVar[str | None] = None

    def write(self, rows_NC: Array) -> None:
        """Write block by block."""
        import pyarrow as pa

        schema = pa.schema([("rows", pa.list_(pa.from_numpy_dtype(self.dtype), self.job.channels))])
        codec = self.compression and pa.Codec(self.compression, compression_level=1)
        options = pa.ipc.IpcWriteOptions(compression=codec)
        path = str(self.folder / "rows.arrow")
        with pa.ipc.new_file(path, schema, options=options) as file:
            for start in range(0, len(rows_NC), self.job.block):
                flat = pa.array(rows_NC[start : start + self.job.block].reshape(-1))
                lists = pa.FixedSizeListArray.from_arrays(flat, self.job.channels)
                file.write_batch(pa.record_batch([lists], schema=schema))

    def open(self) -> Callable[[int, int], Array]:
        """Record batches as NumPy."""
        import pyarrow as pa

        file = pa.ipc.open_file(pa.memory_map(str(self.folder / "rows.arrow")))

        def read(start: int, stop: int) -> Array:
            column = file.get_batch(start // self.job.block).column(0)
            values: Array = column.values.to_numpy(zero_copy_only=True)
            return values.reshape(stop - start, self.job.channels)

        return read


class ArrowZstd(Arrow):
    """The same, compressed."""

    name, note, compression = "arrow-zstd1", "Arrow IPC file, zstd-1", "zstd"


class Safetensors(Peer):
    """A safetensors file for each block."""

    name, note, package = "safetensors", "safetensors shards, raw", "safetensors"

    def write(self, rows_NC: Array) -> None:
        """Write shard by shard."""
        from safetensors.numpy import save_file

        for start in range(0, len(rows_NC), self.job.block):
            shard = np.ascontiguousarray(rows_NC[start : start + self.job.block])
            save_file({"rows": shard}, self.folder / f"{start // self.job.block}.safetensors")

    def open(self) -> Callable[[int, int], Array]:
        """Whole shards."""
        from safetensors import safe_open

        def read(start: int, stop: int) -> Array:
            path = self.folder / f"{start // self.job.block}.safetensors"
            with safe_open(path, framework="np") as file:
                rows: Array = file.get_tensor("rows")
            return rows

        return read


class Reservoir(Peer):
    """Raw float32 shards in their order, through a buffer that is mixed and half drawn."""

    name, note, package = "reservoir", "raw float32 shards, mixing buffer, half drawn", "torch"

    def write(self, rows_NC: Array) -> None:
        """Write shard by shard, as float32."""
        for start in range(0, len(rows_NC), self.job.block):
            shard = rows_NC[start : start + self.job.block].astype(np.float32)
            np.save(self.folder / f"{start // self.job.block}.npy", shard)

    def batches(self, seed: int) -> Batches:
        """Batches of half buffers."""
        return cut(self._halves(seed), self.job.batch)

    def _halves(self, seed: int) -> Batches:
        import torch

        generator = torch.Generator().manual_seed(seed)
        shards = -(-self.job.rows // self.job.block)
        for _ in itertools.count():
            pool = torch.empty(0, self.job.channels)
            for shard in range(shards):
                fresh = torch.from_numpy(np.load(self.folder / f"{shard}.npy"))
                pool = torch.cat([pool, fresh])
                last = shard == shards - 1
                if len(pool) < min(WINDOW_ROWS, self.job.rows) and not last:
                    continue
                pool = pool[torch.randperm(len(pool), generator=generator)]
                give = len(pool) if last else len(pool) // 2
                yield pool[:give].numpy()
                pool = pool[give:]


PEERS: dict[str, type[Peer]] = {
    one.name: one
    for one in (
        Memmap,
        ZarrDefault,
        ZarrSmall,
        ZarrFast,
        ZarrZstd,
        ZarrZstd3,
        Zarrs,
        Arrow,
        ArrowZstd,
        Safetensors,
        Reservoir,
    )
}
INSTALL = "not installed"


def chosen_store_peers(text: str) -> list[type[Peer]]:
    """Peers of a comma-separated list, 'all' or 'none'. Raises UnknownNameError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names in ([], ["none"]):
        return []
    if names == ["all"]:
        return list(PEERS.values())
    for name in names:
        if name not in PEERS:
            raise unknown_name("peer", name, [*PEERS, "all", "none"])
    return [PEERS[name] for name in names]


def start_peer(peer: type[Peer], job: Job, folder: Path) -> Peer:
    """A peer with a new folder of its own below `folder`."""
    own = folder / peer.name
    own.mkdir()
    return peer(replace(job, folder=str(own)))


def version(peer: type[Peer]) -> str | None:
    """The installed version of the package behind a peer, or None."""
    try:
        return importlib.metadata.version(peer.package)
    except importlib.metadata.PackageNotFoundError:
        return None


def files_of(folder: Path) -> list[Path]:
    """All files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def to_disk(folder: Path) -> None:
    """Wait until the disk has all files below a folder."""
    for path in files_of(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
