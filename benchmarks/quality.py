"""What speed costs in quality: the same rows of a store through several trainers, over seeds.

Every trainer starts from its own initialisation of the same seed, sees the same batches in the
same order, with the same Adam, learning rate, AuxK coefficient and measure of death, and is
judged on the store's held-out rows:

    FVU = sum ||x - x_hat||^2 / sum ||x - mean||^2

and on the batches that come next in the same order after the last step, JUDGED rows in all:

    dead = share of latents that fire for none of them

Rows are divided by one number, so that a channel's mean variance is 1.

The first trainer holds against another kernel of isae if, in the mean over seeds, its FVU is within
1 % of the other's and its dead share within a point; against a peer if its FVU is no higher. A
comparison is over the seeds that both have finished.

Shapes: B rows, D channels, N latents.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isae.benchmarks.measure import commit, machine
from isae.benchmarks.peers import INSTALL, Job, Trainer, installed
from isae.benchmarks.training import Ours, split_kernel, step_plan
from isae.benchmarks.workloads import Workload
from isae.errors import ConfigError, DataError, unknown_name
from isae.kernels.dispatch import choose_kernel
from isae.progress import QUIET, Reporter
from isae.store import Store, open_store

HELD_OUT = 16384
JUDGED = 65536
"""Rows among which a latent must fire once to be alive, rounded up to whole batches."""
FVU_BAR, DEAD_BAR = 0.01, 0.01
OURS = "isae "
"""How names of our trainers begin; the kernel follows."""


@dataclass(frozen=True)
class Data:
    """Rows of one layer of a store, scaled."""

    store: Store
    layer: str
    scale: float
    batch: int
    device: torch.device

    def batches(self, seed: int) -> Iterator[torch.Tensor]:
        """Training batches of a seed, from the first."""
        for x in self.store.batches(self.layer, self.batch, seed=seed):
            yield self._scaled(x)

    def held_out(self) -> torch.Tensor:
        """Rows that nobody trains on."""
        first = self.store.layers[self.layer].train_rows
        return self._scaled(self.store.activations(self.layer)[first : first + HELD_OUT])

    def _scaled(self, x: Any) -> torch.Tensor:
        return torch.from_numpy(x).to(self.device).float() * self.scale


def bench_quality(
    path: str | Path,
    layer: str,
    *,
    kernels: list[str],
    peers: list[Any],
    device: torch.device,
    k: int = 32,
    latents: int = 8192,
    batch: int = 4096,
    steps: int = 60,
    lr: float = 1e-3,
    dead_rows: int = 100_000,
    seeds: tuple[int, ...] = (0, 1, 2),
    report: Reporter = QUIET,
    save: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Train each of `kernels` (isae) and `peers` on the same rows, per seed -> one JSON object.

    `failed` names the trainers against which the first one does not hold; `save` is handed what is
    known after every training, with `complete` false before the last.
    Raises DataError if the store has no held-out rows or fewer training rows than a batch,
    UnknownNameError for a layer that it does not have, ConfigError and KernelError for sizes and
    kernels that nobody can train.
    """
    for kernel in kernels:
        choose_kernel(split_kernel(kernel)[0], device)
    if k > latents:
        raise ConfigError(f"expected k of at most latents = {latents}, found {k}; lower k")
    data = _open(path, layer, batch, device)
    channels = data.store.layers[layer].channels
    settings = {"k": k, "latents": latents, "batch": batch, "steps": steps, "lr": lr}
    result: dict[str, Any] = {
        "command": "quality",
        "machine": machine(),
        "commit": commit(),
        "store": {"content_id": data.store.content_id, "layer": layer, "channels": channels},
        "settings": {**settings, "dead_rows": dead_rows, "seeds": list(seeds)},
        "absent": [{"name": p.name, "reason": INSTALL} for p in peers if installed(p) is None],
    }
    workload = Workload("quality", batch, channels, latents, k)
    for kernel in kernels:  # what cannot be trained shows before anything is
        step_plan(Job(workload, device, lr, steps, dead_rows, 0, torch.empty(0)), kernel)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        job = Job(workload, device, lr, steps, dead_rows, seed, next(data.batches(seed)))
        for row in _runs(job, data, _starters(kernels, peers, job), report):
            rows.append(row)
            result |= _compared(rows) | {"complete": False}
            save(result)
    return result | {"complete": True}


