"""The figures of the curve analysis: directions on a circle, gaps filled, splits, controls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isae.analysis.arrays import F64, I64
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.criterion import PARTS, CurveUnits
from isae.analysis.curves.findings import CurvesFindings, filling
from isae.analysis.curves.stimuli import CurveStimuli
from isae.analysis.curves.summary import wilson
from isae.analysis.style import NULL_COLOUR, PALETTE, save, styled
from isae.analysis.tuning.figures import stimuli_figure

_GAPS, _FEATURES, _NEURONS = 4, 3, 4


def write_curve_figures(
    layer: str,
    findings: CurvesFindings,
    stimuli: CurveStimuli,
    config: CurvesConfig,
    folder: Path,
) -> list[str]:
    """Write all figures of a layer into `folder` -> their names without suffix."""
    figures: dict[str, Callable[[], Figure]] = {
        "stimuli": lambda: stimuli_figure(stimuli.shown),
        "criterion": lambda: criterion_figure(layer, findings),
        "circle": lambda: circle_figure(layer, findings, config),
        "filling": lambda: filling_figure(layer, findings, config),
        "splits": lambda: splits_figure(layer, findings),
        "controls": lambda: controls_figure(layer, findings),
    }
    with styled():
        for name, draw in figures.items():
            save(draw(), folder / name)
    return list(figures)


def criterion_figure(layer: str, findings: CurvesFindings) -> Figure:
    """Share of the units of each kind that hold each part of the criterion, and all of them."""
    names = [*(part.replace("_", " ") for part in PARTS), "all"]
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / len(findings.units)
    for number, (kind, one) in enumerate(findings.units.items()):
        held = [one.parts[part].mean() for part in PARTS]
        held.append(one.detector_N.mean())
        places = np.arange(len(names)) + (number - (len(findings.units) - 1) / 2) * width
        axes.bar(places, 100 * np.array(held), width, color=_colour(number), label=kind)
    axes.set_xticks(np.arange(len(names)), names, rotation=20, ha="right")
    axes.set_ylabel("% of units")
    axes.set_title(f"{layer}: units that hold each part of the criterion")
    axes.legend(ncols=2, loc="upper right")
    return figure


def circle_figure(layer: str, findings: CurvesFindings, config: CurvesConfig) -> Figure:
    """Preferred directions: neurons inside, features outside; gaps between neurons shaded."""
    neurons, features = findings.units["neuron"], findings.units["feature"]
    figure = Figure(figsize=(4.8, 5.0))
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    figure.subplots_adjust(0.1, 0.12, 0.9, 0.86)
    gaps = findings.gaps["neuron"].at_least(config.gap)
    for start, width in zip(gaps.start_G.tolist(), gaps.width_G.tolist(), strict=True):
        middle = np.deg2rad(start + width / 2)
        axes.bar(middle, 0.42, np.deg2rad(width), 0.55, color=NULL_COLOUR, alpha=0.15, linewidth=0)
        axes.text(middle, 0.48, f"{width:.0f}°", ha="center", va="center", fontsize=7)
    for one, colour, low, high in (
        (neurons, PALETTE[1], 0.55, 0.75),
        (features, PALETTE[0], 0.78, 0.97),
    ):
        at = np.deg2rad(one.detected())
        axes.vlines(at, low, high, color=colour, linewidth=1.0 if len(at) < 100 else 0.4)
    if 0 < neurons.detector_N.sum() <= 24:
        for unit in np.flatnonzero(neurons.detector_N).tolist():
            turn = np.deg2rad(neurons.direction_N[unit])
            axes.text(turn, 0.38, str(unit), ha="center", va="center", fontsize=6)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines["polar"].set_visible(False)
    axes.set_title(
        f"{layer}: {int(neurons.detector_N.sum())} curve neurons (inner),\n"
        f"{int(features.detector_N.sum())} curve features (outer)",
        pad=14,
    )
    figure.supxlabel(
        f"where the arc's outside points; shaded: gaps of {config.gap:g} degrees or more",
        fontsize=8, y=0.02,
    )  # fmt: skip
    return figure


def filling_figure(layer: str, findings: CurvesFindings, config: CurvesConfig) -> Figure:
    """Tuning curves of features that fill the widest gaps, between the neurons at the gap's ends.

    Where no gap is filled: of the curve features of most different directions.
    """
    features, neurons = findings.units["feature"], findings.units["neuron"]
    rows = [row for row in filling(findings, config) if len(row[2])][:_GAPS]
    panels: list[tuple[float, float, I64, I64]] = [
        (start, width, _ends(neurons, start, width), chosen) for start, width, chosen in rows
    ]
    if not panels:
        panels = [(0.0, 360.0, np.flatnonzero(neurons.detector_N)[:2], _spread(features, 6))]
    figure = Figure(figsize=(6.4, 1.5 * len(panels) + 0.7), layout="constrained")
    for axes, (start, width, ends, chosen) in zip(
        figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True
    ):
        kept = chosen[:_FEATURES] if width < 360 else chosen
        for unit in ends.tolist():
            _curve(axes, neurons, unit, NULL_COLOUR, "--")
        for number, unit in enumerate(kept.tolist()):
            _curve(axes, features, unit, _colour(number), "-")
        if width < 360:
            for turn in (-360, 0):
                axes.axvspan(
                    start + turn, start + turn + width, color=NULL_COLOUR, alpha=0.12, lw=0
                )
            axes.set_title(
                f"{len(chosen)} curve features in {start:.0f}° to {(start + width) % 360:.0f}°"
            )
        axes.set_xlim(0, 360)
        axes.set_ylim(0, 1.05)
        axes.set_xticks(np.arange(0, 361, 45))
        axes.set_yticks([0, 1])
        _legend(axes)
        if not len(kept):
            axes.text(180, 0.5, "no curve feature", ha="center")
    figure.supxlabel(f"{layer}: where the arc's outside points (degrees)", fontsize=9)
    figure.supylabel("mean answer over its maximum", fontsize=9)
    return figure


def splits_figure(layer: str, findings: CurvesFindings) -> Figure:
    """Neurons and what explains their large activations: parts, and tuning curves of features.

    Neurons that split first, then curve neurons, then any.
    """
    parts, features = findings.parts, findings.units["feature"]
    shown = _neurons_to_show(findings)
    figure = Figure(figsize=(7.4, 1.55 * max(len(shown), 1) + 0.6), layout="constrained")
    panels = figure.subplots(max(len(shown), 1), 2, squeeze=False, width_ratios=(1, 1.3))
    for (left, right), c in zip(panels, shown, strict=False):
        count = min(int((parts.feature_CT[c] >= 0).sum()), 5)
        part, numbers = parts.part_CT[c, :count], parts.feature_CT[c, :count]
        low, high = part - parts.low_CT[c, :count], parts.high_CT[c, :count] - part
        colours = [_colour(i) for i in range(count)]
        error = np.nan_to_num(np.maximum([low, high], 0.0))
        left.barh(np.arange(count), 100 * part, color=colours, xerr=100 * error)
        left.set_yticks(np.arange(count), [str(i) for i in numbers])
        left.invert_yaxis()
        left.set_xlim(left=0)
        left.set_title(
            f"neuron {c}" + (" (splits)" if findings.splits["curve"].splits_C[c] else "")
        )
        _curve(right, findings.units["neuron"], c, NULL_COLOUR, "--")
        for number, unit in enumerate(numbers[:_FEATURES].tolist()):
            _curve(right, features, unit, _colour(number), "-")
        right.set_xlim(0, 360)
        right.set_ylim(0, 1.05)
        right.set_xticks(np.arange(0, 361, 90))
        right.set_yticks([0, 1])
        _legend(right)
    panels[-1, 0].set_xlabel("% of the neuron's large activations")
    panels[-1, 1].set_xlabel("where the arc's outside points (degrees)")
    figure.supylabel(f"{layer}: features", fontsize=9)
    return figure


def controls_figure(layer: str, findings: CurvesFindings) -> Figure:
    """Left: share of curve detectors of each kind; right: largest gap at equal count."""
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = list(findings.units)
    for number, kind in enumerate(kinds):
        on, found = (
            int((findings.fires[kind] > 0).sum()),
            int(findings.units[kind].detector_N.sum()),
        )
        between = wilson(found, on)
        if between is None:
            continue
        share = found / on
        error = np.maximum([[share - between[0]], [between[1] - share]], 0)
        left.errorbar(100 * share, number, xerr=100 * error, fmt="o", color=_colour(number), ms=4)
    left.set_yticks(np.arange(len(kinds)), kinds)
    left.invert_yaxis()
    left.set_xlim(left=0)
    left.set_xlabel("% curve detectors of units that are on")
    left.set_title(layer)
    equal = findings.coverage["as_neurons"]
    named = [*kinds, "uniform"]
    for number, kind in enumerate(named):
        if (one := equal.get(kind)) is not None:
            middle, low, high = one["largest_gap"]
            error = np.array([[middle - low], [high - middle]])
            right.errorbar(middle, number, xerr=error, fmt="o", color=_colour(number), ms=4)
    right.set_yticks(np.arange(len(named)), named)
    right.invert_yaxis()
    right.set_xlim(0, 360)
    right.set_xticks(np.arange(0, 361, 90))
    right.set_xlabel("largest gap (degrees)")
    right.set_title(f"{equal['count']} drawn of each")
    return figure


def _curve(axes: Axes, one: CurveUnits, unit: int, colour: str, style: str) -> None:
    """One unit's tuning curve over its maximum; nothing for a unit that does not answer."""
    curve_A = one.curve_NA[unit]
    if curve_A.max() > 0:
        closed = np.append(curve_A, curve_A[0]) / curve_A.max()
        angles = np.linspace(0, 360, len(closed))
        axes.plot(angles, closed, style, color=colour, label=f"{one.kind} {unit}")


