"""The largest size of every channel, in one pass over the bits.

Shapes: R rows, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isae.compiled import compiled

Array = npt.NDArray[Any]
_BITS: dict[int, Any] = {2: np.uint16, 4: np.uint32}


def all_finite(rows_RC: Array) -> bool:
    """Whether every number of C-contiguous float16 or float32 rows is finite."""
    kind = _BITS[rows_RC.dtype.itemsize]
    infinity = np.asarray(np.inf, dtype=rows_RC.dtype).view(kind)
    largest = _largest_of_all(rows_RC.reshape(-1).view(kind), kind(np.iinfo(kind).max >> 1))
    return bool(largest < infinity)


def largest_sizes(rows_RC: Array) -> Array:
    """max_r |x_rc| of float16 or float32 rows, in their dtype [C]; 0 without rows.

    Not finite where a number of the channel is not: the bits of a float without its sign, read as
    a whole number, are in the order of its size, with infinity and then NaN above all others.
    """
    kind = _BITS[rows_RC.dtype.itemsize]
    largest_C = np.zeros(rows_RC.shape[1], dtype=kind)
    bits_RC = np.ascontiguousarray(rows_RC).view(kind)
    _largest(bits_RC, kind(np.iinfo(kind).max >> 1), largest_C)
    found: Array = largest_C.view(rows_RC.dtype)
    return found


@compiled(nogil=True)
def _largest(bits_RC: Array, mask: int, largest_C: Array) -> None:
    for row in range(bits_RC.shape[0]):
        for c in range(bits_RC.shape[1]):
            largest_C[c] = max(largest_C[c], bits_RC[row, c] & mask)


@compiled(nogil=True)
def _largest_of_all(bits_N: Array, mask: int) -> int:
    largest = bits_N.dtype.type(0)
    for i in range(bits_N.size):
        largest = max(largest, bits_N[i] & mask)
    return int(largest)
