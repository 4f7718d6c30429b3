"""Rows minus a vector and the rows' column sums, in one pass on the threads of compiled loops.

A parallel operation of torch leaves its threads spinning for a while, on the very processors that
the loops after it need. Waking threads costs as much as a small loop, so these two are one.

Shapes: B rows, D channels, P partial sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from isae.errors import KernelError
from isae.kernels.column_sums import part_rows, sum_parts
from isae.kernels.cpu.bfloat16 import array_of


class Centred(NamedTuple):
    """What `centre_rows` gives."""

    rows_BD: torch.Tensor
    """x - b."""
    low_BD: torch.Tensor
    """The same in bfloat16, of no rows where that is not asked for."""
    sums_D: torch.Tensor
    sumsq_D: torch.Tensor


def centre_rows(
    x_BD: torch.Tensor, b_D: torch.Tensor, scale: float = 1.0, low: bool = False
) -> Centred:
    """Rows minus b, contiguous, and sums of x and of x^2 as `column_sums` gives them.

    Rows of float16, for which `can_scale` holds, stand for float32(rows) * float32(scale). `low`:
    x - b in bfloat16, too. Raises KernelError where that is asked for of another b than float32.
    """
    if low and b_D.dtype != torch.float32:
        raise KernelError(f"b: expected float32 beside bfloat16, found {b_D.dtype}; convert it")
    rows, parts = part_rows(x_BD.shape[0])
    out_BD = torch.empty(x_BD.shape, dtype=b_D.dtype)
    sums_P2D = np.zeros((parts, 2, x_BD.shape[1]))
    low_BD = torch.empty(x_BD.shape if low else (0, 0), dtype=torch.bfloat16)
    out = out_BD.numpy()
    x, halves = x_BD.contiguous().numpy(), np.empty((0, 0), np.uint16)
    if x_BD.dtype == torch.float16:
        x, halves = out[:0], x.view(np.uint16)
    ones_B, counter = np.ones(x_BD.shape[0], out.dtype), np.zeros(1, np.int64)
    operands = x, halves, float(np.float32(scale)), b_D.numpy(), out, array_of(low_BD), ones_B
    sum_parts(*operands, rows, counter, torch.get_num_threads(), sums_P2D)
    sums_2D = torch.from_numpy(sums_P2D.sum(0))
    return Centred(out_BD, low_BD, sums_2D[0], sums_2D[1])
