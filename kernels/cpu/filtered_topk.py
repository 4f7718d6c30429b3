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

from isae.compiled import SUMS, compiled, prange
from isae.kernels.cpu.int8_tile import MOST_CHANNELS, TILE_ROWS, has_int8_tile, score_panel
from isae.kernels.cpu.rounding import pack, round_rows, slack_of
from isae.kernels.cpu.selection import BLOCK, BLOCKS_PER_K, LANES, keep_k_largest, lower_bound

Array = npt.NDArray[Any]

CHUNK_BYTES = 768 << 10
"""Upper bounds of a thread's rows: fits its own cache."""
LEAST_ROWS, LEAST_LATENTS, LEAST_CHANNELS = 128, 1024, 32
"""Below, packing the weights costs more than it saves."""
PARTS = 16
"""Pieces of the batch that threads take; each has room of its own."""
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
    """ReLU of the k largest of x W^T + b per row, sorted, or None if numbers are too large."""
    x, w, b = (tensor.detach().contiguous().numpy() for tensor in (x_BD, W_ND, b_N))
    slack = slack_of(x.shape[1])
    packed, rounded = pack(w, b, slack), round_rows(x, slack)
    largest_bias = np.abs(b).max()
    if not (packed.largest * rounded.largest < LARGEST and largest_bias < LARGEST):
        return None
    # Should fewer than k ever be found, the check for NaN must see it.
    values_BK = torch.full((len(x), k), torch.nan, dtype=torch.float32)
    indices_BK = torch.zeros(len(x), k, dtype=torch.int64)
    latents = packed.numbers_5N.shape[1]
    chunk = max(1, CHUNK_BYTES // (4 * latents * TILE_ROWS)) * TILE_ROWS
    out = values_BK.numpy(), indices_BK.numpy()
    _topk_chunks(x, w, *packed, *rounded, slack * largest_bias + SMALLEST, chunk, PARTS, *out)
    return values_BK, indices_BK


@compiled(fastmath=SUMS)
def _four_dots(x_D: Array, w0_D: Array, w1_D: Array, w2_D: Array, w3_D: Array) -> Any:
    # Four at once: cache lines of all four rows are on their way at the same time. The sums are
    # alike, so equal rows give equal values wherever they stand.
    zero = x_D.dtype.type(0)
    d0, d1, d2, d3 = zero, zero, zero, zero
    for c in range(x_D.shape[0]):
        x = x_D[c]
        d0 += x * w0_D[c]
        d1 += x * w1_D[c]
        d2 += x * w2_D[c]
        d3 += x * w3_D[c]
    return d0, d1, d2, d3


@compiled()
def _compute(
    x_D: Array, w_ND: Array, bias_N: Array, indices: Array, count: int, out: Array
) -> None:
    for c in range(0, count, 4):
        last = count - 1
        n0, n1 = indices[c], indices[min(c + 1, last)]
        n2, n3 = indices[min(c + 2, last)], indices[min(c + 3, last)]
        d0, d1, d2, d3 = _four_dots(x_D, w_ND[n0], w_ND[n1], w_ND[n2], w_ND[n3])
        # Falling, so that what the last index was repeated for is overwritten by itself.
        out[min(c + 3, last)] = d3 + bias_N[n3]
        out[min(c + 2, last)] = d2 + bias_N[n2]
        out[min(c + 1, last)] = d1 + bias_N[n1]
        out[c] = d0 + bias_N[n0]


@compiled()
def _best_of_blocks(scores_N: Array, maxima_M: Array, bound: Any, chosen: Array) -> int:
    count = 0
    for m in range(maxima_M.shape[0]):
        if maxima_M[m] >= bound:
            block = scores_N[m * BLOCK : m * BLOCK + BLOCK]
            place = 0
            while place < BLOCK - 1 and block[place] != maxima_M[m]:
                place += 1
            chosen[count] = m * BLOCK + place
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
    reached: Array,
    chosen: Array,
) -> int:
    norm, error, bias_slack = row
    words = reached.view(np.int64)
    count = 0
    for m in range(maxima_M.shape[0]):
        width = norm * largest_2M[0, m] + error * largest_2M[1, m] + bias_slack
        if maxima_M[m] + width < bound:
            continue
        block = scores_N[m * BLOCK : m * BLOCK + BLOCK]
        for i in range(BLOCK):
            reached[i] = block[i] + width >= bound
        for word in range(BLOCK // 8):
            if words[word] == 0:
                continue
            for i in range(8 * word, 8 * word + 8):
                n = m * BLOCK + i
                upper = block[i] + (norm * error_N[n] + error * norm_N[n] + bias_slack)
                chosen[count] = n
                count += int(upper >= bound)
    return count


@compiled()
def _exact_topk(
    x_D: Array,
    w_ND: Array,
    numbers_5N: Array,
    largest_2M: Array,
    row: tuple[Any, Any, Any],
    scores_N: Array,
    maxima_M: Array,
    exact: Array,
    chosen: Array,
    reached: Array,
    values_K: Array,
    indices_K: Array,
) -> None:
    k = values_K.shape[0]
    bias_N = numbers_5N[2]
    # What the best of the k best blocks reach, the k-th largest of all reaches too.
    bound = lower_bound(maxima_M, k)
    count = _best_of_blocks(scores_N, maxima_M, bound, chosen)
    _compute(x_D, w_ND, bias_N, chosen, count, exact)
    least = lower_bound(exact[:count], k)
    count = _candidates(
        scores_N, maxima_M, numbers_5N[3], numbers_5N[4], largest_2M, row, least, reached, chosen
    )
    _compute(x_D, w_ND, bias_N, chosen, count, exact)
    kept = 0
    for c in range(count):
        exact[kept], chosen[kept] = exact[c], chosen[c]
        kept += int(exact[kept] >= least)
    keep_k_largest(exact[:kept], chosen[:kept], values_K, indices_K)
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
    parts: int,
    values_BK: Array,
    indices_BK: Array,
) -> None:
    total, (n, m) = values_BK.shape[0], (numbers_5N.shape[1], largest_2M.shape[1])
    chunks = (total + chunk - 1) // chunk
    blocks = (w_ND.shape[0] + BLOCK - 1) // BLOCK  # without those of padding alone
    for part in prange(parts):
        room = np.empty(chunk * n + LANES, np.float32)
        skip = (-room.ctypes.data % 64) // 4
        scores_CN = room[skip : skip + chunk * n].reshape(chunk, n)
        maxima_CM = np.empty((chunk, m), np.float32)
        exact, chosen = np.empty(n + 1, np.float32), np.empty(n + 1, np.int64)
        reached = np.empty(BLOCK, np.int8)
        for first in range(
            chunks * part // parts * chunk, chunks * (part + 1) // parts * chunk, chunk
        ):
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
                    exact,
                    chosen,
                    reached,
                    values_BK[b],
                    indices_BK[b],
                )
