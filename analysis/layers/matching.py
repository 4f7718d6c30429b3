"""From best partners to matches: mutual-nearest pairs, one-to-one pairs, clusters of duplicates.

**Mutual nearest**: i of the one layer and j of the other are each other's best partner.
**One to one**: of the candidates (i, j), each among the other's K best and with r > 0, the set that
uses no feature twice and has the largest sum of r. A linear sum assignment: solved on the sparse
candidates, with one more column a feature that leaves it without a partner at r = 0
(`scipy.sparse.csgraph.min_weight_full_bipartite_matching`). Time: about (N + E) log N a feature at
worst for E candidates, memory 16 bytes a candidate.

**Clusters**: near-duplicate features of one layer would count one finding several times. Features
whose activations correlate by at least a bound hang together (single linkage on the K best partners
inside the layer); `representatives` keeps the best match of each cluster.

Legend: N, O features of the two layers, K kept partners, X matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.layers.correlation import Tops

MUTUAL, ONE_TO_ONE = "mutual", "one_to_one"
METHODS = (MUTUAL, ONE_TO_ONE)


@dataclass(frozen=True)
class Matches:
    """Matched features, rising by the first: first_X, second_X int64, r_X float64 (selection)."""

    first_X: I64
    second_X: I64
    r_X: F64

    def __len__(self) -> int:
        """Number of matches."""
        return len(self.first_X)

    def where(self, chosen_X: Bools | I64) -> Matches:
        """Some of the matches, in the order given."""
        return Matches(self.first_X[chosen_X], self.second_X[chosen_X], self.r_X[chosen_X])


def mutual_nearest(forth: Tops, back: Tops) -> Matches:
    """Pairs that are each other's best partner, r > 0. forth: partners of the first layer's N."""
    best_N = forth.feature_NK[:, 0].astype(np.int64)
    first_X = np.flatnonzero((best_N >= 0) & (forth.r_NK[:, 0] > 0))
    first_X = first_X[back.feature_NK[best_N[first_X], 0] == first_X]
    return Matches(first_X, best_N[first_X], forth.r_NK[first_X, 0])


def candidates(forth: Tops, back: Tops) -> Matches:
    """Pairs of which each is among the K best partners of the other, r > 0."""
    first, rank = np.nonzero((forth.feature_NK >= 0) & (forth.r_NK > 0))
    second = forth.feature_NK[first, rank].astype(np.int64)
    both = (back.feature_NK[second] == first[:, None]).any(axis=1)
    return Matches(first[both], second[both], forth.r_NK[first, rank][both])


def one_to_one(forth: Tops, back: Tops) -> Matches:
    """The one-to-one matches with the largest sum of r among the mutual K-best candidates."""
    pairs = candidates(forth, back)
    if not len(pairs):
        return pairs
    rows, row_X = np.unique(pairs.first_X, return_inverse=True)
    columns, column_X = np.unique(pairs.second_X, return_inverse=True)
    # Costs must not be 0: r = 0, a feature without a partner, costs 2. Scaling r changes nothing.
    alone, largest = np.arange(len(rows)), pairs.r_X.max()
    cost = coo_array(
        (
            np.concatenate([2.0 - pairs.r_X / largest, np.full(len(rows), 2.0)]),
            (np.concatenate([row_X, alone]), np.concatenate([column_X, len(columns) + alone])),
        ),
        shape=(len(rows), len(columns) + len(rows)),
    )
    row, column = min_weight_full_bipartite_matching(cost.tocsr())
    chosen = dict(zip(row[column < len(columns)], column[column < len(columns)], strict=True))
    kept_X = np.array([chosen.get(i) == j for i, j in zip(row_X, column_X, strict=True)])
    order = np.argsort(pairs.first_X[kept_X], kind="stable")
    return pairs.where(np.flatnonzero(kept_X)[order])


def duplicate_clusters(inside: Tops, least: float) -> I64:
    """Number of the cluster of each feature -> int64 [N]; inside: partners within the layer."""
    features = len(inside.r_NK)
    first, rank = np.nonzero((inside.feature_NK >= 0) & (inside.r_NK >= least))
    linked = coo_array(
        (np.ones(len(first)), (first, inside.feature_NK[first, rank])), shape=(features, features)
    )
    _, cluster_N = connected_components(linked.tocsr(), directed=False)
    return np.asarray(cluster_N, dtype=np.int64)


def representatives(matches: Matches, cluster_N: I64, cluster_O: I64) -> Matches:
    """The matches of largest r that use no cluster twice, taken one after the other."""
    kept: list[int] = []
    used_first: set[int] = set()
    used_second: set[int] = set()
    for x in np.argsort(-matches.r_X, kind="stable"):
        first, second = int(cluster_N[matches.first_X[x]]), int(cluster_O[matches.second_X[x]])
        if first not in used_first and second not in used_second:
            used_first.add(first)
            used_second.add(second)
            kept.append(int(x))
    return matches.where(np.array(sorted(kept), dtype=np.int64))
