"""Weight gradients on Triton: one program a latent sums its rows; hot latents are split.

Every full stretch of `SPLIT` pairs of a latent is summed by a program of its own into a buffer;
the latent's program adds those sums in order, then its remaining pairs. No atomics, and the same
bits every time.

Shapes: B rows, D channels, N latents, K active latents, P pairs, Q stretches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from isae.kernels.triton.settings import in_units, power_of_two

SPLIT = 512
MAX_REGISTERS = 168
"""A thread; given, since the compiler by itself would rather spill than go beyond 128."""
GATHER_ITEMS = 4096
"""Numbers that one program gathers at once."""


class Stretches(NamedTuple):
    """Full stretches of `SPLIT` pairs. first_N1: how many the latents before have, int32 [N + 1];
    latent_Q: whose each stretch is, int32 [Q]; N for stretches that do not exist.
    """

    first_N1: torch.Tensor
    latent_Q: torch.Tensor


@triton.jit
def _sum_pairs(
    pairs_ptr,
    first,
    last,
    coefficients_ptr,
    y_ptr,
    k,
    d,
    channel,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum coefficient y[row] over pairs [first, last), float32 [BLOCK_D]."""
    acc = tl.zeros([BLOCK_D], tl.float32)
    for start in range(first, last, BLOCK_P):
        place = start + tl.arange(0, BLOCK_P)
        pair = tl.load(pairs_ptr + place, mask=place < last, other=0)
        factor = tl.load(coefficients_ptr + pair, mask=place < last, other=0.0).to(tl.float32)
        inside = (place[:, None] < last) & (channel[None, :] < d)
        # In 32 bits: a division of 64-bit numbers is a call.
        row = (pair.to(tl.int32) // k).to(tl.int64)
        y = tl.load(y_ptr + row[:, None] * d + channel[None, :], mask=inside, other=0.0)
        acc += tl.sum(factor[:, None] * y.to(tl.float32), axis=0)
    return acc


@triton.jit
def _sum_stretches(buffer_ptr, first, last, d, channel, BLOCK_D: tl.constexpr):
    """The sums of stretches [first, last) of one latent, in order, float32 [BLOCK_D]."""
    acc = tl.zeros([BLOCK_D], tl.float32)
    place = buffer_ptr + first.to(tl.int64) * d + channel
    for _ in range(first, last):
        acc += tl.load(place, mask=channel < d, other=0.0)
        place += d
    return acc


@triton.jit
def _stretch_kernel(
    offsets_ptr,  # int64 [N + 1]
    pairs_ptr,  # int64 [P]
    first_ptr,  # int32 [N + 1]
    latent_ptr,  # int32 [Q]
    coefficients_ptr,  # [B, K]
    y_ptr,  # [B, D]
    buffer_ptr,  # out: float32 [Q, D]
    n,
    k,
    units_d,
    UNIT: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = units_d * UNIT
    stretch = tl.program_id(0)
    latent = tl.load(latent_ptr + stretch)
    if latent < n:
        channel = tl.arange(0, BLOCK_D)
        first = tl.load(offsets_ptr + latent)
        first += (stretch - tl.load(first_ptr + latent)).to(tl.int64) * SPLIT
        acc = _sum_pairs(
            pairs_ptr,
            first,
            first + SPLIT,
            coefficients_ptr,
            y_ptr,
            k,
            d,
            channel,
            BLOCK_P,
            BLOCK_D,
        )
        place = buffer_ptr + stretch.to(tl.int64) * d + channel
        tl.store(place, acc, mask=channel < d)


@triton.jit
def _sparse_outer_kernel(
    offsets_ptr,  # int64 [N + 1]
    pairs_ptr,  # int64 [P]
    first_ptr,  # int32 [N + 1]
    coefficients_ptr,  # [B, K]
    y_ptr,  # [B, D]
    buffer_ptr,  # float32 [Q, D]
    out_ptr,  # out: [N, D]
    k,
    units_d,
    UNIT: tl.constexpr,
    SPLIT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = units_d * UNIT
    latent = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK_D)
    stretch, last_stretch = tl.load(first_ptr + latent), tl.load(first_ptr + latent + 1)
    first, last = tl.load(offsets_ptr + latent), tl.load(offsets_ptr + latent + 1)
    first += (last_stretch - stretch).to(tl.int64) * SPLIT
    acc = _sum_stretches(buffer_ptr, stretch, last_stretch, d, channel, BLOCK_D)
    acc += _sum_pairs(
        pairs_ptr, first, last, coefficients_ptr, y_ptr, k, d, channel, BLOCK_P, BLOCK_D
    )
    place = out_ptr + latent * d + channel
    if ACCUMULATE:
        acc += tl.load(place, mask=channel < d, other=0.0).to(tl.float32)
    tl.store(place, acc, mask=channel < d)


def stretches_of(offsets_N1: torch.Tensor, pairs: int) -> Stretches:
    """The stretches of sorted pairs; how many there may be is known without looking."""
    n = offsets_N1.shape[0] - 1
    first_N1 = torch.zeros(n + 1, dtype=torch.int32, device=offsets_N1.device)
    first_N1[1:] = torch.cumsum(offsets_N1.diff() // SPLIT, 0)
    numbers_Q = torch.arange(pairs // SPLIT, dtype=torch.int32, device=offsets_N1.device)
    latent_Q = torch.searchsorted(first_N1[1:], numbers_Q, right=True, out_int32=True)
    return Stretches(first_N1, latent_Q)


def pair_blocks(d: int) -> dict[str, int]:
    """Blocks for rows of d channels, d in units, warps and registers."""
    block_d = power_of_two(d, 16)
    block_p = max(1, min(32, GATHER_ITEMS // block_d))
    # Rows of odd length are read number by number, and every number has an address.
    items = 1024 if d % 2 == 0 else 512
    warps = max(1, min(8, block_p * block_d // items))
    return {
        **in_units(d),
        "BLOCK_P": block_p,
        "BLOCK_D": block_d,
        "num_warps": warps,
        "maxnreg": MAX_REGISTERS,
    }


def sum_stretches(
    offsets_N1: torch.Tensor,
    pairs_P: torch.Tensor,
    stretches: Stretches,
    coefficients_BK: torch.Tensor,
    y_BD: torch.Tensor,
) -> torch.Tensor:
    """The sum of every full stretch, float32 [Q, D]; the tensors are contiguous."""
    count, d = stretches.latent_Q.shape[0], y_BD.shape[1]
    buffer_QD = torch.empty(max(count, 1), d, dtype=torch.float32, device=y_BD.device)
    if count:
        _stretch_kernel[(count,)](
            offsets_N1,
            pairs_P,
            *stretches,
            coefficients_BK,
            y_BD,
            buffer_QD,
            offsets_N1.shape[0] - 1,
            coefficients_BK.shape[1],
            SPLIT=SPLIT,
            **pair_blocks(d),
        )
    return buffer_QD


def sparse_outer_triton(
    offsets_N1: torch.Tensor,
    pairs_P: torch.Tensor,
    coefficients_BK: torch.Tensor,
    y_BD: torch.Tensor,
    out_ND: torch.Tensor,
    accumulate: bool,
) -> None:
    """Write, or add to, `out_ND` (no checks)."""
    n, d = out_ND.shape
    coefficients_BK, y_BD = coefficients_BK.contiguous(), y_BD.contiguous()
    stretches = stretches_of(offsets_N1, pairs_P.shape[0])
    _sparse_outer_kernel[(n,)](
        offsets_N1,
        pairs_P,
        stretches.first_N1,
        coefficients_BK,
        y_BD,
        sum_stretches(offsets_N1, pairs_P, stretches, coefficients_BK, y_BD),
        out_ND,
        coefficients_BK.shape[1],
        SPLIT=SPLIT,
        ACCUMULATE=accumulate,
        **pair_blocks(d),
    )
