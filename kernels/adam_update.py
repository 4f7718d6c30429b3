"""One pass over a parameter matrix: project, Adam, renormalise.

Per row n, with g = grad_scale * grad[n]:
    project:      g <- g - <g, w> w / <w, w>          (no change along the row)
    Adam:         m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
                  w <- w - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
    renormalise:  w <- w / ||w||
Kingma and Ba 2015 (Adam); arXiv 2406.04093 (projection and unit-norm decoder rows). Dense: rows
with a zero gradient still decay their moments and move.

Shapes: N latents (rows), D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import SUMS, compiled, prange
from isae.config import check
from isae.errors import KernelError
from isae.kernels.checks import check_tensor
from isae.kernels.dispatch import choose_kernel

Array = npt.NDArray[Any]
TINY = 1e-30
"""Moments below this become 0: they are far below eps, and as denormal numbers they are slow."""


SMALL = 65536
"""Numbers that one thread updates alone."""


@dataclass(frozen=True)
class Adam:
    """Adam's constants.

    beta1, beta2: decay of the first and second moment. eps: added to the root of the second.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check(0 <= self.beta1 < 1, "0 <= beta1 < 1", self.beta1)
        check(0 <= self.beta2 < 1, "0 <= beta2 < 1", self.beta2)
        check(self.eps > 0, "eps > 0", self.eps)


def adam_update(
    param: torch.Tensor,
    grad: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    *,
    lr: float,
    step: int,
    grad_scale: float = 1.0,
    project: bool = False,
    renormalise: bool = False,
    adam: Adam = Adam(),
    kernel: str = "auto",
) -> None:
    """Update `param` [N, D] or [D] and its moments `m`, `v` in place; `grad` is left as it is.

    `step` counts from 1. `grad_scale` multiplies the gradient. `project` and `renormalise` act on
    rows (of length D). float32 or float64, contiguous.
    Raises KernelError for shapes, dtypes, devices that differ, strided tensors, and step < 1.
    """
    chosen = choose_kernel(kernel, param.device)
    check_tensor("param", param, (None,) * param.dim(), kernel=chosen)
    if step < 1 or param.dim() not in (1, 2):
        raise KernelError(
            f"expected step >= 1 and a vector or matrix, found {step} and {list(param.shape)}"
        )
    for name, tensor in (("grad", grad), ("m", m), ("v", v)):
        check_tensor(name, tensor, tuple(param.shape), like=param, kernel=chosen)
    for name, tensor in (("param", param), ("grad", grad), ("m", m), ("v", v)):
        if not tensor.is_contiguous():
            raise KernelError(f"{name}: expected a contiguous tensor, found a strided one")
    size = lr / (1 - adam.beta1**step)
    root = 1 / (1 - adam.beta2**step) ** 0.5
    numbers = np.array([grad_scale, size, root, adam.beta1, adam.beta2, adam.eps])
    flat = [t.detach().view(-1, t.shape[-1]) for t in (param, grad, m, v)]
    if chosen == "triton":
        from isae.kernels.triton.adam_update import adam_update_triton

        on_device = torch.tensor(numbers, dtype=torch.float32).to(param.device, non_blocking=True)
        adam_update_triton(flat, on_device, project, renormalise)
        return
    if chosen == "reference":
        _update_reference(flat, numbers, project, renormalise)
        return
    w_ND, g_ND, m_ND, v_ND = (tensor.numpy() for tensor in flat)
    # Waking threads takes longer than a small update does.
    update = _update_rows if w_ND.size > SMALL else _update_few_rows
    update(w_ND, g_ND, m_ND, v_ND, numbers.astype(w_ND.dtype), project, renormalise)


def _update_reference(
    tensors: list[torch.Tensor], numbers: Array, project: bool, renormalise: bool
) -> None:
    w_ND, grad_ND, m_ND, v_ND = tensors
    scale, size, root, beta1, beta2, eps = numbers.tolist()
    g_ND = grad_ND * scale
    if project:
        along_N1 = (g_ND * w_ND).sum(1, keepdim=True) / w_ND.square().sum(1, keepdim=True)
        g_ND = g_ND - torch.nan_to_num(along_N1) * w_ND
    m_ND.mul_(beta1).add_(g_ND, alpha=1 - beta1)
    v_ND.mul_(beta2).addcmul_(g_ND, g_ND, value=1 - beta2)
    w_ND.sub_(size * m_ND / (v_ND.sqrt() * root + eps))
    if renormalise:
        norm_N1 = w_ND.norm(dim=1, keepdim=True)
        w_ND.div_(torch.where(norm_N1 > 0, norm_N1, 1.0))


@compiled(fastmath=SUMS)
def products(a_D: Array, b_D: Array) -> float:
    """<a, b>."""
    total = a_D.dtype.type(0)
    for c in range(a_D.shape[0]):
        total += a_D[c] * b_D[c]
    return total  # type: ignore[no-any-return]


@compiled()
def adam_row(
    w_D: Array,
    g_D: Array,
    m_D: Array,
    v_D: Array,
    along: float,
    shorter: float,
    numbers: Array,
    tiny: float,
) -> None:
    """Adam on a row with the gradient shorter * (scale g - along w)."""
    scale, size, root = numbers[0], numbers[1], numbers[2]
    beta1, beta2, eps = numbers[3], numbers[4], numbers[5]
    one = w_D.dtype.type(1)
    zero = w_D.dtype.type(0)
    for c in range(w_D.shape[0]):
        g = shorter * (scale * g_D[c] - along * w_D[c])
        m = beta1 * m_D[c] + (one - beta1) * g
        v = beta2 * v_D[c] + (one - beta2) * g * g
        m = m if abs(m) > tiny else zero
        v = v if v > tiny else zero
        m_D[c], v_D[c] = m, v
        w_D[c] -= size * m / (np.sqrt(v) * root + eps)


def _rows_loop(
    w_ND: Array,
    g_ND: Array,
    m_ND: Array,
    v_ND: Array,
    numbers: Array,
    project: bool,
    renormalise: bool,
) -> None:
    zero, one = w_ND.dtype.type(0), w_ND.dtype.type(1)
    tiny = w_ND.dtype.type(TINY)
    for r in prange(w_ND.shape[0]):
        w_D = w_ND[r]
        along = zero
        if project:
            square = products(w_D, w_D)
            if square > 0:
                along = numbers[0] * products(g_ND[r], w_D) / square
        adam_row(w_D, g_ND[r], m_ND[r], v_ND[r], along, one, numbers, tiny)
        if renormalise:
            square = products(w_D, w_D)
            if square > 0:
                factor = one / np.sqrt(square)
                for c in range(w_D.shape[0]):
                    w_D[c] *= factor


_update_rows, _update_few_rows = compiled(parallel=True)(_rows_loop), compiled()(_rows_loop)
