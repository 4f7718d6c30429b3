"""Rows minus a vector, on the threads of the compiled loops.

A parallel operation of torch leaves its threads spinning for a while, on the very processors that
the loops after it need.

Shapes: B rows, D channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import compiled, prange

Array = npt.NDArray[Any]


def centre_rows(x_BD: torch.Tensor, b_D: torch.Tensor) -> torch.Tensor:
    """X - b as a new contiguous [B, D]."""
    out_BD = torch.empty(x_BD.shape, dtype=x_BD.dtype)
    _subtract(x_BD.contiguous().numpy(), b_D.numpy(), out_BD.numpy())
    return out_BD


@compiled(parallel=True)
def _subtract(x_BD: Array, b_D: Array, out_BD: Array) -> None:
    for r in prange(x_BD.shape[0]):
        np.subtract(x_BD[r], b_D, out_BD[r])
