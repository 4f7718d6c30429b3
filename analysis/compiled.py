"""Numba compilation with types that survive it: one decorator for the numeric inner loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """`function`, compiled at its first call; it runs without the interpreter lock.

    Not cached on disk: an installed package may be read-only, and compiling takes a second or two.
    Division follows NumPy (no ZeroDivisionError).
    """
    return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))
