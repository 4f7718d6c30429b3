"""Stored float16 rows as float32 times a number, in one pass on the threads of compiled loops.

What torch does of it takes two passes, another array, and threads that spin on for a while, on the
very processors that the step after it needs.

Shapes: R rows, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import compiled, prange
from isae.kernels.cpu.instructions import Emitter, Instructions, take
from isae.kernels.cpu.selection import LANES

Array = npt.NDArray[Any]

TAKEN = 1 << 16
"""Numbers that a thread takes at once, a multiple of LANES."""


def can_scale(rows_RC: torch.Tensor) -> bool:
    """Whether `scale_rows` serves these."""
    here = rows_RC.device.type == "cpu" and rows_RC.is_contiguous()
    return here and rows_RC.dtype == torch.float16


def scale_rows(rows_RC: torch.Tensor, scale: float) -> torch.Tensor:
    """float32(rows) * float32(scale) [R, C], of contiguous float16 rows on the CPU."""
    out_RC = torch.empty(rows_RC.shape, dtype=torch.float32)
    bits, counter = rows_RC.numpy().view(np.uint16).reshape(-1), np.zeros(1, np.int64)
    out = out_RC.numpy().reshape(-1)
    _scale_parts(bits, float(np.float32(scale)), out, counter, torch.get_num_threads())
    return out_RC


def _widened(e: Emitter, halves: Any) -> Any:
    # By integers: processors without an instruction for it call a function that is not there.
    builder = e.builder

    def word(value: int) -> Any:
        return e.ir.Constant(e.words_t, [value] * LANES)

    size = builder.and_(halves, word(0x7FFF))
    # Where float32 has mantissa and exponent, which is then too small by 127 - 15.
    shifted = builder.shl(size, word(13))
    finite = builder.fmul(
        builder.bitcast(shifted, e.reals_t), e.spread(e.real(2.0**112), e.reals_t)
    )
    endless = builder.or_(shifted, word(0x7F800000))
    is_finite = builder.icmp_unsigned("<", size, word(0x7C00))
    positive = builder.select(is_finite, builder.bitcast(finite, e.words_t), endless)
    sign = builder.shl(builder.and_(halves, word(0x8000)), word(16))
    return builder.bitcast(builder.or_(positive, sign), e.reals_t)


def _emit_scaled(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    bits, scale, out = arguments
    e = Emitter(builder)
    shorts_t = e.ir.VectorType(e.ir.IntType(16), LANES)
    halves = builder.zext(builder.load(e.at(bits, 0, shorts_t), align=2), e.words_t)
    product = builder.fmul(_widened(e, halves), e.spread(scale, e.reals_t))
    builder.store(product, e.at(out, 0, e.reals_t), align=4)
    return context.get_dummy_value()


scaled_16 = Instructions[[int, float, int], None](
    _emit_scaled, "void", ["int64", "float32", "int64"]
)
"""(from, scale, to): 16 float16 there, as float32 times scale, to here. Compilers take one at a
time of such a loop."""


@compiled()
def scale_row(bits: Array, scale: float, out: Array) -> None:
    """Out = float32 of the float16 whose bits these are, times scale."""
    count = bits.shape[0]
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        scaled_16(bits.ctypes.data + 2 * i, scale, out.ctypes.data + 4 * i)
    if whole < count:
        rest, scaled = np.zeros(LANES, np.uint16), np.empty(LANES, np.float32)
        rest[: count - whole] = bits[whole:]
        scaled_16(rest.ctypes.data, scale, scaled.ctypes.data)
        out[whole:] = scaled[: count - whole]


@compiled(parallel=True)
def _scale_parts(bits: Array, scale: float, out: Array, counter: Array, workers: int) -> None:
    for _ in prange(workers):
        first = TAKEN * take(counter.ctypes.data)
        while first < bits.shape[0]:
            scale_row(bits[first : first + TAKEN], scale, out[first : first + TAKEN])
            first = TAKEN * take(counter.ctypes.data)
