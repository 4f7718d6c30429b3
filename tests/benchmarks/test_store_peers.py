"""Other ways to keep rows: every row once in each epoch, shuffled at no needless cost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isae.benchmarks import store_peers
from isae.benchmarks.shuffle_quality import RowBook, epoch_hashes, row_hashes
from isae.benchmarks.store_peer import Job, ReadBlock
from isae.benchmarks.store_peers import PEERS, Raw
from isae.errors import UnknownNameError
from isae.store import open_store

LAYER = "mixed4a"
Array = np.ndarray[Any, Any]


def job_of(store: Path, folder: Path, rows: int, batch: int = 64, block: int = 128) -> Job:
    array = open_store(store).layer(LAYER).array
    metadata = json.loads((store / array / "zarr.json").read_text())
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [256, 24]
    shard = metadata["codecs"][0]["configuration"]
    shard["chunk_shape"] = [32, 24]
    return Job(str(folder), rows, 24, "float16", batch, block, 2, 3, json.dumps(metadata))


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_gives_every_row_once_in_each_epoch(
    name: str,
    small_store: Path,
    tmp_path: Path,
    small_blocks: None,
    rows_like: Callable[..., Array],
) -> None:
    rows = rows_like(1000, 24)
    book = RowBook(rows, np.arange(1000) // 7)
    peer = PEERS[name](job_of(small_store, tmp_path, 1000))
    peer.write(rows)
    with closing(peer.batches(5)) as batches:
        given = [next(batches).copy() for _ in range(32)]
    assert {one.shape for one in given} == {(64, 24)}
    stream = row_hashes(np.concatenate(given), rows.dtype)
    first, second = stream[:1000], stream[1000:2000]
    assert book.fault(first) is None
    assert book.fault(second) is None
    assert not np.array_equal(first, second)
    with closing(peer.batches(6)) as batches:
        assert not np.array_equal(epoch_hashes(batches, 1000, rows.dtype), first)


@pytest.mark.parametrize("rows", [1, 63, 64, 128, 129])
def test_peers_read_few_rows_too(
    rows: int,
    small_store: Path,
    tmp_path: Path,
    small_blocks: None,
    rows_like: Callable[..., Array],
) -> None:
    data = rows_like(rows, 24)
    book = RowBook(data, np.arange(rows))
    for name, kind in PEERS.items():
        (tmp_path / name).mkdir()
        peer = kind(job_of(small_store, tmp_path / name, rows, batch=1))
        peer.write(data)
        with closing(peer.batches(0)) as batches:
            assert book.fault(epoch_hashes(batches, rows, data.dtype)) is None, name


def test_names_of_peers() -> None:
    assert store_peers.chosen_store_peers("none") == []
    assert store_peers.chosen_store_peers("all") == list(PEERS.values())
    assert store_peers.chosen_store_peers("zarr, memmap") == [PEERS["zarr"], PEERS["memmap"]]
    with pytest.raises(UnknownNameError, match="nearest: memmap"):
        store_peers.chosen_store_peers("memap")


class Watched(Raw):
    """Notes into what memory blocks are read; the first read waits for another one beside it."""

    name = "watched"

    def open(self) -> ReadBlock:
        self.memory: set[int] = set()
        self.reads, beside = 0, threading.Event()
        read = super().open()

        def watched(start: int, stop: int, out_RC: Array) -> None:
            self.reads += 1
            if self.reads == 1:
                assert beside.wait(5), "expected a second block to be read meanwhile"
            beside.set()
            owner = out_RC
            while isinstance(owner.base, np.ndarray):
                owner = owner.base
            self.memory.add(owner.ctypes.data)
            read(start, stop, out_RC)

        return watched


def test_blocks_are_read_into_two_windows_that_are_used_again_by_several_threads(
    small_store: Path, tmp_path: Path, small_blocks: None, rows_like: Callable[..., Array]
) -> None:
    peer = Watched(job_of(small_store, tmp_path, 1000))
    peer.write(rows_like(1000, 24))
    with closing(peer.batches(0)) as batches:
        for _ in range(80):
            next(batches)
    assert peer.reads > 30
    assert len(peer.memory) <= 2


def test_the_shuffle_of_peers_costs_little_beside_a_memory_map(
    small_store: Path, tmp_path: Path, rows_like: Callable[..., Array]
) -> None:
    """`Raw` reads a block by a copy: all else is what every peer's time has in it."""
    rows = np.tile(rows_like(1024, 256), (48, 1))
    job = replace(job_of(small_store, tmp_path, len(rows), 4096, 8192), channels=256)
    raw, memmap = Raw(job), PEERS["memmap"](job)
    raw.write(rows)
    seconds: dict[str, list[float]] = {"raw": [], "memmap": []}
    for seed in range(12):  # the least of several, since neighbours disturb memory too
        for peer in (raw, memmap):
            with closing(peer.batches(seed)) as batches:
                started = time.process_time()  # what else runs here does not count
                for _ in range(36):
                    next(batches)
                seconds[peer.name].append(time.process_time() - started)
    # Each byte is copied twice instead of once, front to back the first time.
    assert min(seconds["raw"]) < 4 * min(seconds["memmap"]), seconds
