"""Tuning in numbers (summary.json) and in a small table for a person."""

from __future__ import annotations

from typing import Any

import numpy as np

from isae.analysis.arrays import F64, Bools
from isae.analysis.tuning.effective_field import SHARE, EffectiveField, ReadCell, smallest_free_size
from isae.analysis.tuning.findings import PERIOD_NAMES, TuningFindings
from isae.analysis.tuning.stimuli import StimulusSet
from isae.inception import LayerInfo

NULLS = {
    "blocks": "each block of stimuli (all factors but the angle fixed) of the unit's strongest "
    "look is turned by a random number of angles: do some blocks agree on an angle? All turnings "
    "counted where they are few, else a proven upper bound (analysis/tuning/null.py)",
    "levels": "all blocks at one level of a factor are turned together, so that near-duplicates do "
    "not count as agreement; the largest p over all factors that can be tested for the unit "
    "(perfect agreement would have p <= 0.01)",
}
CORRECTION = (
    "Benjamini-Hochberg over all units x families x harmonics with answers that vary; p = 1 below "
    "min_selectivity; features and neurons apart, and the two nulls apart"
)
NOTES = (
    "tuned: q against turned blocks <= alpha and selectivity by that harmonic at least "
    "min_selectivity; counted once, as direction (period 360 degrees), axis (180) or cross (90), "
    "with the larger harmonic that is passed; preferred angles are null unless theirs is passed",
    "agreeing: tuned, and q of turned levels <= alpha; untestable: tuned, but no factor has levels "
    "enough for this unit",
    "count and share leave out doubtful units: faint (largest answer to the family below --faint "
    "times the 99 % quantile of its positive values on held-out rows, or none there), lost_to_k "
    "(codes alone: without stronger features in the top k the tuning vanishes or turns), "
    "suppressed (the bare ground is answered as strongly), framed (padded layers: read where the "
    "border lies on the other side, the tuning vanishes or turns); tuned counts them",
    "answers of features are codes after the top k; pre-activations judge lost_to_k",
    "answers here are deterministic and smooth: compare trained with untrained networks before "
    "calling a share large",
    "angles: degrees counter-clockwise from the right; of an arc where its outside points; other "
    "work may count from elsewhere or the other way round",
    "curves, angles, widths and radii are those of each unit's strongest look (polarity and fill); "
    "features that fire on none of the stimuli are silent, not untuned",
    "colours have equal HSL lightness, not equal luminance; arcs of the smallest radius are "
    "shorter; a field is measured for the layer, not for each branch",
)


def summarise_tuning(findings: TuningFindings) -> dict[str, Any]:
    """What summary.json says of all features, or of all neurons.

    Headline numbers are flat: direction_tuned.arcs.share and so on, of units without doubt.
    """
    families = findings.families
    clear_F = [findings.clear(name) for name in families]
    found: dict[str, Any] = {
        "units": len(findings.fired_N),
        "answering": int((findings.fired_N > 0).sum()),
        "silent": int((findings.fired_N == 0).sum()),
        "answering_to_blank_grounds": int((findings.blank_N > 0).sum()),
        "without_positive_values_on_photos": int(np.isnan(findings.scale_N).sum())
        if findings.measured
        else None,
        "tests": findings.tests,
        "tuned_to_any": int(np.any(clear_F, axis=0).sum()) if families else 0,
    }
    for kind in PERIOD_NAMES.values():
        found[f"{kind}_tuned"] = {
            f"{name}s": _headline(findings, name, findings.kinds(name)[kind])
            for name in families
            if kind in findings.kinds(name)
        }
    found["families"] = {name: _family(findings, name) for name in families}
    return found


def _headline(findings: TuningFindings, family: str, units_N: Bools) -> dict[str, Any]:
    """Counts of units that count as one kind; shares are of all units."""
    all_units = max(len(units_N), 1)
    clear_N = units_N & findings.clear(family)
    agreeing_N = clear_N & findings.agreeing(family)
    return {
        "count": int(clear_N.sum()),
        "share": float(clear_N.sum() / all_units),
        "agreeing": int(agreeing_N.sum()),
        "agreeing_share": float(agreeing_N.sum() / all_units),
        "untestable": int((clear_N & findings.untestable(family)).sum()),
        "tuned": int(units_N.sum()),
        **{name: int((units_N & has_N).sum()) for name, has_N in findings.doubts(family).items()},
    }


def _family(findings: TuningFindings, family: str) -> dict[str, Any]:
    one, clear = findings.families[family], findings.clear(family)
    direction = clear & (findings.harmonic(family) == 1)
    axis = clear & (findings.harmonic(family) == 2)
    period = one.design.period
    return {
        "period_degrees": period,
        "angles": len(one.design.angles_A),
        "blocks": len(one.design.index_BA),
        "looks": {
            name or "all": int((clear & (one.look_N == number)).sum())
            for number, name in enumerate(one.design.looks)
        },
        "tested": int(np.isfinite(one.p_NM).any(axis=1).sum()),
        "tuned": int(findings.tuned[family].sum()),
        "clear": int(clear.sum()),
        "agreeing": int((clear & findings.agreeing(family)).sum()),
        "factors": _factors(findings, family, clear),
        "half_width_degrees": _quartiles(one.half_width_N[direction]),
        "selectivity_1": _quartiles(one.selectivity_NM[direction, 0]),
        "largest_gap_degrees": largest_gap(findings.vector(family)[direction], period),
        "largest_gap_of_axes_degrees": largest_gap(findings.axis(family)[axis], period / 2),
        "fourier_modes": _listed(findings.modes(family)),
        "fourier_modes_by_power": _listed(findings.modes(family, alike=False)),
        "fourier_modes_tuned": _listed(findings.modes(family, clear)),
        "variance": {name: _quartiles(part[clear]) for name, part in one.variance.items()},
        "invariance": {name: _quartiles(part[clear]) for name, part in one.invariance.items()},
        **(_arcs(findings, direction) if family == "arc" else {}),
    }


