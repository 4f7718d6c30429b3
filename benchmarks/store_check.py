"""Whether a reader gives the right rows, and shuffles them as a full permutation does.

One epoch of each of SEEDS seeds is looked at: the first one, for the last seed the second one, and
always the second one of a reader that gives rows from memory after its first. Each must have every
row exactly once, and z (see shuffle_quality.py) is taken of each. Under full permutations the mean
of n values of z is within MOST_SIGMAS / sqrt(n) but once in 16,000 readers; one that is further
off, to either side, is not shuffled and gets no speed. Nor does one that gives two seeds one order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from isae.benchmarks.shuffle_quality import U64, RowBook, Shared, epoch_hashes
from isae.benchmarks.store_entries import Entry, Note, one_line
from isae.benchmarks.store_ours import Reader
from isae.benchmarks.store_peer import Array, Job

SEEDS = 5
MOST_SIGMAS = 4.0
FEW_ROWS = 10
"""Rows that two seeds may well give in one order."""


def checked(entry: Entry, book: RowBook, job: Job, note: Note) -> bool:
    """Whether a reader may have a speed; its row then says how well it shuffles, else its fault."""
    entry.row |= dict.fromkeys(
        ("fault", "shuffle", "read_mb_per_s", "first_batch_s", "first_times_faster")
    )
    entry.row["memory"] = {}
    found: list[Shared] = []
    try:
        entry.row["fault"] = _rows_fault(entry, book, job, found, note)
    except Exception as error:  # a reader that cannot read is a result, and a failure
        entry.row["fault"] = one_line(error)
    if entry.row["fault"] is None:
        entry.row["shuffle"] = shuffle = judged(found)
        entry.row["fault"] = shuffle["fault"]
    return entry.row["fault"] is None


def judged(found: list[Shared]) -> dict[str, Any]:
    """Mean and largest z of the seeds -> JSON; `fault` if they are not those of permutations."""
    scores = [one.z for one in found if math.isfinite(one.z)]
    mean = sum(scores) / len(scores) if scores else None
    most = MOST_SIGMAS / math.sqrt(max(1, len(scores)))
    fault = None
    if mean is not None and abs(mean) > most:
        fault = (
            f"not shuffled: expected the z of {len(scores)} seeds within {most:.2f} of 0 in the "
            f"mean, found {mean:+.2f}"
        )
    return {
        "mean_z": mean,
        "largest_z": max(map(abs, scores), default=None),
        "sigmas": None if mean is None else abs(mean) * math.sqrt(len(scores)),
        "fault": fault,
        "seeds": [one.json() for one in found],
    }


def _rows_fault(
    entry: Entry, book: RowBook, job: Job, found: list[Shared], note: Note
) -> str | None:
    """What is wrong with the rows; `found` gets the measure of each seed."""
    before: U64 | None = None
    for number in range(SEEDS):
        note(f"{entry.reader.name}: its rows, seed {number + 1} of {SEEDS}")
        later = entry.reader.fills_memory or number == SEEDS - 1
        hashes = _hashes(entry.reader, book, job, job.seed + number, job.rows if later else 0)
        fault = book.fault(hashes)
        if fault is not None:
            return fault
        if job.rows > FEW_ROWS and before is not None and np.array_equal(hashes, before):
            return "expected another order for another seed, found the same one"
        before = hashes
        found.append(book.shared(hashes, job.batch))
    return None


def _hashes(reader: Reader, book: RowBook, job: Job, seed: int, skipped: int) -> U64:
    with closing(reader.batches(seed)) as batches:
        return epoch_hashes(_after(batches, skipped), job.rows, book.dtype)


def _after(batches: Iterable[Array], rows: int) -> Iterator[Array]:
    """Batches without the first rows."""
    for batch_BC in batches:
        if len(batch_BC) > rows:
            yield batch_BC[rows:]
        rows = max(0, rows - len(batch_BC))
