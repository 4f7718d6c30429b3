"""Rows that stay in memory once they were read: in RAM as they are, or on a device without zeros.

`RamRows` fills as blocks are first read, so the first epoch costs no more than without it.
`DeviceRows` reads everything at once and keeps it packed (kernels/expand_rows.py): of rows of
which a share s is not zero, s + 1 / (8 bytes a value) of their size. A batch is then one kernel,
for its rows in the order of store/order.py: no row crosses from the host again.

Shapes: R rows, D channels, B rows of a batch.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from isae.errors import StoreError
from isae.kernels import PackedRows, expand_rows, pack_rows
from isae.store.batches import read_block
from isae.store.order import BLOCK_ROWS, Deal, Ints, Order, batch_rows

Array = npt.NDArray[Any]
CACHES = ("none", "ram", "auto", "device")
RAM_SHARE, AUTO_SHARE = 0.9, 0.5
"""Of the free memory, how much `ram` may take, and how much `auto`."""
ROOM = 1.02
"""Room on the device over what the first block lets expect; rows lie shuffled, so it is close."""


class Rows(Protocol):
    """Rows of a layer: a StoredArray or an array."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and channels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a value."""

    def __getitem__(self, rows: slice, /) -> Array:
        """Rows [R, D]."""


_filling: weakref.WeakSet[RamRows] = weakref.WeakSet()
_filling_lock = threading.Lock()


class RamRows:
    """All rows of an array, each kept in RAM from its first reading on; safe among threads."""

    def __init__(self, source: Rows) -> None:
        self.source, self.shape, self.dtype = source, source.shape, source.dtype
        self.resident_RC: Array = np.empty(self.shape, self.dtype)
        """The memory; a row means something once `ensure` has been asked for it."""
        blocks = -(-self.shape[0] // BLOCK_ROWS)
        self.there = np.zeros(blocks, dtype=np.bool_)
        self.locks = [threading.Lock() for _ in range(blocks)]
        with _filling_lock:
            _filling.add(self)

    def __getitem__(self, rows: slice, /) -> Array:
        wanted = range(*rows.indices(self.shape[0]))
        if wanted:
            self.ensure(min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1]) + 1)
        return self.resident_RC[rows].copy()

    @property
    def unread_bytes(self) -> int:
        """Memory that it is still going to take."""
        return _bytes(self) * int((~self.there).sum()) // max(1, len(self.there))

    def ensure(self, start: int, stop: int) -> None:
        """Have rows [start, stop) in `resident_RC`."""
        for block in range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)):
            if not self.there[block]:
                with self.locks[block]:
                    if not self.there[block]:
                        first = block * BLOCK_ROWS
                        read_block(self.source, self.resident_RC[first : first + BLOCK_ROWS], first)
                        self.there[block] = True