def _legend(axes: Axes) -> None:
    """At the right of the panel; none where nothing is drawn."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)


def _ends(neurons: CurveUnits, start: float, width: float) -> I64:
    """The curve neurons at both ends of a gap."""
    chosen = np.flatnonzero(neurons.detector_N)
    at: F64 = neurons.direction_N[chosen]
    near = [np.abs((at - end + 180) % 360 - 180).argmin() for end in (start, start + width)]
    return np.unique(chosen[near])


def _spread(one: CurveUnits, count: int) -> I64:
    """Up to `count` curve detectors of different directions."""
    chosen = np.flatnonzero(one.detector_N)
    chosen = chosen[np.argsort(one.direction_N[chosen], kind="stable")]
    if len(chosen) <= count:
        return chosen
    return np.asarray(chosen[np.linspace(0, len(chosen) - 1, count).astype(int)], dtype=np.int64)


def _neurons_to_show(findings: CurvesFindings) -> list[int]:
    splits, neurons = findings.splits["curve"], findings.units["neuron"]
    turn_C = np.nan_to_num(splits.turn_C, nan=-1.0)
    order = np.lexsort((-turn_C, ~neurons.detector_N, ~splits.splits_C))
    return [int(c) for c in order if findings.parts.rows_C[c] > 0][:_NEURONS]


def _colour(number: int) -> str:
    return (*PALETTE, NULL_COLOUR, "#8C564B")[number % (len(PALETTE) + 2)]
