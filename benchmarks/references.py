"""Checks of every operation against float64, on a few rows or latents of the measured size.

Each recomputes the definition from the very operands of the run (bfloat16 numbers are exact in
float64), so what is left is the rounding of the operation itself.

Shapes: R checked rows, L checked latents, D channels, N latents, K active latents, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from isae.benchmarks.operations import Inputs

Run = Callable[["Inputs"], Any]
ROWS = 64
LATENTS = 24
LATENT_CHUNK = 65536
FLOAT32 = 2e-6
"""Error norm of sums of at most some thousand products in float32, pairwise or in lanes: about
2^-24 times the root of the count."""
UPDATE = 5e-5
"""Of Adam's numbers: 1 - beta2 in float32 is off by up to 2^-25 of 0.001."""
BFLOAT16 = 2.0**-8
"""A result rounded to bfloat16 is off by at most 2^-9 of itself; twice that."""


@dataclass(frozen=True)
class Verdict:
    """How far off, how far off is allowed, and why it fails if it does."""

    error: float
    limit: float
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return self.reason is None and self.error <= self.limit


def compare(limit: float, *pairs: tuple[str, torch.Tensor, torch.Tensor]) -> Verdict:
    """The largest error norm of (name, found, wanted) over the norm of what was wanted."""
    worst, name = 0.0, ""
    for label, found, wanted in pairs:
        norm = float(wanted.double().norm()) or 1.0
        error = float((found.double() - wanted.double()).norm()) / norm
        if not error <= worst:
            worst, name = error, label
    reason = None if worst <= limit else f"{name}: error norm {worst:.2e}, allowed {limit:.2e}"
    return Verdict(worst, limit, reason)


def _limit(dtype: torch.dtype) -> float:
    return FLOAT32 if dtype == torch.float32 else BFLOAT16


def some(count: int, wanted: int, device: torch.device) -> torch.Tensor:
    """About `wanted` numbers of [0, count), spread evenly, first and last included."""
    return torch.linspace(0, count - 1, min(count, wanted), device=device).round().long()


def check_topk_encode(inputs: Inputs, run: Run) -> Verdict:
    """Values against the pre-activations of the chosen latents, and no better latent left out.

    Rounding may swap near-equal latents: a chosen one may be below the k-th largest by twice the
    bound of one pre-activation's error.
    """
    values_BK, indices_BK = run(inputs)
    rows_R = some(inputs.workload.rows, ROWS, values_BK.device)
    values_RK, indices_RK = values_BK[rows_R].double(), indices_BK[rows_R]
    pre_RN = pre_activations(inputs, rows_R)
    ordered_RK = indices_RK.sort(1).values
    if int((ordered_RK[:, 1:] == ordered_RK[:, :-1]).sum()):
        return Verdict(float("inf"), 0.0, "a latent was chosen twice in a row")
    if bool((values_RK[:, 1:] > values_RK[:, :-1]).any()):
        return Verdict(float("inf"), 0.0, "values do not fall")
    chosen_RK = pre_RN.gather(1, indices_RK)
    kth_R = pre_RN.topk(inputs.workload.k, dim=1).values[:, -1]
    bound_R = _product_bound(inputs, rows_R)
    missing_R = kth_R - chosen_RK.amin(1) - 2 * bound_R
    if float(missing_R.max()) > 0:
        return Verdict(float(missing_R.max()), 0.0, "a larger pre-activation was left out")
    limit = float((bound_R.max() * values_RK.numel() ** 0.5) / chosen_RK.relu().norm())
    return compare(limit, ("values", values_RK, chosen_RK.relu()))


def pre_activations(inputs: Inputs, rows_R: torch.Tensor) -> torch.Tensor:
    """Pre-activations x W^T + b of some rows, float64 [R, N]."""
    x_RD, W_ND = inputs["x_low"][rows_R].double(), inputs["W_enc_low"]
    parts = [
        x_RD @ W_ND[start : start + LATENT_CHUNK].double().T
        for start in range(0, inputs.workload.n, LATENT_CHUNK)
    ]
    return torch.cat(parts, 1) + inputs["b_enc"].double()


def _product_bound(inputs: Inputs, rows_R: torch.Tensor) -> torch.Tensor:
    # |error| <= (d u + rounding of both operands) ||x|| ||w||, u = 2^-24 for float32 sums. Tensor
    # cores may take float32 operands as tf32, of 11 bits.
    tf32 = inputs.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    relative = inputs.workload.d * 2.0**-24 + (2.0**-10 if tf32 else 0.0)
    longest = float(inputs["W_enc_low"].float().norm(dim=1).max())
    bound_R: torch.Tensor = (
        relative * inputs["x_low"][rows_R].double().norm(dim=1) * longest + 2.0**-22
    )
    return bound_R


