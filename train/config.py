"""What a training run is asked to do. Values left at None are settled by `isae.train.plan`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from isae.config import check
from isae.errors import unknown_name
from isae.kernels import KERNELS

RECIPES = ("topk", "ksae")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainConfig:
    """Options of one run. Raises ConfigError for values out of range."""

    layer: str
    """Which layer of the store."""
    recipe: str = "topk"
    """'topk': arXiv 2406.04093; 'ksae': the tied recipe of arXiv 2504.11489."""
    k: int = 32
    """Active latents per row."""
    expansion: int = 16
    """Latents per channel, unless `latents` is given."""
    latents: int | None = None
    """Number of latents."""
    batch_size: int | None = None
    """Rows per optimiser step; None: 4096 (topk), 500,000 (ksae); never more than there are."""
    micro_batch: int = 8192
    """Most rows read and scaled at once; with the kernel reference also the most computed at once.

    Elsewhere a step holds its whole batch: four float32 copies of the rows, 12 bytes a code.
    """
    steps: int | None = None
    """Optimiser steps; not together with `epochs`."""
    epochs: int | None = None
    """Passes over the training rows; None with `steps`: as many as that takes."""
    patience: int | None = None
    """Evaluations without a fall of the held-out FVU by `min_fall` before the end is begun.
    None: 3 for topk when neither steps nor epochs is given, else off."""
    min_fall: float = 1e-3
    """Relative fall of the held-out FVU between evaluations that still counts as progress."""
    max_epochs: int = 100
    """The bound when only `patience` ends the run."""
    lr: float | None = None
    """Adam's learning rate; None: 2e-4 / sqrt(latents / 2^14) (topk), 1e-3 (ksae)."""
    warmup_steps: int | None = None
    """Steps of linear rise of the learning rate; None: 100 (topk), 0 (ksae), at most a tenth."""
    decay_fraction: float | None = None
    """Last part of the run in which the learning rate falls linearly to 0; when patience runs out
    it is added as this fraction of the then whole run. None: 0.2 (topk), 0 (ksae)."""
    tied: bool | None = None
    """One matrix for encoder and decoder; None: False (topk), True (ksae)."""
    dead_rows: int | None = None
    """Rows without firing after which a latent counts as dead; None: the smaller of 10 million and
    one epoch."""
    aux_coefficient: float | None = None
    """Weight of the AuxK loss; None: 1/32 (topk), 0 (ksae, which may not have it)."""
    clip: float = 0.0
    """Gradient clipping by latent, 0: off. The gradient of the loss (see isae.train.step) with
    respect to each row of W_enc and of W_dec (to the one row where tied), for W_dec of topk without
    its part along the decoder row, is shortened to at most this length before Adam. Biases are not
    clipped. Adam undoes a factor common to all steps: a length near the usual one keeps single
    steps from standing out, a much smaller one only evens out all of them."""
    seed: int = 0
    """Of initial weights, of the order of rows and of samples."""
    kernel: str = "auto"
    """auto | triton | cpu | reference."""
    precision: str = "auto"
    """Of products and gathers: float32, bfloat16 (kernels triton and cpu) or auto: bfloat16 on a
    GPU with kernel triton, else float32. Parameters and moments are float32 always."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N."""
    eval_every: int | None = None
    """Steps between evaluations; None: one epoch, at least 50 and at most 500 steps."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard event files too."""

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise unknown_name("recipe", self.recipe, RECIPES)
        if self.kernel not in KERNELS:
            raise unknown_name("kernel", self.kernel, KERNELS)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        for name in (
            "k",
            "expansion",
            "micro_batch",
            "max_epochs",
            "checkpoint_every",
            "log_every",
        ):
            check(getattr(self, name) >= 1, f"{name} >= 1", getattr(self, name))
        optional = (
            "latents",
            "batch_size",
            "steps",
            "epochs",
            "patience",
            "dead_rows",
            "eval_every",
        )
        for name in optional:
            value = getattr(self, name)
            check(value is None or value >= 1, f"{name} >= 1", value)
        check(0 <= self.min_fall < 1, "0 <= min_fall < 1", self.min_fall)
        check(self.lr is None or 0 < self.lr < 1, "0 < lr < 1", self.lr)
        check(self.warmup_steps is None or self.warmup_steps >= 0, "warmup >= 0", self.warmup_steps)
        fraction = self.decay_fraction
        check(fraction is None or 0 <= fraction < 1, "0 <= decay fraction < 1", fraction)
        weight = self.aux_coefficient
        check(weight is None or 0 <= weight < 10, "0 <= AuxK coefficient < 10", weight)
        check(0 <= self.clip < math.inf, "clip >= 0 and finite", self.clip, "0 turns it off")
        check(
            self.recipe != "ksae" or not weight,
            "no AuxK with the recipe ksae, whose loss has none",
            weight,
            "leave --aux-coefficient out, or take the recipe topk",
        )
        check(
            self.steps is None or self.epochs is None,
            "steps or epochs, not both",
            (self.steps, self.epochs),
            "leave one out",
        )
