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
    """Initial parameters: random unit decoder rows, W_enc = W_dec, b_enc = 0.

    b_dec is the geometric median of `sample_RD` (scaled rows), or 0 without a sample.
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
        params["W_enc"] = params["W_dec"].clone()
    return State(
        params,
        {name: torch.zeros_like(value) for name, value in params.items()},
        {name: torch.zeros_like(value) for name, value in params.items()},
        torch.zeros(plan.n, dtype=torch.int64, device=device),
    )


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
