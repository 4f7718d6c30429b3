"""Activations in one byte each, with one scale per channel: `--dtype int8` and `float8_e4m3`.

    code_rc = round(x_rc / s_c)         x_hat_rc = float16(s_c * value(code_rc))

x / s is one float32 division, rounded to the nearest number of the byte's format (ties to even) and
saturated: whole numbers -127..127 (int8), or OCP 8-bit floating point E4M3 (Micikevicius et al.
2022, "FP8 formats for deep learning"; torch.float8_e4m3fn): largest 448, no infinity. s * value is
one float32 product, rounded to float16. Zarr has neither type, so the array is uint8 and its
attributes carry dtype, scales and this formula.

Legend: R rows, C channels, V the 256 codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.config import check
from isae.errors import DataError, StoreCorruptError
from isae.store.quantise_loops import (
    Codes,
    Floats,
    Rows,
    as_float32,
    encode_e4m3,
    encode_int8,
    look_up,
)

QUANTISED = ("int8", "float8_e4m3")
ATTRIBUTE = "isae_quantisation"
VERSION = 1
FORMULAS = {
    "int8": "x = float16(scale[c] * int8(byte)), the byte in two's complement, -128 unused",
    "float8_e4m3": "x = float16(scale[c] * float8_e4m3fn(byte)), the byte in OCP E4M3, NaN unused",
}
TOP = {"int8": 127.0, "float8_e4m3": 448.0}
LARGEST = 65504.0
"""The largest float16."""
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_UNUSED = np.uint16(0xFFFF)
"""Stands for codes without a value: above the float16 bits of every finite number."""
BLOCK = 1 << 17
"""Numbers widened to float32 at a time, so that they stay in the processor's cache."""


def code_values(dtype: str) -> Floats:
    """The number that each of the 256 codes means, float32 [V]; NaN for unused codes."""
    _check_dtype(dtype)
    code_V = np.arange(256)
    if dtype == "int8":
        return np.where(code_V == 128, np.nan, (code_V ^ 128) - 128).astype(np.float32)
    exponent_V, fraction_V = (code_V >> 3) & 15, code_V & 7
    normal_V = np.ldexp(1 + fraction_V / 8, exponent_V - 7)
    size_V = np.where(exponent_V > 0, normal_V, np.ldexp(fraction_V, -9))
    size_V = np.where(code_V & 127 == 127, np.nan, size_V)
    return np.where(code_V & 128, -size_V, size_V).astype(np.float32)


def scales(dtype: str, max_abs_C: npt.NDArray[np.floating[Any]]) -> Floats:
    """Scales s_c = max_abs_c / top, float32 [C], top being 127 (int8) or 448 (float8_e4m3).

    So a channel's largest number has the top code, and comes back as itself if it is a float16.
    A channel of zeros has s = 1; s is at least the smallest normal float32 (only reached by
    channels whose numbers are all zero in float16). Raises DataError where max_abs_c is negative,
    not finite, or more than 65504, the largest float16.
    """
    _check_dtype(dtype)
    largest_C = np.asarray(max_abs_C, dtype=np.float64)
    if not ((largest_C >= 0) & (largest_C <= LARGEST)).all():
        raise DataError(
            f"expected channels of size 0 to {LARGEST:.0f}, found {largest_C.min():g} to "
            f"{largest_C.max():g}; look at the network's output, or use --dtype float32"
        )
    scale_C = np.maximum(largest_C / TOP[dtype], _SMALLEST_SCALE)
    return np.where(largest_C > 0, scale_C, 1.0).astype(np.float32)


