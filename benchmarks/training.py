"""`isae-bench train`: rows per second of the whole training step, its floor, and peers.

Floor: one product of the encoder at the measured ceiling, one pass over both matrices and their
moments (read and written, 48 N D bytes), and 8 B K D bytes of gathers (4 operand reads of 2 bytes
for each pair), at the measured ceiling of a copy. Every trainer sees the same rows in the same
order; they take turns, so that a slow minute of the machine falls on all.

Shapes: B rows, D channels, N latents, K active latents.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from isae.benchmarks.kernels import header, operand_dtype
from isae.benchmarks.measure import (
    NORMAL,
    Ceilings,
    Effort,
    measure_ceilings,
    once,
    summarise,
)
from isae.benchmarks.peers import INSTALL, Job, Trainer, fastest, installed
from isae.benchmarks.workloads import RowMaker, Workload
from isae.kernels import sparse_decode, topk_encode
from isae.train.config import TrainConfig
from isae.train.fused import make_stepper
from isae.train.parameters import new_state
from isae.train.plan import make_plan

POOL = 8
"""Batches that are made before; they are taken in turn."""
HELD_OUT = 2048
DEAD_ROWS = 10_000_000
WARMUP = 3


@dataclass(frozen=True)
class MemoryLayer:
    """What a plan asks of a stored layer."""

    name: str
    channels: int
    rows: int
    train_rows: int


class Ours:
    """isae's own step."""

    name = "isae"

    def __init__(self, job: Job, kernel: str) -> None:
        work = job.workload
        config = TrainConfig(
            layer="layer",
            k=work.k,
            latents=work.n,
            batch_size=work.rows,
            micro_batch=work.rows,
            steps=max(job.steps, 1),
            lr=job.lr,
            dead_rows=job.dead_rows,
            kernel=kernel,
            device=str(job.device),
        )
        rows = work.rows * POOL
        self.plan = make_plan(config, MemoryLayer("layer", work.d, rows, rows), has_holdout=False)
        self.state = new_state(self.plan, job.seed, job.sample_BD.cpu().numpy())
        self.stepper = make_stepper(self.plan, self.state)
        self.lr, self.dtype = job.lr, self.plan.precision

    def step(self, x_BD: torch.Tensor) -> None:
        """One update."""
        self.stepper.step([x_BD], self.lr)

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        """x_hat of the float32 parameters."""
        params = self.state.params
        decoder = (params["W_dec"], params["b_dec"])
        return sparse_decode(*self._codes(x_BD), *decoder, kernel=self.plan.evaluation_kernel)

    def fired(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Which latents are active in some row, bool [N]."""
        values_BK, indices_BK = self._codes(x_BD)
        fired_N = torch.zeros(self.plan.n, dtype=torch.bool, device=x_BD.device)
        fired_N[indices_BK[values_BK > 0]] = True
        return fired_N

    def _codes(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = self.state
        operands = (x_BD - state.params["b_dec"], state.W_enc_ND, state.params["b_enc"])
        return topk_encode(*operands, self.plan.k, kernel=self.plan.evaluation_kernel)


def floor_seconds(workload: Workload, ceilings: Ceilings) -> dict[str, float]:
    """The floor's parts and their sum, in seconds."""
    b, d, n, k = workload.rows, workload.d, workload.n, workload.k
    parts = {
        "gemm": 2 * b * d * n / ceilings.gemm,
        "parameters": 48 * n * d / ceilings.copy,
        "gathers": 8 * b * k * d / ceilings.copy,
    }
    return {**parts, "total": sum(parts.values())}


def bench_training(
    workload: Workload,
    *,
    kernel: str,
    device: torch.device,
    peers: list[Any],
    steps: int = 30,
    rounds: int = 3,
    seed: int = 0,
    dead_rows: int = DEAD_ROWS,
    effort: Effort = NORMAL,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train every trainer for `steps` steps in `rounds` turns -> one JSON object."""
    maker = RowMaker(workload.d, device, seed)
    pool = [maker.rows(workload.rows) for _ in range(POOL)]
    held_BD = maker.rows(min(HELD_OUT, 4 * workload.rows))
    lr = 2e-4 / math.sqrt(workload.n / 2**14)
    sample_BD = pool[0][: min(4096, workload.rows)]
    job = Job(workload, device, lr, steps + WARMUP, dead_rows, seed, sample_BD)
    note(f"isae, {kernel}")
    ours = Ours(job, kernel)
    dtype = operand_dtype(ours.plan.kernel, device)
    ceilings = measure_ceilings(device, dtype, effort, small=workload.rows * workload.d < 1 << 16)
    floor = floor_seconds(workload, ceilings)
    trainers: list[Trainer] = [ours]
    rows = [{"name": ours.name, "dtype": ours.dtype, "kernel": ours.plan.kernel}]
    absent = []
    for row, trainer in _started(peers, job, pool[0], note):
        if trainer is None:
            absent.append(row)
        else:
            trainers.append(trainer)
            rows.append(row)
    times = _take_turns(trainers, pool, device, steps, rounds, note)
    for row, trainer, seconds in zip(rows, trainers, times, strict=True):
        row |= _measured(trainer, seconds, held_BD, workload, floor["total"])
    for row in rows:
        row["ours_times_faster"] = rows[0]["rows_per_s"] / row["rows_per_s"]  # type: ignore[operator]
    return {
        **header("train", workload, device),
        "settings": {
            "kernel": rows[0]["kernel"],
            "seed": seed,
            "steps": steps,
            "warmup": WARMUP,
            "lr": lr,
            "dead_rows": dead_rows,
            "aux_coefficient": 1 / 32,
            "optimiser": "Adam, one update a batch",
        },
        "ceilings": ceilings.json(),
        "floor_s": floor,
        "trainers": rows,
        "absent": absent,
    }


def _started(
    peers: list[Any], job: Job, x_BD: torch.Tensor, note: Callable[[str], None]
) -> Iterator[tuple[dict[str, Any], Trainer | None]]:
    for peer in peers:
        version = installed(peer)
        row: dict[str, Any] = {"name": peer.name}
        if version is None:
            yield {**row, "reason": INSTALL}, None
            continue
        note(f"{peer.name} {version}: its fastest dtype")
        try:
            trainer, trials = fastest(peer, job, x_BD, lambda call: once(call, job.device))
        except Exception as error:  # a peer that cannot run here is a result, not our failure
            yield {**row, "version": version, "reason": str(error)[:300]}, None
            continue
        yield {**row, "version": version, "dtype": trainer.dtype, "trials_s": trials}, trainer


def _take_turns(
    trainers: list[Trainer],
    pool: list[torch.Tensor],
    device: torch.device,
    steps: int,
    rounds: int,
    note: Callable[[str], None],
) -> list[list[float]]:
    for trainer in trainers:
        for number in range(WARMUP):
            trainer.step(pool[number % POOL])
    times: list[list[float]] = [[] for _ in trainers]
    bounds = [steps * turn // rounds for turn in range(rounds + 1)]
    for first, last in itertools.pairwise(bounds):
        for trainer, seconds in zip(trainers, times, strict=True):
            note(f"{trainer.name}: steps {first} to {last} of {steps}")
            for number in range(first, last):
                x_BD = pool[(WARMUP + number) % POOL]
                seconds.append(once(functools.partial(trainer.step, x_BD), device))
    return times


def _measured(
    trainer: Trainer,
    seconds: list[float],
    held_BD: torch.Tensor,
    workload: Workload,
    floor: float,
) -> dict[str, Any]:
    times = summarise(seconds)
    with torch.no_grad():
        error = (trainer.reconstruct(held_BD).double() - held_BD.double()).square().sum()
    variance = (held_BD.double() - held_BD.double().mean(0)).square().sum()
    return {
        "times_s": times.json(),
        "rows_per_s": workload.rows / times.median,
        "share_of_floor": floor / times.median,
        "held_out_fvu": float(error / variance),
    }
