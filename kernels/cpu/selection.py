"""Exact selection of the k largest numbers of a row, with compiled loops.

Per row, the maxima of contiguous blocks are taken; a number that at least k block maxima reach is
a lower bound of the k-th largest value, so only blocks whose maximum reaches it are looked at
again, and only values that reach it are sorted. Ties go to the lowest index.

Shapes: C rows of a chunk, N numbers of a row, M blocks, K chosen numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isae.compiled import SUMS, compiled, prange

Array = npt.NDArray[Any]

BLOCK = 32
"""Numbers per block of the pruning pass; `block_maximum` is written for it."""
BLOCKS_PER_K = 2
"""Blocks per chosen number from which pruning pays; below, the whole row is searched."""
BISECTIONS = 40
LANES = 16
INSERTION_LIMIT = 128
PARTS = 32
"""Pieces of a chunk that threads take."""


@compiled()
def block_maxima(values_N: Array, maxima_M: Array, half: Array) -> None:
    """The largest of each block; the last may be short. `half` is room for 16 numbers."""
    # Halving by hand: compilers turn this into vector instructions, which they do not for a plain
    # running maximum.
    n = values_N.shape[0]
    for block in range(n // BLOCK):
        values = values_N[block * BLOCK : block * BLOCK + BLOCK]
        for i in range(16):
            low, high = values[i], values[16 + i]
            half[i] = low if low > high else high
        for i in range(8):
            half[i] = half[i] if half[i] > half[i + 8] else half[i + 8]
        for i in range(4):
            half[i] = half[i] if half[i] > half[i + 4] else half[i + 4]
        for i in range(2):
            half[i] = half[i] if half[i] > half[i + 2] else half[i + 2]
        maxima_M[block] = half[0] if half[0] > half[1] else half[1]
    rest = n - n % BLOCK
    if rest < n:
        top = values_N[rest]
        for i in range(rest, n):
            top = max(top, values_N[i])
        maxima_M[n // BLOCK] = top


@compiled()
def add(row_N: Array, b_N: Array) -> None:
    """Row += b."""
    for i in range(row_N.shape[0]):
        row_N[i] += b_N[i]


@compiled()
def _range(values_M: Array) -> tuple[Any, Any]:
    low, high = values_M[0], values_M[0]
    whole = values_M.shape[0] - values_M.shape[0] % LANES
    if whole:
        # In lanes by hand, which compilers turn into vector instructions.
        lows, highs = values_M[:LANES].copy(), values_M[:LANES].copy()
        for start in range(LANES, whole, LANES):
            part = values_M[start : start + LANES]
            for i in range(LANES):
                lows[i] = lows[i] if lows[i] < part[i] else part[i]
                highs[i] = highs[i] if highs[i] > part[i] else part[i]
        for i in range(LANES):
            low = low if low < lows[i] else lows[i]
            high = high if high > highs[i] else highs[i]
    for i in range(whole, values_M.shape[0]):
        low = low if low < values_M[i] else values_M[i]
        high = high if high > values_M[i] else values_M[i]
    return low, high


@compiled(fastmath=SUMS)
def lower_bound(values_M: Array, k: int) -> float:
    """A number that at least k of the values reach, and few more than k."""
    # Bisection over the range of values: counting is vectorised and has no unpredictable branch,
    # which makes it several times cheaper than an exact selection. Any number that at least k
    # values reach is a valid bound; the loop ends when few more than k do.
    low, high = _range(values_M)
    half = values_M.dtype.type(0.5)
    for _ in range(BISECTIONS):
        middle = low * half + high * half
        if not low < middle < high:
            break
        reached = np.int32(0)
        for i in range(values_M.shape[0]):
            reached += np.int32(values_M[i] >= middle)
        if reached >= k:
            low = middle
            if reached <= k + (k >> 3):
                break
        else:
            high = middle
    return low  # type: ignore[no-any-return]


@compiled()
def keep_k_largest(found: Array, indices: Array, values_K: Array, indices_K: Array) -> None:
    """Sort the k largest of `found` (k at least) by falling value; indices must rise."""
    # Stable, so that equal values keep the rising order of their indices.
    k, kept = values_K.shape[0], found.shape[0]
    if k > INSERTION_LIMIT:
        order = np.argsort(-found, kind="mergesort")
        for j in range(min(k, kept)):
            values_K[j], indices_K[j] = found[order[j]], indices[order[j]]
        return
    count = 0
    for i in range(kept):
        value = found[i]
        if count == k and value <= values_K[k - 1]:
            continue
        j = min(count, k - 1)
        count = min(count + 1, k)
        while j > 0 and values_K[j - 1] < value:
            values_K[j], indices_K[j] = values_K[j - 1], indices_K[j - 1]
            j -= 1
        values_K[j], indices_K[j] = value, indices[i]


@compiled()
def collect(
    row_N: Array, start: int, stop: int, bound: float, kept: int, found: Array, indices: Array
) -> int:
    """Append the numbers of row[start:stop] that reach `bound` after `kept` -> how many now."""
    for i in range(start, stop):
        found[kept], indices[kept] = row_N[i], i
        kept += int(row_N[i] >= bound)
    return kept


@compiled(parallel=True)
def topk_rows(
    pre_CN: Array, b_N: Array, prune: bool, values_CK: Array, indices_CK: Array, parts: int
) -> None:
    """ReLU of the k largest of pre + b per row, sorted; `pre` is changed."""
    rows, n = pre_CN.shape
    k = values_CK.shape[1]
    blocks = (n + BLOCK - 1) // BLOCK
    for part in prange(parts):
        maxima_M = np.empty(blocks, pre_CN.dtype)
        found = np.empty(n + 1, pre_CN.dtype)
        indices = np.empty(n + 1, np.int64)
        half = np.empty(16, pre_CN.dtype)
        for r in range(rows * part // parts, rows * (part + 1) // parts):
            row_N = pre_CN[r]
            add(row_N, b_N)
            kept = 0
            if prune:
                block_maxima(row_N, maxima_M, half)
                bound = lower_bound(maxima_M, k)
                for block in range(blocks):
                    if maxima_M[block] >= bound:
                        start = block * BLOCK
                        stop = min(start + BLOCK, n)
                        kept = collect(row_N, start, stop, bound, kept, found, indices)
            else:
                bound = lower_bound(row_N, k)
                kept = collect(row_N, 0, n, bound, kept, found, indices)
            values_CK[r], indices_CK[r] = np.nan, 0
            keep_k_largest(found[:kept], indices[:kept], values_CK[r], indices_CK[r])
            for j in range(k):
                if values_CK[r, j] < 0:
                    values_CK[r, j] = 0
