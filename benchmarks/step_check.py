"""One step of a trainer against the plain reference from the same state: no speed without it.

Where the state is small, both take one step from copies of it, on rows of the run itself, with
some latents declared dead so that AuxK takes part. Compared are loss, FVU, the first moments (after
the first step a tenth of the gradients) and how far every parameter moved. A large state (workload
M) is not copied: the FVU that a step measures is compared with that of a dense forward pass.

Shapes: B rows, D channels, N latents, K active latents.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import torch

from isae.kernels.topk_encode import topk_reference
from isae.train.fused import FusedStepper, make_stepper
from isae.train.parameters import State
from isae.train.plan import Plan
from isae.train.step import Stepper, StepResult

ROWS = 256
CANDIDATES = 1024
"""Rows of which the quarter with the clearest choice of latents is taken."""
SMALL_STATE = 4 << 30
"""Both matrices and their first moments (16 N D bytes) of a state that is copied, at most."""
DENSE_BYTES = 256 << 20
"""Pre-activations of the dense pass that are held at once."""
MEASURED = {"float32": 1e-3, "bfloat16": 2e-2}
"""Loss and FVU, relative: sums over all rows, in which single values' rounding averages out."""
MOMENTS = {"float32": 1e-3, "bfloat16": 5e-2}
"""First moments, error norm over norm: after the first step a tenth of the gradients, and linear in
them, so they show what the step summed before Adam makes signs of it. Float32 sums are good to
about 1e-6; what is left of the 1e-3 is for a value that is above zero in one of the two only.
Operands in bfloat16 are off by 2^-9 each, and a gradient is a sum of products of several of them:
half a percent where the same latents are chosen (`_clear_rows`), a tenth where they are not."""
CHANGES = {"float32": 5e-2, "bfloat16": 0.5}
"""How parameters moved, error norm over norm: moments alone would not show a parameter that was not
written, which is off by 1. Adam's first step is lr times the gradient's sign, so a gradient that
rounding carries over zero is off by its double: a share q of those makes 2 sqrt(q), which for a
short vector in bfloat16 comes to a third."""


@dataclasses.dataclass(frozen=True)
class StepCheck:
    """What was compared: the relative error of each quantity and how much of it is allowed."""

    rows: int
    errors: dict[str, tuple[float, float]]
    crash: str | None = None

    @property
    def fault(self) -> str | None:
        """What was expected and what was found instead; None: the check is passed. NaN is not."""
        if self.crash is not None:
            return f"expected a step of {self.rows} rows, found {self.crash}"
        bad = [
            f"{name}: expected the reference's within {allowed:.0e}, found {error:.1e}"
            for name, (error, allowed) in self.errors.items()
            if not error <= allowed
        ]
        return "; ".join(bad) or None

    def json(self) -> dict[str, Any]:
        """As JSON, an error that is not a finite number as None."""
        errors = {
            name: {"error": error if math.isfinite(error) else None, "allowed": allowed}
            for name, (error, allowed) in self.errors.items()
        }
        return {"rows": self.rows, "passed": self.fault is None, "errors": errors}


def check_step(
    plan: Plan, state: State, stepper: Stepper | FusedStepper, x_BD: torch.Tensor, lr: float
) -> StepCheck:
    """Compare a step on some of the rows `x_BD` with the reference; a crash is a failure.

    `state` must be fresh. It is left as it is where it is small; a large one has taken the step.
    """
    small = 16 * plan.n * plan.d < SMALL_STATE
    rows = min(ROWS, x_BD.shape[0])
    try:
        x_BD = _clear_rows(state, x_BD[:CANDIDATES], plan.k) if small else x_BD[:ROWS]
        rows = x_BD.shape[0]
        errors = (
            _against_reference(plan, state, x_BD, lr)
            if small
            else _against_forward(plan, state, stepper, x_BD, lr)
        )
    except Exception as error:
        return StepCheck(rows, {}, f"{type(error).__name__}: {error}")
    return StepCheck(rows, errors)


