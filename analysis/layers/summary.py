"""The comparison of layers in numbers (summary.json) and in a small table for a person."""

from __future__ import annotations

from typing import Any

import numpy as np

from isae.analysis.arrays import F64
from isae.analysis.layers.findings import CLUSTERS, LayerFindings, PairFindings
from isae.analysis.layers.matching import METHODS, MUTUAL
from isae.analysis.layers.pairs import family

NULL = (
    "place and class kept: the later layer's maps are exchanged among images of the same class, "
    "every place kept, and the largest r of each feature over all partners is taken; p from these "
    "largest values, standardised by feature and pooled over features active on similarly many "
    "images, with a generalised Pareto tail beyond the pool's 98 % quantile"
)
CORRECTION = (
    "Benjamini-Hochberg over all pairs of layers and measures at once, a family for each of: "
    "'nearest' (every tested feature of both layers), 'mutual' and 'one_to_one' (every tested "
    "feature of the smaller layer; without a match p = 1), 'agreement' (all branch tests)"
)
AGREEMENT_NULL = (
    "branch labels of the matched features dealt anew within each layer, so that branch sizes and "
    "the number of matched features of each branch stay; one-sided: Fisher's exact test for a "
    "branch, dealt labels for the diagonal"
)
NOTES = (
    "neighbouring layers share information in an untrained network too: compare with the same "
    "analysis of a store of random:SEED, not with zero",
    "r is selected on the selection images and therefore too large; r_scored, on images that had "
    "no part in the choice, is not; r_shuffled is what place and class alone give the same pair",
    "in a class of n images one in n stays in place in a shuffle: small classes cost power, not "
    "validity",
    "intervals of r resample images, those of log odds clusters of near-duplicate features",
    "features of one dictionary are not independent, so Benjamini-Hochberg is not guaranteed by a "
    "theorem here; the tests measure it on made-up layers",
    "detectable_share: the smallest share of matches moved into the same branch that the test of "
    "the diagonal would find with chance 0.8 (before correction)",
    "codes are TopK codes: a feature that was not among the k largest counts as 0",
)


def summarise(findings: LayerFindings) -> dict[str, Any]:
    """The statistical part of summary.json."""
    nearest = [side for pair in findings.pairs for side in pair.comparison.nearest]
    return {
        "alpha": findings.alpha,
        "null": NULL,
        "correction": CORRECTION,
        "agreement_null": AGREEMENT_NULL,
        "notes": list(NOTES),
        "tests": {
            "nearest": int(sum(side.tested_N.sum() for side in nearest)),
            **{
                method: int(sum(family(pair.comparison) for pair in findings.pairs))
                for method in METHODS
            },
            "agreement": int(
                sum(np.isfinite(q).sum() for one in findings.q_agreement for q in one.values())
            ),
        },
        "layers": {
            layer.name: {
                "features": layer.features,
                "clusters_of_duplicates": len(np.unique(layer.cluster_N)),
            }
            for layer in findings.layers
        },
        "pairs": [
            _pair(pair, q, findings.alpha)
            for pair, q in zip(findings.pairs, findings.q_agreement, strict=True)
        ],
    }


def _pair(
    pair: PairFindings, q_agreement: dict[tuple[str, str], F64], alpha: float
) -> dict[str, Any]:
    one = pair.comparison
    return {
        "layers": list(one.layers),
        "measure": one.measure,
        "images": one.images,
        "places": one.places,
        "places_in_a_shuffle": one.null_places,
        "null_keeps_classes": one.classes_kept,
        "scoring_shuffle_keeps_classes": one.classes_kept_scoring,
        "nearest": {
            layer: {
                "tested": int(side.tested_N.sum()),
                "found": int((q_N <= alpha).sum()),
            }
            for layer, side, q_N in zip(one.layers, one.nearest, pair.q_nearest, strict=True)
        },
        **{method: _method(pair, method, alpha) for method in METHODS},
        "detectable_share": {
            f"{method} {level}": _number(found.detectable)
            for (method, level), found in pair.agreement.items()
        },
        "agreement": {
            f"{method} {level}": {
                name: {
                    "count": int(found.count_R[row]),
                    "expected": float(found.expected_R[row]),
                    "log_odds": _number(found.log_odds_R[row]),
                    "interval_95": [_number(found.low_R[row]), _number(found.high_R[row])],
                    "p": _number(found.p_R[row]),
                    "q": _number(q_agreement[method, level][row]),
                }
                for row, name in enumerate(found.rows)
            }
            for (method, level), found in pair.agreement.items()
        },
    }


def _method(pair: PairFindings, method: str, alpha: float) -> dict[str, Any]:
    found_X, scores = pair.q[method] <= alpha, pair.comparison.scores[method]
    above_X = found_X & (scores.low_X > scores.shuffled_X)
    return {
        "matches": len(found_X),
        "found": int(found_X.sum()),
        "found_clusters": len(pair.found(method, alpha, CLUSTERS)),
        "median_r": _median(pair.comparison.matches[method].r_X[found_X]),
        "median_r_scored": _median(scores.r_X[found_X]),
        "median_r_shuffled": _median(scores.shuffled_X[found_X]),
        "scored_above_shuffled": int(above_X.sum()),
    }


def _median(values: F64) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def _number(value: float) -> float | None:
    """JSON has no NaN: None."""
    return float(value) if np.isfinite(value) else None


def table_text(summary: dict[str, Any], out: str) -> str:
    """The result for a person, at most 80 columns wide (the path apart)."""
    lines = [
        f"matches with q <= {summary['alpha']:g}, of {summary['tests'][MUTUAL]:,} tests "
        "(mutual nearest; Benjamini-Hochberg)",
        "",
        "layers            measure   found clusters   r scored shuffled   same log odds",
    ]
    for one in summary["pairs"]:
        match = one[MUTUAL]
        diagonal = next(iter(one["agreement"].get(f"{MUTUAL} {CLUSTERS}", {}).values()), None)
        same, odds = "-", "-"
        if diagonal is not None and match["found_clusters"]:
            same = f"{100 * diagonal['count'] / match['found_clusters']:.0f}%"
            odds = _plain(diagonal["log_odds"])
        lines.append(
            f"{'-'.join(one['layers']):<18}{one['measure']:<8}{match['found']:>7}"
            f"{match['found_clusters']:>9}{_plain(match['median_r']):>6}"
            f"{_plain(match['median_r_scored']):>7}{_plain(match['median_r_shuffled']):>9}"
            f"{same:>7}{odds:>9}"
        )
    lines += [
        "",
        "r: median of the found; scored: on other images; shuffled: place and class alone",
        "same, log odds: matched clusters in branches of one name, against the null",
    ]
    if any(not one["null_keeps_classes"] for one in summary["pairs"]):
        lines.append("note: too few images a class; the null keeps places, not classes")
    lines.append(f"tables, summary and figures: {out}")
    return "\n".join(line.rstrip() for line in lines)


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
