"""Exact top-k of float32 pre-activations, for the price of a product of 8-bit integers.

Rows and weights are rounded to 8 bits, x = x' + e_x and w = w' + e_w, with x' = s q + low for q in
0..255 and w' = t p for p in -127..127. The product x' w' is exact in integers, and by
Cauchy-Schwarz

    |x w - x' w'| <= ||x'|| ||e_w|| + ||e_x|| ||w||

whose four norms are measured, not assumed. So every pre-activation has a certain upper and lower
bound, and only latents whose upper bound reaches the k-th largest of what is known are computed in
float32: first the k most promising, whose smallest value is a bound that the rest must reach. What
is chosen is exactly the top-k of the float32 dot products; of 8,192 latents about 100 are computed.
`slack` covers the rounding of the bounds and of the dot products themselves.

Shapes: B rows, C rows of a chunk, D channels, N latents (padded to whole panels), M blocks of 32
latents, K active latents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import compiled, prange
from isae.kernels.cpu.bfloat16 import array_of
from isae.kernels.cpu.instructions import prefetch, take
from isae.kernels.cpu.int8_tile import MOST_CHANNELS, TILE_ROWS, has_int8_tile, score_panel
from isae.kernels.cpu.ranks import MOST_RANKED, kth_largest, rank_k_largest
from isae.kernels.cpu.reached import lowest_bit, reached_32
from isae.kernels.cpu.rounding import pack_and_round, slack_of
from isae.kernels.cpu.scattered_rows import TOGETHER, list_rows, row_products
from isae.kernels.cpu.selection import BLOCK, BLOCKS_PER_K, LANES, keep_k_largest, lower_bound

Array = npt.NDArray[Any]

CHUNK_BYTES = 768 << 10
"""Upper bounds of a thread's rows: fits its own cache."""
LEAST_ROWS, LEAST_LATENTS, LEAST_CHANNELS = 128, 1024, 32
"""Below, packing the weights costs more than it saves."""
SMALLEST = np.float32(1e-36)
"""Added to every bound: rounding among denormal numbers is not relative."""
LARGEST = 1e30
"""Norms whose product is larger are left to the plain path, which overflows where it must."""


def can_filter(x_BD: torch.Tensor, n: int, k: int) -> bool:
    """Whether the filter serves this product: dtype, sizes and the processor."""
    rows, d = x_BD.shape
    large = rows >= LEAST_ROWS and n >= LEAST_LATENTS and LEAST_CHANNELS <= d <= MOST_CHANNELS
    prunes = n // BLOCK >= BLOCKS_PER_K * k
    return large and prunes and x_BD.dtype == torch.float32 and has_int8_tile()


