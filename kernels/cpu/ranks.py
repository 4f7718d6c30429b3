"""The k largest of a few numbers in order, each put where its rank says: nothing to guess wrong.

Counting how many numbers are larger takes a vector comparison for 16 of them; sorting them by
insertion takes a branch a number that processors guess wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isae.compiled import compiled
from isae.kernels.cpu.instructions import Emitter, Instructions
from isae.kernels.cpu.selection import LANES

Array = npt.NDArray[Any]

MOST_RANKED = 512
"""Numbers from which sorting is cheaper: ranking looks at every pair."""
EQUAL_SHIFT = 32


def _emit_count(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    address, vectors, value = arguments
    e = Emitter(builder)
    spread, before = e.spread(value, e.reals_t), builder.basic_block
    loop, after = (builder.append_basic_block(name) for name in ("vectors", "counted"))
    builder.branch(loop)
    builder.position_at_end(loop)
    vector, counted = builder.phi(e.int), builder.phi(e.int)
    place = e.at(address, builder.mul(vector, e.int(4 * LANES)), e.reals_t)
    numbers = builder.load(place, align=4)
    total = counted
    for comparison, shift in ((">", 0), ("==", EQUAL_SHIFT)):
        reached = builder.fcmp_ordered(comparison, numbers, spread)
        bits = builder.ctpop(builder.bitcast(reached, e.ir.IntType(LANES)))
        total = builder.add(total, builder.shl(builder.zext(bits, e.int), e.int(shift)))
    following = builder.add(vector, e.int(1))
    for phi, new in ((vector, following), (counted, total)):
        phi.add_incoming(e.int(0), before)
        phi.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, vectors), loop, after)
    builder.position_at_end(after)
    return total


count_above = Instructions[[int, int, float], int](
    _emit_count, "int64", ["int64", "int64", "float32"]
)
"""(address, vectors, value) -> how many of the 16 * vectors float32 numbers there are larger, and
2**32 times how many are equal; vectors: 1 or more."""


@compiled()
def kth_largest(found: Array, count: int, k: int) -> float:
    """The k-th largest of found[:count]; NaN if there are fewer than k numbers.

    found, count: as in `rank_k_largest`, but some may be NaN, which are none of the largest.
    """
    vectors = (count + LANES - 1) // LANES
    found[count : LANES * vectors] = -np.inf
    for i in range(count):
        counted = count_above(found.ctypes.data, vectors, found[i])
        larger = counted & ((1 << EQUAL_SHIFT) - 1)
        if larger < k <= larger + (counted >> EQUAL_SHIFT):
            return found[i]  # type: ignore[no-any-return]
    return found.dtype.type(np.nan)  # type: ignore[no-any-return]


@compiled()
def rank_k_largest(
    found: Array, indices: Array, count: int, values_K: Array, indices_K: Array
) -> None:
    """The k largest of found[:count] by falling value, ties by rising index; some may be missing.

    found: float32 without NaN, with room for LANES - 1 more, which is written to; count: at most
    MOST_RANKED.
    """
    k = values_K.shape[0]
    vectors = (count + LANES - 1) // LANES
    found[count : LANES * vectors] = -np.inf
    for i in range(count):
        value, index = found[i], indices[i]
        counted = count_above(found.ctypes.data, vectors, value)
        rank = counted & ((1 << EQUAL_SHIFT) - 1)
        if counted >> EQUAL_SHIFT > 1:
            for j in range(count):
                rank += int(found[j] == value and indices[j] < index)
        if rank < k:
            values_K[rank], indices_K[rank] = value, index
