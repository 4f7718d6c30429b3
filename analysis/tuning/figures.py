"""The figures of the tuning analysis: field, stimuli, radial curves, preferences, modes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from isae.analysis.arrays import F64, I64
from isae.analysis.style import NULL_COLOUR, PALETTE, save, styled
from isae.analysis.tuning.effective_field import EffectiveField, ReadCell
from isae.analysis.tuning.findings import PERIOD_NAMES, TuningFindings
from isae.analysis.tuning.radial import MODES
from isae.analysis.tuning.stimuli import FAMILIES, StimulusSet

_PER_FAMILY = 10
_GAP = 4
_SHOWN = 12
_PAPERS_LOOK = "dark stroke"


def write_tuning_figures(
    layer: str,
    found: dict[str, TuningFindings],
    stimuli: StimulusSet,
    field: EffectiveField,
    at: ReadCell,
    folder: Path,
) -> list[str]:
    """Write all figures of a layer into `folder` -> their names without suffix."""
    figures: dict[str, Callable[[], Figure]] = {
        "field": lambda: field_figure(layer, field, at),
        "stimuli": lambda: stimuli_figure(stimuli),
        "radial": lambda: radial_figure(layer, found),
        "preferences": lambda: preferences_figure(layer, found),
        "modes": lambda: modes_figure(layer, found),
    }
    with styled():
        for name, draw in figures.items():
            save(draw(), folder / name)
    return list(figures)


def field_figure(layer: str, field: EffectiveField, at: ReadCell) -> Figure:
    """The gradient energy of the cell over the picture, with the squares of 95 % and of half."""
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axes = figure.subplots()
    top = field.energy_HW.max()
    level = np.log10(np.maximum(field.energy_HW / top, 1e-4))
    shown = axes.imshow(level, cmap="viridis", extent=(0, at.size, at.size, 0))
    for side, style in ((field.side, "-"), (field.side_half, ":")):
        corner = (at.centre - side / 2, at.centre - side / 2)
        axes.add_patch(
            Rectangle(corner, side, side, fill=False, edgecolor="white", linestyle=style)
        )
    axes.set_title(f"{layer}, cell {at.cell}: {field.side} pixels hold 95 %")
    axes.set_xlabel("pixels (dotted: half of the energy)")
    figure.colorbar(shown, ax=axes, label="log10 gradient energy over its maximum")
    return figure


def stimuli_figure(stimuli: StimulusSet) -> Figure:
    """Some stimuli of each family, evenly spaced in the set's order, as one picture."""
    family_S = stimuli.column("family")
    families = [name for name in FAMILIES if (family_S == name).any()]
    pitch = stimuli.size + _GAP
    sheet = np.full((len(families) * pitch, _PER_FAMILY * pitch, 3), 255, dtype=np.uint8)
    for row, name in enumerate(families):
        numbers = np.flatnonzero(family_S == name)
        chosen = np.unique(numbers[np.linspace(0, len(numbers) - 1, _PER_FAMILY).astype(int)])
        for column, number in enumerate(chosen.tolist()):
            top, left = row * pitch, column * pitch
            picture = stimuli.draw(number)
            sheet[top : top + stimuli.size, left : left + stimuli.size] = picture
    figure = Figure(figsize=(_PER_FAMILY * 0.75 + 0.8, len(families) * 0.78), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_yticks([row * pitch + stimuli.size / 2 for row in range(len(families))], families)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def radial_figure(layer: str, found: dict[str, TuningFindings]) -> Figure:
    """Radial curves over arcs of the most selective clear units, each over its own maximum."""
    figure = Figure(figsize=(_SHOWN * 0.9, 1.65 * len(found)), layout="constrained")
    turn = np.linspace(0, 2 * np.pi, 73)
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for number, (axes, (kind, one)) in enumerate(zip(panels, found.items(), strict=True)):
        for place, unit in enumerate(_most_selective(one).tolist()):
            arcs = one.families["arc"]
            curve_A = arcs.curve_NA[unit]
            angles = np.deg2rad(np.append(arcs.design.angles_A, 360.0))
            radius = np.append(curve_A, curve_A[0]) / curve_A.max()
            middle = 2.5 * place
            axes.plot(middle + np.cos(turn), np.sin(turn), color=NULL_COLOUR, linewidth=0.5)
            axes.plot(
                middle + radius * np.cos(angles), radius * np.sin(angles), color=PALETTE[number]
            )
            axes.text(middle, -1.5, f"{kind} {unit}", ha="center", fontsize=7)
            axes.text(middle, -1.95, arcs.design.looks[arcs.look_N[unit]], ha="center", fontsize=6)
        axes.set_xlim(-1.3, 2.5 * _SHOWN - 1.2)
        axes.set_ylim(-2.1, 1.1)
        axes.set_aspect("equal")
        axes.set_axis_off()
    figure.supxlabel(
        f"{layer}: mean answer to arcs of the strongest look, by where their outside points",
        fontsize=9,
    )
    return figure


def preferences_figure(layer: str, found: dict[str, TuningFindings]) -> Figure:
    """Preferred angles and half-widths of the clear units, per family with an angle."""
    families = list(next(iter(found.values())).families)
    # Margins by hand: a constrained layout of ten panels took most of the analysis's drawing time.
    figure = Figure(figsize=(2.0 * len(families) + 0.4, 4.2))
    panels = figure.subplots(2, len(families), squeeze=False)
    figure.subplots_adjust(0.06, 0.16, 0.985, 0.94, wspace=0.35, hspace=0.45)
    for j, family in enumerate(families):
        for number, (kind, one) in enumerate(found.items()):
            measured = one.families[family]
            units = one.clear(family) & (one.harmonic(family) == 1)
            period = measured.design.period
            edges = np.linspace(0, period, 19)
            label = f"{kind}s ({int(units.sum())})"
            _steps(panels[0, j], measured.vector_N[units], edges, label, PALETTE[number])
            _steps(panels[1, j], measured.half_width_N[units], edges / 2, label, PALETTE[number])
        panels[0, j].set_title(family)
        panels[0, j].set_xlabel(f"preferred {PERIOD_NAMES[int(period)]} (degrees)")
        panels[1, j].set_xlabel("half-width (degrees)")
        panels[0, j].legend(loc="upper right", fontsize=6)
    for row in panels:
        row[0].set_ylabel("part of the units")
    figure.supxlabel(
        f"{layer}: units with a preferred direction (of 360 degrees) or axis (180), without doubt",
        fontsize=9, y=0.01,
    )  # fmt: skip
    return figure


def modes_figure(layer: str, found: dict[str, TuningFindings]) -> Figure:
    """Fourier modes 1 to 4 of the populations over arcs drawn as dark strokes, every unit alike.

    Of mixed3b with dashes: 59/18/12/7 % of the literature, for that layer's neurons.
    """
    figure = Figure(figsize=(4.4, 3.0), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(len(found), 1)
    for number, (kind, one) in enumerate(found.items()):
        held = one.modes("arc", look=_PAPERS_LOOK) if "arc" in one.families else None
        if held is not None:
            places = np.array(MODES) + (number - (len(found) - 1) / 2) * width
            axes.bar(places, 100 * held, width, color=PALETTE[number], label=f"all {kind}s")
    if layer == "mixed3b":
        for mode, percent in zip(MODES, (59, 18, 12, 7), strict=True):
            axes.plot([mode - 0.45, mode + 0.45], [percent] * 2, color=NULL_COLOUR, linestyle="--")
    axes.set_xticks(MODES)
    axes.set_xlabel("Fourier mode over the arc's direction")
    axes.set_ylabel("% of variance, mean of units")
    axes.set_title(f"{layer}: modes over dark arcs")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


def _most_selective(findings: TuningFindings) -> I64:
    """Clear units with the largest selectivity to an arc's direction: one per sector."""
    if "arc" not in findings.families:
        return np.zeros(0, dtype=np.int64)
    arcs = findings.families["arc"]
    units = np.flatnonzero(findings.clear("arc") & (findings.harmonic("arc") == 1))
    units = units[np.argsort(-arcs.selectivity_NM[units, 0], kind="stable")]
    sector = (arcs.vector_N[units] / (360 / _SHOWN)).astype(int)
    first = [units[sector == number][:1] for number in range(_SHOWN)]
    return np.concatenate(first)


def _steps(axes: Axes, values: F64, edges: F64, label: str, colour: str) -> None:
    values = values[np.isfinite(values)]
    part = np.histogram(values, edges)[0] / max(len(values), 1)
    axes.stairs(part, edges, color=colour, label=label)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xticks(np.linspace(edges[0], edges[-1], 5))
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-3, 1.45 * float(part.max())))
