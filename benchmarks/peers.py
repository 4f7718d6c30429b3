"""Other trainers of TopK SAEs behind one interface: same rows, same optimiser step, own code.

Each adapter does what the peer's own training loop does with one batch (forward, AuxK state,
backward, projection or clipping as it has them, Adam, renormalisation). They are measured in the
fastest of the dtypes that they offer. Where a peer is absent, `install` says how to get it.

Shapes: B rows, D channels, N latents, K active latents.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from isae.benchmarks.workloads import Workload
from isae.errors import RunError, unknown_name

AUX_COEFFICIENT = 1 / 32


class Trainer(Protocol):
    """What is measured."""

    name: str
    dtype: str

    def step(self, x_BD: torch.Tensor) -> None:
        """One optimiser step on a batch, float32."""

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        """x_hat of the present parameters."""

    def fired(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Which latents are active in some row, bool [N]."""


@dataclass(frozen=True)
class Job:
    """What every trainer is asked to do."""

    workload: Workload
    device: torch.device
    lr: float
    steps: int
    dead_rows: int
    seed: int
    sample_BD: torch.Tensor
    """Rows from which biases may be initialised."""


class Sparsify:
    """eai-sparsify: TopK with sparse decoder and encoder gradients, FVU loss."""

    name, package, module = "sparsify", "eai-sparsify", "sparsify"
    dtypes = ("float32", "bfloat16")

    def __init__(self, job: Job, dtype: str) -> None:
        if job.device.type == "cpu":
            os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # read when it is imported
        with contextlib.redirect_stdout(None):
            from sparsify import SparseCoder, SparseCoderConfig

        self.job, self.dtype = job, dtype
        work = job.workload
        torch.manual_seed(job.seed)
        config = SparseCoderConfig(num_latents=work.n, k=work.k)
        self.sae: Any = SparseCoder(work.d, config, device=job.device, dtype=torch.float32)
        self.sae.b_dec.data = job.sample_BD.mean(0)
        self.optimiser = torch.optim.Adam(self.sae.parameters(), lr=job.lr)
        self.since_fired_N = torch.zeros(work.n, dtype=torch.long, device=job.device)

    def step(self, x_BD: torch.Tensor) -> None:
        """As its Trainer.fit with loss_fn 'fvu', optimizer 'adam' and auxk_alpha 1/32."""
        self.sae.set_decoder_norm_to_unit_norm()
        dead_N = self.since_fired_N > self.job.dead_rows
        with _autocast(self.job.device, self.dtype):
            out = self.sae(x_BD, dead_mask=dead_N)
        (out.fvu + AUX_COEFFICIENT * out.auxk_loss).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        fired_N = torch.zeros_like(dead_N)
        fired_N[out.latent_indices.flatten()] = True
        self.since_fired_N += len(x_BD)
        self.since_fired_N[fired_N] = 0

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Its forward pass."""
        out: torch.Tensor = self.sae(x_BD).sae_out
        return out

    def fired(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Its encoder's choice, where positive."""
        codes = self.sae.encode(x_BD)
        fired_N = torch.zeros_like(self.since_fired_N, dtype=torch.bool)
        fired_N[codes.top_indices[codes.top_acts > 0]] = True
        return fired_N


