"""Intervals: images drawn anew for what is measured on rows, clusters of rows for dictionaries.

Places of one image are not independent, so images are drawn, each as often as it falls in I draws
with replacement from I. A feature's measure is a ratio of sums over its pairs, r = sum a / sum b.
Its draws are to first order, r + sum_e w_e (a_e - r b_e) / sum b, w how often the image of pair e
falls in the draw: a ratio of few images drawn anew is biased by as much as a mean over thousands of
features is uncertain. The same draws serve all features, so that such a mean has an interval too.

Near-duplicate rows of a dictionary count one finding several times: rows of cosine >= `least` are
linked, linked rows (also through others) are one cluster, and clusters are drawn.

Memory: N x T sums, and a block of 512 x N cosines. Legend: N features, E pairs, I images, T draws,
B branches, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.branches import swap_loops
from isae.analysis.branches.heldout import Pairs
from isae.randomness import keyed_rng

LEVELS = (2.5, 97.5)
LEAST_IMAGES = 5
"""Below it a feature has no interval, and does not count in means over features."""
_BLOCK = 512


@dataclass(frozen=True)
class Ratio:
    """A ratio of sums per feature: value_N; its draws [N, T], NaN where the denominator is 0.

    Without draws (T = 0) it has no intervals.
    """

    value_N: F64
    draws_NT: F32
    images_N: I64

    @property
    def enough_N(self) -> Bools:
        """Features with images enough for an interval."""
        return np.asarray((self.images_N >= LEAST_IMAGES) & np.isfinite(self.value_N))

    def interval(self) -> tuple[F64, F64]:
        """95 % of each feature's draws -> (low [N], high [N]); NaN below LEAST_IMAGES images."""
        low_N, high_N = (np.full(len(self.value_N), np.nan) for _ in LEVELS)
        enough_N = self.enough_N
        if enough_N.any() and self.draws_NT.shape[1]:
            # A value that is finite has finite draws: its denominator is not 0.
            drawn = np.percentile(self.draws_NT[enough_N], LEVELS, axis=1)
            low_N[enough_N], high_N[enough_N] = drawn
        return low_N, high_N

    def mean(self, among_N: Bools | None = None) -> dict[str, Any]:
        """Mean over features that have images enough, its interval and their number."""
        chosen_N = self.enough_N if among_N is None else self.enough_N & among_N
        if not chosen_N.any():
            return {"features": 0}
        mean = {
            "features": int(chosen_N.sum()),
            "mean": float(self.value_N[chosen_N].mean()),
        }
        return mean | interval_95(np.nanmean(self.draws_NT[chosen_N], axis=0, dtype=np.float64))


def interval_95(draws_T: F64) -> dict[str, list[float]]:
    """The middle 95 % of draws, for a summary; nothing where there are none."""
    if not len(draws_T) or not np.isfinite(draws_T).any():
        return {}
    return {"interval_95": [float(one) for one in np.nanpercentile(draws_T, LEVELS)]}


def image_counts(images: int, draws: int, seed: int) -> F32:
    """How often each image falls in each draw -> float32 [I, T]."""
    rng = keyed_rng(seed, "images drawn anew")
    chance_I = np.full(images, 1.0 / images)
    return rng.multinomial(images, chance_I, size=draws).T.astype(np.float32)


def ratio(
    pairs: Pairs, numerator_E: F64, denominator_E: F64, counts_IT: F32 | None = None
) -> Ratio:
    """Sum of numerators over sum of denominators of each feature's pairs; draws if counts_IT."""
    one_I1 = np.ones((pairs.images, 1), dtype=np.float32)
    below_N1 = _sums(pairs, denominator_E, one_I1)
    value_N1 = divided(_sums(pairs, numerator_E, one_I1), below_N1)
    images_N = pairs.images_N
    draws_NT = np.empty((len(value_N1), 0))
    if counts_IT is not None:
        left_E = numerator_E - value_N1[pairs.feature_E, 0] * denominator_E
        draws_NT = value_N1 + divided(_sums(pairs, left_E, counts_IT), below_N1) * _widened(
            images_N
        )
    return Ratio(value_N1[:, 0], draws_NT.astype(np.float32), images_N)


def _widened(images_N: I64) -> F64:
    """sqrt(n / (n - 1)): deviations of n images drawn anew from n are too small by it."""
    several_N = np.maximum(images_N, 2)
    return np.asarray(np.sqrt(several_N / (several_N - 1)))[:, None]


def divided(above: F64, below: F64) -> F64:
    """The quotient, NaN where `below` is 0."""
    result = np.full(above.shape, np.nan)
    np.divide(above, below, out=result, where=below != 0)
    return result


def _sums(pairs: Pairs, value_E: F64, counts_IT: F32) -> F64:
    sums_NT = np.empty((len(pairs.first_M) - 1, counts_IT.shape[1]))
    value_E = np.ascontiguousarray(value_E, dtype=np.float64)
    swap_loops.resampled_sums(pairs.first_M, pairs.image_E, value_E, counts_IT, sums_NT)
    return sums_NT


def alike_clusters(W_dec_NC: F64, alive_N: Bools, least: float) -> I64:
    """Number of each living feature's cluster of near-duplicate rows, -1 for others -> int64 [N].

    Linked: cosine >= least. Time grows with N^2 C, memory with N.
    """
    alive = np.flatnonzero(alive_N & (np.linalg.norm(W_dec_NC, axis=1) > 0))
    unit_AC = W_dec_NC[alive].astype(np.float32)
    unit_AC /= np.linalg.norm(unit_AC, axis=1, keepdims=True)
    parent_A = np.arange(len(alive))
    for start in range(0, len(alive), _BLOCK):
        later = unit_AC[start:]
        swap_loops.join_alike(start, later[:_BLOCK] @ later.T, least, parent_A)
    # A parent is never behind its child: one pass in order leads every row to its root.
    for a in range(len(parent_A)):
        parent_A[a] = parent_A[parent_A[a]]
    cluster_N = np.full(len(alive_N), -1, dtype=np.int64)
    cluster_N[alive] = np.unique(parent_A, return_inverse=True)[1]
    return cluster_N


def cluster_draws(value_NB: F64, cluster_N: I64, draws: int, seed: int) -> F64:
    """Means of values over features, clusters drawn anew -> float64 [T, B].

    Features in no cluster (-1) and those whose values are NaN stay out.
    """
    kept_N = (cluster_N >= 0) & np.isfinite(value_NB).all(axis=1)
    if not kept_N.any():
        return np.full((draws, value_NB.shape[1]), np.nan)
    number_N = np.unique(cluster_N[kept_N], return_inverse=True)[1]
    size_K = np.bincount(number_N).astype(np.float64)
    sum_KB = np.stack([np.bincount(number_N, weights=column) for column in value_NB[kept_N].T], 1)
    rng = keyed_rng(seed, "clusters drawn anew")
    chance_K = np.full(len(size_K), 1.0 / len(size_K))
    counts_TK = rng.multinomial(len(size_K), chance_K, size=draws).astype(np.float64)
    return np.asarray((counts_TK @ sum_KB) / (counts_TK @ size_K)[:, None])
