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


def _emit_scaled(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    bits, scale, out = arguments
    e = Emitter(builder)
    halves_t = e.ir.VectorType(e.ir.HalfType(), LANES)
    numbers = builder.fpext(builder.load(e.at(bits, 0, halves_t), align=2), e.reals_t)
    product = builder.fmul(numbers, e.spread(scale, e.reals_t))
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
