"""Readers of a store's rows as `isae-bench store` measures them: isae's own, and any in a process.

Shapes: B rows of a batch, C channels.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from isae.benchmarks.store_child import in_child
from isae.benchmarks.store_peer import Batches, Job
from isae.benchmarks.store_peers import PEERS
from isae.store import open_store


class Reader(Protocol):
    """What is measured."""

    @property
    def name(self) -> str:
        """How it is called."""

    @property
    def note(self) -> str:
        """What it is."""

    @property
    def fills_memory(self) -> bool:
        """Whether later epochs come from memory."""

    def described(self) -> dict[str, Any]:
        """JSON from which another process makes the same reader."""

    def batches(self, seed: int) -> Batches:
        """Endless batches [B, C], from opening the files on."""


@dataclass(frozen=True)
class Ours:
    """isae's own reader of the first `rows` training rows of a layer."""

    path: str
    layer: str
    rows: int
    batch: int
    threads: int
    cache: str | None = None

    @property
    def name(self) -> str:
        """isae, then what was asked for."""
        return f"isae-{self.threads}t" + (f"-{self.cache}" if self.cache else "")

    @property
    def note(self) -> str:
        """What it is."""
        threads = f"isae, {self.threads} thread" + ("s" if self.threads > 1 else "")
        return threads + (f", cache={self.cache}, later epochs" if self.cache else "")

    @property
    def fills_memory(self) -> bool:
        """Whether it has a cache."""
        return self.cache is not None

    def described(self) -> dict[str, Any]:
        """JSON from which another process makes the same reader."""
        return {"reader": "isae", "options": asdict(self), "modules": []}

    def batches(self, seed: int) -> Batches:
        """As a training reads them."""
        store = open_store(self.path)
        # As if the other rows were held out: a store is longer than what everybody copies.
        store.layers[self.layer] = replace(store.layer(self.layer), train_rows=self.rows)
        found = store.batches(
            self.layer, self.batch, seed=seed, threads=self.threads, cache=self.cache
        )
        return cast(Batches, found)


def our_readers(path: Path, layer: str, rows: int, batch: int, threads: int) -> list[Ours]:
    """Our readers: the one with `threads` first, then other numbers, then one that keeps rows."""
    first = Ours(str(path), layer, rows, batch, threads)
    others = [replace(first, threads=one) for one in (1, 2) if one != threads]
    return [first, *others, replace(first, cache="ram")]


def measured_memory(reader: Reader, job: Job) -> dict[str, Any]:
    """Memory that one epoch takes (see store_child.py), in a process of its own."""
    task = {"task": "read", "rows": job.rows, "seed": job.seed}
    return in_child(task | reader.described())


def reader_of(kind: str, options: dict[str, Any]) -> Reader:
    """The reader that a parent process described."""
    if kind == "isae":
        return Ours(**options)
    return PEERS[kind](Job(**options))


def drop_page_cache(files: list[Path]) -> None:
    """Ask the system to forget what it holds of files; what is not on the disk yet stays."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
