"""Do matched features live in the branch of the same convolution size?

Every match joins a branch of the one layer (its feature's strongest branch) with one of the other:
a table T[a, b] of counts, E matches in all. Null: the branch labels of the matched features of a
layer are dealt to them anew, so that each layer's branch counts stay as they are (and with them
branch sizes, and how often the features of a branch find a match at all). As matches are one to
one, T is then multivariate hypergeometric, with margins T[a, .] and T[., b]:

    expected[a, b] = T[a, .] T[., b] / E.

Diagonal D = sum_b T[b, b], D0 = sum_b expected[b, b]. Effect size, 0 without an effect:

    log odds of the diagonal = log((D + 1/2) / (E - D + 1/2)) - log((D0 + 1/2) / (E - D0 + 1/2)),
    of a branch              = log of the odds ratio of [[T_bb, T_b. - T_bb], [T_.b - T_bb, rest]],
                               1/2 added to each cell (Haldane).

p of a branch: Fisher's exact test, one-sided. p of the diagonal: one-sided, from DRAWS deals of the
labels, not below 1 / (1 + DRAWS). Interval: percentiles with matches drawn anew by clusters of
near-duplicate features; images and dictionaries stay as they are.

Power: were a share s of the matches off the diagonal moved onto it, D would be D_null plus a
binomial of E - D_null and s. `detectable` is the smallest s for which the test of the diagonal then
gives p <= alpha with chance 0.8: what an absent finding does, and does not, exclude.

Known limits: a branch's label follows channel scales too (see `isae-analyze branches`), and the
untrained network's agreement is the number to compare with, not 0.

Time: DRAWS E + resamples E B^2; memory: a few MB. Legend: X matches, B branches, T resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, hypergeom

from isae.analysis.arrays import F64, I64
from isae.errors import DataError
from isae.randomness import keyed_rng

DIAGONAL = "same branch"
_BLOCK = 64


@dataclass(frozen=True)
class Agreement:
    """Branch x branch counts of matches, and how far its diagonal is from the null.

    table_BB, expected_BB: rows are the first layer's branches. The other arrays are [1 + B]: the
    diagonal as a whole, then each branch: count, expected, log odds, interval (2.5, 97.5 %) and p
    (NaN where there is nothing to test: a branch with none or all of a layer's matches).
    detectable: the share of matches that would be found with chance 0.8 (NaN: none would).
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
    detectable: float

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
    alpha: float = 0.05,
    draws: int = 2000,
    resamples: int = 500,
) -> Agreement:
    """Table, effect sizes, intervals and p-values of one-to-one matches between two layers.

    label_a_X, label_b_X: branch number of each match's two features, in [0, B); cluster_X: what is
    drawn together for the intervals. Raises DataError for labels out of range.
    """
    branches = len(names)
    for label_X in (label_a_X, label_b_X):
        if len(label_X) and not (label_X.min() >= 0 and label_X.max() < branches):
            raise DataError(
                f"expected branch numbers from 0 to {branches - 1}, found {label_X.min()} to "
                f"{label_X.max()}; leave out features without a branch"
            )
    table_BB = _table(label_a_X, label_b_X, branches)
    expected_BB = _expected(table_BB[None])[0]
    odds_R = _log_odds(table_BB[None])[0]
    low_R, high_R = _interval(
        label_a_X * branches + label_b_X, cluster_X, branches, resamples, seed
    )
    diagonal, detectable = np.nan, float("nan")
    if len(np.unique(label_a_X)) > 1 and len(np.unique(label_b_X)) > 1:
        dealt_T = _dealt(label_a_X, label_b_X, draws, seed)
        diagonal = (1 + int((dealt_T >= np.trace(table_BB)).sum())) / (1 + draws)
        detectable = detectable_share(dealt_T, len(label_a_X), alpha)
    return Agreement(
        names=names,
        table_BB=table_BB,
        expected_BB=expected_BB,
        count_R=np.concatenate([[np.trace(table_BB)], np.diag(table_BB)]),
        expected_R=np.concatenate([[np.trace(expected_BB)], np.diag(expected_BB)]),
        log_odds_R=odds_R,
        low_R=low_R,
        high_R=high_R,
        p_R=np.concatenate([[diagonal], _branch_p(table_BB)]),
        detectable=detectable,
    )


def _table(label_a_X: I64, label_b_X: I64, branches: int) -> I64:
    counts = np.bincount(label_a_X * branches + label_b_X, minlength=branches**2)
    return counts.reshape(branches, branches).astype(np.int64)


def _expected(table_TBB: I64 | F64) -> F64:
    total_T11 = np.maximum(table_TBB.sum(axis=(1, 2), keepdims=True), 1)
    margins = table_TBB.sum(axis=2, keepdims=True) * table_TBB.sum(axis=1, keepdims=True)
    return np.asarray(margins / total_T11, dtype=np.float64)


