"""Figures of a study: each headline number, trained against untrained, over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from isae.analysis.study.headlines import Key
from isae.analysis.study.verdicts import Verdict
from isae.analysis.style import NULL_COLOUR, PALETTE, save, styled

Rows = Sequence[tuple[Key, Verdict]]
_COLUMNS = 4


def write_figures(verdicts: Rows, folder: Path) -> list[str]:
    """One figure a headline number, a panel a branch or measure -> names without suffix."""
    names = []
    numbers = dict.fromkeys((key.analysis, key.number) for key, _ in verdicts)
    for analysis, number in numbers:
        rows = [row for row in verdicts if (row[0].analysis, row[0].number) == (analysis, number)]
        name = figure_stem(analysis, number)
        _one(rows, analysis, number, folder / name)
        names.append(name)
    return names


def figure_stem(analysis: str, number: str) -> str:
    """File name without suffix of the figure of a headline number."""
    return "_".join("".join(c if c.isalnum() else " " for c in f"{analysis} {number}").split())


def _one(rows: Rows, analysis: str, number: str, stem: Path) -> None:
    parts = list(dict.fromkeys(key.part for key, _ in rows))
    columns = min(len(parts), _COLUMNS)
    lines = -(-len(parts) // columns)
    with styled():
        figure, axes = plt.subplots(
            lines, columns, figsize=(2.4 * columns + 1.6, 2.5 * lines + 1.0), squeeze=False,
            sharey=True, layout="constrained",
        )  # fmt: skip
        for part, ax in zip(parts, axes.flat, strict=False):
            _panel(ax, [row for row in rows if row[0].part == part])
            ax.set_title(part or analysis)
        for ax in axes.flat[len(parts) :]:
            ax.set_visible(False)
        figure.suptitle(f"{analysis}: {number}", x=0.01, ha="left", fontsize=9)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=2)
        save(figure, stem)
        plt.close(figure)


def _panel(ax: Axes, rows: Rows) -> None:
    places = np.arange(len(rows))
    for offset, colour, marker, label, values in (
        (-0.12, PALETTE[0], "o", "trained", [one.trained for _, one in rows]),
        (0.12, NULL_COLOUR, "s", "untrained", [one.untrained for _, one in rows]),
    ):
        for place, several in zip(places, values, strict=True):
            ax.plot(np.full(len(several), place + offset), several, ".", color=colour, ms=3)
        means = [float(np.mean(several)) if several else np.nan for several in values]
        ax.plot(places + offset, means, marker, color=colour, ms=5, mfc="none", label=label)
    told = [i for i, (_, one) in enumerate(rows) if one.low > 0 or one.high < 0]
    # In parts of the axes' height: panels share their scale, which later ones may still change.
    ax.plot(told, np.zeros(len(told)), "^", color="black", ms=4, transform=ax.get_xaxis_transform())
    ax.set_xticks(places, [key.where for key, _ in rows], rotation=60, ha="right")
    ax.axhline(0, color="black", lw=0.5, zorder=0)