class SaeLens:
    """SAELens: dense TopK training SAE under its own SAETrainer."""

    name, package, module = "sae-lens", "sae-lens", "sae_lens"
    dtypes = ("float32", "bfloat16", "float32 sparse")

    def __init__(self, job: Job, dtype: str) -> None:
        from sae_lens import LoggingConfig, TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        self.job, self.dtype = job, dtype
        work = job.workload
        torch.manual_seed(job.seed)
        config = TopKTrainingSAEConfig(
            d_in=work.d,
            d_sae=work.n,
            k=work.k,
            device=str(job.device),
            use_sparse_activations=dtype.endswith("sparse"),
            aux_loss_coefficient=AUX_COEFFICIENT,
        )
        self.sae: Any = TopKTrainingSAE(config)
        settings = SAETrainerConfig(
            total_training_samples=work.rows * max(job.steps, 1),
            train_batch_size_samples=work.rows,
            lr=job.lr,
            lr_end=job.lr,
            device=str(job.device),
            autocast=dtype == "bfloat16",
            dead_feature_window=max(1, job.dead_rows // work.rows),
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.trainer: Any = SAETrainer(settings, self.sae, data_provider=iter(()))

    def step(self, x_BD: torch.Tensor) -> None:
        """Its SAETrainer's step."""
        self.trainer.step(x_BD)
        self.trainer.n_training_steps += 1

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Its forward pass."""
        out: torch.Tensor = self.sae(x_BD)
        return out

    def fired(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Columns of its codes with a positive value."""
        return _any_positive(self.sae.encode(x_BD))


class DictionaryLearning:
    """dictionary_learning: dense TopK under its own TopKTrainer."""

    name, package, module = "dictionary-learning", "dictionary-learning", "dictionary_learning"
    dtypes = ("float32", "bfloat16")

    def __init__(self, job: Job, dtype: str) -> None:
        from dictionary_learning.trainers.top_k import TopKTrainer

        self.job, self.dtype, self.steps = job, dtype, 0
        work = job.workload
        self.trainer: Any = TopKTrainer(
            steps=max(job.steps, 1) + 1_000_000,
            activation_dim=work.d,
            dict_size=work.n,
            k=work.k,
            layer=0,
            lm_name="none",
            lr=job.lr,
            auxk_alpha=AUX_COEFFICIENT,
            warmup_steps=0,
            seed=job.seed,
            device=str(job.device),
        )
        self.trainer.dead_feature_threshold = job.dead_rows

    def step(self, x_BD: torch.Tensor) -> None:
        """Its trainer's update, under autocast as its train loop does."""
        with _autocast(self.job.device, self.dtype):
            self.trainer.update(self.steps, x_BD)
        self.steps += 1

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Its forward pass."""
        out: torch.Tensor = self.trainer.ae(x_BD)
        return out

    def fired(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Columns of its codes with a positive value."""
        return _any_positive(self.trainer.ae.encode(x_BD))


PEERS: dict[str, Any] = {one.name: one for one in (Sparsify, SaeLens, DictionaryLearning)}


def chosen_peers(text: str) -> list[Any]:
    """Adapters of a comma-separated list; 'none' is none. Raises UnknownNameError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names in ([], ["none"]):
        return []
    for name in names:
        if name not in PEERS:
            raise unknown_name("peer", name, [*PEERS, "none"])
    return [PEERS[name] for name in names]


def installed(peer: Any) -> str | None:
    """The version of a peer, or None."""
    try:
        return importlib.metadata.version(peer.package)
    except importlib.metadata.PackageNotFoundError:
        return None


TRIAL_ROUNDS = 3
"""Times that each dtype of a peer is tried."""
INSTALL = "not installed: pip install isae[bench-peers]"
"""How to get a peer."""


def fastest(
    peer: Any, job: Job, x_BD: torch.Tensor, seconds: Callable[[Callable[[], object]], float]
) -> tuple[Trainer, dict[str, Any]]:
    """A fresh trainer in the fastest of its dtypes by short trials -> it, their least seconds.

    Dtypes take turns: what disturbs the machine for a second must not decide. A dtype in which the
    peer fails is left out, with its error. Raises RunError if all fail.
    """
    trials: dict[str, float | str] = {}
    for dtype in TRIAL_ROUNDS * tuple(peer.dtypes):
        before = trials.get(dtype, math.inf)
        if isinstance(before, str):
            continue
        try:
            trials[dtype] = min(before, _trial(peer, job, dtype, x_BD, seconds))
        except Exception as error:
            # Its text only: the error itself would keep the trial's tensors alive.
            trials[dtype] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if job.device.type == "cuda":
            torch.cuda.empty_cache()
    times = {dtype: time for dtype, time in trials.items() if isinstance(time, float)}
    if not times:
        raise RunError(str(next(iter(trials.values()))))
    return peer(job, min(times, key=lambda dtype: times[dtype])), trials


def _any_positive(codes_BN: torch.Tensor) -> torch.Tensor:
    return (codes_BN.to_dense() > 0).any(0)


def _trial(
    peer: Any,
    job: Job,
    dtype: str,
    x_BD: torch.Tensor,
    seconds: Callable[[Callable[[], object]], float],
) -> float:
    trial = peer(job, dtype)
    trial.step(x_BD)
    return min(seconds(functools.partial(trial.step, x_BD)) for _ in range(2))


def _autocast(device: torch.device, dtype: str) -> Any:
    if dtype == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
