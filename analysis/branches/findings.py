"""The statistics of one dictionary's branches, as arrays: what tables, summary and figures read.

Legend: N features, B branches, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, chi2, rankdata

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.branches.nulls import (
    ColumnNull,
    Concentration,
    column_null,
    concentration_pvalues,
    random_shares,
)
from isae.analysis.branches.shares import (
    BASES,
    branch_scores,
    branch_shares,
    channel_counts,
    check_branches,
    dominant,
    energies,
)
from isae.analysis.multiple import benjamini_hochberg, bonferroni, holm

BOTH = "both"
"""Family of the joint claim, above the null in every basis: the larger p of BASES (`larger`)."""
RELATIVE = "relative"
"""Side question: energies ranked within their channel among the features (see `relative`)."""


@dataclass(frozen=True)
class Findings:
    """Everything the branch statistics say about one dictionary.

    Per basis (see isae.analysis.branches.shares.BASES; `relative` beside them): shares [N, B] of
    all features with energy; p, q, significant [N, B], NaN or False for features that were not
    tested (dead ones, ones without energy). `tests` counts the p-values of BASES, which share one
    Benjamini-Hochberg correction; `relative` and `both` (q only) are families of their own.
    """

    layer: str
    branches: Mapping[str, tuple[int, int]]
    alpha: float
    tested: tuple[str, ...]
    alive_N: Bools
    channels_B: I64
    variance_share_B: F64
    shares: dict[str, F64]
    null_shares: dict[str, F64]
    scores_NB: F64
    dominant: dict[str, I64]
    concentration: dict[str, Concentration]
    p: dict[str, F64]
    q: dict[str, F64]
    holm: dict[str, F64]
    bonferroni: dict[str, F64]
    columns: dict[str, ColumnNull]
    tests: int
    assigned_N: I64

    @property
    def significant(self) -> dict[str, Bools]:
        """Q <= alpha -> bool [N, B] per basis (NaN is not)."""
        return {basis: q <= self.alpha for basis, q in self.q.items()}

    @property
    def both_NB(self) -> Bools:
        """Above the null in every basis of BASES, by a correction of its own (see `larger`)."""
        return self.significant[BOTH]

    def assigned_count(self, branch: int) -> int:
        """Features whose most significant branch is this one."""
        return int((self.assigned_N == branch).sum())

    def binomial_interval(self, total: int, level: float = 0.95) -> tuple[F64, F64]:
        """Central interval of features per branch if each chose it with chance m/C -> ([B], [B]).

        Features of one dictionary are not independent, so the true interval is wider.
        """
        chances_B = self.channels_B / self.channels_B.sum()
        low, high = binom.interval(level, total, chances_B)
        return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def relative(energy_NC: F64) -> F64:
    """Each energy's rank within its channel, as a chi-squared(1) quantile -> float64 [N, C].

    score_ic = F^-1((rank_i(e_ic) - 1/2) / N), with rows first divided by their sums and ties
    sharing their mean rank. All channels then have the same distribution over the features, so
    neither a channel's scale nor its tail counts any more, only where a feature loads more than
    the other features do. If features loaded on channels independently of each other, each channel
    with its own distribution, a feature's scores would be exchangeable: the same test applies.
    Being relative, it sees the complement too: where many features concentrate in one branch, the
    others look a little concentrated elsewhere.
    """
    n = len(energy_NC)
    total_N1 = energy_NC.sum(axis=1, keepdims=True)
    unit_NC = np.divide(energy_NC, total_N1, out=np.zeros_like(energy_NC), where=total_N1 > 0)
    ranks_NC = rankdata(unit_NC, axis=0) if n else unit_NC
    # Mean ranks are halves: one quantile for each serves all entries.
    quantiles = np.asarray(chi2.ppf((np.arange(2 * n + 1) / 2 - 0.5) / max(n, 1), df=1))
    return np.asarray(quantiles[(2 * ranks_NC).astype(np.int64)], dtype=np.float64)


def find(
    W_dec_NC: F64,
    std_C: F64,
    branches: Mapping[str, tuple[int, int]],
    *,
    layer: str = "layer",
    alive_N: Bools | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    samples: int = 1000,
) -> Findings:
    """Energy shares, r scores, p- and q-values of a dictionary's features and branches.

    W_dec_NC: decoder rows [N, C]; std_C: the channels' standard deviations [C]; alive_N: features
    to test (default: all), the others are measured but not tested. Raises DataError for shapes
    that do not fit, numbers that are not finite, and branches that do not tile the channels.
    """
    check_branches(layer, branches, W_dec_NC.shape[1])
    alive_N = np.ones(len(W_dec_NC), dtype=np.bool_) if alive_N is None else alive_N
    energy = energies(W_dec_NC, std_C)
    energy[RELATIVE] = np.zeros_like(energy["decoder"])
    energy[RELATIVE][alive_N] = relative(energy["decoder"][alive_N])
    concentration, p = {}, {}
    for basis, energy_NC in energy.items():
        concentration[basis] = concentration_pvalues(
            energy_NC[alive_N], branches, seed=seed, stream=basis, samples=samples
        )
        p[basis] = np.full((len(alive_N), len(branches)), np.nan)
        p[basis][alive_N] = concentration[basis].p_NB
    q = _jointly(p, benjamini_hochberg)
    shares = {basis: branch_shares(energy_NC, branches) for basis, energy_NC in energy.items()}
    var_C = std_C.astype(np.float64) ** 2
    return Findings(
        layer=layer,
        branches=dict(branches),
        alpha=alpha,
        tested=BASES,
        alive_N=alive_N,
        channels_B=channel_counts(branches),
        variance_share_B=branch_shares(var_C[None], branches)[0],
        shares=shares,
        null_shares={
            basis: random_shares(energy[basis], branches, seed=seed, stream=basis)
            for basis in BASES
        },
        scores_NB=branch_scores(W_dec_NC, branches),
        dominant={basis: dominant(shares[basis]) for basis in BASES},
        concentration=concentration,
        p=p,
        q=q,
        holm=_jointly(p, holm),
        bonferroni=_jointly(p, bonferroni),
        columns={
            basis: column_null(energy[basis][alive_N], branches, seed=seed, stream=basis)
            for basis in BASES
        },
        tests=int(sum(np.isfinite(p[basis]).sum() for basis in BASES)),
        assigned_N=assign(p, q, alpha),
    )


def larger(p: Mapping[str, F64]) -> F64:
    """The larger p over BASES: a test of 'above the null in every basis' -> as each p.

    What two corrected sets have in common is controlled by neither correction: features truly
    above the null in one basis carry chance findings of the other one into it. This p is valid
    for the joint claim, and the family of these is corrected alone.
    """
    found: F64 = np.maximum.reduce([p[basis] for basis in BASES])
    return found


def _jointly(p: dict[str, F64], correct: Callable[[F64], F64]) -> dict[str, F64]:
    """BASES corrected together, RELATIVE and BOTH alone."""
    together = correct(np.stack([p[basis] for basis in BASES]))
    alone = {RELATIVE: correct(p[RELATIVE]), BOTH: correct(larger(p))}
    return {**dict(zip(BASES, together, strict=True)), **alone}


def assign(p: Mapping[str, F64], q: Mapping[str, F64], alpha: float) -> I64:
    """Branch of the smallest decoder p among those with q[BOTH] <= alpha, or -1 -> [N]."""
    eligible = q[BOTH] <= alpha
    best_NB = np.where(eligible, p["decoder"], np.inf)
    return np.where(eligible.any(axis=1), best_NB.argmin(axis=1), -1).astype(np.int64)
