"""Do matched features live in the branch of the same convolution size?

Every match joins a branch of the one layer (its feature's) with one of the other: a table T[a, b]
of counts, E matches in all. Only features that lie in a branch beyond the null of exchangeable
channels have a label (`isae.analysis.layers.inputs`): a feature that is spread over all channels
would get the largest branch's, and as spread features match spread ones, the largest branch would
agree with itself without any tie between branches.

Null: within strata of matches, the branch labels of a layer's matched features are dealt to them
anew. So each layer's branch counts stay as they are (and with them branch sizes, and how often the
features of a branch find a match at all), and so do, up to halves, each feature's fan-in and
activity: a stratum holds the matches whose features lie in the same half (of the matched ones) of
the layer by fan-in, the share of its branch's channels that a feature draws on, and by activity,
the images it is active on; two halvings in each of the two layers make at most 16 strata. With T_s
the table of stratum s and E_s its matches,

    expected[a, b] = sum over s of T_s[a, .] T_s[., b] / E_s.

Diagonal D = sum_b T[b, b], D0 = sum_b expected[b, b]. Effect size, 0 without an effect:

    log odds of the diagonal = log((D + 1/2) / (E - D + 1/2)) - log((D0 + 1/2) / (E - D0 + 1/2)),
    of a branch = log of Mantel and Haenszel's odds ratio over the strata of
                  [[T_bb, T_b. - T_bb], [T_.b - T_bb, rest]], 1/2 added above and below.

p of a branch: the sum of hypergeometric counts over the strata, exact, one-sided (with one stratum
Fisher's test). p of the diagonal: one-sided, from DRAWS deals of the labels, not below
1 / (1 + DRAWS). Interval: percentiles with matches drawn anew by groups of matches that
near-duplicate features of either layer hold together; images and dictionaries stay as they are.
Matches of near-duplicates are not independent, so p-values are of one match for each cluster only
(`tested`).

Power: were a share s of the matches that could lie on the diagonal (in the branch) and do not moved
there, the count would be its null plus a binomial. `detectable` is the expected count at the
smallest s for which the test then gives p <= alpha with chance 0.8: an excess below it may well
have been missed. It is of one test, before correction.

Known limits: a branch's label follows channel scales too (see `isae-analyze branches`), and the
untrained network's agreement is the number to compare with, not 0.

Time: DRAWS E + resamples E S B^2; memory: a few MB. Legend: X matches, B branches, S strata,
T resamples, R = 1 + B rows: the diagonal, then each branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import binom, hypergeom

from isae.analysis.arrays import F64, I64
from isae.errors import DataError
from isae.randomness import keyed_rng

DIAGONAL = "same branch"
POWER = 0.8
_BLOCK = 64


@dataclass(frozen=True)
class Agreement:
    """Branch x branch counts of matches, and how far its diagonal is from the null.

    table_BB, expected_BB: rows are the first layer's branches. The other arrays are [1 + B]: the
    diagonal as a whole, then each branch: count, expected, log odds, interval (2.5, 97.5 %), p
    (NaN where there is nothing to test: a branch with none or all of a layer's matches, or matches
    that near-duplicates repeat), and the count that would be found with chance 0.8 (NaN: none).
    drawn_T: log odds of the diagonal in each draw of the intervals.
    """

    names: tuple[str, ...]
    table_BB: I64
    expected_BB: F64
    count_R: I64
    expected_R: F64
    log_odds_R: F64
    low_R: F64
    high_R: F64
    p_R: F64
    detectable_R: F64
    drawn_T: F64
    strata: int

    @property
    def rows(self) -> tuple[str, ...]:
        """What the entries of the [1 + B] arrays are of."""
        return (DIAGONAL, *self.names)


def branch_agreement(
    label_a_X: I64,
    label_b_X: I64,
    cluster_X: I64,
    names: tuple[str, ...],
    *,
    seed: int,
    stratum_X: I64 | None = None,
    tested: bool = True,
    alpha: float = 0.05,
    draws: int = 2000,
    resamples: int = 500,
) -> Agreement:
    """Table, effect sizes, intervals and p-values of one-to-one matches between two layers.

    label_a_X, label_b_X: branch number of each match's two features, in [0, B); cluster_X: what is
    drawn together for the intervals; stratum_X: number of each match's stratum (default: one);
    tested: whether matches are independent enough for p-values. Raises DataError for labels out of
    range.
    """
    branches = len(names)
    for label_X in (label_a_X, label_b_X):
        if len(label_X) and not (label_X.min() >= 0 and label_X.max() < branches):
            raise DataError(
                f"expected branch numbers from 0 to {branches - 1}, found {label_X.min()} to "
                f"{label_X.max()}; leave out features without a branch"
            )
    stratum_X = np.zeros(len(label_a_X), dtype=np.int64) if stratum_X is None else stratum_X
    strata, stratum_X = np.unique(stratum_X, return_inverse=True)
    cell_X = (stratum_X * branches + label_a_X) * branches + label_b_X
    shape = (max(len(strata), 1), branches, branches)
    table_SBB = np.bincount(cell_X, minlength=int(np.prod(shape))).reshape(shape)
    p_R, detectable_R = np.full(1 + branches, np.nan), np.full(1 + branches, np.nan)
    if tested:
        p_R, detectable_R = _tests(table_SBB, label_a_X, label_b_X, stratum_X, seed, alpha, draws)
    table_BB, expected_BB = table_SBB.sum(axis=0), _expected(table_SBB[None])[0]
    drawn_TR = _drawn(cell_X, cluster_X, shape, resamples, seed)
    low_R, high_R = central(drawn_TR)
    return Agreement(
        names=names,
        table_BB=table_BB.astype(np.int64),
        expected_BB=expected_BB,
        count_R=np.concatenate([[np.trace(table_BB)], np.diag(table_BB)]),
        expected_R=np.concatenate([[np.trace(expected_BB)], np.diag(expected_BB)]),
        log_odds_R=_log_odds(table_SBB[None])[0],
        low_R=low_R,
        high_R=high_R,
        p_R=p_R,
        detectable_R=detectable_R,
        drawn_T=drawn_TR[:, 0],
        strata=len(strata),
    )


def halves(*values_X: F64 | I64) -> I64:
    """Number of the stratum of each match, by whether each value is above its median -> int64 [X].

    Values that are not finite count as low.
    """
    stratum_X = np.zeros(len(values_X[0]), dtype=np.int64)
    for value_X in values_X:
        finite = value_X[np.isfinite(value_X)]
        middle = np.median(finite) if len(finite) else 0.0
        stratum_X = 2 * stratum_X + (np.nan_to_num(value_X, nan=-np.inf) > middle)
    return stratum_X


def tied_matches(cluster_a_X: I64, cluster_b_X: I64) -> I64:
    """Number of the group of each match: matches that share a cluster in either layer -> [X]."""
    if not len(cluster_a_X):
        return np.zeros(0, dtype=np.int64)
    first, a_X = np.unique(cluster_a_X, return_inverse=True)
    second, b_X = np.unique(cluster_b_X, return_inverse=True)
    size = len(first) + len(second)
    linked = coo_array((np.ones(len(a_X)), (a_X, len(first) + b_X)), shape=(size, size))
    return np.asarray(connected_components(linked.tocsr(), directed=False)[1][a_X], dtype=np.int64)


def _expected(table_TSBB: I64 | F64) -> F64:
    """Expected counts, summed over the strata -> float64 [T, B, B]."""
    total_TS11 = np.maximum(table_TSBB.sum(axis=(2, 3), keepdims=True), 1)
    margins = table_TSBB.sum(axis=3, keepdims=True) * table_TSBB.sum(axis=2, keepdims=True)
    return np.asarray((margins / total_TS11).sum(axis=1), dtype=np.float64)


def _diagonal(table_TBB: I64 | F64) -> F64:
    return np.asarray(np.diagonal(table_TBB, axis1=-2, axis2=-1), dtype=np.float64)


def _log_odds(table_TSBB: I64 | F64) -> F64:
    """Of the diagonal and of each branch -> float64 [T, 1 + B].

    NaN without a match, and for a branch that has none or all of a layer's matches: the halves
    alone would make an effect of it.
    """
    table_TBB = table_TSBB.sum(axis=1)
    total_T1 = table_TBB.sum(axis=(1, 2))[:, None].astype(np.float64)
    chance_T1 = _diagonal(_expected(table_TSBB)).sum(axis=1, keepdims=True)
    found_T1 = _diagonal(table_TBB).sum(axis=1, keepdims=True)
    diagonal_T1 = np.log((found_T1 + 0.5) / (total_T1 - found_T1 + 0.5)) - np.log(
        (chance_T1 + 0.5) / (total_T1 - chance_T1 + 0.5)
    )
    both_TSB = _diagonal(table_TSBB)
    first_TSB, second_TSB = table_TSBB.sum(axis=3) - both_TSB, table_TSBB.sum(axis=2) - both_TSB
    total_TS1 = table_TSBB.sum(axis=(2, 3))[..., None]
    rest_TSB = total_TS1 - both_TSB - first_TSB - second_TSB
    weight_TS1 = 1 / np.maximum(total_TS1, 1)
    with_TB = (both_TSB * rest_TSB * weight_TS1).sum(axis=1)
    against_TB = (first_TSB * second_TSB * weight_TS1).sum(axis=1)
    branch_TB = np.log(with_TB + 0.5) - np.log(against_TB + 0.5)
    in_a_TB, in_b_TB = table_TBB.sum(axis=2), table_TBB.sum(axis=1)
    lacking_TB = (in_a_TB == 0) | (in_b_TB == 0) | (in_a_TB == total_T1) | (in_b_TB == total_T1)
    branch_TB = np.where(lacking_TB, np.nan, branch_TB)
    odds_TR = np.concatenate([diagonal_T1, branch_TB], axis=1)
    return np.where(total_T1 > 0, odds_TR, np.nan)


def _tests(
    table_SBB: I64,
    label_a_X: I64,
    label_b_X: I64,
    stratum_X: I64,
    seed: int,
    alpha: float,
    draws: int,
) -> tuple[F64, F64]:
    """The p and the detectable count of the diagonal and each branch -> float64 [R], [R]."""
    branches = table_SBB.shape[1]
    p_R, detectable_R = np.full(1 + branches, np.nan), np.full(1 + branches, np.nan)
    if len(np.unique(label_a_X)) > 1 and len(np.unique(label_b_X)) > 1:
        dealt_T = _dealt(label_a_X, label_b_X, stratum_X, draws, seed)
        found = int(np.trace(table_SBB.sum(axis=0)))
        p_R[0] = (1 + int((dealt_T >= found).sum())) / (1 + draws)
        null_D, times_D = np.unique(dealt_T, return_counts=True)
        critical = _critical_of_draws(dealt_T, alpha)
        detectable_R[0] = detectable_count(null_D, times_D / len(dealt_T), critical, len(label_a_X))
    for b in range(branches):
        first_S, second_S = table_SBB[:, b].sum(axis=1), table_SBB[:, :, b].sum(axis=1)
        total, most = int(table_SBB.sum()), int(min(first_S.sum(), second_S.sum()))
        if not most or total in (first_S.sum(), second_S.sum()):
            continue
        low, chance_D = _summed_hypergeometric(table_SBB.sum(axis=(1, 2)), first_S, second_S)
        null_D = low + np.arange(len(chance_D))
        above_D = np.cumsum(chance_D[::-1])[::-1]
        found = int(table_SBB[:, b, b].sum())
        p_R[1 + b] = float(np.clip(chance_D[null_D >= found].sum(), 0.0, 1.0))
        reached = np.flatnonzero(above_D <= alpha)
        critical = int(null_D[reached[0]]) if len(reached) else int(null_D[-1]) + 1
        detectable_R[1 + b] = detectable_count(null_D, chance_D, critical, most)
    return p_R, detectable_R


def _dealt(label_a_X: I64, label_b_X: I64, stratum_X: I64, draws: int, seed: int) -> I64:
    """Matches on the diagonal in each deal of the labels within strata -> int64 [T]."""
    rng = keyed_rng(seed, "layers", "branch labels")
    counts = np.zeros(draws, dtype=np.int64)
    for stratum in np.unique(stratum_X):
        a_X, b_X = label_a_X[stratum_X == stratum], label_b_X[stratum_X == stratum]
        for start in range(0, draws, _BLOCK):
            labels_TX = np.tile(b_X, (min(_BLOCK, draws - start), 1))
            counts[start : start + _BLOCK] += (rng.permuted(labels_TX, axis=1) == a_X).sum(axis=1)
    return counts


def _summed_hypergeometric(total_S: I64, first_S: I64, second_S: I64) -> tuple[int, F64]:
    """The distribution of a sum of hypergeometric counts -> (its least value, chances)."""
    low, chance_D = 0, np.ones(1)
    for total, first, second in zip(total_S, first_S, second_S, strict=True):
        least = int(max(0, first + second - total))
        values = np.arange(least, int(min(first, second)) + 1)
        chance_D = np.convolve(chance_D, hypergeom.pmf(values, total, first, second))
        low += least
    return low, chance_D


def _critical_of_draws(dealt_T: I64, alpha: float) -> int:
    """The smallest count with (1 + draws at or above) / (1 + draws) <= alpha."""
    allowed = int(np.floor(alpha * (1 + len(dealt_T)))) - 1
    if allowed < 0:
        return int(np.iinfo(np.int64).max)
    return int(np.sort(dealt_T)[::-1][min(allowed, len(dealt_T) - 1)]) + 1


def detectable_count(null_D: I64, chance_D: F64, critical: int, most: int) -> float:
    """The expected count at which the test finds something with chance 0.8, or NaN.

    null_D, chance_D: the count's distribution under the null; critical: the smallest count that is
    found; most: the largest possible one. In steps of 1/200; see the module's docstring.
    """
    share_S1 = np.linspace(0, 1, 201)[:, None]
    room_D = np.maximum(most - null_D, 0)
    power_S = binom.sf(critical - null_D - 1, room_D, share_S1) @ chance_D
    enough = np.flatnonzero(power_S >= POWER)
    if not len(enough):
        return float("nan")
    return float((null_D + share_S1[enough[0], 0] * room_D) @ chance_D)


def _drawn(
    cell_X: I64, cluster_X: I64, shape: tuple[int, int, int], resamples: int, seed: int
) -> F64:
    """The log odds in draws of clusters -> float64 [T, 1 + B]."""
    if not len(cell_X):
        return np.full((resamples, 1 + shape[1]), np.nan)
    rng = keyed_rng(seed, "layers", "clusters drawn")
    groups, group_X = np.unique(cluster_X, return_inverse=True)
    cells_GC = coo_array(
        (np.ones(len(cell_X)), (group_X, cell_X)), shape=(len(groups), int(np.prod(shape)))
    ).tocsr()
    even = np.full(len(groups), 1 / len(groups))
    weight_TG = rng.multinomial(len(groups), even, size=resamples).astype(np.float64)
    table_TSBB = np.asarray(weight_TG @ cells_GC).reshape(resamples, *shape)
    return _log_odds(table_TSBB)


def central(drawn_TR: F64) -> tuple[F64, F64]:
    """2.5 and 97.5 % over the draws of each column; NaN where more than a tenth have no number."""
    low_R, high_R = np.full(drawn_TR.shape[1], np.nan), np.full(drawn_TR.shape[1], np.nan)
    enough_R = np.isfinite(drawn_TR).mean(axis=0) >= 0.9
    if enough_R.any():
        low_R[enough_R], high_R[enough_R] = np.nanquantile(
            drawn_TR[:, enough_R], (0.025, 0.975), axis=0
        )
    return low_R, high_R