def filtered_topk(
    x_BD: torch.Tensor, W_ND: torch.Tensor, b_N: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """ReLU of the k largest of x W^T + b per row, sorted, or None if numbers are too large.

    x and b float32, W float32 or bfloat16.
    """
    x, w, b = (array_of(tensor.detach().contiguous()) for tensor in (x_BD, W_ND, b_N))
    slack = slack_of(x.shape[1])
    packed, rounded = pack_and_round(w, b, x)
    largest_bias = np.abs(b).max()
    if not (packed.largest * rounded.largest < LARGEST and largest_bias < LARGEST):
        return None
    # Should fewer than k ever be found, the check for NaN must see it.
    # NumPy fills: torch's threads would spin on the processors that the loops need.
    values_BK = np.full((len(x), k), np.nan, np.float32)
    indices_BK = np.zeros((len(x), k), np.int64)
    latents = packed.numbers_5N.shape[1]
    chunk = max(1, CHUNK_BYTES // (4 * latents * TILE_ROWS)) * TILE_ROWS
    bias_slack = slack * largest_bias + SMALLEST
    counter = np.zeros(1, np.int64)
    workers = torch.get_num_threads()
    out = values_BK, indices_BK
    _topk_chunks(x, w, *packed, *rounded, bias_slack, chunk, counter, workers, *out)
    return torch.from_numpy(values_BK), torch.from_numpy(indices_BK)


@compiled()
def _compute(
    x_D: Array, w_ND: Array, bias_N: Array, indices: Array, count: int, at: Array, out: Array
) -> None:
    end = list_rows(w_ND, indices, count, at, 0)
    for j in range(end, end + TOGETHER):
        at[j] = at[end - 1]
    row_products(x_D, at, end, out, w_ND.itemsize)
    for j in range(count):
        out[j] += bias_N[indices[j]]


@compiled()
def _most_promising(scores_N: Array, maxima_M: Array, bound: Any, chosen: Array) -> int:
    count = 0
    for m in range(maxima_M.shape[0]):
        if maxima_M[m] >= bound:
            reached = reached_32(scores_N.ctypes.data + 4 * BLOCK * m, 0.0, bound)
            while reached != 0:
                chosen[count] = m * BLOCK + lowest_bit(reached)
                reached &= reached - 1
                count += 1
    return count


@compiled()
def _candidates(
    scores_N: Array,
    maxima_M: Array,
    error_N: Array,
    norm_N: Array,
    largest_2M: Array,
    row: tuple[Any, Any, Any],
    bound: Any,
    widths_M: Array,
    upper_M: Array,
    chosen: Array,
) -> int:
    norm, error, bias_slack = row
    blocks, count = maxima_M.shape[0], 0
    for m in range(blocks):
        widths_M[m] = norm * largest_2M[0, m] + error * largest_2M[1, m] + bias_slack
        upper_M[m] = maxima_M[m] + widths_M[m]
    for first in range(0, blocks, BLOCK):
        above = reached_32(upper_M.ctypes.data + 4 * first, 0.0, bound)
        while above != 0:
            m = first + lowest_bit(above)
            above &= above - 1
            prefetch(scores_N.ctypes.data + 4 * BLOCK * m)
            prefetch(scores_N.ctypes.data + 4 * BLOCK * m + 64)
    for first in range(0, blocks, BLOCK):
        above = reached_32(upper_M.ctypes.data + 4 * first, 0.0, bound)
        while above != 0:
            m = first + lowest_bit(above)
            above &= above - 1
            reached = reached_32(scores_N.ctypes.data + 4 * BLOCK * m, widths_M[m], bound)
            while reached != 0:
                n = m * BLOCK + lowest_bit(reached)
                reached &= reached - 1
                upper = scores_N[n] + (norm * error_N[n] + error * norm_N[n] + bias_slack)
                chosen[count] = n
                count += int(upper >= bound)
    return count


@compiled()
def _keep_reaching(exact: Array, chosen: Array, count: int, least: Any) -> int:
    kept = 0
    for c in range(count):
        exact[kept], chosen[kept] = exact[c], chosen[c]
        kept += int(exact[kept] >= least)
    return kept


@compiled()
def _merge(
    exact: Array, chosen: Array, first: int, count: int, found: Array, places: Array
) -> None:
    # Numbers before and from `first` on, each by rising index, as one such list: of equal ones the
    # lowest index is kept.
    a, b = 0, first
    for c in range(count):
        if b == count or (a < first and chosen[a] < chosen[b]):
            found[c], places[c] = exact[a], chosen[a]
            a += 1
        else:
            found[c], places[c] = exact[b], chosen[b]
            b += 1


@compiled()
def _exact_topk(
    x_D: Array,
    w_ND: Array,
    numbers_5N: Array,
    largest_2M: Array,
    row: tuple[Any, Any, Any],
    scores_N: Array,
    maxima_M: Array,
    at: Array,
    exact: Array,
    chosen: Array,
    widths_M: Array,
    upper_M: Array,
    found: Array,
    places: Array,
    values_K: Array,
    indices_K: Array,
) -> None:
    k = values_K.shape[0]
    bias_N = numbers_5N[2]
    # Scores err far less than they could, so the k-th largest of the products of the highest is
    # nearly that of all, and never more.
    count = _most_promising(scores_N, maxima_M, lower_bound(maxima_M, k), chosen)
    _compute(x_D, w_ND, bias_N, chosen, count, at, exact)
    few = count <= MOST_RANKED
    least = kth_largest(exact, count, k) if few else lower_bound(exact[:count], k)
    for c in range(count):
        scores_N[chosen[c]] = -np.inf  # known: no candidate any more
    kept = _keep_reaching(exact, chosen, count, least)
    count = _candidates(
        scores_N,
        maxima_M,
        numbers_5N[3],
        numbers_5N[4],
        largest_2M,
        row,
        least,
        widths_M,
        upper_M,
        chosen[kept:],
    )
    _compute(x_D, w_ND, bias_N, chosen[kept:], count, at, exact[kept:])
    more = _keep_reaching(exact[kept:], chosen[kept:], count, least)
    if kept + more <= MOST_RANKED:
        rank_k_largest(exact, chosen, kept + more, values_K, indices_K)
    else:
        _merge(exact, chosen, kept, kept + more, found, places)
        keep_k_largest(found[: kept + more], places[: kept + more], values_K, indices_K)
    for j in range(k):
        values_K[j] = max(values_K[j], values_K.dtype.type(0))


@compiled(parallel=True)
def _topk_chunks(
    x_BD: Array,
    w_ND: Array,
    packed: Array,
    numbers_5N: Array,
    largest_2M: Array,
    rounded_BD: Array,
    numbers_B4: Array,
    bias_slack: Any,
    chunk: int,
    counter: Array,
    workers: int,
    values_BK: Array,
    indices_BK: Array,
) -> None:
    total, (n, m) = values_BK.shape[0], (numbers_5N.shape[1], largest_2M.shape[1])
    chunks = (total + chunk - 1) // chunk
    blocks = (w_ND.shape[0] + BLOCK - 1) // BLOCK  # without those of padding alone
    # Chunks are taken, not dealt out: a thread that is held up leaves more to the others.
    for _ in prange(workers):
        room = np.empty(chunk * n + LANES, np.float32)
        skip = (-room.ctypes.data % 64) // 4
        scores_CN = room[skip : skip + chunk * n].reshape(chunk, n)
        maxima_CM = np.empty((chunk, m), np.float32)
        exact, chosen = np.empty(n + LANES, np.float32), np.empty(n + 1, np.int64)
        at = np.empty(n + 2 * TOGETHER, np.int64)
        found, places = np.empty(n, np.float32), np.empty(n, np.int64)
        widths_M = np.empty(m, np.float32)
        # As many as masks are made of: what is behind the last block reaches nothing.
        upper_M = np.full((m + BLOCK - 1) // BLOCK * BLOCK, -np.inf, np.float32)
        first = chunk * take(counter.ctypes.data)
        while first < chunks * chunk:
            rows = min(chunk, rounded_BD.shape[0] - first)
            for panel in range(packed.shape[0]):
                # A panel of weights stays in the first cache while the chunk's rows pass by.
                score_panel(
                    rounded_BD,
                    numbers_B4,
                    first,
                    packed,
                    numbers_5N,
                    panel,
                    scores_CN[:rows],
                    maxima_CM[:rows],
                )
            for c in range(min(rows, total - first)):
                b = first + c
                _exact_topk(
                    x_BD[b],
                    w_ND,
                    numbers_5N,
                    largest_2M,
                    (numbers_B4[b, 2], numbers_B4[b, 3], bias_slack),
                    scores_CN[c],
                    maxima_CM[c, :blocks],
                    at,
                    exact,
                    chosen,
                    widths_M,
                    upper_M,
                    found,
                    places,
                    values_BK[b],
                    indices_BK[b],
                )
            first = chunk * take(counter.ctypes.data)
