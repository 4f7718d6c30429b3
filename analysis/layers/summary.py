"""The comparison of layers in numbers (summary.json) and in a small table for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from isae.analysis.arrays import F64
from isae.analysis.layers.against import Difference
from isae.analysis.layers.agreement import DIAGONAL
from isae.analysis.layers.findings import CLUSTERS, LayerFindings, PairFindings
from isae.analysis.layers.matching import METHODS, MUTUAL
from isae.analysis.layers.pairs import family
from isae.analysis.layers.virtual_pairs import VirtualFindings

NULL = (
    "place and class kept: the later layer's maps are exchanged among images of the same class, "
    "every place kept, and the largest r of each feature over all partners is taken; p from these "
    "largest values, standardised by feature and pooled over features active on similarly many "
    "images, with a generalised Pareto tail beyond the pool's 98 % quantile"
)
WEIGHTS_NULL = (
    "by weights: decoder rows drawn in two ways (with the mean and covariance of the layer's rows, "
    "each at its original's Mahalanobis distance; each channel's entries dealt anew to the "
    "features); the largest standardised weight of each feature over all partners, p the larger of "
    "the two"
)
CORRECTION = (
    "Benjamini-Hochberg over all pairs of layers and measures at once and over each alone, the "
    "larger q; a family for each of: 'nearest' (every tested feature of both layers), 'mutual' and "
    "'one_to_one' (every tested feature of the smaller layer; without a match p = 1), 'agreement' "
    "(all branch tests of level 'clusters')"
)
AGREEMENT_NULL = (
    "features lie in the branch whose energy share is above the null of exchangeable channels "
    "(q <= alpha), the others in none; labels of the matched features dealt anew within strata of "
    "like fan-in and like activity in both layers, so that branch sizes, fan-in, activity and the "
    "number of matched features of each branch stay; one-sided: sums of hypergeometric counts for "
    "a branch, dealt labels for the diagonal"
)
NOTES = (
    "neighbouring layers share information in an untrained network too: without --against nothing "
    "here is told apart from an untrained network",
    "r is selected on the selection images and therefore too large; r_scored, on images that had "
    "no part in the choice, is not; r_shuffled is what place and class alone give the same pair",
    "median_r_scored is of the found matches whose features are both active on the scoring images "
    "('scored'); the others could not be confirmed",
    "in a class of n images one in n stays in place in a shuffle: small classes cost power, not "
    "validity",
    "intervals of r resample images, those of log odds groups of matches that near-duplicates hold "
    "together",
    "features of one dictionary are not independent, so Benjamini-Hochberg is not guaranteed by a "
    "theorem here; the tests measure it on made-up layers",
    "detectable: the expected count from which a branch test finds something with chance 0.8, "
    "before correction; an excess below it may have been missed",
    "codes are TopK codes: a feature that was not among the k largest counts as 0",
    "virtual weights: the mean path over places and pictures, summed over the kernel's offsets; "
    "the top-k of the later layer is not part of it",
)


def summarise(findings: LayerFindings, compared: Sequence[Difference]) -> dict[str, Any]:
    """The statistical part of summary.json."""
    nearest = [side for pair in findings.pairs for side in pair.comparison.nearest]
    return {
        "alpha": findings.alpha,
        "null": NULL,
        "weights_null": WEIGHTS_NULL,
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
                "tested": int(layer.tested_N.sum()),
                "clusters_of_tested": len(np.unique(layer.cluster_N[layer.tested_N])),
                "in_branches": {
                    name: int((layer.branch_N == number).sum())
                    for number, name in enumerate(layer.branches)
                },
                "note": layer.note,
            }
            for layer in findings.layers
        },
        "pairs": [
            _pair(pair, q, findings.alpha)
            for pair, q in zip(findings.pairs, findings.q_agreement, strict=True)
        ],
        "left_out": [asdict(one) for one in findings.left_out],
        "against": [_difference(one) for one in compared] if compared else None,
    }


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "layers": list(one.key[:2]),
        "measure": one.key[2],
        "method": one.key[3],
        "quantity": one.key[4],
        "trained": _number(one.trained),
        "untrained": list(one.untrained),
        "difference": _number(one.difference),
        "interval_95": [_number(one.low), _number(one.high)],
        "verdict": one.verdict,
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
        "nearest": {
            layer: {
                "tested": int(side.tested_N.sum()),
                "found": int((q_N <= alpha).sum()),
            }
            for layer, side, q_N in zip(one.layers, one.nearest, pair.q_nearest, strict=True)
        },
        **{method: _method(pair, method, alpha) for method in METHODS},
        **({} if pair.virtual is None else {"virtual": _virtual(pair.virtual)}),
        "in_branches": {
            f"{method} {level}": int(found.table_BB.sum())
            for (method, level), found in pair.agreement.items()
        },
        "agreement": {
            f"{method} {level}": {
                name: {
                    "count": int(found.count_R[row]),
                    "expected": float(found.expected_R[row]),
                    "detectable": _number(found.detectable_R[row]),
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


def _virtual(found: VirtualFindings) -> dict[str, Any]:
    paths = found.paths
    return {
        "pictures": paths.pictures,
        "places": paths.places,
        "places_that_padding_reaches": paths.whole_map,
        "reliability_of_paths": _number(paths.reliability),
        "compared_with": found.measure,
        "best_partner_as_by_correlation": [
            {
                "features": one.features,
                "share": _number(one.shared),
                "interval_95": [_number(one.low), _number(one.high)],
                "chance": _number(one.chance),
                "among_best": _number(one.among_best),
                "chance_among_best": _number(one.chance_among_best),
            }
            for one in found.agreement
        ],
    }


def _method(pair: PairFindings, method: str, alpha: float) -> dict[str, Any]:
    found_X, scores = pair.q[method] <= alpha, pair.comparison.scores[method]
    scored_X = found_X & np.isfinite(scores.r_X) & np.isfinite(scores.low_X)
    above_X = scored_X & (scores.low_X > scores.shuffled_X)
    return {
        "matches": len(found_X),
        "found": int(found_X.sum()),
        "found_clusters": len(pair.found(method, alpha, CLUSTERS)),
        "median_r": _median(pair.comparison.matches[method].r_X[found_X]),
        "median_r_scored": _median(scores.r_X[found_X]),
        "median_r_shuffled": _median(scores.shuffled_X[found_X]),
        "scored": int(scored_X.sum()),
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
        "layers            measure  found clusters    r scored    of  exch same log odds",
    ]
    for one in summary["pairs"]:
        match = one[MUTUAL]
        diagonal = one["agreement"].get(f"{MUTUAL} {CLUSTERS}", {}).get(DIAGONAL)
        lying = one["in_branches"].get(f"{MUTUAL} {CLUSTERS}", 0)
        same, odds = "-", "- "
        if diagonal is not None and lying:
            same = f"{100 * diagonal['count'] / lying:.0f}%"
            odds = _plain(diagonal["log_odds"]) + _mark(diagonal["q"], summary["alpha"])
        lines.append(
            f"{'-'.join(one['layers']):<18}{one['measure']:<8}{match['found']:>6} "
            f"{match['found_clusters']:>8}{_plain(match['median_r']):>5}"
            f"{_plain(match['median_r_scored']):>7}{match['scored']:>6}"
            f"{_plain(match['median_r_shuffled']):>6}{same:>5}{odds:>9}"
        )
    lines += [
        "",
        "r: median of the found; scored: on other images, of those active there",
        "exch: what place and class alone give; same, log odds: matched clusters in",
        "branches of one name, beyond branch sizes, fan-in, activity "
        f"(*: q <= {summary['alpha']:g})",
    ]
    if any(not one["null_keeps_classes"] for one in summary["pairs"]):
        lines.append("note: too few images a class, or no labels: the null keeps places alone")
    lines += _against_lines(summary["against"])
    left_out = {(tuple(one["layers"]), one["why"]) for one in summary["left_out"]}
    lines += [f"left out: {'-'.join(layers)}: {why}"[:80] for layers, why in sorted(left_out)]
    lines.append(f"tables, summary and figures: {out}")
    return "\n".join(line.rstrip() for line in lines)


def _against_lines(compared: list[dict[str, Any]] | None) -> list[str]:
    if compared is None:
        return ["no untrained network beside it (--against): nothing is told apart from one"]
    lines = ["", "trained minus untrained (mutual):  difference, 95 % interval"]
    for one in compared:
        if one["method"] == MUTUAL:
            low, high = one["interval_95"]
            lines.append(
                f"{'-'.join(one['layers']):<18}{one['measure']:<8}{one['quantity']:<18}"
                f"{_plain(one['difference']):>6} {_plain(low):>6} {_plain(high):>6}  "
                f"{one['verdict']}"
            )
    return lines


def _mark(q: float | None, alpha: float) -> str:
    return "*" if q is not None and q <= alpha else " "


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
