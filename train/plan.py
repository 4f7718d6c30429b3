"""A configuration made definite for one layer of one store: every default settled."""

from __future__ import annotations

import math
from dataclasses import dataclass

from isae.config import check
from isae.device import resolve_device
from isae.kernels import choose_kernel, interpreted
from isae.train.config import TrainConfig
from isae.train.source import Layer

BATCH = {"topk": 4096, "ksae": 500_000}
KSAE_EPOCHS, PATIENCE = 100, 3
DEAD_ROWS = 10_000_000
WARMUP = {"topk": 100, "ksae": 0}
DECAY = {"topk": 0.2, "ksae": 0.0}


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    n: int
    """Latents."""
    d: int
    """Channels."""
    k: int
    """Active latents per row."""
    tied: bool
    """One matrix for encoder and decoder."""
    unit_norm: bool
    """Decoder rows are kept at unit norm, their gradient without its parallel part."""
    relative_loss: bool
    """Loss per row over the row's own energy (ksae), else FVU of the batch."""
    k_aux: int
    """Dead latents that AuxK lets reconstruct the residual; 0: no AuxK."""
    aux_coefficient: float
    """Weight of AuxK."""
    clip: float
    """Longest gradient of a row of W_enc or W_dec; 0: not clipped."""
    dead_rows: int
    """Rows without firing that make a latent dead."""
    micro_batch: int
    """Rows of one piece."""
    pieces: int
    """Pieces of one optimiser step."""
    epoch_rows: int
    """Training rows."""
    steps: int
    """The last step at the latest."""
    patience: int | None
    """Evaluations without progress that end the run; None: it runs to `steps`."""
    min_fall: float
    """Relative fall of the held-out FVU that counts as progress."""
    eval_every: int
    """Steps between evaluations."""
    lr: float
    """The highest learning rate."""
    warmup: int
    """Steps of rising learning rate."""
    decay_fraction: float
    """Part of the run with falling learning rate."""
    kernel: str
    """triton | cpu | reference."""
    precision: str
    """float32 | bfloat16: of products and gathers."""
    device: str
    """cpu | cuda."""

    @property
    def batch(self) -> int:
        """Rows of one optimiser step."""
        return self.micro_batch * self.pieces

    @property
    def evaluation_kernel(self) -> str:
        """What evaluations run: not Triton's interpreter, which is for checking steps."""
        return "auto" if interpreted(self.kernel, self.device) else self.kernel

    def lr_at(self, step: int, decay_start: int, end: int) -> float:
        """The learning rate of `step` (from 1): rise, flat, fall after `decay_start` to `end`."""
        rise = min(1.0, step / self.warmup) if self.warmup else 1.0
        if step > decay_start and end > decay_start:
            return self.lr * rise * (end + 1 - step) / (end + 1 - decay_start)
        return self.lr * rise


def make_plan(config: TrainConfig, layer: Layer, has_holdout: bool) -> Plan:
    """Settle `config` for `layer`. Raises ConfigError where the two do not fit."""
    topk = config.recipe == "topk"
    n = config.latents or config.expansion * layer.channels
    check(
        config.k <= n, f"k <= {n} (the number of latents)", config.k, "lower --k or raise latents"
    )
    wanted = min(config.batch_size or BATCH[config.recipe], layer.train_rows)
    check(wanted >= 1, "at least one training row in the store", layer.train_rows)
    pieces = math.ceil(wanted / config.micro_batch)
    micro = wanted // pieces
    per_epoch = max(1, layer.train_rows // (micro * pieces))
    steps, patience = _length(config, layer.train_rows, micro * pieces, has_holdout)
    aux = config.aux_coefficient
    aux = (1 / 32 if topk else 0.0) if aux is None else aux
    decay = config.decay_fraction
    warmup = WARMUP[config.recipe] if config.warmup_steps is None else config.warmup_steps
    device = resolve_device(config.device)
    kernel = choose_kernel(config.kernel, device)
    return Plan(
        n=n,
        d=layer.channels,
        k=config.k,
        tied=(not topk) if config.tied is None else config.tied,
        unit_norm=topk,
        relative_loss=not topk,
        k_aux=max(1, layer.channels // 2) if aux else 0,
        aux_coefficient=aux,
        clip=config.clip,
        dead_rows=config.dead_rows or min(DEAD_ROWS, layer.train_rows),
        micro_batch=micro,
        pieces=pieces,
        epoch_rows=layer.train_rows,
        steps=steps,
        patience=patience,
        min_fall=config.min_fall,
        eval_every=config.eval_every or min(max(per_epoch, 50), 500),
        lr=config.lr or (2e-4 / math.sqrt(n / 2**14) if topk else 1e-3),
        warmup=warmup if config.warmup_steps is not None else min(warmup, steps // 10),
        decay_fraction=DECAY[config.recipe] if decay is None else decay,
        kernel=kernel,
        precision=_precision(config, kernel, device.type),
        device=str(device),
    )


def _precision(config: TrainConfig, kernel: str, device: str) -> str:
    if config.precision == "auto":
        return "bfloat16" if kernel == "triton" and device == "cuda" else "float32"
    check(
        config.precision == "float32" or kernel != "reference",
        "precision float32 with this kernel",
        config.precision,
        "leave --precision out, or use --kernel triton or cpu",
    )
    check(
        not (config.precision == "bfloat16" and interpreted(kernel, device)),
        "precision float32 in Triton's interpreter, which rounds bfloat16 in its own way",
        config.precision,
        "leave --precision out",
    )
    return config.precision


def _length(
    config: TrainConfig, rows: int, batch: int, has_holdout: bool
) -> tuple[int, int | None]:
    def passes(epochs: int) -> int:
        # Epochs lie back to back in the stream of batches: the last batch of the last pass may
        # reach into the next, but no row of it is left out.
        return -(-epochs * rows // batch)

    fixed = config.steps or (passes(config.epochs) if config.epochs else None)
    if fixed:
        return fixed, config.patience if has_holdout else None
    if config.recipe == "ksae" and config.patience is None:
        return passes(KSAE_EPOCHS), None
    check(
        has_holdout,
        "held-out rows in the store, since training ends when their FVU stops falling",
        "none",
        "give --steps or --epochs, or build the store with --holdout",
    )
    return passes(config.max_epochs), config.patience or PATIENCE
