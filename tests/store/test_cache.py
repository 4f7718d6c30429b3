"""Caches change where rows come from, never which rows come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch

from isae.errors import ConfigError, StoreCorruptError, StoreError
from isae.store import Store, cache, open_store, order
from isae.store.cache import DeviceRows, RamRows, fits_ram, free_memory, ram_rows
from isae.store.order import Deal, make_order
from isae.store.reader import StoredArray

LAYER = "mixed3b"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows and blocks of a cache in a small store."""
    monkeypatch.setattr(order, "BLOCK_ROWS", 128)
    monkeypatch.setattr(order, "WINDOW_BLOCKS", 3)
    monkeypatch.setattr(cache, "BLOCK_ROWS", 100)


@pytest.fixture
def store(built: Path) -> Store:
    return open_store(built)


class Counted:
    """An array that notes which rows were read."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.shape, self.dtype = rows.shape, rows.dtype
        self.reads: list[tuple[int, int]] = []

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.reads.append((rows.start, rows.stop))
        return self.rows[rows]


def sparse_rows(rows: int, channels: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((rows, channels)).astype(np.float16)
    values[values < 0] = 0
    values[::11, ::3] = -0.0
    values[5::13, 1] = np.nan
    return values


def same_bits(one: Any, other: Any) -> None:
    one, other = np.asarray(one), np.asarray(other)
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one.view(np.int16), other.view(np.int16))


def first_batches(batches: Iterator[Any], count: int = 12) -> list[np.ndarray]:
    found = [np.asarray(batch).copy() for batch in islice(batches, count)]
    if hasattr(batches, "close"):
        batches.close()
    return found


@pytest.mark.parametrize("kept", ["none", "ram", "auto", "device"])
@pytest.mark.parametrize("holdout", [False, True])
def test_every_cache_gives_the_same_batches(store: Store, kept: str, holdout: bool) -> None:
    options = {"seed": 3, "start_batch": 2, "holdout": holdout, "rank": 1, "ranks": 2}
    expected = first_batches(store.batches(LAYER, 31, **options))
    for _ in range(2):  # while the cache fills, and from it
        found = store.tensors(LAYER, 31, cache=kept, device="cpu", **options)
        for one, other in zip(first_batches(found), expected, strict=True):
            same_bits(one, other)
    if kept in ("ram", "auto"):
        found = store.batches(LAYER, 31, cache=kept, threads=5, **options)
        for one, other in zip(first_batches(found), expected, strict=True):
            same_bits(one, other)


def test_each_block_is_read_once_and_only_when_needed() -> None:
    source = Counted(sparse_rows(950, 8))
    kept = RamRows(source)
    assert source.reads == []
    kept.ensure(120, 280)
    assert source.reads == [(100, 200), (200, 300)]
    same_bits(kept.resident_RC[120:280], source.rows[120:280])
    same_bits(kept[140:420], source.rows[140:420])
    same_bits(kept[940:], source.rows[940:])
    for rows in (slice(700, 500, -1), slice(99, None, -7), slice(30, 10)):
        same_bits(kept[rows], source.rows[rows])
    kept.ensure(0, 950)
    kept.ensure(0, 950)
    assert sorted(source.reads) == [(at, min(at + 100, 950)) for at in range(0, 950, 100)]


def test_threads_never_see_a_block_that_is_half_read() -> None:
    """Two readers of one block: the later one waits, and it is read once."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Counted):
        def __getitem__(self, rows: slice) -> np.ndarray:
            begun.set()
            go_on.wait(10)
            return super().__getitem__(rows)

    source = Slow(sparse_rows(100, 4))
    kept = RamRows(source)
    found: list[np.ndarray] = []
    readers = [threading.Thread(target=lambda: found.append(kept[0:100])) for _ in range(2)]
    for reader in readers:
        reader.start()
    assert begun.wait(10)
    go_on.set()
    for reader in readers:
        reader.join(10)
    assert source.reads == [(0, 100)]
    for one in found:
        same_bits(one, source.rows)


def test_an_error_leaves_the_block_to_be_read_again() -> None:
    class Failing(Counted):
        def __getitem__(self, rows: slice) -> np.ndarray:
            found = super().__getitem__(rows)
            if len(self.reads) == 1:
                raise StoreError("broken")
            return found

    kept = RamRows(Failing(sparse_rows(50, 4)))
    with pytest.raises(StoreError, match="broken"):
        kept.ensure(0, 50)
    same_bits(kept[0:50], sparse_rows(50, 4))


