"""The same branch test for the SAE and for dictionaries beside it, one line each.

Every dictionary's rows are tested as the SAE's are (exchangeable channels, both bases, one
Benjamini-Hochberg correction per dictionary). Two counts are given, since a correction depends on
what else a dictionary holds: rows significant by the dictionary's own correction, and rows below
the p-value at which the SAE's own correction stopped.

An SAE of an untrained network (`--against`) is compared row by row of the table, with intervals
from clusters of near-duplicate rows drawn anew in both.

Legend: N rows, C channels, B branches, T draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from isae.analysis.arrays import F64, Bools
from isae.analysis.branches.findings import Findings, larger
from isae.analysis.branches.nulls import concentration_pvalues
from isae.analysis.branches.resampling import alike_clusters, cluster_draws, interval_95
from isae.analysis.branches.shares import BASES, branch_shares, energies
from isae.analysis.multiple import benjamini_hochberg

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Reference:
    """One dictionary tested: shares and p [N, B] per basis; significant in all bases [N, B]."""

    rows: int
    share: dict[str, F64]
    p: dict[str, F64]
    both_NB: Bools

    def line(self, names: list[str], cut: float) -> dict[str, Any]:
        """Its line in the summary. cut: the p-value at which the SAE's correction stopped."""
        below_NB = np.logical_and.reduce([self.p[basis] <= cut for basis in BASES])
        return {
            "rows": self.rows,
            "rows_significant": float(self.both_NB.any(axis=1).mean()) if self.rows else 0.0,
            "branches": {
                name: {
                    "rows_significant": float(self.both_NB[:, j].mean()) if self.rows else 0.0,
                    "rows_below_the_saes_p": float(below_NB[:, j].mean()) if self.rows else 0.0,
                    "mean_share": float(np.nanmean(self.share["decoder"][:, j])),
                    "share_quantiles": dict(
                        zip(
                            (f"{one:g}" for one in QUANTILES),
                            np.nanquantile(self.share["decoder"][:, j], QUANTILES).tolist(),
                            strict=True,
                        )
                    ),
                }
                for j, name in enumerate(names)
            },
        }


def put_to_test(
    rows_NC: F64,
    std_C: F64,
    branches: Mapping[str, tuple[int, int]],
    *,
    alpha: float,
    seed: int,
    samples: int,
    stream: str,
) -> Reference:
    """A dictionary through the branch test."""
    share, p = {}, {}
    for basis, energy_NC in energies(rows_NC, std_C).items():
        share[basis] = branch_shares(energy_NC, branches)
        p[basis] = concentration_pvalues(
            energy_NC, branches, seed=seed, stream=f"{stream} {basis}", samples=samples
        ).p_NB
    both_NB: Bools = benjamini_hochberg(larger(p)) <= alpha
    return Reference(len(rows_NC), share, p, both_NB)


def of_findings(findings: Findings) -> Reference:
    """The SAE's own line: its living features."""
    alive_N = findings.alive_N & np.isfinite(findings.p["decoder"]).all(axis=1)
    return Reference(
        rows=int(alive_N.sum()),
        share={basis: findings.shares[basis][alive_N] for basis in BASES},
        p={basis: findings.p[basis][alive_N] for basis in BASES},
        both_NB=findings.both_NB[alive_N],
    )


def stopped_at(findings: Findings) -> float:
    """The largest p-value that the SAE's correction let through; 0 if none."""
    through = [findings.p[basis][findings.significant[basis]] for basis in BASES]
    return float(np.concatenate(through).max(initial=0.0))


def difference(
    findings: Findings, other: Reference, W_dec_NC: F64, other_NC: F64, least: float, draws: int
) -> dict[str, Any]:
    """The SAE's line minus another dictionary's, per branch, with 95 % intervals.

    W_dec_NC: all rows of the SAE; other_NC: those of `other`.
    """
    tested_N = findings.alive_N & np.isfinite(findings.p["decoder"]).all(axis=1)
    sides = ((of_findings(findings), W_dec_NC[tested_N]), (other, other_NC))
    means: list[dict[str, F64]] = []
    drawn: list[dict[str, F64]] = []
    for number, (one, rows_NC) in enumerate(sides):
        cluster_N = alike_clusters(rows_NC, np.ones(len(rows_NC), dtype=np.bool_), least)
        values = {"mean_share": one.share["decoder"], "rows_significant": one.both_NB.astype(float)}
        means.append({name: np.nanmean(value_NB, axis=0) for name, value_NB in values.items()})
        drawn.append(
            {
                name: cluster_draws(one_NB, cluster_N, draws, number)
                for name, one_NB in values.items()
            }
        )
    return {
        measure: {
            name: {"difference": float(means[0][measure][j] - means[1][measure][j])}
            | interval_95(drawn[0][measure][:, j] - drawn[1][measure][:, j])
            for j, name in enumerate(findings.branches)
        }
        for measure in means[0]
    }
