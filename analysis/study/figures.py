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
        name = "_".join("".join(c if c.isalnum() else " " for c in f"{analysis} {number}").split())
        _one(rows, analysis, number, folder / name)
        names.append(name)
    return names


def _one(rows: Rows, analysis: str, number: str, stem: Path) -> None:
    parts = list(dict.fromkeys(key.part for key, _ in rows))
    columns = min(len(parts), _COLUMNS)
    lines = -(-len(parts) // columns)
    with styled():
        figure, axes = plt.subplots(
            lines, columns, figsize=(2.6 * columns + 0.8, 2.3 * lines + 0.6), squeeze=False,
            sharey=True, layout="constrained",
        )  # fmt: skip
        for part, ax in zip(parts, axes.flat, strict=False):
            _panel(ax, [row for row in rows if row[0].part == part])
            ax.set_title(part or analysis)
        for ax in axes.flat[len(parts) :]:
            ax.set_visible(False)
        for ax in axes[:, 0]:
            ax.set_ylabel(number)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
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
    low = ax.get_ylim()[0]
    ax.plot(told, np.full(len(told), low), "^", color="black", ms=4, clip_on=False)
    ax.set_xticks(places, [key.where for key, _ in rows], rotation=60, ha="right")
    ax.axhline(0, color="black", lw=0.5, zorder=0)
