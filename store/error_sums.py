"""What storing activations in a smaller type costs: relative error and FVU floor.

    relative error = sqrt(sum (x - x_hat)^2 / sum x^2)
    FVU floor      = sum (x - x_hat)^2 / (count * total variance)

over all rows x and channels, x_hat being what the store gives back for x.

Legend: R rows, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.compiled import compiled
from isae.errors import DataError, StoreCorruptError
from isae.store.quantise import BLOCK, check_rows, not_finite
from isae.store.quantise_loops import Floats, Rows, as_float32

Sums = npt.NDArray[np.float64]


class ErrorSums:
    """What a store's dtype costs: sums over rows x and what is stored of them, x_hat.

    error_c = sum_r (x_rc - x_hat_rc)^2 and square_c = sum_r x_rc^2, float64 [C], added row by row:
    they depend on the rows and their order alone, not on the pieces that they came in.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.error_C = np.zeros(channels)
        self.square_C = np.zeros(channels)

    def add(self, rows_RC: Rows, stored_RC: Rows) -> None:
        """Add rows [R, C] and what is stored of them, each float16 or float32.

        Raises DataError if shapes do not fit or a number is not finite.
        """
        channels = len(self.error_C)
        check_rows(rows_RC, channels)
        check_rows(stored_RC, channels)
        if len(rows_RC) != len(stored_RC):
            raise DataError(
                f"expected {len(rows_RC)} stored rows, found {len(stored_RC)}; add both in step"
            )
        error_C, square_C = self.error_C.copy(), self.square_C.copy()
        step = max(1, BLOCK // max(1, channels))
        for start in range(0, len(rows_RC), step):
            block = slice(start, start + step)
            exact_RC, near_RC = as_float32(rows_RC[block]), as_float32(stored_RC[block])
            _sum_squares(exact_RC, near_RC, error_C, square_C)
        # Squares of float32 numbers never leave the range of float64.
        if not (np.isfinite(error_C).all() and np.isfinite(square_C).all()):
            raise not_finite()
        self.error_C, self.square_C = error_C, square_C
        self.count += len(rows_RC)

    def merge(self, other: ErrorSums) -> None:
        """Add the sums of other rows; in a fixed order of parts the last bits are the same."""
        if len(other.error_C) != len(self.error_C):
            raise DataError(
                f"expected sums of {len(self.error_C)} channels, found {len(other.error_C)}; "
                "merge the sums of one array"
            )
        self.count += other.count
        self.error_C = self.error_C + other.error_C
        self.square_C = self.square_C + other.square_C

    @property
    def relative_error(self) -> float:
        """sqrt(sum (x - x_hat)^2 / sum x^2) over all rows and channels; 0 without any error."""
        return math.sqrt(_ratio(math.fsum(self.error_C), math.fsum(self.square_C)))

    def fvu_floor(self, total_variance: float) -> float:
        """sum_rc (x - x_hat)^2 / (count * total_variance), total_variance = sum_c var(x_c).

        The fraction of variance of the exact rows that an SAE leaves unexplained which
        reconstructs every stored row perfectly.
        """
        return _ratio(math.fsum(self.error_C), self.count * total_variance)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The sums as arrays, for a file: count int64 [1], error_C and square_C float64 [C]."""
        return {
            "count": np.asarray([self.count], dtype=np.int64),
            "error_C": self.error_C.copy(),
            "square_C": self.square_C.copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> ErrorSums:
        """The sums that arrays() gave; StoreCorruptError if these are not such."""
        try:
            sums = cls(len(arrays["error_C"]))
            sums.count = int(arrays["count"][0])
            sums.error_C = np.array(arrays["error_C"], dtype=np.float64)
            sums.square_C = np.array(arrays["square_C"], dtype=np.float64)
            good = sums.error_C.shape == sums.square_C.shape == (len(sums.error_C),)
            both = np.stack([sums.error_C, sums.square_C])
            good = good and sums.count >= 0 and bool((np.isfinite(both) & (both >= 0)).all())
        except (KeyError, IndexError, TypeError, ValueError):
            good = False
        if not good:
            raise StoreCorruptError(
                "expected the sums count, error_C and square_C of a dtype's error, found "
                f"{ {name: np.shape(array) for name, array in arrays.items()} }; build it again"
            )
        return sums


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole > 0 else math.inf


@compiled(nogil=True)
def _sum_squares(rows_RC: Floats, stored_RC: Floats, error_C: Sums, square_C: Sums) -> None:
    """Add each channel's sums over the rows, one row after the other."""
    rows, channels = rows_RC.shape
    for row in range(rows):
        for c in range(channels):
            exact = np.float64(rows_RC[row, c])
            error = exact - np.float64(stored_RC[row, c])
            error_C[c] += error * error
            square_C[c] += exact * exact
