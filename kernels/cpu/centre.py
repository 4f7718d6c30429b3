"""Rows minus a vector and the rows' column sums, in one pass on the threads of compiled loops.

A parallel operation of torch leaves its threads spinning for a while, on the very processors that
the loops after it need. Waking threads costs as much as a small loop, so these two are one.

Shapes: B rows, D channels, P partial sums.
"""

from __future__ import annotations

import numpy as np
import torch

from isae.kernels.column_sums import part_rows, sum_parts


def centre_rows(
    x_BD: torch.Tensor, b_D: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(x - b as a new contiguous [B, D], sums of x and of x^2 as `column_sums` gives them)."""
    rows, parts = part_rows(x_BD.shape[0])
    out_BD = torch.empty(x_BD.shape, dtype=x_BD.dtype)
    sums_P2D = np.zeros((parts, 2, x_BD.shape[1]))
    ones_B = np.ones(x_BD.shape[0], out_BD.numpy().dtype)
    centring = b_D.numpy(), out_BD.numpy(), np.zeros(1, np.int64), torch.get_num_threads()
    sum_parts(x_BD.contiguous().numpy(), ones_B, rows, *centring, sums_P2D)
    sums_2D = torch.from_numpy(sums_P2D.sum(0))
    return out_BD, sums_2D[0], sums_2D[1]
