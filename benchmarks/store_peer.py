"""What a way to keep rows on disk has to do, and how its rows are shuffled.

Those that read blocks are shuffled by isae's own pipeline (store/batches.py): blocks are read
straight into a window's buffer that is used again, batches are gathered from it, both in the
threads that isae's reader has and, where there are several, by the caller while it waits. What
differs is the reading of a block alone.

Shapes: N rows, C channels, B rows of a batch, R rows of a block.
"""

from __future__ import annotations

import importlib.metadata
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from isae.store import order
from isae.store.batches import shuffled_batches

Array = npt.NDArray[Any]
Batches = Generator[Array, None, None]
ReadBlock = Callable[[int, int, Array], None]
"""Reads rows [start, stop) of one block into memory [R, C]."""
INSTALL = "not installed"


@dataclass(frozen=True)
class Job:
    """What every reader is asked to do; small enough to be sent to another process."""

    folder: str
    """A folder of its own."""
    rows: int
    channels: int
    dtype: str
    """Type of the values that are given."""
    batch: int
    block: int
    """Rows of a shard, and of what is read at once."""
    threads: int
    """Threads that read and gather."""
    seed: int
    array: str
    """JSON: Zarr v3 metadata of the stored array."""


class Peer(ABC):
    """Rows in files: written once, read in shuffled batches for ever."""

    name: ClassVar[str]
    note: ClassVar[str]
    package: ClassVar[str] = "numpy"
    modules: ClassVar[tuple[str, ...]] = ()
    """What reading imports: it is there before memory is measured."""
    fills_memory: ClassVar[bool] = False

    def __init__(self, job: Job) -> None:
        self.job, self.folder, self.dtype = job, Path(job.folder), np.dtype(job.dtype)

    def described(self) -> dict[str, Any]:
        """JSON from which another process makes the same reader (see store_ours.reader_of)."""
        return {"reader": self.name, "options": asdict(self.job), "modules": self.modules}

    @abstractmethod
    def write(self, rows_NC: Array) -> None:
        """Write the rows in the order given."""

    @abstractmethod
    def batches(self, seed: int) -> Batches:
        """Endless batches [B, C], epochs back to back. Opens the files.

        A batch stays as it is until the next one is asked for.
        """


class BlockPeer(Peer):
    """One that reads blocks, and shuffles the rows of several in memory."""

    def batches(self, seed: int) -> Batches:
        """Endless batches [B, C], epochs back to back. Opens the files."""
        job = self.job
        source = _Blocks((job.rows, job.channels), self.dtype, self.open())
        found = shuffled_batches(source, job.rows, job.batch, seed=seed, threads=job.threads)
        return cast(Batches, found)

    @abstractmethod
    def open(self) -> ReadBlock:
        """A function that reads one block; called from several threads at once."""


@dataclass(frozen=True)
class _Blocks:
    """Blocks of a peer, as isae's pipeline reads them."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    read: ReadBlock

    def read_into(self, start: int, stop: int, out_RC: Array) -> None:
        """Rows [start, stop) into memory."""
        self.read(start, stop, out_RC)

    def __getitem__(self, rows: slice) -> Array:
        found = np.empty((rows.stop - rows.start, self.shape[1]), self.dtype)
        self.read(rows.start, rows.stop, found)
        return found


def window_rows() -> int:
    """Rows that isae and those that read blocks shuffle together, and a reservoir mixes."""
    return order.BLOCK_ROWS * order.WINDOW_BLOCKS


def ahead(tasks: Iterator[Callable[[], Array]], threads: int) -> Batches:
    """Results of endless tasks in their order, `threads` of them worked on ahead."""
    waiting: deque[Future[Array]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="bench-read-ahead") as pool:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > threads:
                yield waiting.popleft().result()


def cut(parts: Batches, batch: int) -> Batches:
    """Pieces of any lengths, each good until the next, joined and cut into batches [B, C]."""
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
                held.append(part[start:].copy())
                count += len(part) - start


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
