"""Memory that is used again and again: new memory is filled with zeros page by page first."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt


class Scratch(threading.local):
    """Buffers of a thread. What `take` gives is valid until the next `take` of the same name."""

    def __init__(self) -> None:
        self.buffers: dict[str, npt.NDArray[np.uint8]] = {}

    def take(self, name: str, shape: int | tuple[int, ...], kind: Any = np.uint8) -> Any:
        """A C-contiguous array of any contents."""
        wanted = (shape,) if isinstance(shape, int) else shape
        size = math.prod(wanted) * np.dtype(kind).itemsize
        held = self.buffers.get(name)
        if held is None or held.size < size:
            held = self.buffers[name] = np.empty(size + size // 8 + 64, np.uint8)
        return held[:size].view(kind).reshape(wanted)

    def sorted(self, name: str, rows_RC: npt.NDArray[Any], order_R: npt.NDArray[np.int64]) -> Any:
        """Rows in an order that is a permutation, in a buffer."""
        out_RC = self.take(name, rows_RC.shape, rows_RC.dtype)
        # With the default, "raise", NumPy copies the rows twice.
        return np.take(rows_RC, order_R, axis=0, out=out_RC, mode="clip")
