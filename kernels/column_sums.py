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
from isae.kernels.cpu.bfloat16 import narrow_row
from isae.kernels.cpu.instructions import take
from isae.kernels.cpu.scale import scale_row
from isae.kernels.dispatch import choose_kernel

Array = npt.NDArray[Any]
ROWS, MOST_PARTS = 64, 256
"""Rows of one partial sum, more where there would be too many of them to keep."""


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
    (rows, parts), workers = part_rows(x_BD.shape[0]), torch.get_num_threads()
    # By NumPy: threads of torch spin on after filling or adding, beside the loops that follow.
    sums_P2D = np.zeros((parts, 2, x_BD.shape[1]))
    x, weight = x_BD.detach().contiguous().numpy(), weight_B.detach().contiguous().numpy()
    none = np.empty((0, 0), np.uint16)
    centring = none, 1.0, np.empty(0, x.dtype), x[:0], none
    sum_parts(x, *centring, weight, rows, np.zeros(1, np.int64), workers, sums_P2D)
    sums_2D = torch.from_numpy(sums_P2D.sum(0))
    return sums_2D[0], sums_2D[1]


def part_rows(rows: int, least: int = ROWS) -> tuple[int, int]:
    """(rows of a partial sum, partial sums): of B alone, so that threads change no order."""
    each = max(least, -(-rows // MOST_PARTS))
    return each, -(-rows // each)


@compiled()
def _add_row(x_D: Array, weight: float, sums_D: Array, squares_D: Array) -> None:
    for c in range(x_D.shape[0]):
        value = np.float64(x_D[c])
        weighted = weight * value
        sums_D[c] += weighted
        squares_D[c] += weighted * value


@compiled(parallel=True)
def sum_parts(
    x_BD: Array,
    halves_BD: Array,
    scale: float,
    b_D: Array,
    centred_BD: Array,
    rounded_BD: Array,
    weight_B: Array,
    rows: int,
    counter: Array,
    workers: int,
    sums_P2D: Array,
) -> None:
    """Partial sums of w x and w x^2; on the way x - b too, and the bits of that in bfloat16, unless
    they have no rows.

    x is what the bits of float16 in `halves` are, times scale, unless those have no rows.
    """
    parts, centred = sums_P2D.shape[0], centred_BD.shape[0] > 0
    halved = halves_BD.shape[0] > 0
    # Parts are taken, not dealt out: threads that sleep take a while to wake.
    for _ in prange(workers):
        x_D = np.empty(sums_P2D.shape[2], weight_B.dtype)
        part = take(counter.ctypes.data)
        while part < parts:
            for r in range(part * rows, min(part * rows + rows, weight_B.shape[0])):
                if halved:
                    scale_row(halves_BD[r], scale, x_D)
                else:
                    x_D[:] = x_BD[r]
                _add_row(x_D, np.float64(weight_B[r]), sums_P2D[part, 0], sums_P2D[part, 1])
                if centred:
                    np.subtract(x_D, b_D, centred_BD[r])
                if rounded_BD.shape[0]:
                    narrow_row(centred_BD[r], rounded_BD[r])
            part = take(counter.ctypes.data)
