"""Figures of the measures beside the energy shares: causal shares, reference dictionaries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from isae.analysis.branches.causal import Causal
from isae.analysis.branches.findings import Findings
from isae.analysis.branches.measures import Measures
from isae.analysis.branches.references import Reference
from isae.analysis.style import NULL_COLOUR, branch_colour, save, styled

_BOX = (5, 25, 50, 75, 95)


def write_measure_figures(findings: Findings, measures: Measures, folder: Path) -> list[str]:
    """Write the figures that there is something to show in -> their names without suffix."""
    figures = {}
    with styled():
        if measures.causal is not None and (measures.causal.strongest_N >= 0).any():
            figures["causal"] = causal_figure(findings, measures.causal)
        if measures.references:
            figures["references"] = references_figure(findings, measures.references)
        for name, figure in figures.items():
            save(figure, folder / name)
    return list(figures)


def causal_figure(findings: Findings, causal: Causal) -> Figure:
    """Causal share and causal part against the decoder share, one column a branch."""
    names, rows = list(causal.branches), ("share", "part")
    labels = {"share": "causal share of the code", "part": "causal part of the pre-activation"}
    figure = Figure(figsize=(2.1 * len(names) + 0.5, 5.0), layout="constrained")
    panels = figure.subplots(len(rows), len(names), squeeze=False, sharex=True, sharey="row")
    for i, measure in enumerate(rows):
        for j, name in enumerate(names):
            one, axes = causal.measures["other"][measure][j], panels[i, j]
            share_N, colour = findings.shares["decoder"][:, j], branch_colour(name, j)
            for mine, alpha in ((False, 0.3), (True, 0.9)):
                some_N = one.enough_N & ((findings.assigned_N == j) == mine)
                axes.plot(
                    share_N[some_N], one.value_N[some_N], ".", markersize=2.5, alpha=alpha,
                    color=colour if mine else NULL_COLOUR, rasterized=True, markeredgewidth=0,
                )  # fmt: skip
            axes.plot([0, 1], [0, 1], color="black", linewidth=0.9, linestyle=":")
            axes.axhline(0, color="black", linewidth=0.6)
            axes.set_xlim(0, 1)
            axes.set_ylim(-0.3, 1.1)
            if i == 0:
                axes.set_title(f"{name} ({findings.channels_B[j]} ch.)")
        panels[i, 0].set_ylabel(labels[measure])
    figure.supxlabel(
        f"{findings.layer}: decoder share of the branch   (coloured: above the null in both bases "
        "and strongest here;\ndotted: equal; values beyond the frame are cut off)",
        fontsize=9,
    )
    return figure


def references_figure(findings: Findings, references: dict[str, Reference]) -> Figure:
    """Rows above the null and quantiles of shares, by dictionary and branch."""
    names, lines = list(findings.branches), list(references)
    figure = Figure(figsize=(8.6, 0.5 * len(lines) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    high = 0.8 / len(names)
    for j, name in enumerate(names):
        places = np.arange(len(lines)) + (j - (len(names) - 1) / 2) * high
        colour = branch_colour(name, j)
        above = [100 * one.both_NB[:, j].mean() if one.rows else 0.0 for one in references.values()]
        left.barh(places, above, 0.9 * high, color=colour, label=name)
        for place, one in zip(places, references.values(), strict=True):
            share_N = one.share["decoder"][:, j]
            low, lower, middle, upper, top = 100 * np.nanpercentile(share_N, _BOX)
            right.plot([low, top], [place, place], color=colour, linewidth=0.8)
            right.plot([lower, upper], [place, place], color=colour, linewidth=3.2)
            right.plot(middle, place, "o", markersize=2.6, color="white", markeredgewidth=0)
        chance = 100 * findings.channels_B[j] / findings.channels_B.sum()
        right.axvline(chance, color=colour, linewidth=0.8, linestyle=":")
    left.set_yticks(np.arange(len(lines)), lines)
    left.invert_yaxis()
    left.set_xlabel("rows above the null in both bases, %")
    right.set_xlabel("decoder share, %  (5 to 95, 25 to 75, median;\ndotted: share of channels)")
    right.set_xlim(0, 100)
    left.set_title(f"{findings.layer}: the same test, other dictionaries")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper")
    return figure