class Quantiser:
    """Codes of one array, given its `dtype` of QUANTISED and its scales, float32 [C].

    Raises DataError unless the scales are normal float32 numbers above 0 whose top code is finite
    in float16.
    """

    def __init__(self, dtype: str, scale_C: Floats) -> None:
        self.dtype = dtype
        self.scale_C = np.array(scale_C, dtype=np.float32)
        values_V = code_values(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            table_CV = (self.scale_C[..., None] * values_V).astype(np.float16)
        finite = np.isfinite(table_CV[..., np.isfinite(values_V)]).all()
        if self.scale_C.ndim != 1 or not (finite and (self.scale_C >= _SMALLEST_SCALE).all()):
            raise DataError(
                f"expected one scale per channel, positive and at most {LARGEST / TOP[dtype]:g}, "
                f"found shape {self.scale_C.shape}, {_range(self.scale_C)}; take them of scales()"
            )
        bits_CV = table_CV.view(np.uint16)
        self._table_CV = np.where(np.isfinite(values_V), bits_CV, _UNUSED)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.scale_C)

    def encode(self, rows_RC: Rows) -> Codes:
        """Codes of rows [R, C], float16 or float32, as uint8 [R, C].

        Numbers beyond the scale get the top code. Raises DataError for another shape or dtype and
        for numbers that are not finite.
        """
        check_rows(rows_RC, self.channels)
        codes_RC = np.empty(rows_RC.shape, dtype=np.uint8)
        encode = encode_int8 if self.dtype == "int8" else encode_e4m3
        step = max(1, BLOCK // max(1, self.channels))
        for start in range(0, len(rows_RC), step):
            block = slice(start, start + step)
            if not encode(as_float32(rows_RC[block]), self.scale_C, codes_RC[block]):
                raise not_finite()
        return codes_RC

    def decode(self, bytes_RC: Codes, out_RC: npt.NDArray[np.float16]) -> None:
        """Write the numbers of codes [R, C] into `out_RC`, float16 [R, C], C-contiguous.

        Other Python threads run meanwhile. Raises DataError for another shape or dtype, and
        StoreCorruptError for a code that encode() never gives.
        """
        fits = bytes_RC.shape == out_RC.shape == (len(out_RC), self.channels)
        kinds = bytes_RC.dtype == np.uint8 and out_RC.dtype == np.float16
        if not (fits and kinds and out_RC.flags.c_contiguous):
            raise DataError(
                f"expected uint8 and contiguous float16 of [rows, {self.channels}], found "
                f"{bytes_RC.dtype} {bytes_RC.shape} and {out_RC.dtype} {out_RC.shape}; "
                "give arrays of this store"
            )
        codes_RC = np.ascontiguousarray(bytes_RC)
        if look_up(codes_RC, self._table_CV, out_RC.view(np.uint16)) == _UNUSED:
            raise StoreCorruptError(
                f"expected {self.dtype} codes, found one that isae never writes; "
                "run isae-store verify"
            )

    def attributes(self) -> dict[str, Any]:
        """JSON for the attributes of the Zarr array, under the key `isae_quantisation`."""
        return {
            ATTRIBUTE: {
                "dtype": self.dtype,
                "version": VERSION,
                "scale": [float(scale) for scale in self.scale_C],
                "formula": FORMULAS[self.dtype],
            }
        }

    @classmethod
    def from_attributes(
        cls, attributes: Mapping[str, Any], channels: int | None = None
    ) -> Quantiser:
        """The quantiser that attributes() describes; StoreCorruptError unless just that.

        `channels` is the number of columns of the array, if known.
        """
        found = attributes.get(ATTRIBUTE)
        quantiser = cls._read(found)
        same = quantiser is not None and quantiser.attributes()[ATTRIBUTE] == found
        if quantiser is None or not same or channels not in (None, quantiser.channels):
            raise StoreCorruptError(
                f"expected {ATTRIBUTE} of version {VERSION} with dtype, formula and "
                f"{'the' if channels is None else channels} scales, found {str(found)[:80]}; "
                "run isae-store verify"
            )
        return quantiser

    @classmethod
    def _read(cls, found: object) -> Quantiser | None:
        if not isinstance(found, Mapping) or found.get("dtype") not in QUANTISED:
            return None
        scale = found.get("scale")
        if not isinstance(scale, list) or not all(type(one) in (float, int) for one in scale):
            return None
        try:
            with np.errstate(over="ignore"):
                return cls(found["dtype"], np.asarray(scale, dtype=np.float32))
        except (DataError, OverflowError):
            return None


def check_rows(rows_RC: npt.NDArray[Any], channels: int) -> None:
    """Raise DataError unless these are float16 or float32 rows [R, channels]."""
    shaped = rows_RC.ndim == 2 and rows_RC.shape[1] == channels
    if not shaped or rows_RC.dtype not in (np.float16, np.float32):
        raise DataError(
            f"expected float16 or float32 rows of {channels} channels, found {rows_RC.dtype} "
            f"{rows_RC.shape}; give rows of the layer that the scales are of"
        )


def not_finite() -> DataError:
    """The error for activations that are NaN or infinite."""
    return DataError(
        "expected finite activations, found NaN or infinity; look at the network's output, "
        "or use --dtype float32 if float16 overflows"
    )


def _range(scale_C: Floats) -> str:
    return f"{scale_C.min():g} to {scale_C.max():g}" if scale_C.size else "none"


def _check_dtype(dtype: str) -> None:
    check(dtype in QUANTISED, f"a dtype of {' or '.join(QUANTISED)}", dtype)
