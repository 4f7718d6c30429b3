"""The figure of several runs corrected together."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isae.analysis.style import branch_colour


def joint_figure(counts: list[dict[str, Any]]) -> Figure:
    """Assigned features by run and branch, with what channel counts alone give."""
    runs = list(dict.fromkeys(one["run"] for one in counts))
    names = list(dict.fromkeys(one["branch"] for one in counts))
    figure = Figure(figsize=(max(4.0, 1.1 * len(runs) + 2.2), 3.1), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    for j, name in enumerate(names):
        mine = [one for one in counts if one["branch"] == name]
        places = np.array([runs.index(one["run"]) for one in mine])
        places = places + (j - (len(names) - 1) / 2) * width
        axes.bar(
            places, [one["assigned"] for one in mine], 0.9 * width,
            color=branch_colour(name, j), label=name,
        )  # fmt: skip
        label = "by channel counts" if j == len(names) - 1 else None
        expected = [one["expected_by_channels"] for one in mine]
        axes.plot(places, expected, "D", color="black", markersize=3.2, label=label)
    layers = {one["run"]: one["layer"] for one in counts}
    axes.set_xticks(np.arange(len(runs)), [layers[run] for run in runs])
    axes.set_ylabel("features above the null in both")
    axes.set_title("by strongest branch, all runs corrected together")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure
