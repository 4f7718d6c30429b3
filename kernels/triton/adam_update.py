"""Adam on Triton: project, update, renormalise (see isae.kernels.adam_update).

One program a row; where rows do not matter, one for every `FLAT` numbers, however they are shaped.

Shapes: N latents (rows), D channels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from isae.kernels.triton.settings import in_units, power_of_two

FLAT = 1024
"""Numbers of one program where rows do not matter."""


@triton.jit
def _adam(w, g, m, v, numbers_ptr):
    """The updated w, m, v. numbers: scale, step size, 1/root of bias, beta1, beta2, eps."""
    size = tl.load(numbers_ptr + 1)
    root = tl.load(numbers_ptr + 2)
    beta1 = tl.load(numbers_ptr + 3)
    beta2 = tl.load(numbers_ptr + 4)
    eps = tl.load(numbers_ptr + 5)
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g * g
    return w - size * m / (tl.sqrt(v) * root + eps), m, v


@triton.jit
def _without_part_along(g, w):
    """G minus its part parallel to w."""
    square = tl.sum(w * w, axis=0)
    along = tl.sum(g * w, axis=0) / tl.where(square > 0, square, 1.0)
    return g - along * w


@triton.jit
def _unit(w):
    """W scaled to length 1; 0 stays 0."""
    square = tl.sum(w * w, axis=0)
    return w / tl.sqrt(tl.where(square > 0, square, 1.0))


@triton.jit
def _adam_update_kernel(
    w_ptr,  # in and out: float32 [N, D]
    g_ptr,  # [N, D]
    m_ptr,  # in and out: float32 [N, D]
    v_ptr,  # in and out: float32 [N, D]
    numbers_ptr,  # float32 [6]
    total,
    units_d,
    UNIT: tl.constexpr,
    PROJECT: tl.constexpr,
    RENORMALISE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = units_d * UNIT
    channel = tl.arange(0, BLOCK_D)
    place = tl.program_id(0).to(tl.int64) * d + channel
    inside = (channel < d) & (place < total)
    w = tl.load(w_ptr + place, mask=inside, other=0.0)
    g = tl.load(g_ptr + place, mask=inside, other=0.0).to(tl.float32) * tl.load(numbers_ptr)
    if PROJECT:
        g = _without_part_along(g, w)
    m = tl.load(m_ptr + place, mask=inside, other=0.0)
    v = tl.load(v_ptr + place, mask=inside, other=0.0)
    w, m, v = _adam(w, g, m, v, numbers_ptr)
    if RENORMALISE:
        w = _unit(w)
    tl.store(w_ptr + place, w, mask=inside)
    tl.store(m_ptr + place, m, mask=inside)
    tl.store(v_ptr + place, v, mask=inside)


def row_blocks(d: int) -> dict[str, Any]:
    """BLOCK_D for whole rows of d channels, d in units, and warps."""
    block_d = power_of_two(d, 16)
    warps = max(1, min(8, block_d // 256))
    return {**in_units(d), "BLOCK_D": block_d, "num_warps": warps}


def adam_update_triton(
    tensors: list[torch.Tensor], numbers: torch.Tensor, project: bool, renormalise: bool
) -> None:
    """Update param, m, v of `tensors` = [param, grad, m, v], all contiguous [N, D] (no checks)."""
    w_ND = tensors[0]
    total = w_ND.numel()
    d = w_ND.shape[1] if project or renormalise else FLAT
    if total:
        _adam_update_kernel[(triton.cdiv(total, d),)](
            *tensors,
            numbers,
            total,
            PROJECT=project,
            RENORMALISE=renormalise,
            **row_blocks(d),
        )
