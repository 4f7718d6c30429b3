"""The figures of stability: best cosines against the null, thresholds, what comes back by group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isae.analysis.arrays import F64
from isae.analysis.stability.findings import BASES, StabilityFindings
from isae.analysis.stability.summary import quantile_shares
from isae.analysis.style import NULL_COLOUR, PALETTE, branch_colour, save, styled

_BINS = 60
_LABEL = "branches dominant_decoder"


def write_figures(findings: StabilityFindings, layer: str, folder: Path) -> list[str]:
    """Write all figures into `folder` -> their names without suffix."""
    with styled():
        figures = {
            "best_cosine": best_cosine_figure(findings, layer),
            "thresholds": thresholds_figure(findings, layer),
            "comes_back": comes_back_figure(findings, layer),
        }
        for name, draw in figures.items():
            save(draw, folder / name)
    return list(figures)


def best_cosine_figure(findings: StabilityFindings, layer: str) -> Figure:
    """Histograms of every feature's best cosine in each other run, in its own, and by chance."""
    figure = Figure(figsize=(6.8, 2.9), layout="constrained")
    edges = np.linspace(0, 1, _BINS + 1)
    panels = figure.subplots(1, len(BASES), sharey=True)
    for axes, basis in zip(panels, BASES, strict=True):
        near = [each.nearest[basis] for each in findings.directions]
        drawn = np.concatenate([one.drawn_DA.ravel() for one in near])
        axes.stairs(
            _portion(drawn, edges), edges, fill=True, color=NULL_COLOUR, alpha=0.5,
            label="random dictionaries",
        )  # fmt: skip
        for number, (each, one) in enumerate(zip(findings.directions, near, strict=True)):
            axes.stairs(
                _portion(one.cosine_A, edges), edges, linewidth=1,
                color=PALETTE[each.one % len(PALETTE)], alpha=0.8,
                label="runs in each other" if number == 0 else None,
            )  # fmt: skip
        if basis == "decoder":
            own = np.concatenate([one.neighbour_A for one in findings.dictionaries])
            axes.stairs(
                _portion(own, edges), edges, linewidth=1, color="black", linestyle="--",
                label="nearest of the same run",
            )  # fmt: skip
        axes.axvline(findings.config.threshold, color="black", linestyle=":", linewidth=0.9)
        axes.set_xlim(0, 1)
        axes.set_title(f"{layer}: {basis} rows")
        axes.set_xlabel("best cosine with a feature of another run")
    panels[0].set_ylabel("part of live features")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _portion(values: F64, edges: F64) -> F64:
    clipped = np.clip(values, edges[0], edges[-1])
    return np.asarray(np.histogram(clipped, edges)[0] / max(len(values), 1), dtype=np.float64)


def thresholds_figure(findings: StabilityFindings, layer: str) -> Figure:
    """Share of features whose best cosine reaches a threshold in every other run, by threshold."""
    figure = Figure(figsize=(3.9, 2.9), layout="constrained")
    axes = figure.subplots()
    steps = np.linspace(0, 1, 201)
    for number in range(len(findings.dictionaries)):
        axes.plot(
            steps, _reached(findings.least_cosine(number), steps),
            color=PALETTE[number % len(PALETTE)], label=_run_name(findings, number),
        )  # fmt: skip
    for number in range(len(findings.dictionaries)):
        drawn = [findings.directions[i].nearest["decoder"].drawn_DA[0] for i in findings.of(number)]
        axes.plot(
            steps, _reached(np.min(drawn, axis=0), steps), color=NULL_COLOUR,
            label="random dictionaries" if number == 0 else None,
        )  # fmt: skip
    axes.axvline(findings.config.threshold, color="black", linestyle=":", linewidth=0.9)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("threshold of the decoder cosine")
    axes.set_ylabel("part found in every other run")
    axes.set_title(layer)
    axes.legend(loc="upper right")
    return figure


def _reached(values: F64, steps: F64) -> F64:
    rising = np.sort(values)
    return 1.0 - np.searchsorted(rising, steps, side="left") / max(len(rising), 1)


def _run_name(findings: StabilityFindings, number: int) -> str:
    seed = findings.dictionaries[number].seed
    return f"run {number}" if seed is None else f"seed {seed}"


def comes_back_figure(findings: StabilityFindings, layer: str) -> Figure:
    """Share that comes back in every other run: by tenth of firing rate, and by branch if known."""
    labelled = all(_LABEL in one.labels for one in findings.dictionaries)
    figure = Figure(figsize=(6.8 if labelled else 3.9, 2.9), layout="constrained")
    panels = figure.subplots(1, 1 + labelled, sharey=True, squeeze=False)[0]
    _rate_panel(findings, panels[0])
    panels[0].set_ylabel("part that comes back")
    panels[0].set_title(f"{layer}: by firing rate")
    if labelled:
        _branch_panel(findings, panels[1])
        panels[1].set_title("by strongest branch of the decoder row")
    top = max(axes.dataLim.y1 for axes in panels)
    panels[0].set_ylim(0, min(1.25 * max(top, 0.02), 1.15))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=len(names))
    return figure


def _rate_panel(findings: StabilityFindings, axes: Axes) -> None:
    for number, one in enumerate(findings.dictionaries):
        shares = quantile_shares(one.rate_A, findings.comes_back[number])
        heights = [np.nan if share is None else share for share in shares]
        axes.plot(
            np.arange(1, len(shares) + 1), heights, "o-", markersize=3,
            color=PALETTE[number % len(PALETTE)], label=_run_name(findings, number),
        )  # fmt: skip
    axes.set_xlabel("tenth of live features by firing rate (1: rarest)")
    axes.set_xticks(range(1, 11))


def _branch_panel(findings: StabilityFindings, axes: Axes) -> None:
    values = sorted({v for one in findings.dictionaries for v in one.labels[_LABEL]})
    runs = len(findings.dictionaries)
    for place, value in enumerate(values):
        for number, one in enumerate(findings.dictionaries):
            has_A = one.labels[_LABEL] == value
            if not has_A.any():
                continue
            share = findings.comes_back[number][has_A].mean()
            at = place + (number - (runs - 1) / 2) * 0.8 / runs
            axes.bar(at, share, 0.72 / runs, color=branch_colour(value, place))
            axes.annotate(
                f"{has_A.sum():,}", (at, share), (0, 2), textcoords="offset points",
                ha="center", va="bottom", fontsize=6, rotation=90,
            )  # fmt: skip
    axes.set_xticks(range(len(values)), values)
    axes.set_xlabel("branch (bars: runs; numbers: live features)")
