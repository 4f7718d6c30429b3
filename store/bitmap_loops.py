"""Compiled loops of the bitmap codec: packing the non-zeros of a chunk, and putting them back.

Letters: N elements of a chunk, M non-zeros among them, B bytes and W 64-bit words of the bitmap.
Elements are handled as unsigned integers of their own size, so every bit pattern passes unchanged.

A group of 8 elements (4 of 4 bytes) is put back by one byte shuffle: the next values of all planes
are interleaved, and a table holds for every pattern of bits which byte goes where. No loop reads
or writes out of bounds, whatever the bits and the number of values are.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.compiled import compiled
from isae.store.byte_steps import gather_1, gather_2, gather_4, shuffle_1, shuffle_2, shuffle_4

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
NOTHING = 0x80
"""In a shuffle: the byte becomes zero."""
WORD = 64
"""Elements of a word of the bitmap."""


@functools.cache
def shuffle_table(size: int) -> Bytes:
    """[patterns, bytes]: for every pattern of bits which byte of the next values goes where."""
    group = 4 if size == 4 else 8
    table = np.full((2**group, group * size), NOTHING, np.uint8)
    for pattern in range(2**group):
        places = [e for e in range(group) if pattern >> e & 1]
        for rank, e in enumerate(places):
            table[pattern, e * size : (e + 1) * size] = rank * size + np.arange(size)
    return table


@functools.cache
def gather_table(size: int) -> Bytes:
    """[patterns, bytes]: for every pattern of bits the bytes of its elements, plane by plane."""
    group = 4 if size == 4 else 8
    table = np.full((2**group, size, group), NOTHING, np.uint8)
    for pattern in range(2**group):
        places = [e for e in range(group) if pattern >> e & 1]
        for plane in range(size):
            table[pattern, plane, : len(places)] = [e * size + plane for e in places]
    return table.reshape(2**group, size * group)


@functools.cache
def count_table() -> Bytes:
    """Set bits of every byte."""
    return np.array([byte.bit_count() for byte in range(256)], np.uint8)


@compiled(nogil=True)
def count_bits(bits_W: Words) -> int:
    """Set bits in all words."""
    ones, twos = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
    fours, sums = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
    one, two, four, last = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)
    total = np.uint64(0)
    for w in range(bits_W.size):
        x = bits_W[w]
        x = x - ((x >> one) & ones)
        x = (x & twos) + ((x >> two) & twos)
        x = (x + (x >> four)) & fours
        total += (x * sums) >> last
    return int(total)


@compiled(nogil=True)
def pack_rest(values_N: Any, start: int, used: int, bitmap_B: Bytes, planes_PN: Bytes) -> int:
    """Elements from number `start` (a multiple of 8) on, `used` values being there already.

    Bits of the non-zeros go to `bitmap`, their bytes to the planes; gives how many there are now.
    Every value is written to the next place, which moves on only behind a non-zero: no branches.
    """
    p: Any = np.uint64(used)
    size, bits = planes_PN.shape[0], np.int64(0)
    a_N, b_N = planes_PN[0], planes_PN[min(1, size - 1)]
    c_N, d_N = planes_PN[min(2, size - 1)], planes_PN[size - 1]
    bitmap_B[start >> 3 :] = 0
    for i in range(start, values_N.size):
        value = np.int64(values_N[np.uint64(i)])
        a_N[p] = np.uint8(value)
        if size > 1:
            b_N[p] = np.uint8(value >> 8)
        if size > 2:
            c_N[p], d_N[p] = np.uint8(value >> 16), np.uint8(value >> 24)
        bit = np.int64(value != 0)
        bits = (bits & -np.int64(i & 7 != 0)) | bit << (i & 7)
        bitmap_B[np.uint64(i >> 3)] = np.uint8(bits)
        p += np.uint64(bit)
    return int(p)


@compiled(nogil=True)
def pack_1(values_N: Any, bitmap_B: Bytes, planes_PN: Bytes, table: Bytes, counts: Bytes) -> int:
    """As pack_rest, from the first element on, by shuffles; elements of 1 byte."""
    values, order = values_N.ctypes.data, table.ctypes.data
    plane, groups = planes_PN.ctypes.data, values_N.size // 8
    p: Any = 0
    for g in range(groups):
        bits = gather_1(values + 8 * g, order, plane + p, 0, 0, 0)
        bitmap_B[np.uint64(g)] = np.uint8(bits)
        p += np.int64(counts[np.uint64(bits)])
    return pack_rest(values_N, 8 * groups, p, bitmap_B, planes_PN)


@compiled(nogil=True)
def pack_2(values_N: Any, bitmap_B: Bytes, planes_PN: Bytes, table: Bytes, counts: Bytes) -> int:
    """As pack_1, for elements of 2 bytes."""
    values, order = values_N.ctypes.data, table.ctypes.data
    low, groups = planes_PN.ctypes.data, values_N.size // 8
    high = low + planes_PN.shape[1]
    p: Any = 0
    for g in range(groups):
        bits = gather_2(values + 16 * g, order, low + p, high + p, 0, 0)
        bitmap_B[np.uint64(g)] = np.uint8(bits)
        p += np.int64(counts[np.uint64(bits)])
    return pack_rest(values_N, 8 * groups, p, bitmap_B, planes_PN)


@compiled(nogil=True)
def pack_4(values_N: Any, bitmap_B: Bytes, planes_PN: Bytes, table: Bytes, counts: Bytes) -> int:
    """As pack_1, for elements of 4 bytes."""
    values, order = values_N.ctypes.data, table.ctypes.data
    a, groups, step = planes_PN.ctypes.data, values_N.size // 8, planes_PN.shape[1]
    p: Any = 0
    for g in range(groups):
        both: Any = 0
        for half in range(2):
            at, q = values + 32 * g + 16 * half, a + p
            bits = gather_4(at, order, q, q + step, q + 2 * step, q + 3 * step)
            both |= bits << 4 * half
            p += np.int64(counts[np.uint64(bits)])
        bitmap_B[np.uint64(g)] = np.uint8(both)
    return pack_rest(values_N, 8 * groups, p, bitmap_B, planes_PN)


@compiled(nogil=True)
def place_rest(
    bits_W: Words,
    a_M: Bytes,
    b_M: Bytes,
    c_M: Bytes,
    d_M: Bytes,
    start: int,
    used: int,
    out_N: Any,
) -> None:
    """Elements from number `start` on, the next value being number `used`; without branches."""
    size, last = out_N.itemsize, np.uint64(a_M.size - 1)
    p: Any = np.uint64(used)
    if used == a_M.size:
        out_N[start:] = 0
        return
    for i in range(start, out_N.size):
        bit = np.int64(bits_W[np.uint64(i >> 6)] >> np.uint64(i & 63)) & 1
        at = min(p, last)
        value = np.int64(a_M[at])
        if size > 1:
            value |= np.int64(b_M[at]) << 8
        if size > 2:
            value |= np.int64(c_M[at]) << 16 | np.int64(d_M[at]) << 24
        out_N[np.uint64(i)] = value & -bit
        p += np.uint64(bit)


@compiled(nogil=True)
def place_1(bits_W: Words, plane_M: Bytes, table: Bytes, counts: Bytes, out_N: Any) -> None:
    """All elements, of 1 byte: whole words while 64 values are left, then the rest."""
    values, order, out = plane_M.ctypes.data, table.ctypes.data, out_N.ctypes.data
    p: Any = 0
    w, words, safe = 0, out_N.size // WORD, plane_M.size - WORD
    while w < words and p <= safe:
        word = bits_W[np.uint64(w)]
        for j in range(8):
            bits = np.int64(word & np.uint64(255))
            word >>= np.uint64(8)
            shuffle_1(values + p, order + 8 * bits, out + 64 * w + 8 * j, 0, 0, 0)
            p += np.int64(counts[np.uint64(bits)])
        w += 1
    place_rest(bits_W, plane_M, plane_M, plane_M, plane_M, WORD * w, p, out_N)


@compiled(nogil=True)
def place_2(
    bits_W: Words, low_M: Bytes, high_M: Bytes, table: Bytes, counts: Bytes, out_N: Any
) -> None:
    """As place_1, for elements of 2 bytes."""
    low, high = low_M.ctypes.data, high_M.ctypes.data
    order, out = table.ctypes.data, out_N.ctypes.data
    p: Any = 0
    w, words, safe = 0, out_N.size // WORD, low_M.size - WORD
    while w < words and p <= safe:
        word = bits_W[np.uint64(w)]
        for j in range(8):
            bits = np.int64(word & np.uint64(255))
            word >>= np.uint64(8)
            shuffle_2(low + p, high + p, order + 16 * bits, out + 128 * w + 16 * j, 0, 0)
            p += np.int64(counts[np.uint64(bits)])
        w += 1
    place_rest(bits_W, low_M, high_M, low_M, low_M, WORD * w, p, out_N)


@compiled(nogil=True)
def place_4(
    bits_W: Words,
    a_M: Bytes,
    b_M: Bytes,
    c_M: Bytes,
    d_M: Bytes,
    table: Bytes,
    counts: Bytes,
    out_N: Any,
) -> None:
    """As place_1, for elements of 4 bytes."""
    a, b, c, d = a_M.ctypes.data, b_M.ctypes.data, c_M.ctypes.data, d_M.ctypes.data
    order, out = table.ctypes.data, out_N.ctypes.data
    p: Any = 0
    w, words, safe = 0, out_N.size // WORD, a_M.size - WORD
    while w < words and p <= safe:
        word = bits_W[np.uint64(w)]
        for j in range(16):
            bits = np.int64(word & np.uint64(15))
            word >>= np.uint64(4)
            shuffle_4(a + p, b + p, c + p, d + p, order + 16 * bits, out + 256 * w + 16 * j)
            p += np.int64(counts[np.uint64(bits)])
        w += 1
    place_rest(bits_W, a_M, b_M, c_M, d_M, WORD * w, p, out_N)
