"""The optimiser step on compiled kernels, CPU or Triton: no gradient matrix is ever written.

The same loss and the same update as `isae.train.step`, from sparse codes straight to new
parameters (`isae.kernels.latent_update`). Pieces of a batch are one batch here: a step holds its
rows as pieces, as one, centred, and as residuals (16 B D bytes; 10 where they come as one piece of
float16), and its codes (24 B K). With precision bfloat16 the products and gathers read copies of
W_enc and W_dec in bfloat16, which every update writes anew from the float32 masters, and gradients
are summed of rows and residuals in bfloat16; on the CPU what those are rounded from is what is
encoded and compared, and AuxK is computed in float32, of those residuals; where the 8-bit filter
cannot run, every step makes a float32 copy of W_enc (4 N D bytes).

Shapes: B rows, D channels, N latents, K active latents, Q dead latents.
"""

from __future__ import annotations

import torch

from isae.errors import KernelError
from isae.kernels import (
    AuxGradients,
    Parameter,
    adam_update,
    column_sums,
    decode_residual,
    group_by_latent,
    latent_update,
)
from isae.kernels.checks import check_finite
from isae.kernels.cpu.centre import centre_rows
from isae.kernels.sparse_decode import Residual
from isae.kernels.topk_encode import encode
from isae.train.auxk import auxk_gradients
from isae.train.parameters import State
from isae.train.plan import Plan
from isae.train.step import Stepper, StepResult, row_weights


def make_stepper(plan: Plan, state: State, scale: float = 1.0) -> Stepper | FusedStepper:
    """What runs the steps of a plan; scale: of the rows that `takes_halves` is about."""
    return Stepper(plan, state) if plan.kernel == "reference" else FusedStepper(plan, state, scale)


