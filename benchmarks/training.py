"""`isae-bench train`: rows per second of the whole training step, its floor, and peers.

Floor: one product of the encoder at the measured ceiling, one pass over both matrices and their
moments (read and written, 48 N D bytes), and 8 B K D bytes of gathers (4 operand reads of 2 bytes
for each pair), at the measured ceiling of a copy. Every trainer sees the same rows in the same
order; they take turns, so that a slow minute of the machine falls on all. Our trainer is timed only
if one step of it, checked before, is the plain reference's.

Shapes: B rows, D channels, N latents, K active latents.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
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
from isae.benchmarks.peers import AUX_COEFFICIENT, INSTALL, Job, Trainer, fastest, installed
from isae.benchmarks.step_check import check_step
from isae.benchmarks.workloads import RowMaker, Workload
from isae.kernels import sparse_decode, topk_encode
from isae.train.config import TrainConfig
from isae.train.fused import make_stepper
from isae.train.parameters import new_state
from isae.train.plan import Plan, make_plan

POOL = 8
"""Batches that are made before; they are taken in turn."""
HELD_OUT = 2048
DEAD_ROWS = 10_000_000
WARMUP = 3
Timed = tuple[dict[str, Any], Trainer]
"""A trainer's row of the results, and the trainer."""


@dataclass(frozen=True)
class MemoryLayer:
    """What a plan asks of a stored layer."""

    name: str
    channels: int
    rows: int
    train_rows: int


def split_kernel(text: str) -> tuple[str, str]:
    """(kernel, precision) of "kernel" or "kernel:precision"."""
    kernel, _, precision = text.partition(":")
    return kernel, precision or "auto"


def step_plan(job: Job, kernel: str) -> Plan:
    """How isae would do a job; `kernel` may end in a precision, as in "cpu:bfloat16"."""
    work, (kernel, precision) = job.workload, split_kernel(kernel)
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
        precision=precision,
        device=str(job.device),
    )
    rows = work.rows * POOL
    return make_plan(config, MemoryLayer("layer", work.d, rows, rows), has_holdout=False)


class Ours:
    """isae's own step; `kernel` as in `step_plan`."""

    name = "isae"

    def __init__(self, job: Job, kernel: str) -> None:
        self.plan = step_plan(job, kernel)
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
    """Train every trainer for `steps` steps in `rounds` turns -> one JSON object.

    Where isae's step differs from the reference's, `failed` names it, its row has a `fault` instead
    of times, and nothing is compared with it.
    """
    pool, held_BD = _rows(workload, device, seed)
    lr = 2e-4 / math.sqrt(workload.n / 2**14)
    job = Job(workload, device, lr, steps + WARMUP, dead_rows, seed, pool[0][:4096])
    own, timed = _checked(job, kernel, pool[0], note)
    dtype = operand_dtype(own["kernel"], device)
    ceilings = measure_ceilings(device, dtype, effort, small=workload.rows * workload.d < 1 << 16)
    floor = floor_seconds(workload, ceilings)
    started, absent = _started(peers, job, pool[0], note)
    timed += started
    times = _take_turns([trainer for _, trainer in timed], pool, device, (steps, rounds), note)
    for (row, trainer), seconds in zip(timed, times, strict=True):
        row |= _measured(trainer, seconds, held_BD, workload, floor["total"])
    return {
        **header("train", workload, device),
        "settings": _settings(job, own["kernel"]),
        "ceilings": ceilings.json(),
        "floor_s": floor,
        "trainers": _compared(own, [row for row, _ in started]),
        "quality": _quality(own, [row for row, _ in started]),
        "absent": absent,
        "failed": [] if own["fault"] is None else [own["name"]],
    }


def _rows(
    workload: Workload, device: torch.device, seed: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Batches to train on, and held-out rows."""
    maker = RowMaker(workload.d, device, seed)
    pool = [maker.rows(workload.rows) for _ in range(POOL)]
    return pool, maker.rows(min(HELD_OUT, 4 * workload.rows))


def _checked(
    job: Job, kernel: str, x_BD: torch.Tensor, note: Callable[[str], None]
) -> tuple[dict[str, Any], list[Timed]]:
    """Our row, and our trainer with it if its step is the reference's."""
    note(f"isae, {kernel}: one step against the reference")
    ours = Ours(job, kernel)
    check = check_step(ours.plan, ours.state, ours.stepper, x_BD, ours.lr)
    row = {
        "name": ours.name,
        "dtype": ours.dtype,
        "kernel": ours.plan.kernel,
        "check": check.json(),
        "fault": check.fault,
        **dict.fromkeys(("times_s", "rows_per_s", "share_of_floor", "held_out_fvu")),
    }
    return row, [(row, ours)] if check.fault is None else []


def _settings(job: Job, kernel: str) -> dict[str, Any]:
    return {
        "kernel": kernel,
        "seed": job.seed,
        "steps": job.steps - WARMUP,
        "warmup": WARMUP,
        "lr": job.lr,
        "dead_rows": job.dead_rows,
        "aux_coefficient": AUX_COEFFICIENT,
        "optimiser": "Adam, one update a batch",
    }


def _compared(own: dict[str, Any], peers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows, with how many times faster we are; None where we have no speed."""
    speed = own["rows_per_s"]
    rows = [own, *peers]
    for row in rows:
        row["ours_times_faster"] = None if speed is None else speed / row["rows_per_s"]
    return rows


def _quality(own: dict[str, Any], peers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our held-out FVU against each peer's after the same rows; nothing where we have none."""
    ours = own["held_out_fvu"]
    return [
        {
            "against": row["name"],
            "held_out_fvu": ours,
            "peer_held_out_fvu": row["held_out_fvu"],
            "fvu_no_worse": ours <= row["held_out_fvu"],
        }
        for row in peers
        if ours is not None
    ]


def _started(
    peers: list[Any], job: Job, x_BD: torch.Tensor, note: Callable[[str], None]
) -> tuple[list[Timed], list[dict[str, Any]]]:
    """Peers that run here with their rows, and the rows of the others."""
    found: list[Timed] = []
    absent: list[dict[str, Any]] = []
    for peer in peers:
        version = installed(peer)
        row: dict[str, Any] = {"name": peer.name}
        if version is None:
            absent.append({**row, "reason": INSTALL})
            continue
        note(f"{peer.name} {version}: its fastest dtype")
        try:
            trainer, trials = fastest(peer, job, x_BD, lambda call: once(call, job.device))
        except Exception as error:  # a peer that cannot run here is a result, not our failure
            absent.append({**row, "version": version, "reason": str(error)[:300]})
            continue
        row |= {"version": version, "dtype": trainer.dtype, "trials_s": trials}
        found.append((row, trainer))
    return found, absent


def _take_turns(
    trainers: list[Trainer],
    pool: list[torch.Tensor],
    device: torch.device,
    length: tuple[int, int],
    note: Callable[[str], None],
) -> list[list[float]]:
    """Seconds of every step of each; `length` is steps and the turns that they come in."""
    steps, rounds = length
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