def _decoded(inputs: Inputs, rows_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    W_RKD = inputs["W_dec_low"][inputs["indices"][rows_R]].double()
    x_hat_RD = torch.einsum("rk,rkd->rd", inputs["values"][rows_R].double(), W_RKD)
    return x_hat_RD + inputs["b_dec"].double(), W_RKD


def check_sparse_decode(inputs: Inputs, run: Run) -> Verdict:
    """The sum of the gathered rows."""
    found_BD = run(inputs)
    rows_R = some(inputs.workload.rows, ROWS, found_BD.device)
    wanted_RD, _ = _decoded(inputs, rows_R)
    return compare(_limit(found_BD.dtype), ("x_hat", found_BD[rows_R], wanted_RD))


def check_decode_residual(inputs: Inputs, run: Run) -> Verdict:
    """Residual, value gradients, squares, and the sums of the whole residual found."""
    found = run(inputs)
    rows_R = some(inputs.workload.rows, ROWS, found.r_BD.device)
    x_hat_RD, W_RKD = _decoded(inputs, rows_R)
    r_RD = x_hat_RD - inputs["x"][rows_R].double()
    g_RK = torch.einsum("rd,rkd->rk", r_RD, W_RKD) * (inputs["values"][rows_R] > 0)
    return compare(
        _limit(found.r_BD.dtype),
        ("residual", found.r_BD[rows_R], r_RD),
        ("value gradients", found.g_values_BK[rows_R], g_RK),
        ("squares", found.squares_B[rows_R], r_RD.square().sum(1)),
        ("sums", found.sums_D, found.r_BD.double().sum(0)),
    )


def check_group_by_latent(inputs: Inputs, run: Run) -> Verdict:
    """Every active pair once, under its latent, rows rising: exact."""
    found = run(inputs)
    flat_P = inputs["indices"].reshape(-1)
    active = (inputs["values"].reshape(-1) != 0).nonzero()[:, 0]
    order_P = active[torch.sort(flat_P[active], stable=True).indices]
    counts_N = torch.bincount(flat_P[active], minlength=inputs.workload.n)
    if not torch.equal(found.counts_N, counts_N) or int(found.offsets_N1[0]) != 0:
        return Verdict(float("inf"), 0.0, "offsets differ")
    wrong = int((found.pairs_P[: len(order_P)] != order_P).sum())
    return Verdict(wrong, 0.0, f"{wrong} pairs out of place" if wrong else None)


def _summed(inputs: Inputs, latents_L: torch.Tensor, coefficients: str, y: str) -> torch.Tensor:
    """Sum of coefficient y[row] over a latent's pairs, float64 [L, D]."""
    parts = []
    for latent in latents_L.tolist():
        rows, slots = (inputs["indices"] == latent).nonzero(as_tuple=True)
        factor_P = inputs[coefficients][rows, slots].double()
        parts.append(factor_P @ inputs[y][rows].double())
    return torch.stack(parts)


def check_sparse_outer(inputs: Inputs, run: Run) -> Verdict:
    """Hot latents, rare ones, and ones that never fire."""
    found_ND = run(inputs)
    latents_L = some(inputs.workload.n, LATENTS, found_ND.device)
    wanted_LD = _summed(inputs, latents_L, "values", "r_low")
    return compare(_limit(found_ND.dtype), ("sums", found_ND[latents_L], wanted_LD))


def _adam(
    w: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, unit: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kingma and Ba's update at step 10, float64 rows; on the unit sphere with `unit`."""
    from isae.benchmarks.operations import LR

    if unit:
        g = g - (g * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True) * w
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.square()
    w = w - LR * (m / (1 - 0.9**10)) / ((v / (1 - 0.999**10)).sqrt() + 1e-8)
    return (w / w.norm(dim=1, keepdim=True) if unit else w), m, v


def _before(inputs: Inputs, name: str, latents_L: torch.Tensor) -> list[torch.Tensor]:
    tensors = (inputs[name], inputs[f"{name}_first"], inputs[f"{name}_second"])
    return [tensor[latents_L].double() for tensor in tensors]


def check_adam_update(inputs: Inputs, run: Run) -> Verdict:
    """Some rows before and after."""
    latents_L = some(inputs.workload.n, LATENTS, inputs["W_dec"].device)
    w_LD, m_LD, v_LD = _before(inputs, "W_dec", latents_L)
    g_LD = inputs["W_enc"][latents_L].double()
    run(inputs)
    names = ("parameter", "first moment", "second moment")
    after = _before(inputs, "W_dec", latents_L)
    wanted = _adam(w_LD, g_LD, m_LD, v_LD, unit=True)
    return compare(UPDATE, *zip(names, after, wanted, strict=True))


def check_latent_update(inputs: Inputs, run: Run) -> Verdict:
    """Both matrices, the bias and all moments of some latents; W_enc^T g_b of the whole encoder."""
    latents_L = some(inputs.workload.n, LATENTS, inputs["W_dec"].device)
    gradients = {
        "W_enc": _summed(inputs, latents_L, "g_values", "x_low"),
        "W_dec": _summed(inputs, latents_L, "values", "r_low"),
        "b_enc": _bias_gradient(inputs)[latents_L],
    }
    before = {name: _before(inputs, name, latents_L) for name in gradients}
    through_D = _bias_gradient(inputs) @ inputs["W_enc"].double()
    pairs = [("W_enc^T g_b", run(inputs), through_D)]
    for name, gradient in gradients.items():
        w, m, v = (tensor.view(len(latents_L), -1) for tensor in before[name])
        wanted = _adam(w, gradient.view(len(latents_L), -1), m, v, unit=name == "W_dec")
        labels = (name, f"first moment of {name}", f"second moment of {name}")
        after = [tensor.view(len(latents_L), -1) for tensor in _before(inputs, name, latents_L)]
        pairs += list(zip(labels, after, wanted, strict=True))
    return compare(UPDATE, *pairs)


def _bias_gradient(inputs: Inputs) -> torch.Tensor:
    g_N = torch.zeros(inputs.workload.n, dtype=torch.float64, device=inputs["x"].device)
    return g_N.index_add_(0, inputs["indices"].reshape(-1), inputs["g_values"].double().view(-1))


def check_column_sums(inputs: Inputs, run: Run) -> Verdict:
    """All sums."""
    sums_D, squares_D = run(inputs)
    x_BD = inputs["x"].double()
    pairs = (("sums", sums_D, x_BD.sum(0)), ("squares", squares_D, x_BD.square().sum(0)))
    return compare(FLOAT32, *pairs)
