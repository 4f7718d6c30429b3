"""CRC-32C (Castagnoli, RFC 3720) of bytes, other Python threads running meanwhile.

The processor's instruction takes 3 cycles and can start every cycle, so three parts of a block are
summed side by side and joined: with L zero bytes behind A, crc(A B) = shift_L(crc A) ^ crc(B),
shift_L being linear over GF(2) and kept as four tables of 256.
"""

from __future__ import annotations

import functools
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from isae.compiled import compiled
from isae.store.byte_steps import crc_word, has_instructions

Bytes = npt.NDArray[np.uint8]
POLYNOMIAL = 0x82F63B78
"""x^32 + x^28 + ... + 1 with its bits in reversed order."""
PART = 2048
"""Bytes of each of the three parts of a block."""


def crc32c(data: Bytes) -> int:
    """CRC-32C of a contiguous array of bytes."""
    if has_instructions():
        return _sum(data, shift_table(PART))
    return int(google_crc32c.value(data.tobytes()))


def row_checksums(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """CRC-32C of each row (of the first axis) of a contiguous array, uint32 [rows]."""
    found = np.zeros(len(values), dtype=np.uint32)
    if values.size:
        rows_RB = values.reshape(-1).view(np.uint8).reshape(len(values), -1)
        if has_instructions():
            _sum_rows(rows_RB, found)
        else:
            found[:] = [google_crc32c.value(row.tobytes()) for row in rows_RB]
    return found


@functools.cache
def shift_table(length: int) -> npt.NDArray[np.uint32]:
    """shift_length as tables [4, 256], one per byte of the checksum."""
    zeros = np.zeros(length, np.uint8)
    columns = [_run(1 << bit, zeros) for bit in range(32)]
    table = np.zeros((4, 256), np.uint32)
    for byte in range(4):
        for value in range(256):
            for bit in range(8):
                if value >> bit & 1:
                    table[byte, value] ^= np.uint32(columns[8 * byte + bit])
    return table


@compiled(nogil=True)
def _run(state: int, data: Bytes) -> int:
    """The state after whole words of data, without inversions."""
    for i in range(0, data.size, 8):
        state = crc_word(state, data.ctypes.data + i, 0, 0, 0, 0)
    return state


@compiled(nogil=True)
def _shift(state: Any, table: npt.NDArray[np.uint32]) -> int:
    return int(
        table[0, state & 255]
        ^ table[1, (state >> 8) & 255]
        ^ table[2, (state >> 16) & 255]
        ^ table[3, (state >> 24) & 255]
    )


@compiled(nogil=True)
def _sum(data: Bytes, table: npt.NDArray[np.uint32]) -> int:
    size, start, at = data.size, data.ctypes.data, 0
    a: Any = np.int64(0xFFFFFFFF)
    while at + 3 * PART <= size:
        b, c = np.int64(0), np.int64(0)
        first = start + at
        for i in range(0, PART, 8):
            a = crc_word(a, first + i, 0, 0, 0, 0)
            b = crc_word(b, first + PART + i, 0, 0, 0, 0)
            c = crc_word(c, first + 2 * PART + i, 0, 0, 0, 0)
        a = np.int64(_shift(np.int64(_shift(a, table)) ^ b, table)) ^ c
        at += 3 * PART
    return int(_rest(a, data, at) ^ 0xFFFFFFFF)


@compiled(nogil=True)
def _sum_rows(rows_RB: npt.NDArray[np.uint8], found_R: npt.NDArray[np.uint32]) -> None:
    for row in range(len(rows_RB)):
        found_R[row] = _rest(np.int64(0xFFFFFFFF), rows_RB[row], 0) ^ 0xFFFFFFFF


@compiled(nogil=True)
def _rest(a: Any, data: Bytes, at: int) -> Any:
    """The state after data from `at` on."""
    size, start = data.size, data.ctypes.data
    while at + 8 <= size:
        a = crc_word(a, start + at, 0, 0, 0, 0)
        at += 8
    while at < size:
        a ^= np.int64(data[at])
        for _ in range(8):
            a = (a >> 1) ^ (POLYNOMIAL & -(a & 1))
        at += 1
    return a
