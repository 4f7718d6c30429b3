"""Figures of the optimised pictures: contact sheets, and what was reached against the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from isae.analysis.style import NULL_COLOUR, PALETTE, branch_colour, save, styled
from isae.analysis.visualise.config import KINDS, NEURON
from isae.analysis.visualise.records import Record

_COLUMNS, _ROWS = 8, 8
_CELL_INCHES = 1.0


def write_picture_figures(layer: str, records: Sequence[Record], out: Path) -> list[str]:
    """A contact sheet a kind, and reached against best -> names without suffix."""
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    names = []
    with styled():
        for kind in KINDS:
            some = [one for one in records if one.kind == kind]
            if some:
                names.append(f"pictures_{kind}")
                save(sheet_figure(layer, kind, some, out), folder / names[-1], formats=(".png",))
        if any(one.best > 0 for one in records):
            names.append("reached")
            save(reached_figure(layer, records), folder / names[-1])
    return names


def sheet_figure(layer: str, kind: str, records: list[Record], out: Path) -> Figure:
    """Up to 64 pictures, those of a branch together; above each: its unit, reached over best."""
    order = sorted(records, key=lambda one: (one.branch, one.unit, one.number))
    step = max(len(order) / (_COLUMNS * _ROWS), 1.0)
    shown = [order[int(i * step)] for i in range(min(len(order), _COLUMNS * _ROWS))]
    if kind == "diversity":
        shown = order[: _COLUMNS * _ROWS]
    rows = -(-len(shown) // _COLUMNS)
    figure = Figure(
        figsize=(_COLUMNS * _CELL_INCHES, rows * (_CELL_INCHES + 0.22) + 0.35), layout="constrained"
    )
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    branches = sorted({one.branch for one in order})
    for axes in panels:
        axes.set_axis_off()
    for axes, one in zip(panels, shown, strict=False):
        _show(axes, one, out, branches.index(one.branch))
    of = f"{len(shown)} of {len(records)} pictures" if len(shown) < len(records) else "pictures"
    figure.suptitle(
        f"{layer}, {kind}: {of}; number, branch, and what is reached over the data's largest",
        fontsize=8, fontweight="normal",
    )  # fmt: skip
    return figure


def reached_figure(layer: str, records: Sequence[Record]) -> Figure:
    """What each picture reaches, and its start, over the data's largest, by kind, sorted."""
    kinds = [kind for kind in KINDS if any(one.kind == kind and one.best > 0 for one in records)]
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    top = 1.0
    for number, kind in enumerate(kinds):
        some = [one for one in records if one.kind == kind and one.best > 0]
        ratio = np.sort([one.reached / one.best for one in some])[::-1]
        start = np.sort([one.start / one.best for one in some])[::-1]
        place = (np.arange(len(ratio)) + 0.5) / len(ratio) * 100
        colour, top = PALETTE[number % len(PALETTE)], max(top, float(ratio.max()))
        above = sum(one.above for one in some)
        axes.plot(
            place, ratio, ".-", color=colour, ms=4, label=f"{kind}: {above} of {len(some)} above"
        )
        axes.plot(place, start, ":", color=colour, lw=1)
    axes.axhline(1, color=NULL_COLOUR, lw=0.8)
    axes.set_ylim(0, 1.05 * top)
    axes.set_xlabel("% of pictures, falling (dotted: the noise that they start from)")
    axes.set_ylabel("activation over\nthe data's largest")
    axes.set_title(f"{layer}: what optimised pictures reach")
    axes.legend()
    return figure


def _show(axes: Axes, one: Record, out: Path, number: int) -> None:
    with Image.open(out / one.file) as image:
        axes.imshow(np.asarray(image), interpolation="bilinear")
    ratio = f"{one.reached / one.best:.1f}" if one.best > 0 else "-"
    lost = "" if one.kept or one.kind == NEURON else " not kept"
    axes.set_title(
        f"{one.unit} {one.branch}\n{ratio}{lost}",
        fontsize=6, loc="center", pad=2, color=branch_colour(one.branch, number),
    )  # fmt: skip