def _log_odds(table_TBB: I64 | F64) -> F64:
    """Of the diagonal and of each branch -> float64 [T, 1 + B].

    NaN without a match, and for a branch that has none or all of a layer's matches: the halves
    alone would make an effect of it.
    """
    total_T1 = table_TBB.sum(axis=(1, 2))[:, None].astype(np.float64)
    both_TB = np.diagonal(table_TBB, axis1=1, axis2=2)
    chance_T1 = np.diagonal(_expected(table_TBB), axis1=1, axis2=2).sum(axis=1, keepdims=True)
    found_T1 = both_TB.sum(axis=1, keepdims=True)
    diagonal_T1 = np.log((found_T1 + 0.5) / (total_T1 - found_T1 + 0.5)) - np.log(
        (chance_T1 + 0.5) / (total_T1 - chance_T1 + 0.5)
    )
    first_TB, second_TB = table_TBB.sum(axis=2) - both_TB, table_TBB.sum(axis=1) - both_TB
    rest_TB = total_T1 - both_TB - first_TB - second_TB
    branch_TB = np.log((both_TB + 0.5) * (rest_TB + 0.5)) - np.log(
        (first_TB + 0.5) * (second_TB + 0.5)
    )
    lacking_TB = (both_TB + first_TB == 0) | (both_TB + second_TB == 0)
    lacking_TB |= (rest_TB + first_TB == 0) | (rest_TB + second_TB == 0)
    branch_TB = np.where(lacking_TB, np.nan, branch_TB)
    odds_TR = np.concatenate([diagonal_T1, branch_TB], axis=1)
    return np.where(total_T1 > 0, odds_TR, np.nan)


def _branch_p(table_BB: I64) -> F64:
    """Fisher's exact test of each branch, one-sided -> float64 [B]."""
    total, first_B, second_B = table_BB.sum(), table_BB.sum(axis=1), table_BB.sum(axis=0)
    p_B = np.full(len(table_BB), np.nan)
    tests = (first_B > 0) & (second_B > 0) & (first_B < total) & (second_B < total)
    less_B = np.diag(table_BB)[tests] - 1
    p_B[tests] = np.clip(hypergeom.sf(less_B, total, first_B[tests], second_B[tests]), 0.0, 1.0)
    return p_B


def _dealt(label_a_X: I64, label_b_X: I64, draws: int, seed: int) -> I64:
    """Matches on the diagonal in each deal of the labels -> int64 [T]."""
    rng = keyed_rng(seed, "layers", "branch labels")
    counts = []
    for start in range(0, draws, _BLOCK):
        labels_TX = np.tile(label_b_X, (min(_BLOCK, draws - start), 1))
        counts.append((rng.permuted(labels_TX, axis=1) == label_a_X).sum(axis=1))
    return np.concatenate(counts).astype(np.int64)


def detectable_share(dealt_T: I64, matches: int, alpha: float, chance: float = 0.8) -> float:
    """Smallest share of matches moved onto the diagonal that is found with this chance, or NaN.

    dealt_T: diagonal counts under the null. In steps of 1/200; see the module's docstring.
    """
    falling_T = np.sort(dealt_T)[::-1]
    allowed = int(np.floor(alpha * (1 + len(dealt_T)))) - 1
    if allowed < 0:
        return float("nan")
    critical = falling_T[min(allowed, len(dealt_T) - 1)] + 1
    null_D, times_D = np.unique(dealt_T, return_counts=True)
    share_S1 = np.linspace(0, 1, 201)[:, None]
    power_S = binom.sf(critical - null_D - 1, matches - null_D, share_S1) @ times_D / len(dealt_T)
    enough = np.flatnonzero(power_S >= chance)
    return float(share_S1[enough[0], 0]) if len(enough) else float("nan")


def _interval(
    cell_X: I64, cluster_X: I64, branches: int, resamples: int, seed: int
) -> tuple[F64, F64]:
    """Percentiles of the log odds over resampled clusters -> two float64 [1 + B]."""
    if not len(cell_X):
        return np.full(1 + branches, np.nan), np.full(1 + branches, np.nan)
    rng = keyed_rng(seed, "layers", "clusters drawn")
    groups, group_X = np.unique(cluster_X, return_inverse=True)
    cells_GC = np.zeros((len(groups), branches**2))
    np.add.at(cells_GC, (group_X, cell_X), 1.0)
    even = np.full(len(groups), 1 / len(groups))
    weight_TG = rng.multinomial(len(groups), even, size=resamples).astype(np.float64)
    table_TBB = (weight_TG @ cells_GC).reshape(resamples, branches, branches)
    odds_TR = _log_odds(table_TBB)
    low_R, high_R = np.full(1 + branches, np.nan), np.full(1 + branches, np.nan)
    enough_R = np.isfinite(odds_TR).mean(axis=0) >= 0.9
    if enough_R.any():
        low_R[enough_R], high_R[enough_R] = np.nanquantile(
            odds_TR[:, enough_R], (0.025, 0.975), axis=0
        )
    return low_R, high_R
