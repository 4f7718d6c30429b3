"""The figures of the layer comparison: matches found, r on other images, branches, log odds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isae.analysis.layers.agreement import DIAGONAL
from isae.analysis.layers.findings import CLUSTERS, LayerFindings, PairFindings
from isae.analysis.layers.flows import flows_figure
from isae.analysis.layers.matching import METHODS, MUTUAL
from isae.analysis.layers.pairs import IMAGE, family
from isae.analysis.layers.virtual_pairs import WEIGHTS
from isae.analysis.style import NULL_COLOUR, PALETTE, branch_colour, save, styled

_BINS = 40


def write_figures(findings: LayerFindings, folder: Path) -> list[str]:
    """Write all figures into `folder` -> their names without suffix."""
    figures = {
        "matches": matches_figure(findings),
        "scored": scored_figure(findings),
    }
    if any(pair.agreement for pair in findings.pairs):
        figures["branches"] = branches_figure(findings)
        figures["log_odds"] = log_odds_figure(findings)
        figures["flows"] = flows_figure(_one_measure(findings))
    with styled():
        for name, draw in figures.items():
            save(draw, folder / name)
    return list(figures)


def matches_figure(findings: LayerFindings) -> Figure:
    """Share of the tested features that found a match, per pair, measure and method."""
    pairs = findings.pairs
    with styled():
        figure = Figure(figsize=(6.4, 0.42 * len(pairs) + 1.2), layout="constrained")
        axes = figure.subplots()
        places, height = np.arange(len(pairs)), 0.36
        for number, method in enumerate(METHODS):
            found = [
                (pair.q[method] <= findings.alpha).sum() / max(family(pair.comparison), 1)
                for pair in pairs
            ]
            axes.barh(
                places + (number - 0.5) * height, found, height, color=PALETTE[number],
                label=method.replace("_", " "),
            )  # fmt: skip
        axes.set_yticks(places, [_name(pair) for pair in pairs])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"part of tested features matched (q <= {findings.alpha:g})")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def scored_figure(findings: LayerFindings) -> Figure:
    """Histograms of r of the mutual matches found: selected, scored elsewhere, shuffled."""
    with styled():
        figure, panels = _panels(findings.pairs, 1.9)
        edges = np.linspace(-0.2, 1, _BINS + 1)
        for axes, pair in zip(panels, findings.pairs, strict=False):
            chosen = pair.q[MUTUAL] <= findings.alpha
            scores = pair.comparison.scores[MUTUAL]
            drawn = {
                "selection images": (pair.comparison.matches[MUTUAL].r_X, PALETTE[5]),
                "other images": (scores.r_X, PALETTE[0]),
                "images exchanged": (scores.shuffled_X, NULL_COLOUR),
            }
            if pair.comparison.measure == WEIGHTS:
                del drawn["selection images"]  # selected by weights, not by r
            for label, (r_X, colour) in drawn.items():
                finite = r_X[chosen & np.isfinite(r_X)]
                axes.stairs(np.histogram(finite, edges)[0], edges, color=colour, label=label)
            axes.set_title(f"{_title(pair)}: {chosen.sum():,} found")
            axes.set_xlim(-0.2, 1)
            axes.set_ylim(bottom=0)
            axes.yaxis.get_major_locator().set_params(integer=True)
        figure.supxlabel("correlation of mutual matches", fontsize=9)
        figure.supylabel("matches", fontsize=9)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def branches_figure(findings: LayerFindings) -> Figure:
    """Matched clusters per pair of branches: counts, coloured by log2 of count over expected."""
    pairs = _branched(findings)
    with styled():
        figure, panels = _panels(pairs, 2.2)
        image = None
        for axes, pair in zip(panels, pairs, strict=False):
            one = pair.agreement[MUTUAL, CLUSTERS]
            expected_BB = np.maximum(one.expected_BB, 1e-9)
            shown = np.log2((one.table_BB + 0.5) / (expected_BB + 0.5))
            image = axes.imshow(shown, cmap="RdBu_r", vmin=-3, vmax=3)
            for (row, column), count in np.ndenumerate(one.table_BB):
                dark = abs(shown[row, column]) > 2
                axes.text(
                    column, row, f"{count:,}", ha="center", va="center", fontsize=7,
                    color="white" if dark else "black",
                )  # fmt: skip
            side = np.arange(len(one.names))
            axes.set_xticks(side, one.names)
            axes.set_yticks(side, one.names)
            axes.set_title(_title(pair))
            axes.set_xlabel(pair.two.name)
            axes.set_ylabel(pair.one.name)
        if image is not None:
            bar = figure.colorbar(image, ax=list(panels), shrink=0.7)
            bar.set_label("log2(count / expected)")
    return figure


def log_odds_figure(findings: LayerFindings) -> Figure:
    """Log odds of 'same branch', as a whole and per branch, with intervals; filled: q <= alpha."""
    rows = [
        (pair, q)
        for pair, q in zip(findings.pairs, findings.q_agreement, strict=True)
        if pair.agreement
        and pair.comparison.measure != IMAGE
        and np.isfinite(pair.agreement[MUTUAL, CLUSTERS].log_odds_R).any()
    ]
    with styled():
        figure = Figure(figsize=(6.4, 0.75 * max(len(rows), 1) + 1.2), layout="constrained")
        axes = figure.subplots()
        for place, (pair, q) in enumerate(rows):
            one = pair.agreement[MUTUAL, CLUSTERS]
            for number, name in enumerate(one.rows):
                odds = one.log_odds_R[number]
                if not np.isfinite(odds):
                    continue
                colour = "black" if name == DIAGONAL else branch_colour(name, number - 1)
                y = place + 0.16 * (number - len(one.names) / 2)
                axes.plot([one.low_R[number], one.high_R[number]], [y, y], color=colour)
                found = q[MUTUAL, CLUSTERS][number] <= findings.alpha
                axes.plot(
                    odds, y, "o", color=colour, markersize=4,
                    markerfacecolor=colour if found else "white",
                    label=name if place == 0 else None,
                )  # fmt: skip
        axes.axvline(0, color=NULL_COLOUR, linewidth=1, zorder=0)
        axes.set_yticks(np.arange(len(rows)), [_name(pair) for pair, _ in rows])
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axes.set_xlabel("log odds of matching within the branch (0: as its null gives)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=5)
    return figure


def _branched(findings: LayerFindings) -> list[PairFindings]:
    """Comparisons with branches, by place rather than by image where there are any."""
    return [pair for pair in findings.pairs if pair.agreement and pair.comparison.measure != IMAGE]


def _one_measure(findings: LayerFindings) -> list[PairFindings]:
    """Each pair of layers once: by place, or by the maximum over finer cells."""
    first: dict[tuple[str, str], PairFindings] = {}
    for pair in _branched(findings) or [pair for pair in findings.pairs if pair.agreement]:
        first.setdefault(pair.comparison.layers, pair)
    return list(first.values())


def _panels(pairs: Sequence[PairFindings], side: float) -> tuple[Figure, list[Any]]:
    columns = min(4, max(len(pairs), 1))
    rows = -(-max(len(pairs), 1) // columns)
    figure = Figure(figsize=(2.1 * columns + 1.2, side * rows + 0.8), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels[len(pairs) :]:
        axes.set_visible(False)
    return figure, panels


def _title(pair: PairFindings) -> str:
    return f"{pair.one.name}-{pair.two.name}\n{pair.comparison.measure}"


def _name(pair: PairFindings) -> str:
    return f"{pair.one.name}-{pair.two.name} {pair.comparison.measure}"
