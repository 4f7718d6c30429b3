"""What speed costs in quality: the same rows of a store through several trainers, over seeds.

Every trainer starts from its own initialisation of the same seed, sees the same batches in the
same order, with the same Adam, learning rate, AuxK coefficient and measure of death, and is
judged on the store's held-out rows:

    FVU = sum ||x - x_hat||^2 / sum ||x - mean||^2,   dead = share of latents that fire nowhere
    in the last rows that were trained on

Rows are divided by one number, so that a channel's mean variance is 1.

Shapes: B rows, D channels, N latents.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from isae.benchmarks.measure import commit, machine
from isae.benchmarks.peers import INSTALL, Job, Trainer, installed
from isae.benchmarks.training import Ours
from isae.benchmarks.workloads import Workload
from isae.errors import DataError
from isae.store import Store, open_store

HELD_OUT = 16384
JUDGED = 65536
"""Rows among which a latent must fire once to be alive."""


def bench_quality(
    path: Path,
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
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train each of `kernels` (isae) and `peers` on the same rows, per seed -> one JSON object.

    Raises DataError if the store has no held-out rows.
    """
    store = open_store(path)
    stored = store.layers[layer]
    if stored.rows == stored.train_rows:
        raise DataError(f"{path}: expected held-out rows of {layer}, found none; build with some")
    scale = 1 / math.sqrt(float(store.statistics(layer).var_C.mean()))
    held = store.activations(layer)[stored.train_rows : stored.train_rows + HELD_OUT]
    held_BD = torch.from_numpy(held).to(device).float() * scale
    workload = Workload("quality", batch, stored.channels, latents, k)
    rows = []
    for seed in seeds:
        sample_BD = next(_batches(store, layer, batch, seed, scale, device))
        job = Job(workload, device, lr, steps, dead_rows, seed, sample_BD)
        for name, start in _starters(kernels, peers, job):
            batches = _batches(store, layer, batch, seed, scale, device)
            begun = time.perf_counter()
            trainer = start()
            for x_BD in itertools.islice(batches, steps):
                trainer.step(x_BD)
            row = {"name": name, "seed": seed, "seconds": time.perf_counter() - begun}
            row |= _judged(trainer, held_BD, batches, batch, latents)
            note(f"{name}, seed {seed}: FVU {row['fvu']:.4f}, dead {row['dead']:.2%}")
            rows.append(row)
    settings = {"k": k, "latents": latents, "batch": batch, "steps": steps, "lr": lr}
    return {
        "command": "quality",
        "machine": machine(),
        "commit": commit(),
        "store": {"content_id": store.content_id, "layer": layer, "channels": stored.channels},
        "settings": {**settings, "dead_rows": dead_rows, "seeds": list(seeds)},
        "runs": rows,
        "against_first": [_paired(rows, name) for name in _names(rows)[1:]],
        "absent": [{"name": p.name, "reason": INSTALL} for p in peers if installed(p) is None],
    }


def _starters(
    kernels: list[str], peers: list[Any], job: Job
) -> Iterator[tuple[str, Callable[[], Trainer]]]:
    for kernel in kernels:
        yield f"isae {kernel}", lambda kernel=kernel: Ours(job, kernel)  # type: ignore[misc]
    for peer in peers:
        if installed(peer) is not None:
            yield peer.name, lambda peer=peer: peer(job, "float32")  # type: ignore[misc]


def _batches(
    store: Store, layer: str, batch: int, seed: int, scale: float, device: torch.device
) -> Iterator[torch.Tensor]:
    for x in store.batches(layer, batch, seed=seed):
        yield torch.from_numpy(x).to(device).float() * scale


def _judged(
    trainer: Trainer,
    held_BD: torch.Tensor,
    batches: Iterator[torch.Tensor],
    batch: int,
    latents: int,
) -> dict[str, float]:
    fired_N = torch.zeros(latents, dtype=torch.bool, device=held_BD.device)
    error = 0.0
    with torch.no_grad():
        for start in range(0, len(held_BD), batch):
            x_BD = held_BD[start : start + batch]
            error += float((trainer.reconstruct(x_BD).double() - x_BD.double()).square().sum())
        for x_BD in itertools.islice(batches, math.ceil(JUDGED / batch)):
            fired_N |= trainer.fired(x_BD)
    variance = float((held_BD.double() - held_BD.double().mean(0)).square().sum())
    return {"fvu": error / variance, "dead": 1 - float(fired_N.double().mean())}


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in rows))


def _paired(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The first trainer against `name`, seed by seed: relative FVU, difference of dead shares."""
    pairs = list(zip(*(_of(rows, one) for one in (_names(rows)[0], name)), strict=True))
    ratios = [ours["fvu"] / theirs["fvu"] - 1 for ours, theirs in pairs]
    points = [ours["dead"] - theirs["dead"] for ours, theirs in pairs]
    return {
        "against": name,
        "fvu_relative": ratios,
        "fvu_relative_mean": statistics.fmean(ratios),
        "dead_difference": points,
        "dead_difference_mean": statistics.fmean(points),
    }


def _of(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["name"] == name]