def _against_reference(
    plan: Plan, state: State, x_BD: torch.Tensor, lr: float
) -> dict[str, tuple[float, float]]:
    plain = dataclasses.replace(plan, kernel="reference", precision="float32")
    ours, theirs = (_with_dead_latents(plan, state) for _ in range(2))
    found = make_stepper(plan, ours).step([x_BD], lr)
    wanted = Stepper(plain, theirs).step([x_BD], lr)
    errors = _measured(plan, found, wanted)
    for name, start in state.params.items():
        moments = (ours.first[name], theirs.first[name])
        errors[f"first moment of {name}"] = (_error(*moments), MOMENTS[plan.precision])
        changes = (ours.params[name] - start, theirs.params[name] - start)
        errors[f"change of {name}"] = (_error(*changes), CHANGES[plan.precision])
    return errors


def _against_forward(
    plan: Plan, state: State, stepper: Stepper | FusedStepper, x_BD: torch.Tensor, lr: float
) -> dict[str, tuple[float, float]]:
    wanted = _dense_fvu(state, x_BD, plan.k)
    found = stepper.step([x_BD], lr).fvu
    return {"fvu": (abs(found / wanted - 1), MEASURED[plan.precision])}


def _measured(plan: Plan, found: StepResult, wanted: StepResult) -> dict[str, tuple[float, float]]:
    pairs = {"loss": (found.loss, wanted.loss), "fvu": (found.fvu, wanted.fvu)}
    allowed = MEASURED[plan.precision]
    return {name: (abs(ours / theirs - 1), allowed) for name, (ours, theirs) in pairs.items()}


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    norm = float(wanted.double().norm()) or 1.0
    return float((found.double() - wanted.double()).norm()) / norm


def _with_dead_latents(plan: Plan, state: State) -> State:
    """A copy in which some latents are dead, no more than AuxK takes: it has nothing to choose."""
    changed = copy.deepcopy(state)
    changed.rows = plan.dead_rows
    changed.last_fired_N[:] = plan.dead_rows
    count = min(plan.k_aux, plan.n // 4)
    if count:
        changed.last_fired_N[:: plan.n // count][:count] = 0
    return changed


def _clear_rows(state: State, x_BD: torch.Tensor, k: int) -> torch.Tensor:
    """The quarter of the rows (at most ROWS) whose k-th latent is furthest above the next one.

    Rounding may swap near-equal latents, which is no fault, but gives the gradients of two latents
    to one another: far more than the rounding itself.
    """
    wanted = max(1, min(ROWS, x_BD.shape[0] // 4))
    if k == state.W_enc_ND.shape[0]:
        return x_BD[:wanted]
    gaps = []
    for part_BD in x_BD.split(ROWS):  # type: ignore[no-untyped-call]
        top_BK = _pre(state, part_BD).topk(k + 1).values
        gaps.append((top_BK[:, k - 1] - top_BK[:, k]) / top_BK[:, 0].abs().clamp_min(1e-30))
    return x_BD[torch.cat(gaps).topk(wanted).indices.sort().values]


def _dense_fvu(state: State, x_BD: torch.Tensor, k: int) -> float:
    """FVU of the rows by a dense encoder and a stable sort, some rows at a time."""
    W_dec_ND, b_dec_D = state.params["W_dec"], state.params["b_dec"]
    squares = 0.0
    for part_BD in x_BD.split(max(1, DENSE_BYTES // (4 * W_dec_ND.shape[0]))):  # type: ignore[no-untyped-call]
        values_BK, indices_BK = topk_reference(_pre(state, part_BD), k)
        x_hat_BD = b_dec_D + (values_BK[:, :, None] * W_dec_ND[indices_BK]).sum(1)
        squares += float((x_hat_BD - part_BD).double().square().sum())
    centred_BD = x_BD.double() - x_BD.double().mean(0)
    return squares / max(float(centred_BD.square().sum()), 1e-30)


def _pre(state: State, x_BD: torch.Tensor) -> torch.Tensor:
    """Dense pre-activations [B, N]."""
    centred_BD = x_BD - state.params["b_dec"]
    return torch.addmm(state.params["b_enc"], centred_BD, state.W_enc_ND.T)
