"""What a training step loses by taking its rows from a store instead of from memory.

One trainer (isae's step) takes turns between two sources of the same rows: the store's batches,
made float32 and scaled as isae-train does, and slices of a float32 tensor that holds the rows,
scaled and shuffled before. In each turn a source's first batch and a step on it are not timed, then
every wait and step is. A ratio is of one turn.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from isae.benchmarks.measure import summarise
from isae.benchmarks.peers import Job
from isae.benchmarks.store_ours import Ours, our_readers
from isae.benchmarks.training import Ours as Trainer
from isae.benchmarks.workloads import Workload
from isae.store import open_store
from isae.train.source import scaled

TURNS = 5


def bench_training_from_store(
    path: Path,
    layer: str,
    *,
    rows: int,
    batch: int,
    threads: int,
    steps: int,
    latents: int,
    k: int,
    device: torch.device,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train `steps` steps from each source -> one JSON object with rows/s and their ratio."""
    store = open_store(path)
    stored = store.layer(layer)
    rows = min(rows, stored.train_rows) // batch * batch
    scale = 1 / math.sqrt(max(float(store.statistics(layer).var_C.mean()), 1e-12))
    memory_NC = scaled(store.activations(layer)[0:rows], scale, device)
    held = [memory_NC[start : start + batch] for start in range(0, rows, batch)]
    workload = Workload("store", batch, stored.channels, latents, k)
    lr = 2e-4 / math.sqrt(latents / 2**14)
    job = Job(workload, device, lr, steps, 10_000_000, seed, memory_NC[:batch])
    trainer = Trainer(job, "auto")
    reader = our_readers(path, layer, rows, batch, threads)[0]
    turns = min(TURNS, steps)
    each = max(1, steps // turns)
    times: dict[str, list[float]] = {"store": [], "memory": []}
    for turn in range(turns):
        note(f"training, turn {turn + 1} of {turns}: {each} steps from each source")
        with closing(_from_store(reader, scale, device, seed + turn)) as batches:
            times["store"].append(_steps(trainer, batches, each))
        times["memory"].append(_steps(trainer, itertools.cycle(held), each))
    speeds = {name: summarise([batch / s for s in its]).json() for name, its in times.items()}
    ratios = [memory / store for store, memory in zip(times["store"], times["memory"], strict=True)]
    return {
        "kernel": trainer.plan.kernel,
        "device": str(device),
        "workload": vars(workload),
        "steps": turns * each,
        "turns": turns,
        "rows_per_s": speeds,
        "store_against_memory": summarise(ratios).json(),
    }


def _from_store(
    reader: Ours, scale: float, device: torch.device, seed: int
) -> Generator[torch.Tensor, None, None]:
    with closing(reader.batches(seed)) as batches:
        for batch_BC in batches:
            yield scaled(batch_BC, scale, device)


def _steps(trainer: Trainer, batches: Iterator[torch.Tensor], steps: int) -> float:
    """Seconds of a step with its wait for a batch, in the mean, after one that does not count."""
    trainer.step(next(batches))
    _settle(trainer)
    started = time.perf_counter()
    for x_BD in itertools.islice(batches, steps):
        trainer.step(x_BD)
    _settle(trainer)
    return (time.perf_counter() - started) / steps


def _settle(trainer: Trainer) -> None:
    if trainer.plan.device.startswith("cuda"):
        torch.cuda.synchronize()
