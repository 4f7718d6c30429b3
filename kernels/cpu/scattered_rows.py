"""Products with rows and weighted sums of rows that lie anywhere, at the speed of the caches.

    out[j] = <x, row_j>;    out += sum_j a_j row_j

Four rows at a time, each read once from front to back. Rows that lie anywhere are found by no
prefetcher, so while four are computed the lines of the next four are asked for, one for every line
that is read: together with 512-bit instructions, which compilers avoid of themselves, twice as fast
as the plain loops where rows come from the last cache. Rows are named by their addresses, so that a
list may go on from one matrix to another and its prefetching with it. Rows of bfloat16, given as
their bits, are multiplied and added in float32; their lines are asked for twice.

Shapes: D channels, J rows of a list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from isae.compiled import compiled
from isae.kernels.cpu.instructions import Emitter, Instructions, prefetch

Array = npt.NDArray[Any]

TOGETHER = 4
"""Rows that are read at the same time."""
LINE = 64
"""Bytes of a cache line, and of a vector."""
CONTRACT = ("contract",)
"""Lets a product and a sum become one instruction."""


class _Lists:
    """Writes loops over the channels of rows whose addresses stand in a list."""

    def __init__(self, builder: Any, rows: str) -> None:
        self.e = Emitter(builder)
        self.builder, ir = builder, self.e.ir
        self.halves = rows == "bfloat16"
        self.real = ir.DoubleType() if rows == "float64" else ir.FloatType()
        self.size = 8 if rows == "float64" else 4
        self.lanes = LINE // self.size
        self.vector = ir.VectorType(self.real, self.lanes)

    def addresses(self, at: Any, count: int) -> list[Any]:
        """The first of a list."""
        places = (self.e.at(at, 8 * i, self.e.int) for i in range(count))
        return [self.builder.load(place, align=8) for place in places]

    def pairs(self, at: Any) -> list[tuple[Any, Any]]:
        """Addresses of the rows at the head of a list, each with that of one which comes next."""
        both = self.addresses(at, 2 * TOGETHER)
        return list(zip(both[:TOGETHER], both[TOGETHER:], strict=True))

    def numbers(self, pair: tuple[Any, Any], offset: Any, kind: Any) -> Any:
        """Those of a row; the line of the row that comes next is asked for."""
        row, ahead = pair
        if self.halves:
            offset = self.builder.lshr(offset, self.e.int(1))
        if kind is self.vector:
            self.e.prefetch(ahead, offset)
        return (self.widened if self.halves else self.load)(row, offset, kind)

    def widened(self, base: Any, offset: Any, kind: Any) -> Any:
        """Numbers at an address, where they are bfloat16."""
        ir, builder = self.e.ir, self.builder
        short, word, shift = ir.IntType(16), self.e.word, self.e.word(16)
        if kind is self.vector:
            short, word = ir.VectorType(short, self.lanes), ir.VectorType(word, self.lanes)
            shift = ir.Constant(word, [16] * self.lanes)
        bits = builder.zext(builder.load(self.e.at(base, offset, short), align=2), word)
        return builder.bitcast(builder.shl(bits, shift), kind)

    def load(self, base: Any, offset: Any, kind: Any) -> Any:
        """Numbers at an address."""
        return self.builder.load(self.e.at(base, offset, kind), align=self.size)

    def spread(self, value: Any) -> Any:
        """A number in all lanes."""
        return self.e.spread(value, self.vector)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """A b + c."""
        product = self.builder.fmul(a, b, flags=CONTRACT)
        return self.builder.fadd(product, c, flags=CONTRACT)

    def loop(
        self,
        first: Any,
        end: Any,
        step: int,
        sums: list[Any],
        body: Callable[[Any, list[Any]], Any],
    ) -> list[Any]:
        """For offsets from `first` below `end`: sums = body(offset, sums) -> the last sums."""
        builder, before = self.builder, self.builder.basic_block
        head, inside, after = (builder.append_basic_block(name) for name in ("head", "in", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        offset = builder.phi(self.e.int)
        running = [builder.phi(one.type) for one in sums]
        builder.cbranch(builder.icmp_signed("<", offset, end), inside, after)
        builder.position_at_end(inside)
        following = body(offset, running)
        offset.add_incoming(first, before)
        offset.add_incoming(builder.add(offset, self.e.int(step)), builder.basic_block)
        for phi, start, new in zip(running, sums, following, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(new, builder.basic_block)
        builder.branch(head)
        builder.position_at_end(after)
        return running

    def over_channels(
        self, channels: Any, sums: list[Any], body: Callable[[Any, Any, list[Any]], Any]
    ) -> list[Any]:
        """Whole vectors, then one by one: sums = body(offset, type, sums) -> the last sums."""
        builder, e = self.builder, self.e
        whole = builder.and_(builder.mul(channels, e.int(self.size)), e.int(-LINE))
        nothing = e.ir.Constant(self.vector, [0.0] * self.lanes)
        wide = [nothing for _ in sums]
        wide = self.loop(e.int(0), whole, LINE, wide, lambda o, s: body(o, self.vector, s))
        narrow = [builder.fadd(one, self.total(many)) for one, many in zip(sums, wide, strict=True)]
        end = builder.mul(channels, e.int(self.size))
        return self.loop(whole, end, self.size, narrow, lambda o, s: body(o, self.real, s))

    def total(self, vector: Any) -> Any:
        """The sum of all lanes, by halving."""
        e, count = self.e, self.lanes
        while count > 1:
            count //= 2
            words = e.ir.VectorType(e.word, count)
            low, high = (
                self.builder.shuffle_vector(
                    vector, vector, e.ir.Constant(words, list(range(first, first + count)))
                )
                for first in (0, count)
            )
            vector = self.builder.fadd(low, high)
        return self.builder.extract_element(vector, e.word(0))


def _emit_products(rows: str) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, at, channels, out = arguments
        lists = _Lists(builder, rows)
        pairs = lists.pairs(at)

        def body(offset: Any, kind: Any, sums: list[Any]) -> list[Any]:
            numbers = lists.load(x, offset, kind)
            return [
                lists.multiply_add(numbers, lists.numbers(pair, offset, kind), one)
                for pair, one in zip(pairs, sums, strict=True)
            ]

        zero = lists.e.ir.Constant(lists.real, 0.0)
        for i, total in enumerate(lists.over_channels(channels, [zero] * TOGETHER, body)):
            place = lists.e.at(out, lists.size * i, lists.real)
            builder.store(total, place, align=lists.size)
        return context.get_dummy_value()

    return emit


def _emit_sums(rows: str) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        coefficients, at, channels, out = arguments
        lists = _Lists(builder, rows)
        pairs, e = lists.pairs(at), lists.e
        places = [e.int(lists.size * i) for i in range(TOGETHER)]
        numbers = [lists.load(coefficients, place, lists.real) for place in places]
        spread = [lists.spread(number) for number in numbers]

        def body(offset: Any, kind: Any, sums: list[Any]) -> list[Any]:
            factors = spread if kind is lists.vector else numbers
            total = lists.load(out, offset, kind)
            for pair, factor in zip(pairs, factors, strict=True):
                total = lists.multiply_add(factor, lists.numbers(pair, offset, kind), total)
            builder.store(total, e.at(out, offset, kind), align=lists.size)
            return []

        lists.over_channels(channels, [], body)
        return context.get_dummy_value()

    return emit


_WORDS = ["int64"] * 4
_Loop = Instructions[[int, int, int, int], None]
_products_16 = _Loop(_emit_products("bfloat16"), "void", _WORDS)
_products_32 = _Loop(_emit_products("float32"), "void", _WORDS)
_products_64 = _Loop(_emit_products("float64"), "void", _WORDS)
_sums_16 = _Loop(_emit_sums("bfloat16"), "void", _WORDS)
_sums_32 = _Loop(_emit_sums("float32"), "void", _WORDS)
_sums_64 = _Loop(_emit_sums("float64"), "void", _WORDS)


@compiled()
def row_address(y_BD: Array, row: int) -> int:
    """Where a row begins."""
    return y_BD.ctypes.data + y_BD.itemsize * y_BD.shape[1] * row  # type: ignore[no-any-return]


@compiled()
def prefetch_row(y_BD: Array, row: int) -> None:
    """Ask for a row that is read soon."""
    first = row_address(y_BD, row)
    for line in range(first, first + y_BD.itemsize * y_BD.shape[1], LINE):
        prefetch(line)


@compiled()
def list_rows(y_BD: Array, indices: Array, count: int, at: Array, start: int) -> int:
    """Write the addresses of `count` rows of y to at[start:] -> the place behind them.

    The last row is repeated up to a multiple of TOGETHER.
    """
    last = count - 1
    end = start + (count + TOGETHER - 1) // TOGETHER * TOGETHER
    for j in range(start, end):
        at[j] = row_address(y_BD, indices[min(j - start, last)])
    return end


@compiled()
def row_products(x_D: Array, at: Array, end: int, out: Array, row_size: int) -> None:
    """Out[j] = <x, row at at[j]> for j below end, a multiple of TOGETHER.

    x: float32 or float64, contiguous as all rows are; at: int64 addresses, up to end + TOGETHER:
    the last are what is read next. row_size: bytes of a number of the rows, as of x, or 2 of
    bfloat16 where x is float32. Equal rows give equal bits.
    """
    d, size = x_D.shape[0], x_D.itemsize
    for j in range(0, end, TOGETHER):
        x, places, sums = x_D.ctypes.data, at.ctypes.data + 8 * j, out.ctypes.data + size * j
        if row_size == 2:
            _products_16(x, places, d, sums)
        elif size == 4:
            _products_32(x, places, d, sums)
        else:
            _products_64(x, places, d, sums)


@compiled()
def add_rows(coefficients: Array, at: Array, end: int, out_D: Array, row_size: int) -> None:
    """Out += sum of coefficients[j] times the row at at[j], j below end, as in `row_products`.

    Coefficients are of the dtype of out. Rows that only fill up a list need a coefficient of 0.
    """
    d, size = out_D.shape[0], out_D.itemsize
    for j in range(0, end, TOGETHER):
        factors, places = coefficients.ctypes.data + size * j, at.ctypes.data + 8 * j
        if row_size == 2:
            _sums_16(factors, places, d, out_D.ctypes.data)
        elif size == 4:
            _sums_32(factors, places, d, out_D.ctypes.data)
        else:
            _sums_64(factors, places, d, out_D.ctypes.data)
