"""Sums of rows per channel, in float64, in an order that does not depend on threads.

Shapes: B rows, D channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import compiled, prange
from isae.kernels.checks import check_tensor
from isae.kernels.dispatch import choose_kernel

Array = npt.NDArray[Any]
STRIPE = 64


def column_sums(
    x_BD: torch.Tensor, weight_B: torch.Tensor | None = None, *, kernel: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per channel the sums over rows of w x and of w x^2 (w = 1 without weights) -> float64 [D].

    Raises KernelError unless x is a float32 or float64 matrix and the weights fit it.
    """
    chosen = choose_kernel(kernel, x_BD.device)
    check_tensor("x", x_BD, (None, None), kernel=chosen)
    if weight_B is None:
        weight_B = x_BD.new_ones(x_BD.shape[0])
    check_tensor("weight", weight_B, (x_BD.shape[0],), like=x_BD, kernel=chosen)
    if chosen == "triton":
        from isae.kernels.triton.column_sums import column_sums_triton

        sums_2D = column_sums_triton(x_BD.detach(), weight_B.detach())
        return sums_2D[0], sums_2D[1]
    if chosen == "reference":
        x64_BD, weight_B1 = x_BD.detach().double(), weight_B.detach().double()[:, None]
        return (weight_B1 * x64_BD).sum(0), (weight_B1 * x64_BD.square()).sum(0)
    sums_2D = torch.zeros(2, x_BD.shape[1], dtype=torch.float64)
    x, weight = x_BD.detach().contiguous().numpy(), weight_B.detach().contiguous().numpy()
    _sum_stripes(x, weight, STRIPE, sums_2D.numpy())
    return sums_2D[0], sums_2D[1]


@compiled(parallel=True)
def _sum_stripes(x_BD: Array, weight_B: Array, stripe: int, sums_2D: Array) -> None:
    rows, d = x_BD.shape
    for part in prange((d + stripe - 1) // stripe):
        start, stop = part * stripe, min(part * stripe + stripe, d)
        for r in range(rows):
            weight = np.float64(weight_B[r])
            for c in range(start, stop):
                value = np.float64(x_BD[r, c])
                sums_2D[0, c] += weight * value
                sums_2D[1, c] += weight * value * value
