"""Memory that is used again and again: new memory is filled with zeros page by page first."""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Numbers of glibc's mallopt (malloc.h)."""
LARGE_BLOCK = 32 << 20
"""Blocks from here on always go back to the system; glibc allows no larger threshold to move."""
KEPT_ON_TOP = 256 << 20
"""Less than this at the end of a heap stays with the process."""
THREAD_HEAP = 64 << 20
"""Bytes of a heap of a thread; such heaps stay, however empty, if as much is to be spare."""


@functools.cache
def keep_freed_memory() -> bool:
    """Have the C library (glibc) keep what is freed, for this process; whether it can.

    A forward pass frees its maps at every step. By default glibc gives them back to the system,
    and takes as many pages anew at the next step: 550 pages for each picture of 112 pixels, an
    eighth of the processor time of a build. The peak stays as it is: what is kept had been in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_TRIM_THRESHOLD, KEPT_ON_TOP), mallopt(_TOP_PAD, THREAD_HEAP)
    return all(kept) and bool(mallopt(_MMAP_THRESHOLD, LARGE_BLOCK))


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
