"""The compiled loops of the causal measures: codes after a swap, sums by feature, union of rows.

Legend: R rows, K active codes a row, E pairs (row, feature), C channels, B branches, N features,
T resamples, P places.
"""

from __future__ import annotations

from isae.analysis.arrays import F32, F64, I64
from isae.compiled import compiled, prange


@compiled()
def next_of_another(order: I64, cell: I64, image: I64, donor_R: I64) -> None:
    """Donor of each row: the first row after it on its cell's circle that has another image.

    order: rows sorted by cell and, within it, by a random key of the image; cell, image: theirs.
    """
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and cell[stop] == cell[start]:
            stop += 1
        for i in range(start, stop):
            j = i
            for _ in range(stop - start - 1):
                j = j + 1 if j + 1 < stop else start
                if image[j] != image[i]:
                    donor_R[order[i]] = order[j]
                    break
        start = stop


@compiled(parallel=True)
def codes_of(row_E: I64, feature_E: I64, value_RK: F32, index_RK: I64, code_E: F32) -> None:
    """Code of each pair among sparse codes; 0 where the feature is not active."""
    for e in prange(len(row_E)):
        code_E[e] = 0.0
        for k in range(index_RK.shape[1]):
            if index_RK[row_E[e], k] == feature_E[e]:
                code_E[e] = max(value_RK[row_E[e], k], 0.0)


@compiled(parallel=True)
def branch_dots(
    row_E: I64, feature_E: I64, rows_RC: F32, weights_NC: F32, bounds_B2: I64, dot_EB: F64
) -> None:
    """Product of each pair's row and the feature's weights, over each range of channels."""
    for e in prange(len(row_E)):
        for b in range(len(bounds_B2)):
            total = 0.0
            for c in range(bounds_B2[b, 0], bounds_B2[b, 1]):
                total += rows_RC[row_E[e], c] * weights_NC[feature_E[e], c]
            dot_EB[e, b] = total


@compiled(parallel=True)
def resampled_sums(first_M: I64, image_E: I64, value_E: F64, counts_IT: F32, sum_NT: F64) -> None:
    """Each feature's sum of values with every image counted `counts_IT` times."""
    for n in prange(len(first_M) - 1):
        sum_NT[n, :] = 0.0
        for e in range(first_M[n], first_M[n + 1]):
            for t in range(counts_IT.shape[1]):
                sum_NT[n, t] += value_E[e] * counts_IT[image_E[e], t]


@compiled()
def join_alike(start: int, cosine_AL: F32, least: float, parent_N: I64) -> None:
    """Union of rows start, start + 1, ... with every later row of cosine at least `least`.

    cosine_AL: of the first rows from `start` on with all rows from `start` on.
    """
    for a in range(cosine_AL.shape[0]):
        for later in range(a + 1, cosine_AL.shape[1]):
            if cosine_AL[a, later] >= least:
                i, j = start + a, start + later
                while parent_N[i] != i:
                    parent_N[i] = parent_N[parent_N[i]]
                    i = parent_N[i]
                while parent_N[j] != j:
                    parent_N[j] = parent_N[parent_N[j]]
                    j = parent_N[j]
                if i < j:
                    parent_N[j] = i
                elif j < i:
                    parent_N[i] = j
