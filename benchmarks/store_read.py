"""Reading and writing rows of a store in shuffled batches, side by side with other ways to do so.

Everybody holds the first training rows of one layer, gives batches of one size, and must give
exactly those rows in an order that is as random as a permutation (see store_check.py): one who does
not gets no number. They take turns: in a turn a reader is opened, its first batch is timed, and it
reads on for whole epochs. A ratio is of two readers in one turn; without a first reader that is
right there are none.

MB/s are stored bytes (rows x channels x item size in the store) over the time from opening to the
last row, for all: float32 shards of float16 values count as half, rows of one byte a value that are
given as float16 too. A reader that keeps rows in memory is timed after its first epoch, and left
out where files are cold. Memory is measured in a process of its own (store_child.py).
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from isae.benchmarks.measure import Effort, summarise
from isae.benchmarks.shuffle_quality import RowBook
from isae.benchmarks.store_check import checked
from isae.benchmarks.store_codec import bench_codecs
from isae.benchmarks.store_entries import Entry, Note, OurWriter, stored_bytes, written
from isae.benchmarks.store_ours import Reader, drop_page_cache, measured_memory, our_readers
from isae.benchmarks.store_peer import Array, Job, Peer, files_of
from isae.errors import DataError, StoreError
from isae.store import Store, open_store
from isae.store import order as shuffle_order

CODEC_ROWS = 16384
"""Rows on which codecs are measured alone."""


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
    places_N3 = store.positions(layer)[0:rows]
    book = RowBook(rows_NC, places_N3[:, 0])
    array = _array_folder(store, stored.array)
    job = _job(array, rows_NC, batch, threads, seed)
    kind = json.loads(job.array)["data_type"]
    ours = None
    codec = store.manifest.get("codec")
    if kind == job.dtype and codec is not None:  # rows of one byte a value cannot be imported
        ours = OurWriter.of(folder / "isae", str(codec), rows_NC, places_N3)
    started, absent, speed = written(peers, ours, job, folder, rows_NC, effort, note)
    whole = stored_bytes(replace(job, rows=stored.rows))
    entries = []
    for one in our_readers(path, layer, rows, batch, threads):
        if not (cold and one.fills_memory):
            entry = Entry(one, files_of(array), {"name": one.name, "note": one.note})
            entry.row |= {"compression": whole / entry.bytes, "write_mb_per_s": speed}
            entries.append(entry)
    entries += started
    note("codecs alone")
    codecs = bench_codecs(rows_NC[:CODEC_ROWS], store.activations(layer).chunk_rows, effort)
    del rows_NC
    good = [entry for entry in entries if checked(entry, book, job, note)]
    _take_turns(good, job, effort, cold, note)
    _compare(good, entries[0])
    for entry in good if memory else []:
        note(f"{entry.reader.name}: memory")
        entry.row["memory"] = measured_memory(entry.reader, job)
    return {
        "rows": rows,
        "channels": stored.channels,
        "dtype": job.dtype,
        "stored_dtype": kind,
        "batch": batch,
        "page_cache": _page_cache(cold),
        "readers": [entry.row for entry in entries],
        "absent": absent,
        "codecs": codecs,
        "failed": [entry.row["name"] for entry in entries if entry.row["fault"] is not None]
        + [f"codec {row['codec']}" for row in codecs if row["fault"] is not None],
    }


def _array_folder(store: Store, array: str) -> Path:
    folder = Path(str(store.path)) / array
    if not (folder / "zarr.json").is_file():
        raise StoreError(
            f"expected a store on a local disk, found none at {store.path}; copy it to one"
        )
    return folder


def _job(array: Path, rows_NC: Array, batch: int, threads: int, seed: int) -> Job:
    metadata = (array / "zarr.json").read_text()
    block, (rows, channels) = shuffle_order.BLOCK_ROWS, rows_NC.shape
    return Job("", rows, channels, str(rows_NC.dtype), batch, block, threads, seed, metadata)


def _take_turns(entries: list[Entry], job: Job, effort: Effort, cold: bool, note: Note) -> None:
    """Time every reader in every turn; its row gets all of its times."""
    size = stored_bytes(job) / job.rows / 1e6
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


def _compare(entries: list[Entry], first: Entry) -> None:
    """Summarise the turns; how many times faster `first` is in the same turns, if it is right."""
    for entry in entries:
        row = entry.row
        row["read_mb_per_s"] = summarise(row["turns_mb_per_s"]).json()
        row["first_batch_s"] = summarise(row["turns_first_batch_s"]).json()
        if first in entries:
            pairs = zip(first.row["turns_mb_per_s"], row["turns_mb_per_s"], strict=True)
            row["first_times_faster"] = summarise([ours / its for ours, its in pairs]).json()


def _page_cache(cold: bool) -> str:
    if cold:
        return "cold: dropped by posix_fadvise(DONTNEED) before every turn, one epoch a turn"
    return "warm: every file was read once before"
