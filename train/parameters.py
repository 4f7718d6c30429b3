"""Parameters and optimiser state of a run, and how they start.

Shapes: R sampled rows, D channels, N latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.randomness import keyed_rng
from isae.train.plan import Plan
from isae.train.sae import SAE

Array = npt.NDArray[Any]
SHRINK = 7 / 8
"""Of the encoder scale with the least error, see `encoder_scale`."""
SCALE_ROWS = 512
"""Rows of the sample on which the encoder's first scale is found."""
SCALE_BYTES = 256 << 20
"""Pre-activations that are held at once to find it."""
MEDIAN_STEPS, MEDIAN_TOLERANCE = 200, 1e-7


@dataclass
class State:
    """Everything that a checkpoint must hold to go on bit for bit.

    params: W_dec [N, D], b_enc [N], b_dec [D], and W_enc [N, D] unless tied. first, second: Adam's
    moments of each. last_fired_N: how many rows had been seen when each latent last fired.
    """

    params: dict[str, torch.Tensor]
    first: dict[str, torch.Tensor]
    second: dict[str, torch.Tensor]
    last_fired_N: torch.Tensor
    step: int = 0
    rows: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def W_enc_ND(self) -> torch.Tensor:
        """The encoder; the decoder itself when tied."""
        return self.params.get("W_enc", self.params["W_dec"])

    def dead_N(self, dead_rows: int) -> torch.Tensor:
        """Which latents have not fired in the last `dead_rows` rows."""
        return self.rows - self.last_fired_N >= dead_rows

    def dead_fraction(self, dead_rows: int) -> float | None:
        """Fraction of dead latents; None before `dead_rows` rows, when none could be dead yet."""
        if self.rows < dead_rows:
            return None
        return float(self.dead_N(dead_rows).double().mean())

    def sae(self, k: int, kernel: str) -> SAE:
        """The SAE of the present parameters, sharing their memory, in scaled units."""
        return as_sae(self.params, k, kernel)


def as_sae(
    params: Mapping[str, torch.Tensor],
    k: int,
    kernel: str,
    metadata: Mapping[str, Any] | None = None,
) -> SAE:
    """An SAE of named parameters, sharing their memory."""
    W_dec_ND = params["W_dec"]
    W_enc_ND = params.get("W_enc", W_dec_ND)
    return SAE(
        W_enc_ND, params["b_enc"], W_dec_ND, params["b_dec"], k, metadata=metadata, kernel=kernel
    )


def new_state(plan: Plan, seed: int, sample_RD: Array | None) -> State:
    """Initial parameters: random unit decoder rows, W_enc = a W_dec, b_enc = 0.

    b_dec is the geometric median of `sample_RD` (scaled rows), or 0 without a sample. a is 1 for
    tied weights and without a sample, else what `encoder_scale` finds.
    """
    device = torch.device(plan.device)
    rows_ND = keyed_rng(seed, "decoder").standard_normal((plan.n, plan.d))
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    b_D = np.zeros(plan.d) if sample_RD is None else geometric_median(sample_RD)
    params = {
        "W_dec": torch.from_numpy(rows_ND).float().to(device),
        "b_enc": torch.zeros(plan.n, device=device),
        "b_dec": torch.from_numpy(b_D).float().to(device),
    }
    if not plan.tied:
        scale = 1.0
        if sample_RD is not None:
            sample = torch.from_numpy(np.asarray(sample_RD[:SCALE_ROWS], dtype=np.float32))
            scale = encoder_scale(sample.to(device), params["W_dec"], params["b_dec"], plan.k)
        params["W_enc"] = params["W_dec"] * scale
    return State(
        params,
        {name: torch.zeros_like(value) for name, value in params.items()},
        {name: torch.zeros_like(value) for name, value in params.items()},
        torch.zeros(plan.n, dtype=torch.int64, device=device),
    )


def encoder_scale(
    x_RD: torch.Tensor, W_dec_ND: torch.Tensor, b_dec_D: torch.Tensor, k: int
) -> float:
    """The factor a of W_enc = a W_dec: 7/8 of that with the least error on `x_RD`, at most 1.

    With b_enc = 0, y = x - b_dec and y_1 its reconstruction for a = 1 (values are proportional to
    a, the choice of latents does not depend on it) the least ||x - x_hat||^2 is at sum <y, y_1> /
    sum ||y_1||^2. Random decoder rows overlap, so with a = 1 (arXiv 2406.04093) k of them
    overshoot, and many steps go by before the encoder has shrunk: on mixed4c the held-out FVU after
    60 steps of 4,096 rows falls from 0.292 to 0.261 with the least error's a. Smaller a learn
    faster still but leave more latents dead; 7/8 is a compromise of ours. Without any
    reconstruction a is 1.
    """
    product, square = 0.0, 0.0
    rows = max(1, SCALE_BYTES // (4 * W_dec_ND.shape[0]))
    for y_RD in (x_RD - b_dec_D).split(rows):  # type: ignore[no-untyped-call]
        values_RK, indices_RK = (y_RD @ W_dec_ND.T).topk(k, 1)
        y1_RD = torch.zeros_like(y_RD)
        for slot in range(k):
            y1_RD += values_RK[:, slot : slot + 1].relu() * W_dec_ND[indices_RK[:, slot]]
        product += float((y_RD.double() * y1_RD.double()).sum())
        square += float(y1_RD.double().square().sum())
    # Rounded: the last bits of these sums may depend on threads.
    return min(1.0, round(SHRINK * product / square, 4)) if product > 0 else 1.0


def geometric_median(rows_RD: Array) -> Array:
    """The point with the least sum of distances to the rows -> float64 [D].

    Weiszfeld's iteration from the mean, distances bounded away from 0 so that a row may be hit.
    """
    rows_RD = np.asarray(rows_RD, dtype=np.float64)
    centre_D: Array = rows_RD.mean(axis=0)
    for _ in range(MEDIAN_STEPS):
        distances_R = np.linalg.norm(rows_RD - centre_D, axis=1)
        weights_R = 1 / np.maximum(distances_R, 1e-12)
        moved_D = weights_R @ rows_RD / weights_R.sum()
        change = np.linalg.norm(moved_D - centre_D)
        centre_D = moved_D
        if change <= MEDIAN_TOLERANCE * np.linalg.norm(centre_D):
            break
    return centre_D
