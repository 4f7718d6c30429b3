"""Memory of a build and of reading as the rows grow: of many rows of procedural pictures.

The rows are real activations of an early layer of small pictures, which are cheap: 256 rows an
image, all of them through the whole build. Counted is everything: Python, torch, the weights, and
of a build also its decoding processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isae.benchmarks.store_build import Order
from isae.benchmarks.store_child import in_child
from isae.benchmarks.store_ours import our_readers

LAYER, SIZE = "conv2d2", 64
ROWS_PER_IMAGE = 256


def bench_memory(
    counts: list[int],
    folder: Path,
    *,
    codec: str | None,
    batch: int,
    threads: int,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Peak memory of a build of about so many rows, and of reading them once, for each of `counts`.

    `build_growth` and `read_growth` are relative to the first of them.
    """
    found: list[dict[str, Any]] = []
    for count in counts:
        note(f"memory: building and reading {count:,} rows")
        one = _measure(count, folder / "memory", codec, batch, threads, seed)
        first = found[0] if found else one
        for task in ("build", "read"):
            one[f"{task}_growth"] = one[f"{task}_bytes"] / max(1, first[f"{task}_bytes"]) - 1
        found.append(one)
    return found


def _measure(
    count: int, out: Path, codec: str | None, batch: int, threads: int, seed: int
) -> dict[str, Any]:
    images = -(-count // ROWS_PER_IMAGE)
    order = Order(f"synthetic:{images}", (LAYER,), SIZE, codec, images, seed)
    config = {**order.config(out), "dtype": "float32", "holdout": 0.0}
    warm_up = {"out": str(out.with_name("warm")), "limit": 1}
    task = {"task": "build", "start": False, "config": config, "warm_up": warm_up}
    build = in_child(task)
    rows = build["rows"][LAYER]
    reader = our_readers(out, LAYER, rows, min(batch, rows), threads)[0]
    read = in_child({"task": "read", "rows": rows, "seed": seed, **reader.described()})
    shutil.rmtree(out)
    return {
        "rows": rows,
        "build_bytes": _peak(build["memory"]),
        "read_bytes": _peak(read),
        "build": build["memory"],
        "read": read,
    }


def _peak(memory: dict[str, int]) -> int:
    """Of a process and its children; 0 where the system does not say."""
    return sum(memory.get(f"{part}_bytes", 0) for part in ("before", "growth", "children"))