def test_a_filled_cache_reads_no_files(copied: Path) -> None:
    store = open_store(copied)
    rows = store.layers[LAYER].train_rows
    whole = first_batches(store.batches(LAYER, 64, seed=0, cache="ram"), -(-rows // 64))
    for file in (copied / "stride8" / LAYER / "c").rglob("0"):
        file.is_file() and file.unlink()
    again = first_batches(store.batches(LAYER, 64, seed=0, cache="ram"), len(whole))
    for one, other in zip(again, whole, strict=True):
        same_bits(one, other)
    store.drop_caches()
    with pytest.raises(StoreCorruptError):
        next(store.batches(LAYER, 64, seed=0, cache="ram"))


def test_memory_decides(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_filling", WeakSet())
    array = store.activations(LAYER)
    needed = array.shape[0] * array.shape[1] * array.dtype.itemsize
    for free, fits in [(needed * 2 - 2, False), (needed * 2, True), (None, True)]:
        monkeypatch.setattr(cache, "free_memory", lambda free=free: free)
        assert fits_ram(array) is fits
    monkeypatch.setattr(cache, "free_memory", lambda: needed)
    with pytest.raises(StoreError, match="GB of free memory for cache='ram', found"):
        store.batches(LAYER, 10, seed=0, cache="ram")
    first_batches(store.batches(LAYER, 10, seed=0, cache="auto"))
    assert store.caches == {}
    monkeypatch.setattr(cache, "free_memory", lambda: 2 * needed)
    assert isinstance(ram_rows(array), RamRows)
    first_batches(store.batches(LAYER, 10, seed=0, cache="auto"))
    assert list(store.caches) == [LAYER]


def test_memory_is_promised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a cache will take looks free until its rows are read."""
    monkeypatch.setattr(cache, "_filling", WeakSet())
    source = sparse_rows(1000, 8)
    monkeypatch.setattr(cache, "free_memory", lambda: 3 * source.nbytes // 2)
    kept = ram_rows(source)
    kept.ensure(0, 100)
    with pytest.raises(StoreError, match="GB of free memory for cache='ram'"):
        ram_rows(source)
    kept.ensure(0, 1000)
    assert kept.unread_bytes == 0
    ram_rows(source)


def test_free_memory_is_what_the_system_says() -> None:
    free = free_memory()
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = int(next(line for line in lines if line.startswith("MemTotal")).split()[1]) << 10
    assert free is not None
    assert 0 < free < total


def test_control_groups_bound_it(tmp_path: Path) -> None:
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    (root / "a" / "b").mkdir(parents=True)
    membership.write_text("0::/a/b\n")
    for group, limit, used, inactive in [("a", "9000", 5000, 3000), ("a/b", "max", 10, 0)]:
        (root / group / "memory.max").write_text(limit + "\n")
        (root / group / "memory.current").write_text(f"{used}\n")
        (root / group / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")
    assert list(cache._group_limits(membership, root)) == [7000]
    assert list(cache._group_limits(tmp_path / "none", root)) == []


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kernel", ["cpu", "reference"])
def test_packed_rows_of_a_part(threads: int, kernel: str) -> None:
    source = sparse_rows(730, 37)
    kept = DeviceRows(source, 60, 555, torch.device("cpu"), threads=threads, kernel=kernel)
    numbers = np.random.default_rng(0).integers(0, 555, 200)
    same_bits(kept.take(numbers), source[60 + numbers])
    deal = Deal(20)
    found = torch.cat(list(kept.batches(make_order(555, deal, 1, epochs=1), deal)))
    bits = (np.sort(one[:, 0].view(np.int16)) for one in (found.numpy(), source[60:615]))
    np.testing.assert_array_equal(*bits)


def test_rows_that_grow_denser_than_the_first() -> None:
    """More room is taken when the first block promised less."""
    source = sparse_rows(600, 16)
    source[:100] = 0
    source[300:] = 1
    kept = DeviceRows(source, 0, 600, torch.device("cpu"))
    same_bits(kept.take(np.arange(600)), source)


def test_the_device_holds_little_more_than_what_is_not_zero() -> None:
    source = np.maximum(np.random.default_rng(0).standard_normal((2000, 256)), 0)
    kept = DeviceRows(source.astype(np.float16), 0, 2000, torch.device("cpu")).kept
    # Half of the values, a bit for each, 8 bytes a row, 2 % of room.
    expected = 2000 * (128 * 2 + 32 + 8)
    assert expected * 0.98 < kept.nbytes < expected * 1.03


def test_a_device_that_is_too_small() -> None:
    source = sparse_rows(400, 64)
    for free in (1000, 10**4):
        with pytest.raises(StoreError, match="free memory on cpu for packed rows, found"):
            DeviceRows(source, 0, 400, torch.device("cpu"), free=lambda free=free: free)


def test_an_error_while_packing_reaches_the_caller() -> None:
    class Failing(Counted):
        def __getitem__(self, rows: slice) -> np.ndarray:
            if rows.start == 300:
                raise StoreError("broken")
            return super().__getitem__(rows)

    with pytest.raises(StoreError, match="broken"):
        DeviceRows(Failing(sparse_rows(500, 8)), 0, 500, torch.device("cpu"))
    assert not any(one.name.startswith("isae-read-ahead") for one in threading.enumerate())


def test_packed_rows_are_kept_for_the_next_iteration(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = first_batches(store.tensors(LAYER, 16, seed=0, cache="device", device="cpu"))

    def refuse(*_: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(StoredArray, "__getitem__", refuse)
    for name in ("read_into", "_read"):
        monkeypatch.setattr(StoredArray, name, refuse, raising=False)
    again = first_batches(store.tensors(LAYER, 16, seed=0, cache="device", device="cpu"))
    for first, second in zip(one, again, strict=True):
        same_bits(first, second)


def test_pinned_memory_is_ordinary_without_a_gpu(store: Store) -> None:
    expected = first_batches(store.batches(LAYER, 40, seed=1))
    found = list(islice(store.tensors(LAYER, 40, seed=1, pin=True), 12))
    for one, other in zip(found, expected, strict=True):
        assert one.is_pinned() is torch.cuda.is_available()
        same_bits(one, other)


def test_options_that_contradict_each_other(store: Store) -> None:
    with pytest.raises(ConfigError, match="cache one of"):
        store.batches(LAYER, 8, seed=0, cache="disk")
    with pytest.raises(ConfigError, match="1 to 64 threads"):
        store.tensors(LAYER, 8, seed=0, cache="device", device="cpu", threads=0)
    with pytest.raises(ConfigError, match=r"store\.tensors for"):
        store.batches(LAYER, 8, seed=0, cache="device")
    with pytest.raises(ConfigError, match="pin=True with batches in RAM"):
        store.tensors(LAYER, 8, seed=0, cache="device", pin=True)
