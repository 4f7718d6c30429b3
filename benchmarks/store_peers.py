"""Other ways to keep rows of activations on disk, behind one interface: same rows, same batches.

Every peer holds the rows in the order of the store, which is a random one. `Memmap` gathers single
rows by a new permutation of all of them in every epoch; `Reservoir` reads shard after shard into
a mixing buffer and draws half of it, as trainers with a cache of raw activations do; the others
read blocks in a new random order and shuffle windows of them, with one thread that reads the next
window ahead, which is how isae reads. Zarr, Arrow and torch use as many threads as they like.

Shapes: N rows, C channels, B rows of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from isae.benchmarks import store_peer
from isae.benchmarks.store_peer import Array, Batches, BlockPeer, Peer, cut
from isae.benchmarks.store_zarr import ZarrDefault, ZarrFast, Zarrs, ZarrSmall, ZarrZstd, ZarrZstd3
from isae.errors import unknown_name
from isae.randomness import keyed_rng


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


class Arrow(BlockPeer):
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


class Safetensors(BlockPeer):
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
                if len(pool) < min(store_peer.WINDOW_ROWS, self.job.rows) and not last:
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
