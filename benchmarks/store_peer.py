"""What a way to keep rows on disk has to do, and the window shuffle of those that read blocks.

Shapes: N rows, C channels, B rows of a batch, R rows of a block, W rows of a window.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from isae.randomness import keyed_rng

Array = npt.NDArray[Any]
Batches = Generator[Array, None, None]
INSTALL = "not installed"
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


class Peer(ABC):
    """Rows in files: written once, read in shuffled batches for ever."""

    name: ClassVar[str]
    note: ClassVar[str]
    package: ClassVar[str] = "numpy"
    fills_memory: ClassVar[bool] = False

    def __init__(self, job: Job) -> None:
        self.job, self.folder, self.dtype = job, Path(job.folder), np.dtype(job.dtype)

    def described(self) -> dict[str, Any]:
        """JSON from which another process makes the same reader (see store_ours.reader_of)."""
        return {"reader": self.name, "options": asdict(self.job)}

    @abstractmethod
    def write(self, rows_NC: Array) -> None:
        """Write the rows in the order given."""

    @abstractmethod
    def batches(self, seed: int) -> Batches:
        """Endless batches [B, C], epochs back to back. Opens the files."""


class BlockPeer(Peer):
    """One that reads blocks, and shuffles the rows of several in memory."""

    def batches(self, seed: int) -> Batches:
        """Endless batches [B, C], epochs back to back. Opens the files."""
        read = self.open()
        return cut(windows(read, self.job.rows, self.job.block, seed), self.job.batch)

    @abstractmethod
    def open(self) -> Callable[[int, int], Array]:
        """A function that reads rows [start, stop) of one block."""


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
