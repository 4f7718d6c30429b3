"""All comparisons of a set of layers brought together: corrections over all, branch agreement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F64, I64
from isae.analysis.layers.agreement import Agreement, branch_agreement
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.inputs import LayerCodes
from isae.analysis.layers.matching import METHODS, Matches, representatives
from isae.analysis.layers.pairs import Comparison, match_q, nearest_q
from isae.analysis.multiple import benjamini_hochberg

FEATURES, CLUSTERS = "features", "clusters"
LEVELS = (FEATURES, CLUSTERS)
"""features: every match found; clusters: the best match of each cluster of near-duplicates."""


@dataclass(frozen=True)
class LayerInfo:
    """What is kept of a layer once its codes are gone."""

    name: str
    features: int
    branches: tuple[str, ...]
    branch_N: I64
    cluster_N: I64

    @staticmethod
    def of(layer: LayerCodes) -> LayerInfo:
        """The part of a layer that tables need."""
        return LayerInfo(
            layer.name, layer.codes.features, layer.branches, layer.branch_N, layer.cluster_N
        )


@dataclass(frozen=True)
class PairFindings:
    """One comparison with its corrected values.

    q_nearest: of both layers' features; q: of the matches of each method; agreement: of the found
    matches by (method, level), empty where a layer has no branches.
    """

    comparison: Comparison
    one: LayerInfo
    two: LayerInfo
    q_nearest: tuple[F64, F64]
    q: dict[str, F64]
    agreement: dict[tuple[str, str], Agreement]

    def found(self, method: str, alpha: float, level: str = FEATURES) -> Matches:
        """Matches with q <= alpha, of all features or one for each cluster of duplicates."""
        matches = self.comparison.matches[method].where(self.q[method] <= alpha)
        if level == CLUSTERS:
            return representatives(matches, self.one.cluster_N, self.two.cluster_N)
        return matches


@dataclass(frozen=True)
class LayerFindings:
    """Everything found; q_agreement: of all branch tests together, in the order of `pairs`."""

    alpha: float
    layers: tuple[LayerInfo, ...]
    pairs: tuple[PairFindings, ...]
    q_agreement: tuple[dict[tuple[str, str], F64], ...]


def bring_together(
    comparisons: list[Comparison], layers: list[LayerInfo], config: LayersConfig
) -> LayerFindings:
    """Correct all comparisons together and test the branches of the matches that were found."""
    by_name = {layer.name: layer for layer in layers}
    nearest = nearest_q(comparisons)
    q = {method: match_q(comparisons, method) for method in METHODS}
    pairs = []
    for number, comparison in enumerate(comparisons):
        one, two = (by_name[name] for name in comparison.layers)
        mine = {method: q[method][number] for method in METHODS}
        found = PairFindings(comparison, one, two, nearest[number], mine, {})
        if one.branches and one.branches == two.branches:
            for method in METHODS:
                for level in LEVELS:
                    matches = found.found(method, config.alpha, level)
                    found.agreement[method, level] = _agreement(one, two, matches, config)
        pairs.append(found)
    return LayerFindings(config.alpha, tuple(layers), tuple(pairs), _agreement_q(pairs))


def _agreement(one: LayerInfo, two: LayerInfo, matches: Matches, config: LayersConfig) -> Agreement:
    a_X, b_X = one.branch_N[matches.first_X], two.branch_N[matches.second_X]
    lying = (a_X >= 0) & (b_X >= 0)
    return branch_agreement(
        a_X[lying], b_X[lying], one.cluster_N[matches.first_X][lying], one.branches,
        seed=config.seed, alpha=config.alpha, draws=config.label_draws, resamples=config.resamples,
    )  # fmt: skip


def _agreement_q(pairs: list[PairFindings]) -> tuple[dict[tuple[str, str], F64], ...]:
    """Benjamini and Hochberg over all branch tests of all comparisons, methods and levels."""
    values = [one.p_R for pair in pairs for one in pair.agreement.values()]
    if not values:
        return tuple({} for _ in pairs)
    q = benjamini_hochberg(np.concatenate(values))
    parts = iter(np.split(q, np.cumsum([len(one) for one in values])[:-1]))
    return tuple({key: next(parts) for key in pair.agreement} for pair in pairs)
