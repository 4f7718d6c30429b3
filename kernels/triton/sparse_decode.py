"""Sparse decoding on Triton: one program a row gathers its k decoder rows.

`_decode_residual_kernel` keeps the residual in registers and gathers the same rows again, from the
cache, for the value gradients: the residual is never read back.

Shapes: B rows, D channels, N latents, K active latents.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from isae.kernels.triton.settings import in_units, power_of_two

GATHER_ITEMS = 4096
"""Numbers that one program gathers at once."""


@triton.jit
def _decode_row(
    values_ptr, indices_ptr, w_ptr, k, d, channel, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr
):
    """sum_j values[j] W[indices[j]] over the k slots of one row, float32 [BLOCK_D]."""
    acc = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, k, BLOCK_K):
        slot = start + tl.arange(0, BLOCK_K)
        value = tl.load(values_ptr + slot, mask=slot < k, other=0.0).to(tl.float32)
        latent = tl.load(indices_ptr + slot, mask=slot < k, other=0)
        inside = (slot[:, None] < k) & (channel[None, :] < d)
        w = tl.load(w_ptr + latent[:, None] * d + channel[None, :], mask=inside, other=0.0)
        acc += tl.sum(value[:, None] * w.to(tl.float32), axis=0)
    return acc


@triton.jit
def _row_products(
    g,  # [BLOCK_D]
    values_ptr,
    indices_ptr,
    w_ptr,
    out_ptr,
    weight,
    k,
    d,
    channel,
    ONLY_ACTIVE: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """out[j] = weight <g, W[indices[j]]>; 0 where the value is not > 0 if ONLY_ACTIVE."""
    for start in range(0, k, BLOCK_K):
        slot = start + tl.arange(0, BLOCK_K)
        latent = tl.load(indices_ptr + slot, mask=slot < k, other=0)
        inside = (slot[:, None] < k) & (channel[None, :] < d)
        w = tl.load(w_ptr + latent[:, None] * d + channel[None, :], mask=inside, other=0.0)
        product = weight * tl.sum(g[None, :] * w.to(tl.float32), axis=1)
        if ONLY_ACTIVE:
            value = tl.load(values_ptr + slot, mask=slot < k, other=0.0)
            product = tl.where(value > 0, product, 0.0)
        tl.store(out_ptr + slot, product, mask=slot < k)


@triton.jit
def _decode_kernel(
    values_ptr,  # [B, K]
    indices_ptr,  # int64 [B, K]
    w_ptr,  # [N, D]
    b_ptr,  # [D]
    out_ptr,  # out: [B, D]
    k,
    units_d,
    UNIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = units_d * UNIT
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK_D)
    acc = _decode_row(
        values_ptr + row * k, indices_ptr + row * k, w_ptr, k, d, channel, BLOCK_K, BLOCK_D
    )
    acc += tl.load(b_ptr + channel, mask=channel < d, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * d + channel, acc, mask=channel < d)


@triton.jit
def _row_products_kernel(
    g_ptr,  # [B, D]
    indices_ptr,  # int64 [B, K]
    w_ptr,  # [N, D]
    out_ptr,  # out: [B, K]
    k,
    units_d,
    UNIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = units_d * UNIT
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK_D)
    g = tl.load(g_ptr + row * d + channel, mask=channel < d, other=0.0).to(tl.float32)
    indices_ptr += row * k
    _row_products(
        g, indices_ptr, indices_ptr, w_ptr, out_ptr + row * k, 1.0, k, d, channel, False, BLOCK_K
    )


@triton.jit
def _decode_residual_kernel(
    values_ptr,  # [B, K]
    indices_ptr,  # int64 [B, K]
    w_ptr,  # [N, D]
    b_ptr,  # [D]
    x_ptr,  # [B, D]
    weight_ptr,  # [B]
    r_ptr,  # out: [B, D]
    g_ptr,  # out: [B, K]
    squares_ptr,  # out: float32 [B]
    k,
    units_d,
    UNIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = units_d * UNIT
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK_D)
    values_ptr += row * k
    indices_ptr += row * k
    r = _decode_row(values_ptr, indices_ptr, w_ptr, k, d, channel, BLOCK_K, BLOCK_D)
    r += tl.load(b_ptr + channel, mask=channel < d, other=0.0).to(tl.float32)
    r -= tl.load(x_ptr + row * d + channel, mask=channel < d, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + row).to(tl.float32)
    tl.store(squares_ptr + row, tl.sum(r * r, axis=0))
    tl.store(r_ptr + row * d + channel, weight * r, mask=channel < d)
    _row_products(
        r, values_ptr, indices_ptr, w_ptr, g_ptr + row * k, weight, k, d, channel, True, BLOCK_K
    )


def gather_blocks(k: int, d: int) -> dict[str, int]:
    """Blocks for rows of d channels, d in units, and warps."""
    block_d = power_of_two(d, 16)
    block_k = max(1, min(power_of_two(k), GATHER_ITEMS // block_d))
    warps = max(1, min(8, block_k * block_d // 1024))
    return {
        **in_units(d), "BLOCK_K": block_k, "BLOCK_D": block_d, "num_warps": warps
    }  # fmt: skip


def decode_triton(
    values_BK: torch.Tensor, indices_BK: torch.Tensor, W_ND: torch.Tensor, b_D: torch.Tensor
) -> torch.Tensor:
    """x_hat [B, D] in the dtype of `values` (no checks, no gradients)."""
    (rows, k), d = values_BK.shape, W_ND.shape[1]
    out_BD = torch.empty(rows, d, dtype=values_BK.dtype, device=values_BK.device)
    tensors = [t.contiguous() for t in (values_BK, indices_BK, W_ND, b_D)]
    if rows:
        _decode_kernel[(rows,)](*tensors, out_BD, k, **gather_blocks(k, d))
    return out_BD


def row_products_triton(
    g_BD: torch.Tensor, indices_BK: torch.Tensor, W_ND: torch.Tensor
) -> torch.Tensor:
    """<g_b, W[indices[b, k]]>, float32 [B, K] (no checks)."""
    (rows, k), d = indices_BK.shape, W_ND.shape[1]
    out_BK = torch.empty(rows, k, dtype=torch.float32, device=g_BD.device)
    tensors = [t.contiguous() for t in (g_BD, indices_BK, W_ND)]
    if rows:
        _row_products_kernel[(rows,)](*tensors, out_BK, k, **gather_blocks(k, d))
    return out_BK


def decode_residual_triton(
    values_BK: torch.Tensor,
    indices_BK: torch.Tensor,
    W_ND: torch.Tensor,
    b_D: torch.Tensor,
    x_BD: torch.Tensor,
    weight_B: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted residual in `dtype`, value gradients and squares in float32 (no checks)."""
    (rows, k), d = values_BK.shape, W_ND.shape[1]
    r_BD = torch.empty(rows, d, dtype=dtype, device=x_BD.device)
    g_BK = torch.empty(rows, k, dtype=torch.float32, device=x_BD.device)
    squares_B = torch.empty(rows, dtype=torch.float32, device=x_BD.device)
    tensors = [t.contiguous() for t in (values_BK, indices_BK, W_ND, b_D, x_BD, weight_B)]
    if rows:
        _decode_residual_kernel[(rows,)](*tensors, r_BD, g_BK, squares_B, k, **gather_blocks(k, d))
    return r_BD, g_BK, squares_B
