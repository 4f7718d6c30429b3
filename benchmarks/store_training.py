"""What a training step loses by taking its rows from a store instead of from memory.

One trainer (isae's step, compared with the plain reference before: see step_check.py) takes turns
between two sources of the same rows: the store's batches, as isae-train takes them, and slices of a
float32 tensor that holds the rows, scaled and shuffled before. In each turn and for each source the
clock runs from opening to the end of the last step, over so many steps that LEAST_WINDOWS windows
are used up: nothing was read before, so a reader that is slower than the trainer cannot hide it. A
ratio is of one turn. Where the step takes stored float16 rows as they are, those are half the bytes
of the rows in memory, so a ratio may be above 1; a step on them must first have given the very
numbers of a step on the same rows in float32.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from isae.benchmarks.measure import summarise
from isae.benchmarks.peers import Job
from isae.benchmarks.step_check import check_step
from isae.benchmarks.store_ours import Ours, our_readers
from isae.benchmarks.store_peer import window_rows
from isae.benchmarks.training import Ours as Trainer
from isae.benchmarks.workloads import Workload
from isae.freed_memory import keep_freed_memory
from isae.store import open_store
from isae.train.fused import make_stepper
from isae.train.source import Array, piece_of, scaled

LEAST_TURNS, TURNS = 3, 15
LEAST_WINDOWS = 3
"""Windows of rows that a turn uses up, at least."""


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
    """Train `steps` steps from each source, or more: all turns need -> one JSON object.

    Rows/s of each source and their ratio; None where `fault` says that a step is not right. Raises
    StoreError for a store that cannot be read.
    """
    store = open_store(path)
    stored = store.layer(layer)
    rows = min(rows, stored.train_rows) // batch * batch
    scale = 1 / math.sqrt(max(float(store.statistics(layer).var_C.mean()), 1e-12))
    memory_NC = scaled(store.activations(layer)[0:rows], scale, device)
    workload = Workload("store", batch, stored.channels, latents, k)
    lr = 2e-4 / math.sqrt(latents / 2**14)
    job = Job(workload, device, lr, steps, 10_000_000, seed, memory_NC[:batch])
    trainer = Trainer(job, "auto")
    check = check_step(trainer.plan, trainer.state, trainer.stepper, memory_NC[:batch], lr)
    fault = check.fault or _fault_as_stored(trainer, store.activations(layer)[0:batch], scale, lr)
    turns, each = turns_of(steps, min(rows, window_rows()), batch)
    found = {
        "kernel": trainer.plan.kernel,
        "device": str(device),
        "workload": vars(workload),
        "steps_asked": steps,
        "steps": turns * each,
        "turns": turns,
        "check": check.json(),
        "fault": fault,
        "rows_per_s": None,
        "store_against_memory": None,
    }
    if fault is not None:
        return found
    if turns * each != steps:
        note(f"training: {turns * each} steps instead of {steps}, for {LEAST_WINDOWS} windows each")
    times: dict[str, list[float]] = {"store": [], "memory": []}
    trainer.stepper.scale = scale
    if device.type == "cpu":
        keep_freed_memory()  # as isae-train does
    reader = our_readers(path, layer, rows, batch, threads)[0]
    for turn in range(turns):
        note(f"training, turn {turn + 1} of {turns}: {each} steps from each source")
        own = _from_store(reader, scale, device, trainer.stepper.takes_halves, seed + turn)
        times["store"].append(_steps(trainer, own, each, memory_NC[:batch]))
        held = _from_memory(memory_NC, batch)
        times["memory"].append(_steps(trainer, held, each, memory_NC[:batch]))
    speeds = {name: summarise([batch / s for s in its]).json() for name, its in times.items()}
    ratios = [memory / store for store, memory in zip(times["store"], times["memory"], strict=True)]
    return found | {"rows_per_s": speeds, "store_against_memory": summarise(ratios).json()}


def _fault_as_stored(trainer: Trainer, rows_BC: Array, scale: float, lr: float) -> str | None:
    """Why a step on rows as they are stored is not that on the same rows in float32."""
    if not trainer.stepper.takes_halves:
        return None
    found = []
    for as_stored in (True, False):
        state = copy.deepcopy(trainer.state)
        piece_BD = piece_of(rows_BC, scale, torch.device(trainer.plan.device), as_stored)
        found.append((make_stepper(trainer.plan, state, scale).step([piece_BD], lr), state.params))
    (stored, params), (plain, wanted) = found
    same = stored == plain and all(torch.equal(params[name], wanted[name]) for name in wanted)
    return None if same else "rows as stored: expected the step of the same rows in float32"


def turns_of(steps: int, window: int, batch: int) -> tuple[int, int]:
    """Turns, and steps of each: no fewer than use up LEAST_WINDOWS windows of `window` rows."""
    least = -(-LEAST_WINDOWS * window // batch)
    turns = max(LEAST_TURNS, min(TURNS, steps // least))
    return turns, max(least, -(-steps // turns))


def _from_memory(rows_NC: torch.Tensor, batch: int) -> Generator[torch.Tensor, None, None]:
    for start in itertools.cycle(range(0, len(rows_NC), batch)):
        yield rows_NC[start : start + batch]


def _from_store(
    reader: Ours, scale: float, device: torch.device, takes_halves: bool, seed: int
) -> Generator[torch.Tensor, None, None]:
    with closing(reader.batches(seed)) as batches:
        for batch_BC in batches:
            yield piece_of(batch_BC, scale, device, takes_halves)


def _steps(
    trainer: Trainer,
    source: Generator[torch.Tensor, None, None],
    steps: int,
    warm_BD: torch.Tensor,
) -> float:
    """Seconds of a step with its wait for a batch, in the mean, from the source's opening on."""
    trainer.step(warm_BD)
    _settle(trainer)
    started = time.perf_counter()
    with closing(source) as batches:
        for x_BD in itertools.islice(batches, steps):
            trainer.step(x_BD)
        _settle(trainer)
        return (time.perf_counter() - started) / steps


def _settle(trainer: Trainer) -> None:
    if trainer.plan.device.startswith("cuda"):
        torch.cuda.synchronize()