class FusedStepper:
    """Runs optimiser steps on a state; keeps the low-precision copies between them.

    takes_halves: pieces may be contiguous float16 rows as they are stored, which are multiplied by
    `scale` on the way: one pass over them less than making float32 of them before.
    """

    def __init__(self, plan: Plan, state: State, scale: float = 1.0) -> None:
        self.plan, self.state, self.scale = plan, state, scale
        single = state.params["W_dec"].dtype == torch.float32
        self.takes_halves = plan.kernel == "cpu" and not plan.relative_loss and single
        self.dtype = state.params["W_dec"].dtype
        if plan.precision == "bfloat16":
            self.dtype = torch.bfloat16
        self.low: dict[str, torch.Tensor] = {}
        for name in ("W_enc", "W_dec"):
            if self.dtype == torch.bfloat16 and name in state.params:
                self.low[name] = state.params[name].to(self.dtype)

    def step(self, pieces: list[torch.Tensor], lr: float) -> StepResult:
        """One update from the pieces of a batch, [B, D] each: scaled float32, or see above."""
        state, plan = self.state, self.plan
        x_BD = self._joined(pieces)
        rows = x_BD.shape[0]
        W_enc_ND, W_dec_ND = self._matrix("W_enc"), self._matrix("W_dec")
        b_enc_N, b_dec_D = state.params["b_enc"], state.params["b_dec"]
        dead_N = state.dead_N(plan.dead_rows)
        # Where AuxK wants them, the dead latents' number must be known here: the device is waited
        # for at the start of a step, when it is idle anyway.
        dead_Q = dead_N.nonzero()[:, 0] if plan.k_aux else None
        centred_BD, seen_BD, sums_D, sumsq_D = self._centred(x_BD, b_dec_D)
        values_BK, indices_BK = encode(centred_BD, W_enc_ND, b_enc_N, plan.k, plan.kernel)
        bias_D, target_BD = b_dec_D, x_BD
        if plan.kernel == "cpu":
            # Both without b_dec, so that x itself is not needed in float32.
            bias_D, target_BD = torch.zeros_like(b_dec_D), centred_BD
        weight_B = row_weights(plan, x_BD if plan.relative_loss else target_BD)
        operands = (values_BK, indices_BK, W_dec_ND, bias_D, target_BD, weight_B)
        residual = decode_residual(
            *operands, kernel=plan.kernel, trusted=True, residual_dtype=self.dtype
        )
        squares = residual.squares_B.double().sum()
        if plan.kernel == "cpu" and not bool(squares.isfinite()):
            check_finite("pre-activations", values_BK)
            check_finite("x_hat - x", residual.r_BD)
        aux, aux_sum = None, torch.zeros((), dtype=torch.float64, device=x_BD.device)
        if dead_Q is not None and dead_Q.numel():
            r_BD = residual.r_BD
            if plan.kernel == "cpu":
                W_enc_ND, W_dec_ND = self._master("W_enc"), self._master("W_dec")
                r_BD = r_BD.to(W_dec_ND.dtype)
            encoder = (W_enc_ND, b_enc_N)
            aux, aux_sum = auxk_gradients(plan, encoder, W_dec_ND, centred_BD, r_BD, dead_Q)
        variance = (sumsq_D - sums_D.square() / rows).sum().clamp_min(1e-30)
        denominator = torch.full_like(variance, rows) if plan.relative_loss else variance
        state.step += 1
        state.rows += rows
        codes = (values_BK, indices_BK, residual.g_values_BK)
        active = self._update(codes, seen_BD, residual, aux, lr, 2 / denominator) / rows
        weighted = (residual.squares_B.double() * weight_B).sum()
        loss = (weighted + plan.aux_coefficient * aux_sum) / denominator
        measured = (loss, squares / variance, active, dead_N.sum())
        # One more wait, after everything was handed to the device.
        loss_, fvu, l0, dead = torch.stack([one.double() for one in measured]).tolist()
        return StepResult(loss_, fvu, l0, int(dead))

    def _joined(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        d, found = self.plan.d, {piece.dtype for piece in pieces}
        allowed = [{self.state.params["b_dec"].dtype}]
        if self.takes_halves:
            allowed.append({torch.float16})
        if found not in allowed or any(piece.shape[1:] != (d,) for piece in pieces):
            shapes = [list(piece.shape) for piece in pieces]
            dtypes = " or ".join(str(*one) for one in allowed)
            raise KernelError(
                f"rows: expected [*, {d}] of one dtype, {dtypes}, found {shapes} of "
                f"{', '.join(sorted(map(str, found)))}"
            )
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _centred(
        self, x_BD: torch.Tensor, b_dec_D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(x - b_dec to be encoded, the same of which gradients are made, sums of x, of x^2)."""
        if self.plan.kernel != "cpu":
            sums_D, sumsq_D = column_sums(x_BD, kernel=self.plan.kernel)
            centred_BD = (x_BD - b_dec_D).to(self.dtype)
            return centred_BD, centred_BD, sums_D, sumsq_D
        low = self.dtype == torch.bfloat16
        centred = centre_rows(x_BD, b_dec_D, self.scale, low)
        if not bool(centred.sumsq_D.isfinite().all()):
            # On a device nobody waits for this: there the loss tells, after the update.
            check_finite("x", x_BD)
        seen_BD = centred.low_BD if low else centred.rows_BD
        return centred.rows_BD, seen_BD, centred.sums_D, centred.sumsq_D

    def _matrix(self, name: str) -> torch.Tensor:
        matrices = self.low or self.state.params
        return matrices.get(name, matrices["W_dec"])

    def _master(self, name: str) -> torch.Tensor:
        return self.state.params.get(name, self.state.params["W_dec"])

    def _parameter(self, name: str) -> Parameter:
        state = self.state
        low = self.low.get(name)
        return Parameter(state.params[name], state.first[name], state.second[name], low)

    def _update(
        self,
        codes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        seen_BD: torch.Tensor,
        residual: Residual,
        aux: AuxGradients | None,
        lr: float,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        """Update everything -> how many values are active."""
        state, plan = self.state, self.plan
        values_BK, indices_BK, g_values_BK = codes
        groups = group_by_latent(values_BK, indices_BK, plan.n, kernel=plan.kernel, trusted=True)
        through_D = latent_update(
            groups,
            values_BK,
            g_values_BK,
            seen_BD,
            residual.r_BD,
            None if plan.tied else self._parameter("W_enc"),
            self._parameter("W_dec"),
            self._parameter("b_enc"),
            lr=lr,
            step=state.step,
            grad_scale=scale,
            unit=plan.unit_norm,
            clip=plan.clip,
            aux=aux,
            kernel=plan.kernel,
        )
        # The encoder sees x - b_dec, so b_dec also gets minus what reaches the encoder's input.
        gradient_D = (residual.sums_D - through_D) * scale
        b_dec = self._parameter("b_dec")
        adam_update(
            b_dec.value,
            gradient_D.to(b_dec.value.dtype),
            b_dec.first,
            b_dec.second,
            lr=lr,
            step=state.step,
            kernel=plan.kernel,
        )
        state.last_fired_N[:] = torch.where(groups.counts_N > 0, state.rows, state.last_fired_N)
        return groups.counts_N.sum()
