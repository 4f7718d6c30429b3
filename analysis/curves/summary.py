"""Curve detectors in numbers (summary.json) and in a small table for a person."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from isae.analysis.arrays import F32, F64, Bools
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.criterion import PARTS, CurveUnits
from isae.analysis.curves.drawing_on import Sources
from isae.analysis.curves.findings import CurvesFindings, filling, gap_rows
from isae.analysis.curves.rows import RealRows
from isae.analysis.curves.splits import NeuronParts, Splits

ALIKE = 0.9
"""Decoder rows with at least this cosine count as one in 'clusters'."""

SHOWN_GAPS = 12
_Z = 1.959964

NULLS = {
    "significant": "the curve of every fill (stroke or disc), polarity and colour, meaned over "
    "widths and radii, turned by a random step of its own: do they agree on a direction? p of the "
    "length of the sum of first harmonics, exact or a proven upper bound",
    "controls": "directions that are no features, read as relu(w . x - threshold) with thresholds "
    "at the features' own firing rates: the encoder's rows read this way, decoder weights dealt to "
    "other neurons, mixtures of two neighbouring curve neurons, principal components of both "
    "signs, non-negative factors, the encoder's rows rotated at random",
    "equal_count": "as many directions drawn from each set, and as many uniform random ones",
    "splits": "what features are tuned to dealt anew among features of about equal firing rate",
}
CORRECTION = (
    "Benjamini-Hochberg over the units of a kind that answered to some arc (each control's units "
    "apart), and over neurons with two features that explain enough of them (splits)"
)
NOTES = (
    "a curve detector holds all parts of the criterion; 'all_but' counts units that hold every "
    "other part",
    "angles: degrees counter-clockwise from the right, of an arc where its outside points (90 an "
    "arch); other work may count from elsewhere or the other way round",
    "thresholds of the criterion are ours, in 'options'; no paper states them",
    "many directions fill any gap: read gaps at equal count, and beside the controls",
    "p of uniformity take directions for independent; those of one dictionary are not",
    "parts of a neuron: sums over its large activations on held-out rows; intervals draw images",
)


def summarise_curves(
    findings: CurvesFindings, held_out: RealRows, config: CurvesConfig, decoder_NC: F32
) -> dict[str, Any]:
    """What summary.json says of a layer's units, gaps, controls, sources and splits."""
    features = findings.units["feature"]
    detector_N = features.detector_N
    return {
        "units": {kind: _unit_counts(one, findings, kind) for kind, one in findings.units.items()},
        "feature_clusters": {
            "curve_detectors": count_clusters(decoder_NC[detector_N], ALIKE),
            "least_cosine": ALIKE,
        },
        "gaps": {
            "at_least": config.gap,
            "margin": config.margin,
            "between_neurons": [
                row for row in gap_rows(findings, config) if row["kind"] == "neuron"
            ],
            "widest_between_features": [
                row for row in gap_rows(findings, config) if row["kind"] == "feature"
            ][:SHOWN_GAPS],
            "features_that_fill": [
                {"start": start, "width": width, "features": chosen.tolist()[:SHOWN_GAPS]}
                for start, width, chosen in filling(findings, config)
            ],
        },
        "coverage": findings.coverage,
        "sources": _sources(findings.sources),
        "splits": _splits(findings, held_out),
    }


def _unit_counts(one: CurveUnits, findings: CurvesFindings, kind: str) -> dict[str, Any]:
    held = np.stack([one.parts[name] for name in PARTS])
    missing_N = (~held).sum(axis=0)
    detectors, count = int(one.detector_N.sum()), int((findings.fires[kind] > 0).sum())
    gaps = findings.gaps[kind]
    return {
        "units": held.shape[1],
        "on_in_training_rows": count,
        "tests": one.tests,
        "parts": {name: int(one.parts[name].sum()) for name in PARTS},
        "all_but": {
            name: int(((missing_N == 0) | ((missing_N == 1) & ~one.parts[name])).sum())
            for name in PARTS
        },
        "curve_detectors": detectors,
        "share": detectors / count if count else None,
        "share_interval": wilson(detectors, count),
        "largest_gap": float(gaps.width_G[0]) if len(gaps.width_G) else None,
        "numbers": np.flatnonzero(one.detector_N).tolist()[:100],
    }


def wilson(count: int, of: int) -> list[float] | None:
    """Wilson's 95 % interval of a share; None of nothing."""
    if of == 0:
        return None
    share, spread = count / of, _Z**2 / of
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * np.sqrt(share * (1 - share) / of + spread / of / 4) / (1 + spread)
    return [max(float(middle - half), 0.0), min(float(middle + half), 1.0)]


def count_clusters(rows_FC: F32, least: float) -> int:
    """Groups of rows linked, also through others, by a cosine of at least `least`."""
    if not len(rows_FC):
        return 0
    length_F1 = np.linalg.norm(rows_FC, axis=1, keepdims=True)
    unit_FC = rows_FC / np.maximum(length_F1, 1e-12)
    return int(connected_components(csr_array(unit_FC @ unit_FC.T >= least), directed=False)[0])


