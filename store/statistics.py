"""Per-channel statistics of the training images' rows, exact and independent of batch sizes.

mean_c = sum_r x_rc / R, var_c = sum_r (x_rc - mean_c)^2 / R (population variance), max_c, and the
share of rows with x_rc != 0. Sums are taken in float64 over fixed blocks of rows in stored order,
about the first row of the block, and joined by Chan's formula (Chan, Golub and LeVeque 1983):
blocks to parts of PART_ROWS rows, then these to the whole. So the result depends on the stored rows
alone, and parts may be summed by different processes. Within a block rows are summed four at a time
since arithmetic 2 (store/layout.py), one at a time before, which differs in the last bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load, save

from isae.compiled import compiled
from isae.errors import StoreCorruptError
from isae.files import write_bytes
from isae.store.layout import ARITHMETIC

Floats = npt.NDArray[np.float64]
BLOCK_ROWS = 1024
PART_ROWS = 16384
FIELDS = ("mean_C", "var_C", "max_C", "nonzero_C")
_SUMS = ("mean_C", "m2_C", "max_C", "nonzero_C")


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics over `count` rows; arrays are float64 [channels]."""

    count: int
    mean_C: Floats
    var_C: Floats
    max_C: Floats
    nonzero_C: Floats

    @property
    def total_variance(self) -> float:
        """Sum of the channels' variances."""
        return float(self.var_C.sum())