def _factors(findings: TuningFindings, family: str, clear_N: Bools) -> dict[str, Any]:
    """Per factor: how many tuned units can be tested, and in how many its levels agree at 0.01."""
    one, harmonic_N = findings.families[family], findings.harmonic(family)
    found = {}
    for name, p_NM in one.factors.items():
        own_N = p_NM[np.arange(len(p_NM)), np.maximum(harmonic_N, 1) - 1]
        tested_N = clear_N & np.isfinite(own_N)
        found[name] = {
            "tested": int(tested_N.sum()),
            "p_at_most_0.01": int((tested_N & (own_N <= 0.01)).sum()),
        }
    return found


def _arcs(findings: TuningFindings, direction: Bools) -> dict[str, Any]:
    one = findings.families["arc"]
    best = one.best_radius_N[direction]
    return {
        "radii_pixels": [float(radius) for radius in one.radii_L[:-1]],
        "direction_tuned_by_best_radius": [int((best == radius).sum()) for radius in one.radii_L],
        "best_radius_is_straight": int(np.isinf(best).sum()),
        "best_radius_is_smallest": int((best == one.radii_L[0]).sum()),
        "fourier_modes_dark_strokes": _listed(findings.modes("arc", look="dark stroke")),
    }


def largest_gap(angles: F64, period: float) -> float | None:
    """The longest stretch of the circle without a preferred angle; None without any angle."""
    angles = np.sort(angles[np.isfinite(angles)])
    if not len(angles):
        return None
    return float(np.diff(np.concatenate([angles, angles[:1] + period])).max())


def describe_place(
    info: LayerInfo, at: ReadCell, field: EffectiveField, stimuli: StimulusSet
) -> dict[str, Any]:
    """Where stimuli are shown and read, and whether padding reaches there."""
    smallest = smallest_free_size(info)
    return {
        "size": at.size,
        "cells": at.cells,
        "cell": [at.cell, at.cell],
        "centre_pixels": list(stimuli.centre),
        "theoretical_field": info.receptive_field,
        "window": list(at.window),
        "cells_free_of_padding": list(at.free),
        "padding_reaches_the_cell": at.padded,
        "smallest_size_with_a_free_cell": smallest,
        "note": f"no cell of '{info.name}' is free of padding at {at.size} pixels (field "
        f"{info.receptive_field}); the middle cell is read; --size {smallest} has a free cell"
        if at.padded
        else "the window of the cell lies inside the picture",
        "effective_field": {
            "side": field.side,
            "share": SHARE,
            "side_of_half_the_energy": field.side_half,
            "square_reaches_over_the_picture": field.clipped,
            "centroid_pixels": list(field.centroid),
            "pictures": field.pictures,
            "sides_by_halves_of_the_pictures": list(field.sides_of_halves),
            "measure": "squared gradient of the cell by the pixels, summed over channels by one "
            "normal probe a picture; smallest square about the theoretical centre",
        },
        "stimuli_sized_to": stimuli.field,
    }


def tuning_text(summary: dict[str, Any], out: str) -> str:
    """The result for a person, at most 80 columns wide (the path apart)."""
    place = summary["place"]
    lines = [
        f"{summary['layer']}: {summary['stimuli']['count']:,} stimuli of {place['size']} pixels at "
        f"cell {place['cell']}, field {place['effective_field']['side']} of "
        f"{place['theoretical_field']} pixels",
    ]
    if place["padding_reaches_the_cell"]:
        lines.append(
            f"PADDED: no cell is free of padding; --size {place['smallest_size_with_a_free_cell']} "
            "has one" + ("; 'framed' units left out" if place.get("mirrored_read") else "")
        )
    lines += ["", "units     by        to         tuned   clear  agree  half-width  largest gap"]
    for kind in ("features", "neurons"):
        for by in PERIOD_NAMES.values():
            for name, one in summary[kind][f"{by}_tuned"].items():
                family = summary[kind]["families"][name.removesuffix("s")]
                width, gap = family["half_width_degrees"], family["largest_gap_degrees"]
                first = by == PERIOD_NAMES[int(family["period_degrees"])]
                lines.append(
                    f"{kind:<10}{by:<10}{name:<9}{one['tuned']:>7}{one['count']:>8}"
                    f"{one['agreeing']:>7}"
                    + (f"{_plain(width and width[1]):>12}{_plain(gap):>13}" if first else "")
                )
    lines += [
        "",
        f"silent: {summary['features']['silent']:,} of {summary['features']['units']:,} features, "
        f"{summary['neurons']['silent']:,} of {summary['neurons']['units']:,} neurons",
        f"tuned: some blocks of stimuli agree (q <= {summary['options']['alpha']:g}); clear: not "
        "faint, not only by",
        "losing to the top k, not only by ground or border; agree: over all factors",
        f"tables, summary and figures: {out}",
    ]
    return "\n".join(lines)


def _quartiles(values: F64) -> list[float] | None:
    """Quartiles of the finite values; None where there are none."""
    values = values[np.isfinite(values)]
    return [float(one) for one in np.quantile(values, [0.25, 0.5, 0.75])] if len(values) else None


def _listed(values: F64 | None) -> list[float] | None:
    return None if values is None else [float(one) for one in values]


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
