"""Compiled loops of isae.store.quantise, during which other Python threads run.

Legend: R rows, C channels, V the 256 codes, I numbers in a row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isae.compiled import compiled

Rows = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

FLOAT32_MAX = np.finfo(np.float32).max


def as_float32(rows_RC: Rows) -> Floats:
    """The same numbers as contiguous float32."""
    if rows_RC.dtype == np.float32:
        return np.ascontiguousarray(rows_RC, dtype=np.float32)
    bits_RC = np.ascontiguousarray(rows_RC).view(np.uint16)
    wide_RC = np.empty(rows_RC.shape, dtype=np.float32)
    _widen(bits_RC.reshape(-1), wide_RC.reshape(-1))
    return wide_RC


@compiled(nogil=True)
def _widen(bits_I: npt.NDArray[np.uint16], out_I: Floats) -> None:
    """Float16 bits to float32 numbers, exactly; numba has no float16 on processors."""
    for i in range(len(bits_I)):
        size = np.uint32(bits_I[i] & np.uint16(0x7FFF))
        shifted = np.uint32(size << np.uint32(13))
        # The exponent's bias grows from 15 to 127; that of NaN and infinity from 31 to 255.
        normal = np.uint32(shifted + np.uint32(112 << 23)).view(np.float32)
        special = np.uint32(shifted + np.uint32(224 << 23)).view(np.float32)
        number = normal if size < np.uint32(0x7C00) else special
        if size < np.uint32(0x400):
            number = np.float32(np.float32(size) * np.float32(2.0**-24))
        out_I[i] = -number if bits_I[i] & np.uint16(0x8000) else number


@compiled(nogil=True)
def encode_int8(rows_RC: Floats, scale_C: Floats, codes_RC: Codes) -> bool:
    """Codes of rows; False if a number was not finite."""
    good = True
    rows, channels = rows_RC.shape
    for row in range(rows):
        for c in range(channels):
            good &= abs(rows_RC[row, c]) <= FLOAT32_MAX
            ratio = np.float32(rows_RC[row, c] / scale_C[c])
            ratio = min(max(ratio, np.float32(-127.0)), np.float32(127.0))
            codes_RC[row, c] = np.uint8(np.int32(np.rint(ratio)))
    return good


@compiled(nogil=True)
def encode_e4m3(rows_RC: Floats, scale_C: Floats, codes_RC: Codes) -> bool:
    """Codes of rows; False if a number was not finite."""
    good = True
    rows, channels = rows_RC.shape
    for row in range(rows):
        for c in range(channels):
            good &= abs(rows_RC[row, c]) <= FLOAT32_MAX
            ratio = np.float32(rows_RC[row, c] / scale_C[c])
            sign = (ratio.view(np.uint32) >> np.uint32(24)) & np.uint32(0x80)
            size = np.float32(min(np.float32(abs(ratio)), np.float32(448.0)))
            bits = size.view(np.uint32)
            # From 2^-6 on: 20 of the 23 fraction bits go, and the bias shrinks from 127 to 7.
            odd = (bits >> np.uint32(20)) & np.uint32(1)
            normal = ((bits + np.uint32(0x7FFFF) + odd) >> np.uint32(20)) - np.uint32(120 << 3)
            # Below, codes are multiples of 2^-9, the spacing of float32 numbers at 2^14.
            small = np.float32(size + np.float32(2.0**14)).view(np.uint32) & np.uint32(0xFF)
            code = normal if size >= np.float32(2.0**-6) else small
            codes_RC[row, c] = np.uint8(code | sign)
    return good


@compiled(nogil=True)
def look_up(
    codes_RC: Codes, table_CV: npt.NDArray[np.uint16], out_RC: npt.NDArray[np.uint16]
) -> int:
    """Write each channel's table at each code; the largest entry met."""
    largest = np.uint16(0)
    rows, channels = codes_RC.shape
    for row in range(rows):
        for c in range(channels):
            entry = table_CV[c, codes_RC[row, c]]
            largest = max(largest, entry)
            out_RC[row, c] = entry
    return int(largest)