class Accumulator:
    """Takes rows in stored order, in pieces of any size, and gives their ChannelStatistics."""

    def __init__(self, channels: int, arithmetic: int = ARITHMETIC) -> None:
        self.arithmetic = arithmetic
        self.count = 0
        self.mean_C = np.zeros(channels)
        self.m2_C = np.zeros(channels)
        self.max_C = np.full(channels, -np.inf)
        self.nonzero_C = np.zeros(channels)
        self.pending: list[npt.NDArray[np.generic]] = []
        self.pending_rows = 0

    def add(self, rows_RC: npt.NDArray[np.generic]) -> None:
        """Add rows [R, C]; they are kept until a block is full."""
        self.pending.append(rows_RC)
        self.pending_rows += len(rows_RC)
        if self.pending_rows >= BLOCK_ROWS:
            rows = self.pending[0] if len(self.pending) == 1 else np.concatenate(self.pending)
            whole = len(rows) // BLOCK_ROWS * BLOCK_ROWS
            for start in range(0, whole, BLOCK_ROWS):
                self._add_block(rows[start : start + BLOCK_ROWS])
            self.pending = [rows[whole:].copy()]
            self.pending_rows = len(rows) - whole

    def add_part(self, rows_RC: npt.NDArray[np.generic]) -> None:
        """Add the next PART_ROWS rows (the last part has fewer), summed by themselves first."""
        part = Accumulator(len(self.mean_C), self.arithmetic)
        part.add(rows_RC)
        part.close()
        self.merge(part)

    def merge(self, other: Accumulator) -> None:
        """Add what another one, that has no part of a block left, has seen."""
        self._join(other.count, other.mean_C, other.m2_C, other.max_C, other.nonzero_C)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What was seen, as arrays for a file; no rows may be added after this."""
        self.close()
        sums = (self.mean_C, self.m2_C, self.max_C, self.nonzero_C)
        named = dict(zip(_SUMS, sums, strict=True))
        return {"count": np.asarray([self.count], dtype=np.int64), **named}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Accumulator:
        """What `arrays` gave."""
        found = cls(len(arrays["mean_C"]))
        found.count = int(arrays["count"][0])
        found.mean_C, found.m2_C, found.max_C, found.nonzero_C = (arrays[one] for one in _SUMS)
        return found

    def close(self) -> None:
        """Take in what is left of a block; after this rows may no longer be added."""
        if self.pending_rows:
            self._add_block(np.concatenate(self.pending))
            self.pending, self.pending_rows = [], 0

    def finish(self) -> ChannelStatistics:
        """The statistics of all rows added."""
        self.close()
        count = max(self.count, 1)
        arrays = (self.mean_C, self.m2_C / count, self.max_C, self.nonzero_C / count)
        return ChannelStatistics(self.count, *(array.copy() for array in arrays))

    def _add_block(self, rows_RC: npt.NDArray[np.generic]) -> None:
        # torch converts float16 several times faster than NumPy.
        block = torch.from_numpy(np.ascontiguousarray(rows_RC)).float().numpy()
        channels = block.shape[1]
        sum_C, square_C = np.zeros((2, channels))
        max_C = np.full(channels, -np.inf, dtype=np.float32)
        nonzero_C = np.zeros(channels, dtype=np.int32)
        size = len(block)
        fours = size // 4 * 4 if self.arithmetic > 1 else 0
        _sum_block(block, fours, sum_C, square_C, max_C, nonzero_C)
        mean_C, m2_C = block[0] + sum_C / size, square_C - sum_C**2 / size
        self._join(size, mean_C, m2_C, max_C.astype(np.float64), nonzero_C.astype(np.float64))

    def _join(
        self, size: int, mean_C: Floats, m2_C: Floats, max_C: Floats, nonzero_C: Floats
    ) -> None:
        total = self.count + size
        if not size:
            return
        delta = mean_C - self.mean_C
        self.m2_C += m2_C + delta**2 * (self.count * size / total)
        self.mean_C += delta * (size / total)
        self.max_C = np.maximum(self.max_C, max_C)
        self.nonzero_C += nonzero_C
        self.count = total


@compiled(nogil=True)
def _sum_block(
    rows_RC: npt.NDArray[np.float32],
    fours: int,
    sum_C: Floats,
    square_C: Floats,
    max_C: npt.NDArray[np.float32],
    nonzero_C: npt.NDArray[np.int32],
) -> None:
    """Sums and sums of squares about the first row, maxima and non-zero counts, in one pass.

    The first `fours` rows four at once: what takes the time is loading and storing the sums.
    """
    rows, channels = rows_RC.shape
    for row in range(0, fours, 4):
        for c in range(channels):
            first = np.float64(rows_RC[0, c])
            a, b, d, e = (
                rows_RC[row, c],
                rows_RC[row + 1, c],
                rows_RC[row + 2, c],
                rows_RC[row + 3, c],
            )
            p, q = np.float64(a) - first, np.float64(b) - first
            s, t = np.float64(d) - first, np.float64(e) - first
            sum_C[c] += (p + q) + (s + t)
            square_C[c] += (p * p + q * q) + (s * s + t * t)
            max_C[c] = max(max(max_C[c], max(a, b)), max(d, e))
            nonzero_C[c] += (
                np.int32(a != 0) + np.int32(b != 0) + np.int32(d != 0) + np.int32(e != 0)
            )
    for row in range(fours, rows):
        for c in range(channels):
            value = rows_RC[row, c]
            offset = np.float64(value) - np.float64(rows_RC[0, c])
            sum_C[c] += offset
            square_C[c] += offset * offset
            max_C[c] = max(max_C[c], value)
            nonzero_C[c] += np.int32(value != 0)


def save_statistics(path: Path, statistics: dict[str, ChannelStatistics]) -> None:
    """Write the statistics of all layers as one safetensors file, atomically."""
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for layer, one in statistics.items():
        tensors[f"{layer}.count"] = np.asarray([one.count], dtype=np.int64)
        for field in FIELDS:
            tensors[f"{layer}.{field}"] = np.ascontiguousarray(getattr(one, field))
    # Not save_file: its errors, such as for a full disk, are no OSError.
    write_bytes(path, save(tensors))


def load_statistics(data: bytes, layer: str) -> ChannelStatistics:
    """One layer's statistics from the file's bytes; StoreCorruptError if they are not there."""
    try:
        tensors = load(data)
        fields = {field: tensors[f"{layer}.{field}"] for field in FIELDS}
        return ChannelStatistics(int(tensors[f"{layer}.count"][0]), **fields)
    except Exception as error:
        raise StoreCorruptError(
            f"expected channel statistics of {layer}, found {type(error).__name__}: "
            f"{error}; run isae-store verify, and build the store again"
        ) from error
