"""Do matched features carry the same label in two seeds, beyond chance? Cohen's kappa.

With T[a, b] the matches whose features are labelled a in the one dictionary and b in the other,
X in all,

    observed = sum_a T[a, a] / X,   expected = sum_a T[a, .] T[., a] / X^2,
    kappa = (observed - expected) / (1 - expected):  0 by chance, 1 for equal labels.

Intervals: matches drawn anew by clusters of near-duplicate features of the first dictionary.
Legend: X matches or features, G clusters, L labels, T resamples, V values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isae.analysis.arrays import F64, I64

_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class LabelAgreement:
    """Agreement of the labels of matched features; NaN where it is not defined.

    low, high: 2.5 and 97.5 % of kappa over resampled clusters.
    """

    matches: int
    observed: float
    expected: float
    kappa: float
    low: float
    high: float


def label_agreement(
    one_X: npt.NDArray[np.object_],
    two_X: npt.NDArray[np.object_],
    cluster_X: I64,
    *,
    resamples: int,
    rng: np.random.Generator,
) -> LabelAgreement:
    """Cohen's kappa of the labels of matched features, with its interval.

    kappa is NaN without matches, and where both sides have one and the same label only.
    """
    count = len(one_X)
    names, code = np.unique(np.concatenate([one_X, two_X]).astype(str), return_inverse=True)
    size = len(names)
    if not count:
        return LabelAgreement(0, *[float("nan")] * 5)
    cells_XV = np.zeros((count, size * size))
    cells_XV[np.arange(count), code[:count] * size + code[count:]] = 1.0
    observed, expected, kappa = _kappa(cells_XV.sum(axis=0)[None], size)
    drawn = [
        _kappa(sums_TV, size)[2] for sums_TV in resampled_sums(cells_XV, cluster_X, resamples, rng)
    ]
    low, high = central(np.concatenate(drawn))
    return LabelAgreement(count, float(observed[0]), float(expected[0]), float(kappa[0]), low, high)


def _kappa(cells_TV: F64, size: int) -> tuple[F64, F64, F64]:
    """(observed, expected, kappa) of tables -> float64 [T] each."""
    table_TLL = cells_TV.reshape(-1, size, size)
    total_T = table_TLL.sum(axis=(1, 2))
    observed_T = np.trace(table_TLL, axis1=1, axis2=2) / total_T
    margins_TL = table_TLL.sum(axis=2) * table_TLL.sum(axis=1)
    expected_T = margins_TL.sum(axis=1) / total_T**2
    room_T = 1.0 - expected_T
    kappa_T = np.full(len(room_T), np.nan)
    np.divide(observed_T - expected_T, room_T, out=kappa_T, where=room_T > 1e-12)
    return observed_T, expected_T, kappa_T


def share_interval(
    chosen_X: npt.NDArray[np.bool_], cluster_X: I64, *, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """2.5 and 97.5 % of the share of the chosen over resampled clusters; NaN without features."""
    if not len(chosen_X):
        return float("nan"), float("nan")
    values_XV = np.stack([chosen_X.astype(np.float64), np.ones(len(chosen_X))], axis=1)
    drawn = [
        sums_TV[:, 0] / sums_TV[:, 1]
        for sums_TV in resampled_sums(values_XV, cluster_X, resamples, rng)
    ]
    return central(np.concatenate(drawn))


def resampled_sums(
    values_XV: F64, cluster_X: I64, resamples: int, rng: np.random.Generator
) -> Iterator[F64]:
    """Sums of the values with clusters drawn with replacement -> blocks of float64 [T, V]."""
    groups, group_X = np.unique(cluster_X, return_inverse=True)
    values_GV = np.zeros((len(groups), values_XV.shape[1]))
    np.add.at(values_GV, group_X, values_XV)
    block = max(1, _BLOCK_BYTES // (32 * len(groups)))
    for start in range(0, resamples, block):
        draws = min(block, resamples - start)
        yield times_drawn(len(groups), draws, rng).astype(np.float64) @ values_GV


def times_drawn(count: int, draws: int, rng: np.random.Generator) -> I64:
    """How often each of `count` things is drawn, as many with replacement -> int64 [T, count].

    The law of `rng.multinomial` with equal chances, in a fifth of its time.
    """
    drawn_TG = rng.integers(0, count, size=(draws, count))
    drawn_TG += count * np.arange(draws)[:, None]
    return np.bincount(drawn_TG.ravel(), minlength=draws * count).reshape(draws, count)


def central(drawn_T: F64) -> tuple[float, float]:
    """2.5 and 97.5 % of the draws; NaN where more than a tenth of them are not defined."""
    finite = drawn_T[np.isfinite(drawn_T)]
    if len(finite) < 0.9 * len(drawn_T):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)
