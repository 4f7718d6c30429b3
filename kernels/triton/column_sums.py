"""Column sums on Triton: sums of stretches of rows in float32, those sums added in float64.

Shapes: B rows, D channels, S stretches of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from isae.kernels.triton.settings import in_units

STRETCH = 64
"""Rows whose sum is taken in float32: short, so that rounding stays near one unit."""
BLOCK_D = 64


@triton.jit
def _column_sums_kernel(
    x_ptr,  # [B, D]
    weight_ptr,  # [B]
    sums_ptr,  # out: float32 [S, D]
    squares_ptr,  # out: float32 [S, D]
    rows,
    units_d,
    UNIT: tl.constexpr,
    STRETCH: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = units_d * UNIT
    row = tl.program_id(0) * STRETCH + tl.arange(0, STRETCH)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (row[:, None] < rows) & (channel[None, :] < d)
    place = row.to(tl.int64)[:, None] * d + channel[None, :]
    x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    out = tl.program_id(0).to(tl.int64) * d + channel
    tl.store(sums_ptr + out, tl.sum(weight * x, axis=0), mask=channel < d)
    tl.store(squares_ptr + out, tl.sum(weight * x * x, axis=0), mask=channel < d)


def column_sums_triton(x_BD: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
    """Sums of w x and of w x^2, float64 [2, D] (no checks)."""
    rows, d = x_BD.shape
    stretches = triton.cdiv(rows, STRETCH)
    sums_2SD = torch.empty(2, stretches, d, dtype=torch.float32, device=x_BD.device)
    if rows and d:
        _column_sums_kernel[(stretches, triton.cdiv(d, BLOCK_D))](
            x_BD.contiguous(),
            weight_B.contiguous(),
            sums_2SD[0],
            sums_2SD[1],
            rows,
            STRETCH=STRETCH,
            BLOCK_D=BLOCK_D,
            **in_units(d),
        )
    return sums_2SD.sum(1, dtype=torch.float64)
