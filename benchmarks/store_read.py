"""Reading and writing rows of a store in shuffled batches, side by side with other ways to do so.

Everybody holds the first training rows of one layer, gives batches of one size, and must give over
one epoch exactly those rows (see shuffle_quality.py): one who does not gets no number. They take
turns: in a turn a reader is opened, its first batch is timed, and it reads on for whole epochs.
A ratio is of two readers in one turn.

MB/s are rows x channels x item size of the values given, over the time from opening to the last
row: float32 shards of float16 values count as half. Writing ends when the disk has the files; the
store's is that of the second phase of its own build. A reader that keeps rows in memory is timed
after its first epoch. Memory is measured in a process of its own
(store_child.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isae.benchmarks.measure import Effort, summarise
from isae.benchmarks.shuffle_quality import RowBook, epoch_hashes
from isae.benchmarks.store_codec import bench_codecs
from isae.benchmarks.store_ours import Reader, drop_page_cache, measured_memory, our_readers
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
from isae.errors import DataError, StoreError
from isae.store import Store, open_store

WRITES = 3
"""Times that every peer writes its files, at most."""
CODEC_ROWS = 16384
"""Rows on which codecs are measured alone."""
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


def bench_read(
    path: Path,
    layer: str,
    *,
    folder: Path,
    rows: int,
    batch: int,
    threads: int,
    peers: list[type[Peer]],
    effort: Effort,
    cold: bool = False,
    memory: bool = True,
    seed: int = 0,
    note: Note = lambda text: None,
) -> dict[str, Any]:
    """Read `rows` rows of a layer with everybody -> one JSON object.

    `failed` names the readers that gave other rows than they should; `memory` false leaves out the
    processes that measure it.

    Files of peers are written below `folder`. Raises StoreError for a store that is not on a local
    disk, DataError for fewer rows than a batch.
    """
    store = open_store(path)
    stored = store.layer(layer)
    rows = min(rows, stored.train_rows)
    if rows < batch:
        raise DataError(
            f"{path}: expected at least a batch of {batch:,} training rows of {layer}, found "
            f"{rows:,}; use a smaller --batch-size"
        )
    rows_NC = store.activations(layer)[0:rows]
    book = RowBook(rows_NC, store.positions(layer)[0:rows][:, 0])
    array = _array_folder(store, stored.array)
    job = _job(array, rows_NC, batch, seed)
    entries = [
        Entry(one, files_of(array), {"name": one.name, "note": one.note})
        for one in our_readers(path, layer, rows, batch, threads)
    ]
    whole = stored.rows * stored.channels * rows_NC.itemsize
    for entry in entries:
        entry.row |= {"compression": whole / entry.bytes, "write_mb_per_s": _write_speed(store)}
    started, absent = _written(peers, job, folder, rows_NC, effort, note)
    entries += started
    note("codecs alone")
    codecs = bench_codecs(rows_NC[:CODEC_ROWS], store.activations(layer).chunk_rows, effort)
    del rows_NC
    good = [entry for entry in entries if _checked(entry, book, job, note)]
    _take_turns(good, job, effort, cold, note)
    _compare(good)
    for entry in good if memory else []:
        note(f"{entry.reader.name}: memory")
        entry.row["memory"] = measured_memory(entry.reader, job)
    return {
        "rows": rows,
        "channels": stored.channels,
        "dtype": job.dtype,
        "batch": batch,
        "page_cache": _page_cache(cold),
        "readers": [entry.row for entry in entries],
        "absent": absent,
        "codecs": codecs,
        "failed": [entry.row["name"] for entry in entries if entry.row["fault"] is not None]
        + [f"codec {row['codec']}" for row in codecs if row["fault"] is not None],
    }


def _write_speed(store: Store) -> float | None:
    """MB/s of sorting, coding and writing all layers, as the store's own build measured it."""
    seconds = store.manifest.get("measured", {}).get("write_seconds")
    raw = sum(
        layer.rows * layer.channels * store.activations(name).dtype.itemsize
        for name, layer in store.layers.items()
    )
    return raw / 1e6 / seconds if seconds else None


def _array_folder(store: Store, array: str) -> Path:
    folder = Path(str(store.path)) / array
    if not (folder / "zarr.json").is_file():
        raise StoreError(
            f"expected a store on a local disk, found none at {store.path}; copy it to one"
        )
    return folder


def _job(array: Path, rows_NC: Array, batch: int, seed: int) -> Job:
    metadata = (array / "zarr.json").read_text()
    block = json.loads(metadata)["chunk_grid"]["configuration"]["chunk_shape"][0]
    rows, channels = rows_NC.shape
    return Job("", rows, channels, str(rows_NC.dtype), batch, block, seed, metadata)


