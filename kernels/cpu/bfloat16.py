"""Rows of bfloat16 in compiled loops, which know no such numbers: as the bits of them, uint16.

A bfloat16 is the upper half of a float32. Rounding is to the nearest, ties to even, as torch does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import compiled
from isae.kernels.cpu.instructions import Emitter, Instructions
from isae.kernels.cpu.selection import LANES

Array = npt.NDArray[Any]

HALF = 2
"""Bytes of a bfloat16."""


def array_of(tensor: torch.Tensor) -> Array:
    """The numbers of a contiguous tensor on the CPU, those of bfloat16 as their bits."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.detach().numpy()


def _constant(e: Emitter, value: int) -> Any:
    return e.ir.Constant(e.words_t, [value] * LANES)


def _shorts(e: Emitter) -> Any:
    return e.ir.VectorType(e.ir.IntType(16), LANES)


def _emit_widened(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    bits, out = arguments
    e = Emitter(builder)
    halves = builder.zext(builder.load(e.at(bits, 0, _shorts(e)), align=HALF), e.words_t)
    builder.store(builder.shl(halves, _constant(e, 16)), e.at(out, 0, e.words_t), align=4)
    return context.get_dummy_value()


def _emit_narrowed(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    reals, out = arguments
    e = Emitter(builder)
    words = builder.load(e.at(reals, 0, e.words_t), align=4)
    odd = builder.and_(builder.lshr(words, _constant(e, 16)), _constant(e, 1))
    raised = builder.add(words, builder.add(odd, _constant(e, 0x7FFF)))
    # What is added would make other numbers of some NaN.
    size = builder.and_(words, _constant(e, 0x7FFFFFFF))
    is_nan = builder.icmp_unsigned(">", size, _constant(e, 0x7F800000))
    kept = builder.select(is_nan, _constant(e, 0x7FC00000), raised)
    halves = builder.trunc(builder.lshr(kept, _constant(e, 16)), _shorts(e))
    builder.store(halves, e.at(out, 0, _shorts(e)), align=HALF)
    return context.get_dummy_value()


_TWO = ["int64"] * 2
_widened_16 = Instructions[[int, int], None](_emit_widened, "void", _TWO)
_narrowed_16 = Instructions[[int, int], None](_emit_narrowed, "void", _TWO)


@compiled()
def widen_row(bits: Array, out: Array) -> None:
    """Out = float32 of the bfloat16 whose bits these are."""
    count = bits.shape[0]
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        _widened_16(bits.ctypes.data + HALF * i, out.ctypes.data + 4 * i)
    if whole < count:
        rest, reals = np.zeros(LANES, np.uint16), np.empty(LANES, np.float32)
        rest[: count - whole] = bits[whole:]
        _widened_16(rest.ctypes.data, reals.ctypes.data)
        out[whole:] = reals[: count - whole]


@compiled()
def narrow_row(reals: Array, out: Array) -> None:
    """Out = the bits of float32 numbers rounded to bfloat16."""
    count = reals.shape[0]
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        _narrowed_16(reals.ctypes.data + 4 * i, out.ctypes.data + HALF * i)
    if whole < count:
        rest, bits = np.zeros(LANES, np.float32), np.empty(LANES, np.uint16)
        rest[: count - whole] = reals[whole:]
        _narrowed_16(rest.ctypes.data, bits.ctypes.data)
        out[whole:] = bits[: count - whole]