def _open(path: str | Path, layer: str, batch: int, device: torch.device) -> Data:
    store = open_store(path)
    if layer not in store.layers:
        raise unknown_name("layer", layer, store.layers)
    stored = store.layers[layer]
    if stored.rows == stored.train_rows:
        raise DataError(f"{path}: expected held-out rows of {layer}, found none; build with some")
    if batch > stored.train_rows:
        raise DataError(
            f"{path}: expected a batch of at most {stored.train_rows} rows, the training rows of "
            f"{layer}, found {batch}; use a smaller batch"
        )
    scale = 1 / math.sqrt(float(store.statistics(layer).var_C.mean()))
    return Data(store, layer, scale, batch, device)


def _runs(
    job: Job,
    data: Data,
    starters: Iterable[tuple[str, Callable[[], Trainer]]],
    report: Reporter,
) -> Iterator[dict[str, Any]]:
    """Train and judge every trainer of one seed."""
    held_BD = data.held_out()
    for name, start in starters:
        batches = data.batches(job.seed)
        begun = time.perf_counter()
        trainer = start()
        with report.task(job.steps, f"{name}, seed {job.seed}", "steps") as meter:
            for x_BD in itertools.islice(batches, job.steps):
                trainer.step(x_BD)
                meter.advance()
        row = {"name": name, "seed": job.seed, "seconds": time.perf_counter() - begun}
        row |= _judged(trainer, held_BD, batches, job.workload)
        report.say(f"{name}, seed {job.seed}: FVU {row['fvu']:.4f}, dead {row['dead']:.2%}")
        yield row


def _starters(
    kernels: list[str], peers: list[Any], job: Job
) -> Iterator[tuple[str, Callable[[], Trainer]]]:
    for kernel in kernels:
        yield OURS + kernel, lambda kernel=kernel: Ours(job, kernel)  # type: ignore[misc]
    for peer in peers:
        if installed(peer) is not None:
            yield peer.name, lambda peer=peer: peer(job, "float32")  # type: ignore[misc]


def _judged(
    trainer: Trainer,
    held_BD: torch.Tensor,
    batches: Iterator[torch.Tensor],
    workload: Workload,
) -> dict[str, float]:
    batch = workload.rows
    fired_N = torch.zeros(workload.n, dtype=torch.bool, device=held_BD.device)
    error = 0.0
    with torch.no_grad():
        for start in range(0, len(held_BD), batch):
            x_BD = held_BD[start : start + batch]
            error += float((trainer.reconstruct(x_BD).double() - x_BD.double()).square().sum())
        for x_BD in itertools.islice(batches, math.ceil(JUDGED / batch)):
            fired_N |= trainer.fired(x_BD)
    variance = float((held_BD.double() - held_BD.double().mean(0)).square().sum())
    return {"fvu": error / variance, "dead": 1 - float(fired_N.double().mean())}


def _compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What finished trainings say."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    pairs = [_paired(rows, name) for name in names[1:]]
    failed = [pair["against"] for pair in pairs if not pair["holds"]]
    return {"runs": list(rows), "against_first": pairs, "failed": failed}


def _paired(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The first trainer against `name`, seed by seed: relative FVU, difference of dead shares."""
    first, other = (
        {row["seed"]: row for row in rows if row["name"] == one} for one in (rows[0]["name"], name)
    )
    seeds = [seed for seed in first if seed in other]
    pairs = [(first[seed], other[seed]) for seed in seeds]
    ratios = [ours["fvu"] / theirs["fvu"] - 1 for ours, theirs in pairs]
    points = [ours["dead"] - theirs["dead"] for ours, theirs in pairs]
    fvu, dead = statistics.fmean(ratios), statistics.fmean(points)
    same = abs(fvu) <= FVU_BAR and abs(dead) <= DEAD_BAR
    return {
        "against": name,
        "seeds": seeds,
        "fvu_relative": ratios,
        "fvu_relative_mean": fvu,
        "dead_difference": points,
        "dead_difference_mean": dead,
        "bars": _bars(name),
        "holds": same if name.startswith(OURS) else fvu <= 0,
    }


def _bars(name: str) -> dict[str, float]:
    """What is allowed against `name`: at most, or for a kernel of isae at most in size."""
    if name.startswith(OURS):
        return {"fvu_relative_mean_size": FVU_BAR, "dead_difference_mean_size": DEAD_BAR}
    return {"fvu_relative_mean": 0.0}
