"""How far neighbours on a map are neighbours by profile: measured, not claimed.

For a sample of features, with k = 10 neighbours among all F features of the map:

    kept            share of the k nearest on the map that are among the k nearest by profile
    trustworthiness 1 - 2 / (n k (2 F - 3 k - 1)) sum_i sum_j max(0, rank(i, j) - k)
                    over the n features i of the sample and the k nearest j on the map; rank(i, j):
                    place of j among the others by falling cosine of profiles (Venna and Kaski
                    2001). 1: no intruders; about 0.5: a map without order.

By chance k / (F - 1) of the neighbours are kept.

Legend: F features of the map, I images, S sample, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from isae.analysis.arrays import F32, F64, I64

NEIGHBOURS = 10
_BLOCK = 128


@dataclass(frozen=True)
class Quality:
    """kept and chance: shares of neighbours; trustworthiness; sample: features measured."""

    kept: float
    chance: float
    trustworthiness: float
    sample: int


def measure_map(unit_FI: csr_array, place_F2: F64, sample_S: I64) -> Quality | None:
    """Compare neighbours on the map with those by profile; None for too few features.

    unit_FI: profiles of length 1; place_F2: the map; sample_S: features to measure. Ties by
    profile count for the map. Memory: one block [128, F] of cosines and one of distances.
    """
    features, k = unit_FI.shape[0], NEIGHBOURS
    if 2 * features - 3 * k - 1 <= 0 or not len(sample_S):
        return None
    kept, penalty = 0, 0.0
    for start in range(0, len(sample_S), _BLOCK):
        mine = sample_S[start : start + _BLOCK]
        cosine_BF: F32 = (unit_FI[mine] @ unit_FI.T).toarray()
        far_BF = ((place_F2[mine, None, :] - place_F2[None]) ** 2).sum(axis=2)
        own = (np.arange(len(mine)), mine)
        cosine_BF[own], far_BF[own] = -np.inf, np.inf
        near_BK = np.argpartition(far_BF, k, axis=1)[:, :k]
        for row, near_K in enumerate(near_BK):
            rank_K = (cosine_BF[row] > cosine_BF[row, near_K][:, None]).sum(axis=1) + 1
            kept += int((rank_K <= k).sum())
            penalty += float(np.maximum(rank_K - k, 0).sum())
    count = len(sample_S)
    worst = count * k * (2 * features - 3 * k - 1) / 2
    return Quality(kept / (count * k), k / (features - 1), 1 - penalty / worst, count)
