"""Expanding packed rows on Triton: one program a row, a running sum of its bits finds its values.

Shapes: R rows kept, B rows asked for, D channels, W bytes of D bits, P values that are not zero.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from isae.kernels.triton.settings import in_units, power_of_two

CHANNELS_A_WARP = 256


@triton.jit
def _expand_rows_kernel(
    bits_ptr,  # int16, int32 or int64 [P]
    bitmap_ptr,  # uint8 [R, W]
    offsets_ptr,  # int64 [R]
    rows_ptr,  # int64 [B]
    out_ptr,  # out: as bits [B, D]
    width,
    units_d,
    UNIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = units_d * UNIT
    b = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + b)
    channel = tl.arange(0, BLOCK_D)
    inside = channel < d
    byte = tl.load(bitmap_ptr + row * width + channel // 8, mask=inside, other=0).to(tl.int32)
    bit = (byte >> (channel % 8)) & 1
    place = tl.load(offsets_ptr + row) + tl.cumsum(bit, axis=0) - bit
    value = tl.load(bits_ptr + place, mask=bit == 1, other=0)
    tl.store(out_ptr + b * d + channel, value, mask=inside)


def expand_triton(
    bits_P: torch.Tensor,
    bitmap_RW: torch.Tensor,
    offsets_R: torch.Tensor,
    rows_B: torch.Tensor,
    channels: int,
) -> torch.Tensor:
    """Rows [B, D] of packed rows, as the integers that stand for their values (no checks)."""
    rows = rows_B.shape[0]
    out_BD = torch.empty(rows, channels, dtype=bits_P.dtype, device=bits_P.device)
    if rows and channels:
        block = power_of_two(channels, 32)
        tensors = [t.contiguous() for t in (bits_P, bitmap_RW, offsets_R, rows_B)]
        _expand_rows_kernel[(rows,)](
            *tensors,
            out_BD,
            bitmap_RW.shape[1],
            BLOCK_D=block,
            num_warps=max(1, min(8, block // CHANNELS_A_WARP)),
            **in_units(channels),
        )
    return out_BD