def _sources(sources: Sources) -> dict[str, Any]:
    mixed = sources.mixed_F
    return {
        "curve_features": len(sources.feature_F),
        "neurons_for_80_percent_of_decoder_squares": quartiles(
            sources.neurons_F.astype(np.float64)
        ),
        "share_of_curve_neurons": quartiles(sources.curve_share_F),
        "with_two_main_curve_neurons": int(mixed.sum()),
        "between_their_two_main_curve_neurons": int(sources.between_F[mixed].sum()),
        "expected_between_by_chance": float((sources.arc_F[mixed] / 360).sum()),
    }


def _splits(findings: CurvesFindings, held_out: RealRows) -> dict[str, Any]:
    parts, neurons = findings.parts, findings.units["neuron"]
    some = parts.rows_C > 0
    return {
        "rows": len(held_out),
        "neurons_with_large_activations": int(some.sum()),
        "large_rows_a_neuron": quartiles(parts.rows_C[some].astype(np.float64)),
        "all_neurons": _parts(parts, some),
        "curve_neurons": _parts(parts, some & neurons.detector_N),
        **{name: _split(parts, one, neurons) for name, one in findings.splits.items()},
    }


def _parts(parts: NeuronParts, chosen_C: Bools) -> dict[str, Any]:
    return {
        "neurons": int(chosen_C.sum()),
        "features_for_80_percent": quartiles(parts.features_C[chosen_C].astype(np.float64)),
        "part_of_the_first_feature": quartiles(parts.part_CT[chosen_C, 0]),
        "bias": quartiles(parts.bias_C[chosen_C]),
        "residual": quartiles(parts.residual_C[chosen_C]),
    }


def _split(parts: NeuronParts, one: Splits, neurons: CurveUnits) -> dict[str, Any]:
    chosen = np.flatnonzero(one.splits_C)
    chosen = chosen[np.argsort(-one.turn_C[chosen], kind="stable")]
    return {
        "tests": one.tests,
        "splits": len(chosen),
        "expected_by_the_null": one.expected,
        "p_of_the_number": one.count_p,
        "with_q_at_most_0.05": int((one.q_C[chosen] <= 0.05).sum()),
        "among_curve_neurons": int(neurons.detector_N[chosen].sum()),
        "neurons": chosen.tolist()[:100],
    }


def curves_text(summary: dict[str, Any], out: str) -> str:
    """The result for a person, at most 80 columns wide (the path apart)."""
    place, stimuli = summary["place"], summary["stimuli"]
    lines = [
        f"{summary['layer']}: {stimuli['count']:,} stimuli of {place['size']} pixels at cell "
        f"{place['cell']}, field {place['effective_field']['side']} pixels",
    ]
    if place["padding_reaches_the_cell"]:
        lines.append(
            f"padding reaches every cell; --size {place['smallest_size_with_a_free_cell']} "
            "has a free one"
        )
    equal = summary["coverage"]["as_neurons"]
    lines += [
        "",
        "units       units directed straight reversed corner circle invar. strong   all",
    ]
    for kind, one in summary["units"].items():
        parts = one["parts"]
        lines.append(
            f"{kind:<10}{one['units']:>7}{parts['directed']:>9}{parts['over_straight']:>9}"
            f"{parts['over_reversed']:>9}{parts['over_corner']:>7}{parts['over_circle']:>7}"
            f"{parts['invariant']:>7}{parts['strong']:>7}{one['curve_detectors']:>6}"
        )
    wide = [one for one in summary["gaps"]["between_neurons"] if one["to_fill"]]
    lines += [
        "",
        f"gaps of {summary['gaps']['at_least']:g} degrees and more between the "
        f"{equal['count']} curve neurons: {len(wide)}",
    ]
    lines += [
        f"  {one['start']:6.1f} + {one['width']:5.1f} degrees: {one['features_inside']} curve "
        "features inside"
        for one in wide[:6]
    ]
    lines += [
        f"{equal['count']} drawn of each: largest gap (2.5 to 97.5 %), gaps filled on average"
    ]
    for kind in (*summary["units"], "uniform"):
        if (one := equal.get(kind)) is not None:
            middle, low, high = one["largest_gap"]
            lines.append(
                f"  {kind:<10}{middle:6.1f} ({low:.1f} to {high:.1f}){one['mean_gaps_filled']:8.1f}"
            )
    sources, split = summary["sources"], summary["splits"]["curve"]
    lines += [
        f"curve features between their two main curve neurons: "
        f"{sources['between_their_two_main_curve_neurons']} of "
        f"{sources['with_two_main_curve_neurons']}, by chance "
        f"{sources['expected_between_by_chance']:.1f}",
        f"neurons that split into curve features of different direction: {split['splits']}, by "
        f"chance {split['expected_by_the_null']:.1f}",
        f"tables, summary and figures: {out}",
    ]
    return "\n".join(lines)


def quartiles(values: F64) -> list[float] | None:
    """Quartiles of the finite values; None where there are none."""
    values = values[np.isfinite(values)]
    return [float(one) for one in np.quantile(values, [0.25, 0.5, 0.75])] if len(values) else None
