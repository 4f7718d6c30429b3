"""Which rows a reader gave, and how well shuffled, told from the values of its batches alone.

A row's hash is of its values and their places, 64 bits wide. A reader's rows of one epoch are the
right multiset if their number and the sum of their hashes modulo 2^64 are.

Shuffling is measured by S, the number of pairs of rows that lie in one batch and come from one
image, over the m full batches of B rows of an epoch. Under a full permutation of N rows, with n_i
rows of image i, M = sum n_i (n_i - 1) / 2 pairs share an image, A = sum n_i (n_i - 1)(n_i - 2)
ordered pairs of such pairs share a row, and with P_j the falling powers B(B-1).. / N(N-1).. of
j rows, Q = (B (B-1))^2 / (N (N-1)(N-2)(N-3)):

    E[S]   = m M P_2
    E[S^2] = m M P_2 + m A P_3 + (M^2 - M - A) (m P_4 + m (m-1) Q)
    z      = (S - E[S]) / sqrt(E[S^2] - E[S]^2)

Rows whose values are not unique cannot be told apart: they count as rows of images of their own,
on both sides, so S and its distribution stay exact.

Shapes: B rows of a batch, N rows of an epoch, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.randomness import hash64, keyed_rng

Array = npt.NDArray[Any]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
HASH_ROWS = 4096
"""Rows that are hashed at once: their 64-bit words are held beside them."""


def row_hashes(rows_BC: Array, dtype: np.dtype[Any]) -> U64:
    """Hashes [B] of rows whose values are compared as `dtype` (float16 values may come as float32).

    hash = mix(sum_c K_c w_c mod 2^64), w_c the bits of value c and K_c odd random numbers; mix
    (see isae.randomness.hash64) makes a sum of hashes see values that changed their rows.
    """
    word = np.dtype(f"u{dtype.itemsize}")
    factors_C = keyed_rng(0, "row hash").integers(0, 2**64, rows_BC.shape[1], dtype=np.uint64)
    factors_C |= np.uint64(1)
    found = []
    for start in range(0, len(rows_BC), HASH_ROWS):
        rows = np.ascontiguousarray(rows_BC[start : start + HASH_ROWS].astype(dtype, copy=False))
        found.append(rows.view(word).astype(np.uint64) @ factors_C)
    return hash64(1, np.concatenate(found) if found else np.empty(0, dtype=np.uint64))


@dataclass(frozen=True)
class Shared:
    """Pairs of one batch and one image: how many, how many a permutation gives, and how far off."""

    pairs: int
    expected: float
    sigma: float
    z: float
    batches: int
    batch: int
    told_apart: float
    """Share of the rows whose values are unique."""

    def json(self) -> dict[str, Any]:
        """As JSON; z is None where a permutation leaves no room (sigma 0)."""
        return {**asdict(self), "z": self.z if math.isfinite(self.z) else None}


class RowBook:
    """The rows that a reader has to give: their hashes, and the image of each."""

    def __init__(self, rows_NC: Array, images_N: npt.ArrayLike) -> None:
        self.dtype = rows_NC.dtype
        hashes = row_hashes(rows_NC, self.dtype)
        self.rows = len(hashes)
        self.sum = _sum(hashes)
        self.hashes, first, self.counts = np.unique(hashes, return_index=True, return_counts=True)
        unique = self.counts == 1
        self.images = np.where(unique, np.asarray(images_N, dtype=np.int64)[first], -1)
        _, self.rows_of_image = np.unique(self.images[unique], return_counts=True)
        self.told_apart = float(unique.sum()) / max(1, self.rows)

    def fault(self, hashes_N: U64) -> str | None:
        """What was expected of the rows of one epoch and found instead; None if they are right."""
        if len(hashes_N) != self.rows:
            return f"expected {self.rows:,} rows in an epoch, found {len(hashes_N):,}"
        if _sum(hashes_N) == self.sum:
            return None
        found, counts = np.unique(hashes_N, return_counts=True)
        places = np.searchsorted(self.hashes, found).clip(max=len(self.hashes) - 1)
        known = self.hashes[places] == found
        foreign = int(counts[~known].sum())
        repeated = int((counts - self.counts[places])[known].clip(min=0).sum())
        return f"expected every row once, found {foreign:,} unknown and {repeated:,} repeated rows"

    def shared(self, hashes_N: U64, batch: int) -> Shared:
        """The measure, for the rows of one epoch in the order in which a reader gave them."""
        places = np.searchsorted(self.hashes, hashes_N).clip(max=len(self.hashes) - 1)
        known = self.hashes[places] == hashes_N
        images = np.where(known, self.images[places], -1)
        batches = len(images) // batch
        pairs = sum(
            pairs_of(images[start : start + batch]) for start in range(0, batches * batch, batch)
        )
        mean, sigma = ideal(self.rows_of_image, self.rows, batch, batches)
        z = (pairs - mean) / sigma if sigma > 0 else math.nan
        return Shared(pairs, mean, sigma, z, batches, batch, self.told_apart)


def epoch_hashes(batches: Iterable[Array], rows: int, dtype: np.dtype[Any]) -> U64:
    """Hashes of the first `rows` rows of an endless stream of batches (or of all, if it ends)."""
    found: list[U64] = []
    left = rows
    for batch_BC in batches:
        found.append(row_hashes(batch_BC[:left], dtype))
        left -= len(found[-1])
        if left <= 0:
            break
    return np.concatenate(found)


def pairs_of(images_B: I64) -> int:
    """Pairs of rows with the same image; image -1 shares with nobody."""
    _, counts = np.unique(images_B[images_B >= 0], return_counts=True)
    return int((counts * (counts - 1) // 2).sum())


def ideal(rows_of_image: Array, rows: int, batch: int, batches: int) -> tuple[float, float]:
    """Mean and standard deviation of S under a full permutation of `rows` rows."""
    counts = [int(n) for n in rows_of_image]
    pairs = sum(n * (n - 1) for n in counts) // 2
    touching = sum(n * (n - 1) * (n - 2) for n in counts)
    two, three, four = (_ratio(_falling(batch, j), _falling(rows, j)) for j in (2, 3, 4))
    apart = _ratio(_falling(batch, 2) ** 2, _falling(rows, 4))
    mean = batches * pairs * two
    square = mean + batches * touching * three
    square += (pairs**2 - pairs - touching) * batches * (four + (batches - 1) * apart)
    return mean, math.sqrt(max(0.0, square - mean**2))


def _falling(number: int, length: int) -> int:
    return math.prod(max(0, number - j) for j in range(length))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _sum(hashes: U64) -> int:
    with np.errstate(over="ignore"):
        return int(hashes.sum(dtype=np.uint64))
