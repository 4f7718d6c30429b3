"""Which of 32 numbers reach a bound, as the bits of a mask: a few vector instructions.

Compilers make one byte a number of the plain loop, and loading them together right after waits for
all of their stores.
"""

from __future__ import annotations

from typing import Any

from isae.kernels.cpu.instructions import Emitter, Instructions
from isae.kernels.cpu.selection import BLOCK, LANES


def _emit_reached(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    address, more, bound = arguments
    e = Emitter(builder)
    mask = e.int(0)
    for part in range(BLOCK // LANES):
        values = builder.load(e.at(address, 4 * LANES * part, e.reals_t), align=4)
        reached = builder.fcmp_ordered(
            ">=", builder.fadd(values, e.spread(more, e.reals_t)), e.spread(bound, e.reals_t)
        )
        bits = builder.zext(builder.bitcast(reached, e.ir.IntType(LANES)), e.int)
        mask = builder.or_(mask, builder.shl(bits, e.int(LANES * part)))
    return mask


def _emit_lowest(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.cttz(arguments[0], Emitter(builder).ir.IntType(1)(0))


reached_32 = Instructions[[int, float, float], int](
    _emit_reached, "int64", ["int64", "float32", "float32"]
)
"""(address, more, bound) -> bit i set where x[i] + more >= bound, x: 32 float32 from there on."""
lowest_bit = Instructions[[int], int](_emit_lowest, "int64", ["int64"])
"""The place of the lowest set bit; 64 where none is."""
