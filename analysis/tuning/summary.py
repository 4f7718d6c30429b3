"""Tuning in numbers (summary.json) and in a small table for a person."""

from __future__ import annotations

from typing import Any

import numpy as np

from isae.analysis.arrays import F64
from isae.analysis.tuning.effective_field import SHARE, EffectiveField, ReadCell, smallest_free_size
from isae.analysis.tuning.findings import TuningFindings
from isae.analysis.tuning.stimuli import StimulusSet
from isae.inception import LayerInfo

NULLS = {
    "shuffled": "within each block of stimuli (all factors but the angle fixed) every order of the "
    "answers is equally likely; t = |Z|^2 over its exact mean; p = min over j of j! / t^j, the "
    "smaller of harmonics 1 and 2, times 2; 'audit' counts that p on shuffles of this run",
    "rotated": "each block's curve is turned by a random step of its own: do blocks agree on the "
    "angle? the same formula, there a proven upper bound",
}
CORRECTION = (
    "Benjamini-Hochberg over all units x families that answered to anything; features and neurons "
    "apart, and the two nulls apart"
)
NOTES = (
    "tuned: q against shuffled orientations <= alpha and selectivity of either harmonic at least "
    "min_selectivity; agreeing: tuned, and q against rotated blocks <= alpha",
    "angles: degrees counter-clockwise from the right; of an arc where its outside points; other "
    "work may count from elsewhere or the other way round",
    "answers are read at one cell; features that fire on none of the stimuli are silent, not "
    "untuned",
    "colours have equal HSL lightness, not equal luminance",
)


def summarise_tuning(findings: TuningFindings, alpha: float) -> dict[str, Any]:
    """What summary.json says of all features, or of all neurons."""
    return {
        "units": len(findings.fired_N),
        "answering": int((findings.fired_N > 0).sum()),
        "silent": int((findings.fired_N == 0).sum()),
        "tests": findings.tests,
        "tuned_to_any": int(np.any([*findings.tuned.values()], axis=0).sum())
        if findings.tuned
        else 0,
        "audit": findings.audits,
        "families": {name: _family(findings, name, alpha) for name in findings.families},
    }


def _family(findings: TuningFindings, family: str, alpha: float) -> dict[str, Any]:
    one, tuned = findings.families[family], findings.tuned[family]
    agreeing = tuned & (findings.q_rotated[family] <= alpha)
    return {
        "period_degrees": one.design.period,
        "angles": len(one.design.angles_A),
        "blocks": len(one.design.index_BA),
        "tested": int(np.isfinite(one.p_N).sum()),
        "tuned": int(tuned.sum()),
        "agreeing": int(agreeing.sum()),
        "half_width_degrees": _quartiles(one.half_width_N[tuned]),
        "selectivity_1": _quartiles(one.selectivity_NM[tuned, 0]),
        "largest_gap_degrees": largest_gap(one.vector_N[tuned], one.design.period),
        "fourier_modes_all": _listed(findings.modes(family)),
        "fourier_modes_tuned": _listed(findings.modes(family, tuned=True)),
        "variance": {name: _quartiles(part[tuned]) for name, part in one.variance.items()},
        "invariance": {name: _quartiles(part[tuned]) for name, part in one.invariance.items()},
        **(
            {
                "radii_pixels": one.radii_L.tolist(),
                "tuned_by_best_radius": [
                    int((one.best_radius_N[tuned] == radius).sum()) for radius in one.radii_L
                ],
            }
            if family == "arc"
            else {}
        ),
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
            f"padding reaches every cell; --size {place['smallest_size_with_a_free_cell']} "
            "has a free one"
        )
    lines += ["", "units     family   tested   tuned  agreeing  half-width  largest gap"]
    for kind in ("features", "neurons"):
        for name, one in summary[kind]["families"].items():
            width = one["half_width_degrees"]
            lines.append(
                f"{kind:<10}{name:<8}{one['tested']:>7}{one['tuned']:>8}{one['agreeing']:>10}"
                f"{_plain(width and width[1]):>12}{_plain(one['largest_gap_degrees']):>13}"
            )
    lines += [
        "",
        f"silent: {summary['features']['silent']:,} of {summary['features']['units']:,} features, "
        f"{summary['neurons']['silent']:,} of {summary['neurons']['units']:,} neurons",
        f"tuned: q <= {summary['options']['alpha']:g} against shuffled orientations "
        "(Benjamini-Hochberg)",
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
