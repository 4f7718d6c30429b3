"""Other ways to keep rows of activations on disk, behind one interface: same rows, same batches.

Every peer holds the rows in the order of the store, which is a random one. `Memmap` gathers single
rows by a new permutation of all of them in every epoch; `Reservoir` reads shard after shard into
a mixing buffer and draws half of it, as trainers with a cache of raw activations do; the others
read blocks and are shuffled by isae's own pipeline (store_peer.py), of which `Raw` shows what it
costs by itself. All have the threads that isae's reader has, those of the pipeline helped by a
caller that waits; Zarr has as many again of its own,
while those of the pipeline wait for it.

Shapes: N rows, C channels, B rows of a batch, R rows of a block, W rows of the mixing buffer.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from isae.benchmarks.store_peer import (
    Array,
    Batches,
    BlockPeer,
    Peer,
    ReadBlock,
    ahead,
    cut,
    window_rows,
)
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
        return ahead(self._gathers(_mapped(self), seed), self.job.threads)

    def _gathers(self, rows_NC: Array, seed: int) -> Iterator[Callable[[], Array]]:
        # One is looked at, one is the next, the others are being filled.
        shape = (self.job.batch, self.job.channels)
        buffers = [np.empty(shape, self.dtype) for _ in range(self.job.threads + 3)]
        for places_B, out_BC in zip(self._places(seed), itertools.cycle(buffers), strict=False):
            yield partial(np.take, rows_NC, places_B, axis=0, out=out_BC, mode="clip")

    def _places(self, seed: int) -> Iterator[Array]:
        batch = self.job.batch
        held = np.empty(0, dtype=np.int64)
        for epoch in itertools.count():
            fresh = keyed_rng(seed, "memmap", epoch).permutation(self.job.rows)
            held = np.concatenate([held, fresh])
            whole = len(held) // batch * batch
            yield from (held[start : start + batch] for start in range(0, whole, batch))
            held = held[whole:]


class Raw(BlockPeer):
    """One raw file, mapped; a block is copied from it, which is all that can be left out."""

    name, note = "raw", "one raw file, blocks copied: what the shuffle costs by itself"

    def write(self, rows_NC: Array) -> None:
        """Write it."""
        rows_NC.tofile(self.folder / "rows.bin")

    def open(self) -> ReadBlock:
        """Copies from the mapped file."""
        rows_NC = _mapped(self)
        return lambda start, stop, out_RC: np.copyto(out_RC, rows_NC[start:stop])


def _mapped(peer: Peer) -> Array:
    shape = (peer.job.rows, peer.job.channels)
    return np.asarray(np.memmap(peer.folder / "rows.bin", peer.dtype, "r", shape=shape))


class Arrow(BlockPeer):
    """An Arrow IPC file, memory-mapped: fixed-size lists, a record batch for each block."""

    name, note, package = "arrow", "Arrow IPC file, memory-mapped, raw", "pyarrow"
    modules = ("pyarrow",)
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

    def open(self) -> ReadBlock:
        """Record batches as NumPy, copied; every thread has an opened file of its own."""
        import pyarrow as pa

        own = threading.local()
        mapped = pa.memory_map(str(self.folder / "rows.arrow"))

        def read(start: int, stop: int, out_RC: Array) -> None:
            if not hasattr(own, "file"):
                own.file = pa.ipc.open_file(mapped)
            column = own.file.get_batch(start // self.job.block).column(0)
            values: Array = column.values.to_numpy(zero_copy_only=True)
            np.copyto(out_RC, values.reshape(stop - start, self.job.channels))

        return read


class ArrowZstd(Arrow):
    """The same, compressed."""

    name, note, compression = "arrow-zstd1", "Arrow IPC file, zstd-1", "zstd"


class Safetensors(BlockPeer):
    """A safetensors file for each block."""

    name, note, package = "safetensors", "safetensors shards, raw", "safetensors"
    modules = ("safetensors.torch",)

    def write(self, rows_NC: Array) -> None:
        """Write shard by shard."""
        from safetensors.numpy import save_file

        for start in range(0, len(rows_NC), self.job.block):
            shard = np.ascontiguousarray(rows_NC[start : start + self.job.block])
            save_file({"rows": shard}, self.folder / f"{start // self.job.block}.safetensors")

    def open(self) -> ReadBlock:
        """Shards as torch maps them, copied once."""
        from safetensors import safe_open

        def read(start: int, stop: int, out_RC: Array) -> None:
            path = self.folder / f"{start // self.job.block}.safetensors"
            with safe_open(path, framework="pt") as file:
                np.copyto(out_RC, file.get_tensor("rows").numpy())

        return read


class Reservoir(Peer):
    """Raw float32 shards in their order, through a buffer that is mixed and half drawn."""

    name, note, package = "reservoir", "raw float32 shards, mixing buffer, half drawn", "torch"
    modules = ("torch",)

    def write(self, rows_NC: Array) -> None:
        """Write shard by shard, as float32."""
        for start in range(0, len(rows_NC), self.job.block):
            shard = rows_NC[start : start + self.job.block].astype(np.float32)
            np.save(self.folder / f"{start // self.job.block}.npy", shard)

    def batches(self, seed: int) -> Batches:
        """Batches of half buffers, the next half drawn meanwhile."""
        halves = self._halves(seed)
        return cut(ahead(itertools.repeat(partial(next, halves)), 1), self.job.batch)

    def _halves(self, seed: int) -> Batches:
        import torch

        generator = torch.Generator().manual_seed(seed)
        window = min(window_rows(), self.job.rows)
        pool_WC, spare_WC = (torch.empty(window + self.job.block, self.job.channels) for _ in "ab")
        # Two are ahead while one is cut into batches.
        half = (len(pool_WC) + 1) // 2
        halves = itertools.cycle([torch.empty(half, self.job.channels) for _ in range(3)])
        paths = [self.folder / f"{n}.npy" for n in range(-(-self.job.rows // self.job.block))]
        for _ in itertools.count():
            held = 0
            for path in paths:
                held += _copied(path, pool_WC[held:])
                last = path == paths[-1]
                if held < window and not last:
                    continue
                order = torch.randperm(held, generator=generator)
                given, rest = order[: -(-held // 2)], order[-(-held // 2) :]
                for part in (given, rest) if last else (given,):
                    out_HC = next(halves)[: len(part)]
                    yield torch.index_select(pool_WC[:held], 0, part, out=out_HC).numpy()
                if not last:
                    torch.index_select(pool_WC[:held], 0, rest, out=spare_WC[: len(rest)])
                    pool_WC, spare_WC, held = spare_WC, pool_WC, len(rest)


def _copied(path: Path, out_WC: Any) -> int:
    """Copy the rows of a shard to the front of a tensor; how many."""
    rows_RC = np.load(path, mmap_mode="r")
    out_WC.numpy()[: len(rows_RC)] = rows_RC
    return len(rows_RC)


PEERS: dict[str, type[Peer]] = {
    one.name: one
    for one in (
        Memmap,
        Raw,
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