def _written(
    peers: list[type[Peer]],
    job: Job,
    folder: Path,
    rows_NC: Array,
    effort: Effort,
    note: Note,
) -> tuple[list[Entry], list[dict[str, Any]]]:
    """Peers with their files, written a few times in turns; rows of those that cannot be."""
    found: list[tuple[Peer, list[float]]] = []
    absent: dict[str, dict[str, Any]] = {}
    for peer in peers:
        started = start_peer(peer, job, folder)
        if version(peer) is None:
            absent[peer.name] = {"name": peer.name, "reason": INSTALL}
        elif not (isinstance(started, ZarrDefault) and started.redundant):
            found.append((started, []))
    for _ in range(min(WRITES, effort.least)):
        for peer_here, seconds in found:
            if peer_here.name in absent:
                continue
            note(f"{peer_here.name}: writing")
            try:
                seconds.append(_write(peer_here, rows_NC))
            except Exception as error:  # a peer that cannot hold these rows is a result
                absent[peer_here.name] = {"name": peer_here.name, "reason": _text(error)}
    entries = []
    for peer_here, seconds in found:
        if peer_here.name in absent:
            continue
        entry = Entry(peer_here, files_of(peer_here.folder), {"name": peer_here.name})
        entry.row |= {
            "note": peer_here.note,
            "version": version(type(peer_here)),
            "compression": rows_NC.nbytes / entry.bytes,
            "write_mb_per_s": rows_NC.nbytes / 1e6 / summarise(seconds).median,
        }
        entries.append(entry)
    return entries, list(absent.values())


def _write(peer: Peer, rows_NC: Array) -> float:
    for path in files_of(peer.folder):
        path.unlink()
    started = time.perf_counter()
    peer.write(rows_NC)
    to_disk(peer.folder)
    return time.perf_counter() - started


def _checked(entry: Entry, book: RowBook, job: Job, note: Note) -> bool:
    """Whether a reader gives the rows of the book; its row then says how well shuffled."""
    note(f"{entry.reader.name}: its rows")
    entry.row |= dict.fromkeys(("fault", "shuffle", "read_mb_per_s", "first_batch_s"))
    entry.row["memory"] = {}
    try:
        with closing(entry.reader.batches(job.seed)) as batches:
            hashes = epoch_hashes(batches, job.rows, book.dtype)
    except Exception as error:  # a reader that cannot read is a result, and a failure
        entry.row["fault"] = _text(error)
        return False
    entry.row["fault"] = book.fault(hashes)
    if entry.row["fault"] is None:
        entry.row["shuffle"] = book.shared(hashes, job.batch).json()
    return entry.row["fault"] is None


def _take_turns(entries: list[Entry], job: Job, effort: Effort, cold: bool, note: Note) -> None:
    """Time every reader in every turn; its row gets all of its times."""
    size = job.channels * np.dtype(job.dtype).itemsize / 1e6
    for entry in entries:
        entry.row |= {"turns_mb_per_s": [], "turns_first_batch_s": []}
    for turn in range(effort.least):
        for entry in entries:
            note(f"{entry.reader.name}: turn {turn + 1} of {effort.least}")
            if cold:
                drop_page_cache(entry.files)
            first, rate = _turn(entry.reader, job, job.seed + turn, effort, cold)
            entry.row["turns_mb_per_s"].append(rate * size)
            entry.row["turns_first_batch_s"].append(first)


def _turn(reader: Reader, job: Job, seed: int, effort: Effort, cold: bool) -> tuple[float, float]:
    """Seconds to the first batch, and rows per second of whole epochs; one epoch if cold."""
    limit = 0.0 if cold else effort.seconds / effort.least
    started = time.perf_counter()
    with closing(reader.batches(seed)) as batches:
        count = len(next(batches))
        first = time.perf_counter() - started
        if reader.fills_memory:
            while count < job.rows:
                count += len(next(batches))
            count, started = 0, time.perf_counter()
        for batch_BC in batches:
            count += len(batch_BC)
            seconds = time.perf_counter() - started
            if count >= job.rows and (seconds >= limit or cold):
                return first, count / seconds
    raise StoreError(f"expected endless batches of {reader.name}, found an end; this is a defect")


def _compare(entries: list[Entry]) -> None:
    """Summarise the turns; how many times faster the first reader is, from the same turns."""
    for entry in entries:
        row = entry.row
        row["read_mb_per_s"] = summarise(row["turns_mb_per_s"]).json()
        row["first_batch_s"] = summarise(row["turns_first_batch_s"]).json()
        pairs = zip(entries[0].row["turns_mb_per_s"], row["turns_mb_per_s"], strict=True)
        row["first_times_faster"] = summarise([ours / its for ours, its in pairs]).json()


def _page_cache(cold: bool) -> str:
    if cold:
        return "cold: dropped by posix_fadvise(DONTNEED) before every turn, one epoch a turn"
    return "warm: every file was read once before"


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
