"""Readers on their way through `isae-bench store`: who they are, and how fast they were written.

Everybody writes the same rows in turns, and is done when the disk has the files. isae makes a store
of them from an .npy file, as `isae-store convert` does: segments, shuffle, shards, statistics,
checksums and commit, nothing left out; its rows are new ones, so the store that is read is not
touched. MB/s are of stored bytes (rows x channels x stored item size) for all.

Shapes: N rows, C channels.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isae.benchmarks.measure import Effort, summarise
from isae.benchmarks.store_ours import Reader
from isae.benchmarks.store_peer import (
    INSTALL,
    Array,
    Job,
    Peer,
    files_of,
    start_peer,
    to_disk,
    version,
)
from isae.benchmarks.store_zarr import ZarrDefault
from isae.store.import_arrays import import_arrays
from isae.store.import_config import INDEX_FILE, ImportConfig

WRITES = 3
"""Times that everybody writes its files, at most."""
Note = Callable[[str], None]


@dataclass
class Entry:
    """One reader on its way through the benchmark."""

    reader: Reader
    files: list[Path]
    row: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Of its files."""
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True)
class OurWriter:
    """isae, making a store of rows that are there."""

    folder: Path
    codec: str

    @classmethod
    def of(cls, folder: Path, codec: str, rows_NC: Array, places_N3: Array) -> OurWriter:
        """With the rows and the place of each in files below `folder`."""
        folder.mkdir()
        np.save(folder / "rows.npy", rows_NC)
        np.save(folder / INDEX_FILE, places_N3)
        return cls(folder, codec)

    def write(self) -> float:
        """Seconds from the files to a committed store."""
        out = self.folder.with_name(f"{self.folder.name}-store")
        config = ImportConfig(
            str(self.folder), "npy", "rows", str(out), holdout=0.0, codec=self.codec
        )
        started = time.perf_counter()
        import_arrays(config)
        seconds = time.perf_counter() - started
        shutil.rmtree(out)
        return seconds


def stored_bytes(job: Job) -> int:
    """Rows x channels x stored item size."""
    size: int = np.dtype(json.loads(job.array)["data_type"]).itemsize
    return job.rows * job.channels * size


def written(
    peers: list[type[Peer]],
    ours: OurWriter | None,
    job: Job,
    folder: Path,
    rows_NC: Array,
    effort: Effort,
    note: Note,
) -> tuple[list[Entry], list[dict[str, Any]], float | None]:
    """Peers with their files; rows of those that cannot be; MB/s of isae's own writing."""
    found, absent = _started(peers, job, folder)
    own_seconds: list[float] = []
    for _ in range(min(WRITES, effort.least)):
        if ours is not None:
            note("isae: writing")
            own_seconds.append(ours.write())
        for peer, seconds in found:
            if peer.name in absent:
                continue
            note(f"{peer.name}: writing")
            try:
                seconds.append(_write(peer, rows_NC))
            except Exception as error:  # a peer that cannot hold these rows is a result
                absent[peer.name] = {"name": peer.name, "reason": one_line(error)}
    size = stored_bytes(job)
    entries = []
    for peer, seconds in found:
        if peer.name in absent:
            continue
        entry = Entry(peer, files_of(peer.folder), {"name": peer.name, "note": peer.note})
        entry.row |= {
            "version": version(type(peer)),
            "compression": size / entry.bytes,
            "write_mb_per_s": size / 1e6 / summarise(seconds).median,
        }
        entries.append(entry)
    speed = size / 1e6 / summarise(own_seconds).median if own_seconds else None
    return entries, list(absent.values()), speed


def _started(
    peers: list[type[Peer]], job: Job, folder: Path
) -> tuple[list[tuple[Peer, list[float]]], dict[str, dict[str, Any]]]:
    """Peers with a folder and no files yet, and those that are left out with the reason."""
    found: list[tuple[Peer, list[float]]] = []
    absent: dict[str, dict[str, Any]] = {}
    for kind in peers:
        peer = start_peer(kind, job, folder)
        if version(kind) is None:
            absent[peer.name] = {"name": peer.name, "reason": INSTALL}
        elif isinstance(peer, ZarrDefault) and peer.redundant:
            absent[peer.name] = {"name": peer.name, "reason": "the store's own codecs: see zarr"}
        else:
            found.append((peer, []))
    return found, absent


def _write(peer: Peer, rows_NC: Array) -> float:
    for path in files_of(peer.folder):
        path.unlink()
    started = time.perf_counter()
    peer.write(rows_NC)
    to_disk(peer.folder)
    return time.perf_counter() - started


def one_line(error: Exception) -> str:
    """An error as text."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