class DeviceRows:
    """Rows [first, first + rows) of an array, packed on a device."""

    def __init__(
        self,
        source: Rows,
        first: int,
        rows: int,
        device: torch.device,
        *,
        threads: int = 2,
        kernel: str = "auto",
        free: Callable[[], int | None] | None = None,
    ) -> None:
        """Read and pack. StoreError if they do not fit into the device's free memory."""
        self.kernel, self.device = kernel, device
        self.dtype = torch.from_numpy(np.empty(0, source.dtype)).dtype
        self.free = free or (lambda: device_memory(device))
        channels = source.shape[1]
        self._check_room(rows * (-(-channels // 8) + 8))
        self.bitmap_RW = torch.empty(rows, -(-channels // 8), dtype=torch.uint8, device=device)
        self.offsets_R = torch.empty(rows, dtype=torch.int64, device=device)
        self.packed_P = torch.empty(0, dtype=self.dtype, device=device)
        self.channels, at, used = channels, 0, 0
        for block_RC in _blocks(source, first, rows, threads):
            part = pack_rows(torch.from_numpy(block_RC).to(device))
            count, values = len(block_RC), len(part.packed_P)
            if used + values > len(self.packed_P):
                expected = int((used + values) * rows / (at + count) * ROOM) + channels
                self._grow(expected, used)
            self.packed_P[used : used + values] = part.packed_P
            self.bitmap_RW[at : at + count] = part.bitmap_RW
            self.offsets_R[at : at + count] = part.offsets_R + used
            at, used = at + count, used + values

    @property
    def kept(self) -> PackedRows:
        """The packed rows."""
        return PackedRows(self.packed_P, self.bitmap_RW, self.offsets_R, self.channels)

    def take(self, rows_B: Ints) -> torch.Tensor:
        """Rows by number, counted from `first` -> [B, D] on the device, bit for bit."""
        chosen = torch.from_numpy(rows_B)
        if self.device.type == "cuda":  # without waiting for what the device is at
            chosen = chosen.pin_memory().to(self.device, non_blocking=True)
        return expand_rows(self.kept, chosen, kernel=self.kernel, trusted=True)

    def batches(self, order: Order, deal: Deal) -> Iterator[torch.Tensor]:
        """The batches of an order of these rows."""
        return map(self.take, batch_rows(order, deal))

    def _grow(self, values: int, used: int) -> None:
        self._check_room(values * self.packed_P.element_size())
        larger = torch.empty(values, dtype=self.dtype, device=self.device)
        larger[:used] = self.packed_P[:used]
        self.packed_P = larger

    def _check_room(self, wanted: int) -> None:
        there = self.free()
        if there is not None and wanted > there:
            raise StoreError(
                f"expected {wanted / 1e9:.3f} GB of free memory on {self.device} for packed rows, "
                f"found {there / 1e9:.3f} GB; take cache='ram' or no cache"
            )


def _blocks(source: Rows, first: int, rows: int, threads: int) -> Iterator[Array]:
    """Blocks of rows in order, read ahead in threads: `threads` + 1 in memory."""

    def load(start: int) -> Array:
        stop = min(start + BLOCK_ROWS, first + rows)
        out_RC = np.empty((stop - start, source.shape[1]), source.dtype)
        read_block(source, out_RC, start)
        return out_RC

    starts = iter(range(first, first + rows, BLOCK_ROWS))
    with ThreadPoolExecutor(threads, thread_name_prefix="isae-read-ahead") as pool:
        ahead = [pool.submit(load, start) for start in islice(starts, threads)]
        while ahead:
            block_RC = ahead.pop(0).result()
            ahead += [pool.submit(load, start) for start in islice(starts, 1)]
            yield block_RC


def fits_ram(source: Rows, share: float = AUTO_SHARE) -> bool:
    """Whether all rows fit into this share of the free memory (True where nobody knows)."""
    free = _memory_to_give()
    return free is None or _bytes(source) <= share * free


def ram_rows(source: Rows) -> RamRows:
    """A cache in RAM. StoreError if the rows do not fit into the free memory."""
    if not fits_ram(source, RAM_SHARE):
        free = _memory_to_give() or 0
        raise StoreError(
            f"expected {_bytes(source) / RAM_SHARE / 1e9:.2f} GB of free memory for cache='ram', "
            f"found {free / 1e9:.2f} GB; take cache='auto' or no cache, or a layer with fewer rows"
        )
    return RamRows(source)


def _bytes(source: Rows) -> int:
    return source.shape[0] * source.shape[1] * source.dtype.itemsize


def _memory_to_give() -> int | None:
    """Free memory, less what caches that are still being filled were promised."""
    free = free_memory()
    with _filling_lock:
        promised = sum(one.unread_bytes for one in _filling)
    return None if free is None else max(0, free - promised)


def device_memory(device: torch.device) -> int | None:
    """Free bytes of a device, those that torch holds unused among them; None: nobody knows."""
    if device.type != "cuda":
        return free_memory()
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held


def free_memory() -> int | None:
    """Bytes that this process can still take without swapping; None where the system is silent.

    The least of what the machine has available and what the process's control groups leave.
    """
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in lines:
            found.append(int(lines["MemAvailable"].split()[0]) << 10)
    found += _group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(0, min(found)) if found else None


def _group_limits(membership: Path, root: Path) -> Iterator[int]:
    """What each control group (version 2) above the process leaves of its limit."""
    if not membership.is_file():
        return
    for line in membership.read_text().splitlines():
        number, _, path = line.split(":", 2)
        group = root / path.strip("/")
        while number == "0" and group.is_relative_to(root):
            limit, used = group / "memory.max", group / "memory.current"
            if limit.is_file() and limit.read_text().strip() != "max":
                # Pages of files count as used, but go when memory is wanted.
                stat = dict(one.split() for one in (group / "memory.stat").read_text().splitlines())
                taken = int(used.read_text()) - int(stat.get("inactive_file", 0))
                yield int(limit.read_text()) - taken
            group = group.parent
