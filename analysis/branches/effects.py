"""Effect sizes: how far shares lie from the null's mean, counted by features and by clusters.

Under exchangeable channels a branch of m of C channels has the share m / C in the mean, whatever
the row. excess = share - m / C. Near-duplicate rows (cosine >= `least`, linked through others too)
are one cluster: intervals draw clusters anew, and a cluster counts once for a branch if any of its
features lies above the null there.

Legend: N features, B branches, T draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isae.analysis.arrays import F64, I64
from isae.analysis.branches.findings import Findings
from isae.analysis.branches.resampling import alike_clusters, cluster_draws, interval_95
from isae.analysis.branches.shares import BASES


@dataclass(frozen=True)
class Effects:
    """excess[basis] [N, B]; cluster_N: -1 for features that are not alive; draws[basis] [T, B]:
    means over living features, clusters drawn anew; clusters_above_B: above the null in both bases.
    """

    excess: dict[str, F64]
    cluster_N: I64
    draws: dict[str, F64]
    clusters_above_B: I64

    @property
    def clusters(self) -> int:
        """Clusters of living features."""
        return int(self.cluster_N.max(initial=-1)) + 1

    def branch(self, j: int) -> dict[str, Any]:
        """The summary's entry of one branch."""
        alive_N = self.cluster_N >= 0
        return {
            **{
                basis: {"mean_excess": _mean(self.excess[basis][alive_N, j])}
                | interval_95(self.draws[basis][:, j])
                for basis in BASES
            },
            "clusters_above_null_in_both": int(self.clusters_above_B[j]),
        }


def effect_sizes(
    findings: Findings, W_dec_NC: F64, *, least: float, resamples: int, seed: int
) -> Effects:
    """Excess shares of all features, their clusters, and means with clusters drawn anew."""
    cluster_N = alike_clusters(W_dec_NC, findings.alive_N, least)
    chance_B = findings.channels_B / findings.channels_B.sum()
    excess = {basis: findings.shares[basis] - chance_B for basis in BASES}
    above = [
        len(np.unique(cluster_N[findings.both_NB[:, j] & (cluster_N >= 0)]))
        for j in range(len(chance_B))
    ]
    return Effects(
        excess=excess,
        cluster_N=cluster_N,
        draws={basis: cluster_draws(excess[basis], cluster_N, resamples, seed) for basis in BASES},
        clusters_above_B=np.array(above, dtype=np.int64),
    )


def _mean(values: F64) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
