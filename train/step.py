"""One optimiser step by its plain dense definition: autograd piece by piece, then Adam.

Loss of a batch (recipe topk; FVU of the batch plus AuxK of arXiv 2406.04093):

    L = (sum ||x - x_hat||^2 + c sum ||e - e_hat||^2) / sum ||x - mean x||^2

with e = x - x_hat detached and e_hat = the reconstruction, without b_dec, of e by the k_aux dead
latents with the largest pre-activations (through ReLU). Recipe ksae (arXiv 2504.11489): the mean
over rows of ||x - x_hat||^2 / ||x||^2 (rows of zeros count 0).

Pieces add up half the gradient of the sum in the numerator; the denominator is known after the
last piece and enters as the gradient's scale. So a batch of pieces is the batch as a whole.

Shapes: B rows of a piece, D channels, N latents, K active latents, Q dead latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from isae.kernels import Parameter, column_sums
from isae.kernels.latent_update import Rates, update_reference
from isae.kernels.topk_encode import topk_reference
from isae.train.parameters import State
from isae.train.plan import Plan

Grads = dict[str, torch.Tensor]


@dataclass
class BatchSums:
    """Sums over the pieces of a batch, float64."""

    rows: int
    squares: float
    """sum ||x - x_hat||^2"""
    weighted: float
    """sum over rows of weight ||x - x_hat||^2; the weight is 1, or 1/||x||^2 for ksae"""
    aux: float
    """sum ||e - e_hat||^2"""
    active: int
    """Values > 0."""
    sums_D: torch.Tensor
    sumsq_D: torch.Tensor
    fired_N: torch.Tensor
    """Which latents fired."""

    def add(self, other: BatchSums) -> None:
        """Count another piece."""
        self.rows += other.rows
        self.squares += other.squares
        self.weighted += other.weighted
        self.aux += other.aux
        self.active += other.active
        self.sums_D = self.sums_D + other.sums_D
        self.sumsq_D = self.sumsq_D + other.sumsq_D
        self.fired_N = self.fired_N | other.fired_N

    @property
    def variance(self) -> float:
        """Sum ||x - mean||^2 over the batch."""
        return float((self.sumsq_D - self.sums_D.square() / self.rows).sum())


@dataclass(frozen=True)
class StepResult:
    """What one step measured, before its update."""

    loss: float
    fvu: float
    l0: float
    dead: int


class Stepper:
    """Runs optimiser steps on a state; keeps the gradient buffers between them."""

    takes_halves = False
    scale = 1.0

    def __init__(self, plan: Plan, state: State) -> None:
        self.plan, self.state = plan, state
        self.grads = {name: torch.zeros_like(value) for name, value in state.params.items()}

    def step(self, pieces: list[torch.Tensor], lr: float) -> StepResult:
        """One update from the pieces of a batch (scaled float32 [B, D] each)."""
        state, plan = self.state, self.plan
        dead_N = state.dead_N(plan.dead_rows)
        dead_Q = dead_N.nonzero()[:, 0]
        total: BatchSums | None = None
        for grad in self.grads.values():
            grad.zero_()
        for x_BD in pieces:
            sums = reference_piece(plan, state, x_BD, dead_Q, self.grads)
            if total is None:
                total = sums
            else:
                total.add(sums)
        assert total is not None
        denominator = float(total.rows) if plan.relative_loss else max(total.variance, 1e-30)
        self._update(lr, 2.0 / denominator)
        state.rows += total.rows
        state.last_fired_N[total.fired_N] = state.rows
        loss = (total.weighted + plan.aux_coefficient * total.aux) / denominator
        fvu = total.squares / max(total.variance, 1e-30)
        return StepResult(loss, fvu, total.active / total.rows, int(dead_Q.numel()))

    def _update(self, lr: float, scale: float) -> None:
        state, plan = self.state, self.plan
        state.step += 1
        for name, param in state.params.items():
            on_sphere = plan.unit_norm and name == "W_dec"
            clip = plan.clip if param.dim() == 2 else 0.0
            parameter = Parameter(param, state.first[name], state.second[name])
            rates = Rates(scale, clip, lr, state.step)
            update_reference(parameter, self.grads[name], on_sphere, rates)


def row_weights(plan: Plan, x_BD: torch.Tensor) -> torch.Tensor:
    """The weight of each row's squared error in the loss, [B]."""
    if not plan.relative_loss:
        return x_BD.new_ones(x_BD.shape[0])
    energy_B = x_BD.square().sum(1)
    return torch.where(energy_B > 0, 1 / energy_B, 0.0)


def reference_piece(
    plan: Plan, state: State, x_BD: torch.Tensor, dead_Q: torch.Tensor, grads: Grads
) -> BatchSums:
    """The plain dense definition, differentiated by autograd."""
    leaves = {name: value.detach().requires_grad_() for name, value in state.params.items()}
    W_dec_ND, b_dec_D = leaves["W_dec"], leaves["b_dec"]
    W_enc_ND = leaves.get("W_enc", W_dec_ND)
    pre_BN = (x_BD - b_dec_D) @ W_enc_ND.T + leaves["b_enc"]
    _, indices_BK = topk_reference(pre_BN.detach(), plan.k)
    z_BN = torch.zeros_like(pre_BN).scatter(1, indices_BK, pre_BN.gather(1, indices_BK).relu())
    r_BD = z_BN @ W_dec_ND + b_dec_D - x_BD
    squares_B = r_BD.double().square().sum(1)
    weighted = (row_weights(plan, x_BD) * squares_B).sum()
    aux = squares_B.new_zeros(())
    if plan.k_aux and dead_Q.numel():
        pre_BQ = pre_BN[:, dead_Q]
        _, top_BK = topk_reference(pre_BQ.detach(), min(plan.k_aux, int(dead_Q.numel())))
        z_BQ = torch.zeros_like(pre_BQ).scatter(1, top_BK, pre_BQ.gather(1, top_BK).relu())
        aux = (z_BQ @ W_dec_ND[dead_Q] + r_BD.detach()).double().square().sum()
    (0.5 * (weighted + plan.aux_coefficient * aux)).backward()  # type: ignore[no-untyped-call]
    for name, leaf in leaves.items():
        if leaf.grad is not None:
            grads[name] += leaf.grad
    active_BN = z_BN.detach() > 0
    return BatchSums(
        x_BD.shape[0],
        float(squares_B.detach().sum()),
        float(weighted.detach()),
        float(aux.detach()),
        int(active_BN.sum()),
        *column_sums(x_BD, kernel=plan.kernel),
        active_BN.any(0),
    )
