"""Functions for compiled loops that are written to LLVM by hand, when first used.

For what compilers do not make of plain loops: certain vector instructions, masks, atomic counters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from isae.compiled import Compiled
from isae.kernels.cpu import selection
from isae.kernels.cpu.selection import LANES

P = ParamSpec("P")
R = TypeVar("R")
Emit = Callable[[Any, Any, Any, Any], Any]
"""(context, builder, signature, arguments) -> the value that is returned."""


class Instructions(Compiled[P, R]):
    """A function whose LLVM instructions `emit` writes; only compiled loops can call it.

    result, arguments: names of numba's types.
    """

    def __init__(self, emit: Emit, result: str, arguments: Sequence[str]) -> None:
        super().__init__(cast("Any", emit), parallel=False, fastmath=frozenset())
        self.emit, self.result, self.arguments = emit, result, arguments

    def _files(self, seen: set[int]) -> set[str]:
        # `emit` names classes of this file, and they LANES: neither can be followed.
        return super()._files(seen) | {__file__, str(selection.__file__)}

    def _compile(self) -> Any:
        from numba import types
        from numba.extending import intrinsic

        kinds = [getattr(types, name) for name in self.arguments]
        typed = getattr(types, self.result)(*kinds), self.emit
        # numba counts the parameters of the function that it is given.
        names = ", ".join(f"a{place}" for place in range(len(kinds)))
        return intrinsic(eval(f"lambda context, {names}: typed", {"typed": typed}))


class Emitter:
    """Writes LLVM instructions for addresses that are plain integers."""

    def __init__(self, builder: Any) -> None:
        from llvmlite import ir

        self.builder, self.ir = builder, ir
        self.int = ir.IntType(64)
        self.word, self.real = ir.IntType(32), ir.FloatType()
        self.words_t, self.reals_t = (ir.VectorType(t, LANES) for t in (self.word, self.real))

    def at(self, base: Any, offset: Any, kind: Any) -> Any:
        """A pointer `offset` bytes (a number or a value) behind a base."""
        if isinstance(offset, int):
            offset = self.int(offset)
        return self.builder.inttoptr(self.builder.add(base, offset), kind.as_pointer())

    def row(self, base: Any, stride: Any, number: int) -> Any:
        """The address of a row."""
        return self.builder.add(base, self.builder.mul(stride, self.int(number)))

    def spread(self, value: Any, kind: Any) -> Any:
        """A number in all lanes."""
        nothing = self.ir.Constant(kind, self.ir.Undefined)
        first = self.builder.insert_element(nothing, value, self.word(0))
        words = self.ir.VectorType(self.word, kind.count)
        lanes = self.ir.Constant(words, [0] * kind.count)
        return self.builder.shuffle_vector(first, nothing, lanes)

    def larger(self, a: Any, b: Any) -> Any:
        """Lane by lane."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def prefetch(self, base: Any, offset: Any) -> None:
        """Ask for the cache line there."""
        byte = self.ir.IntType(8)
        words = [
            self.word(0),
            self.word(3),
            self.word(1),
        ]  # a read, to be kept in all caches, of data
        kinds = [byte.as_pointer(), *(word.type for word in words)]
        ask = self.builder.module.declare_intrinsic(
            "llvm.prefetch", kinds[:1], self.ir.FunctionType(self.ir.VoidType(), kinds)
        )
        self.builder.call(ask, [self.at(base, offset, byte), *words])

    def largest(self, vector: Any) -> Any:
        """Of all lanes."""
        for step in (8, 4, 2, 1):
            lanes = [(lane + step) % LANES for lane in range(LANES)]
            moved = self.builder.shuffle_vector(
                vector, vector, self.ir.Constant(self.words_t, lanes)
            )
            vector = self.larger(vector, moved)
        return self.builder.extract_element(vector, self.word(0))


def _emit_take(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    e = Emitter(builder)
    counter = e.at(arguments[0], 0, e.int)
    return builder.atomic_rmw("add", counter, e.int(1), "monotonic")


take = Instructions[[int], int](_emit_take, "int64", ["int64"])
"""The int64 at an address, which becomes larger by 1: threads share the parts of a loop by it.

What each thread does is then not known before; what is computed must not depend on it.
"""


def _emit_prefetch(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    e = Emitter(builder)
    e.prefetch(arguments[0], 0)
    return arguments[0]


prefetch = Instructions[[int], int](_emit_prefetch, "int64", ["int64"])
"""Ask for the cache line at an address, which need not be one that can be read; -> the address."""
