"""Single processor instructions for compiled loops: byte shuffles and CRC-32C of x86 processors.

They take addresses as plain integers. Loops ask `has_instructions()` first and have another way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from isae.compiled import Compiled

SHUFFLE = "llvm.x86.ssse3.pshuf.b.128"
CRC = "llvm.x86.sse42.crc32.64.64"


@functools.cache
def has_instructions() -> bool:
    """Whether compiled code may use SSSE3 and SSE 4.2 (x86 processors since 2008)."""
    import llvmlite.binding
    import numba

    if numba.config.CPU_NAME or numba.config.CPU_FEATURES:  # for another processor than this one
        return False
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:
        return False
    return bool(features.get("ssse3") and features.get("sse4.2"))


class Step(Compiled[..., Any]):
    """A function of up to 6 integers (0 for those it has no use for), written to LLVM when used."""

    def __init__(self, emit: Callable[..., Any], arguments: int) -> None:
        super().__init__(cast("Any", emit), parallel=False, fastmath=frozenset())
        self.arguments = arguments

    def _compile(self) -> Any:
        from numba import types
        from numba.extending import intrinsic

        signature = types.int64(*[types.int64] * 6)
        write = cast("Any", self.function)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return write(builder, *arguments[: self.arguments])

        def step(typing: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
            return signature, emit

        return intrinsic(step)


def _lanes(count: int) -> Any:
    from llvmlite import ir

    return ir.VectorType(ir.IntType(8), count)


def _read(builder: Any, address: Any, count: int) -> Any:
    return builder.load(builder.inttoptr(address, _lanes(count).as_pointer()), align=1)


def _pick(builder: Any, first: Any, second: Any, places: list[int]) -> Any:
    from llvmlite import ir

    kind = ir.VectorType(ir.IntType(32), len(places))
    return builder.shuffle_vector(first, second, ir.Constant(kind, places))


def _interleave(builder: Any, first: Any, second: Any, count: int) -> Any:
    return _pick(builder, first, second, [i // 2 + count * (i % 2) for i in range(2 * count)])


def _shuffle(builder: Any, values: Any, order: Any) -> Any:
    from llvmlite import ir

    kind = ir.FunctionType(_lanes(16), [_lanes(16), _lanes(16)])
    return builder.call(builder.module.declare_intrinsic(SHUFFLE, (), kind), [values, order])


def _write(builder: Any, value: Any, address: Any) -> Any:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)
    return address


def _emit_1(builder: Any, plane: Any, order: Any, out: Any) -> Any:
    twice = [i % 8 for i in range(16)]
    values, places = (_read(builder, address, 8) for address in (plane, order))
    values, places = (_pick(builder, each, each, twice) for each in (values, places))
    moved = _shuffle(builder, values, places)
    return _write(builder, _pick(builder, moved, moved, list(range(8))), out)


def _emit_2(builder: Any, low: Any, high: Any, order: Any, out: Any) -> Any:
    values = _interleave(builder, _read(builder, low, 8), _read(builder, high, 8), 8)
    return _write(builder, _shuffle(builder, values, _read(builder, order, 16)), out)


def _emit_4(builder: Any, a: Any, b: Any, c: Any, d: Any, order: Any, out: Any) -> Any:
    planes = [_read(builder, address, 4) for address in (a, b, c, d)]
    even = _interleave(builder, planes[0], planes[2], 4)
    odd = _interleave(builder, planes[1], planes[3], 4)
    values = _interleave(builder, even, odd, 8)
    return _write(builder, _shuffle(builder, values, _read(builder, order, 16)), out)


def _emit_gather(size: int, builder: Any, values: Any, order: Any, planes: list[Any]) -> Any:
    from llvmlite import ir

    group = 4 if size == 4 else 8
    data = _read(builder, values, group * size)
    elements = ir.VectorType(ir.IntType(8 * size), group)
    zeros = ir.Constant(elements, [0] * group)
    lanes = builder.icmp_unsigned("!=", builder.bitcast(data, elements), zeros)
    bits = builder.zext(builder.bitcast(lanes, ir.IntType(group)), ir.IntType(64))
    places = builder.add(order, builder.mul(bits, bits.type(group * size)))
    shuffle = _read(builder, places, group * size)
    if size == 1:
        twice = [i % 8 for i in range(16)]
        data, shuffle = (_pick(builder, each, each, twice) for each in (data, shuffle))
    moved = _shuffle(builder, data, shuffle)
    for p in range(size):
        plane = list(range(p * group, (p + 1) * group))
        _write(builder, _pick(builder, moved, moved, plane), planes[p])
    return bits


def _emit_gather_1(builder: Any, values: Any, order: Any, *planes: Any) -> Any:
    return _emit_gather(1, builder, values, order, list(planes))


def _emit_gather_2(builder: Any, values: Any, order: Any, *planes: Any) -> Any:
    return _emit_gather(2, builder, values, order, list(planes))


def _emit_gather_4(builder: Any, values: Any, order: Any, *planes: Any) -> Any:
    return _emit_gather(4, builder, values, order, list(planes))


def _emit_crc(builder: Any, state: Any, address: Any) -> Any:
    from llvmlite import ir

    word = ir.IntType(64)
    data = builder.load(builder.inttoptr(address, word.as_pointer()), align=1)
    function = builder.module.declare_intrinsic(CRC, (), ir.FunctionType(word, [word, word]))
    return builder.call(function, [state, data])


shuffle_1 = Step(_emit_1, 3)
"""shuffle_1(plane, order, out): 8 elements of 1 byte from the next 8 bytes of a plane."""
shuffle_2 = Step(_emit_2, 4)
"""shuffle_2(low, high, order, out): 8 elements of 2 bytes from the next 8 bytes of two planes."""
shuffle_4 = Step(_emit_4, 6)
"""shuffle_4(a, b, c, d, order, out): 4 elements of 4 bytes from the next 4 bytes of four planes."""
gather_1 = Step(_emit_gather_1, 3)
"""gather_1(values, orders, plane): the non-zeros of 8 elements to a plane; their bits.

Writes 8 bytes to each plane, those behind the non-zeros being zero.
"""
gather_2 = Step(_emit_gather_2, 4)
"""gather_2(values, orders, low, high): as gather_1, for 8 elements of 2 bytes."""
gather_4 = Step(_emit_gather_4, 6)
"""gather_4(values, orders, a, b, c, d): as gather_1, for 4 elements of 4 bytes, 4 bytes a plane."""
crc_word = Step(_emit_crc, 2)
"""crc_word(state, address): CRC-32C, without its final inversion, continued by 8 bytes."""
