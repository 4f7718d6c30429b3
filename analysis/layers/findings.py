"""All comparisons of a set of layers brought together: corrections over all, branch agreement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.layers.agreement import Agreement, branch_agreement, halves, tied_matches
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.inputs import LayerCodes
from isae.analysis.layers.matching import METHODS, Matches, representatives
from isae.analysis.layers.pairs import Comparison, match_q, nearest_q
from isae.analysis.layers.virtual_pairs import WEIGHTS, VirtualFindings
from isae.analysis.multiple import benjamini_hochberg

FEATURES, CLUSTERS = "features", "clusters"
LEVELS = (FEATURES, CLUSTERS)
"""features: every match found, without p-values, as near-duplicates repeat matches; clusters: the
best match of each cluster of near-duplicates."""


@dataclass(frozen=True)
class MatchedLayer:
    """What is kept of a layer once its codes are gone."""

    name: str
    features: int
    branches: tuple[str, ...]
    branch_N: I64
    fan_in_N: F64
    cluster_N: I64
    images_N: I64
    tested_N: Bools
    note: str = ""

    @staticmethod
    def of(layer: LayerCodes) -> MatchedLayer:
        """The part of a layer that tables need."""
        return MatchedLayer(
            layer.name, layer.codes.features, tuple(layer.branches), layer.branch_N,
            layer.fan_in_N, layer.cluster_N, layer.images_N, layer.tested_N, layer.info.note,
        )  # fmt: skip


@dataclass(frozen=True)
class PairFindings:
    """One comparison with its corrected values.

    q_nearest: of both layers' features; q: of the matches of each method; agreement: of the found
    matches whose features both lie in a branch, by (method, level), empty where a layer has no
    branches; virtual: beside a comparison by virtual weights.
    """

    comparison: Comparison
    one: MatchedLayer
    two: MatchedLayer
    q_nearest: tuple[F64, F64]
    q: dict[str, F64]
    agreement: dict[tuple[str, str], Agreement]
    virtual: VirtualFindings | None = None

    def found(self, method: str, alpha: float, level: str = FEATURES) -> Matches:
        """Matches with q <= alpha, of all features or one for each cluster of duplicates."""
        matches = self.comparison.matches[method].where(self.q[method] <= alpha)
        if level == CLUSTERS:
            return representatives(matches, self.one.cluster_N, self.two.cluster_N)
        return matches


@dataclass(frozen=True)
class LayerFindings:
    """Everything found; q_agreement: of all branch tests together, in the order of `pairs`.

    left_out: what was not compared, and why.
    """

    alpha: float
    layers: tuple[MatchedLayer, ...]
    pairs: tuple[PairFindings, ...]
    q_agreement: tuple[dict[tuple[str, str], F64], ...]
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A measure of a pair of layers that was not compared, and why."""

    layers: tuple[str, str]
    measure: str
    why: str


def bring_together(
    comparisons: list[Comparison],
    layers: list[MatchedLayer],
    config: LayersConfig,
    virtual: Mapping[tuple[str, str], VirtualFindings] | None = None,
    left_out: tuple[LeftOut, ...] = (),
) -> LayerFindings:
    """Correct all comparisons together and test the branches of the matches that were found.

    virtual: of the pairs of layers compared by virtual weights.
    """
    by_name = {layer.name: layer for layer in layers}
    nearest = nearest_q(comparisons)
    q = {method: match_q(comparisons, method) for method in METHODS}
    pairs = []
    for number, comparison in enumerate(comparisons):
        one, two = (by_name[name] for name in comparison.layers)
        mine = {method: q[method][number] for method in METHODS}
        by_weights = (virtual or {}).get(comparison.layers)
        found = PairFindings(
            comparison, one, two, nearest[number], mine, {},
            by_weights if comparison.measure == WEIGHTS else None,
        )  # fmt: skip
        if one.branches and one.branches == two.branches:
            for method in METHODS:
                for level in LEVELS:
                    matches = found.found(method, config.alpha, level)
                    found.agreement[method, level] = _agreement(
                        one, two, matches, level == CLUSTERS, config
                    )
        pairs.append(found)
    return LayerFindings(config.alpha, tuple(layers), tuple(pairs), _agreement_q(pairs), left_out)


def _agreement(
    one: MatchedLayer, two: MatchedLayer, matches: Matches, tested: bool, config: LayersConfig
) -> Agreement:
    lying_X = (one.branch_N[matches.first_X] >= 0) & (two.branch_N[matches.second_X] >= 0)
    first, second = matches.first_X[lying_X], matches.second_X[lying_X]
    return branch_agreement(
        one.branch_N[first], two.branch_N[second],
        tied_matches(one.cluster_N[first], two.cluster_N[second]), one.branches,
        stratum_X=halves(
            one.fan_in_N[first], two.fan_in_N[second], one.images_N[first], two.images_N[second]
        ),
        tested=tested, seed=config.seed, alpha=config.alpha, draws=config.label_draws,
        resamples=config.resamples,
    )  # fmt: skip


def _agreement_q(pairs: list[PairFindings]) -> tuple[dict[tuple[str, str], F64], ...]:
    """Benjamini and Hochberg over all branch tests of all comparisons and methods."""
    values = [one.p_R for pair in pairs for one in pair.agreement.values()]
    if not values:
        return tuple({} for _ in pairs)
    q = benjamini_hochberg(np.concatenate(values))
    parts = iter(np.split(q, np.cumsum([len(one) for one in values])[:-1]))
    return tuple({key: next(parts) for key in pair.agreement} for pair in pairs)
