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
def _scale_part(bits: Array, scale: float, out: Array) -> None:
    for i in range(0, bits.shape[0], LANES):
        scaled_16(bits.ctypes.data + 2 * i, scale, out.ctypes.data + 4 * i)


@compiled(parallel=True)
def _scale_parts(bits: Array, scale: float, out: Array, counter: Array, workers: int) -> None:
    whole = bits.shape[0] // LANES * LANES
    for _ in prange(workers):
        first = TAKEN * take(counter.ctypes.data)
        while first < whole:
            last = min(first + TAKEN, whole)
            _scale_part(bits[first:last], scale, out[first:last])
            first = TAKEN * take(counter.ctypes.data)
    rest, scaled = np.zeros(LANES, np.uint16), np.empty(LANES, np.float32)
    rest[: bits.shape[0] - whole] = bits[whole:]
    _scale_part(rest, scale, scaled)
    out[whole:] = scaled[: bits.shape[0] - whole]
