"""The figures of the branch analysis: shares, discoveries, p-values, r scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from isae.analysis.arrays import F64
from isae.analysis.branches.findings import RELATIVE, Findings
from isae.analysis.style import NULL_COLOUR, PALETTE, branch_colour, save, styled

_BASIS_TITLES = {"decoder": "decoder rows", "spread": "rows x channel s.d."}
_BINS = 40


def write_figures(findings: Findings, folder: Path) -> list[str]:
    """Write all figures of a layer into `folder` -> their names without suffix."""
    figures = {
        "shares": shares_figure,
        "discoveries": discoveries_figure,
        "p_values": p_value_figure,
        "r_scores": score_figure,
    }
    with styled():
        for name, draw in figures.items():
            save(draw(findings), folder / name)
    return list(figures)


def shares_figure(findings: Findings) -> Figure:
    """Histogram of each branch's energy share, against one draw of the exchangeable null."""
    names, bases = list(findings.branches), list(findings.tested)
    figure = Figure(figsize=(2.1 * len(names) + 0.4, 1.9 * len(bases) + 0.7), layout="constrained")
    panels = figure.subplots(len(bases), len(names), squeeze=False, sharey="row")
    channels = findings.channels_B / findings.channels_B.sum()
    for i, basis in enumerate(bases):
        shares_NB = findings.shares[basis][findings.alive_N]
        for j, name in enumerate(names):
            axes, edges = panels[i, j], np.linspace(0, 1, _BINS + 1)
            null_N = findings.null_shares[basis][findings.alive_N, j]
            colour = branch_colour(name, j)
            axes.stairs(_portion(shares_NB[:, j], edges), edges, fill=True, color=colour, alpha=0.6)
            axes.stairs(_portion(null_N, edges), edges, color=NULL_COLOUR, linewidth=1.2)
            axes.axvline(channels[j], color="black", linewidth=0.9, linestyle=":")
            axes.set_xlim(0, 1)
            # Limits first: a logarithmic axis cannot find any of its own on empty bins.
            axes.set_ylim(0.5 / max(len(shares_NB), 1), 1.2)
            axes.set_yscale("log")
            axes.minorticks_off()
            if i == 0:
                axes.set_title(f"{name} ({findings.channels_B[j]} ch.)")
        panels[i, 0].set_ylabel(f"part of features\n({_BASIS_TITLES[basis]})")
    figure.supxlabel(
        f"{findings.layer}: energy share of the branch   "
        "(grey: channels exchanged at random; dotted: share of channels)",
        fontsize=9,
    )
    return figure


def discoveries_figure(findings: Findings) -> Figure:
    """Features above the null per branch, and assigned features against channel counts."""
    names = list(findings.branches)
    figure = Figure(figsize=(8.2, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    places, width = np.arange(len(names)), 0.2
    counts = {
        "decoder rows": [findings.significant["decoder"][:, j].sum() for j in range(len(names))],
        "rows x channel s.d.": [
            findings.significant["spread"][:, j].sum() for j in range(len(names))
        ],
        "both": [findings.both_NB[:, j].sum() for j in range(len(names))],
        "relative to other features": [
            findings.significant[RELATIVE][:, j].sum() for j in range(len(names))
        ],
    }
    for k, (label, values) in enumerate(counts.items()):
        bars = left.bar(places + (k - 1.5) * width, values, width, color=PALETTE[(0, 4, 2, 5)[k]])
        bars.set_label(label)
    left.set_ylabel("features above the null")
    left.set_title(f"{findings.layer}: q <= {findings.alpha:g}, {findings.tests:,} tests")
    left.legend(loc="upper left", bbox_to_anchor=(0.0, 1.0))
    tallest = max([1.0, *(float(max(values)) for values in counts.values())])
    left.set_ylim(0, tallest * 1.45)
    ours = np.array([findings.assigned_count(j) for j in range(len(names))])
    expected = ours.sum() * findings.channels_B / findings.channels_B.sum()
    low, high = findings.binomial_interval(int(ours.sum()))
    colours = [branch_colour(name, j) for j, name in enumerate(names)]
    right.bar(places, ours, 0.6, color=colours, alpha=0.75)
    right.errorbar(
        places, expected, np.stack([expected - low, high - expected]).clip(0), fmt="D",
        color="black", markersize=4, capsize=4, linewidth=1, label="by channel counts (95 %)",
    )  # fmt: skip
    right.set_title("features above in both, by strongest branch")
    right.set_ylabel("features")
    right.set_ylim(0, max(1, ours.max(), high.max()) * 1.25)
    right.legend(loc="upper left")
    for axes in (left, right):
        axes.set_xticks(places, names)
        axes.set_xlabel("branch")
    return figure


def p_value_figure(findings: Findings) -> Figure:
    """Observed against uniform p-values, on -log10 axes, one line per branch."""
    bases = list(findings.tested)
    figure = Figure(figsize=(3.9 * len(bases) + 0.9, 3.4), layout="constrained")
    for axes, basis in zip(figure.subplots(1, len(bases), squeeze=False)[0], bases, strict=True):
        longest, highest = 1.0, 1.0
        for j, name in enumerate(findings.branches):
            p = np.sort(findings.p[basis][:, j])
            p = p[np.isfinite(p)]
            expected = -np.log10((np.arange(len(p)) + 0.5) / max(len(p), 1))
            observed = -np.log10(np.maximum(p, 1e-300))
            longest = max([longest, *expected[:1]])
            highest = max([highest, *observed[:1]])
            keep = _thinned(len(p))
            axes.plot(
                expected[keep], observed[keep], ".", markersize=4, label=name,
                color=branch_colour(name, j), rasterized=True,
            )  # fmt: skip
        axes.plot([0, longest], [0, longest], color=NULL_COLOUR, linewidth=1, zorder=0)
        axes.set_yscale("symlog", linthresh=5.0, linscale=1.5)
        axes.set_ylim(0, highest * 1.3)
        ticks = [0, 1, 2, 3, 4, 5, 10, 20, 50, 100, 200]
        axes.set_yticks([tick for tick in ticks if tick <= highest * 1.3])
        axes.set_yticklabels([str(tick) for tick in ticks if tick <= highest * 1.3])
        axes.minorticks_off()
        axes.set_xlabel("-log10 p if channels were exchangeable")
        axes.set_ylabel("-log10 p observed")
        axes.set_title(f"{findings.layer}: {_BASIS_TITLES[basis]}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", handletextpad=0.2)
    return figure


def score_figure(findings: Findings) -> Figure:
    """Histogram of the paper's r score per branch, with the even-spread value sqrt(m/C)."""
    names = list(findings.branches)
    figure = Figure(figsize=(2.1 * len(names) + 0.4, 2.5), layout="constrained")
    edges = np.linspace(0, 1, _BINS + 1)
    channels = findings.channels_B / findings.channels_B.sum()
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for j, (axes, name) in enumerate(zip(panels, names, strict=True)):
        scores = findings.scores_NB[findings.alive_N, j]
        axes.stairs(
            _portion(scores, edges), edges, fill=True, color=branch_colour(name, j), alpha=0.6
        )
        axes.axvline(np.sqrt(channels[j]), color="black", linewidth=0.9, linestyle=":")
        finite = scores[np.isfinite(scores)]
        if len(finite):
            axes.axvline(float(np.median(finite)), color="black")
        axes.set_xlim(0, 1)
        axes.set_title(name)
    panels[0].set_ylabel("part of features")
    figure.supxlabel(
        f"{findings.layer}: r score of the branch   (line: median; dotted: even spread)", fontsize=9
    )
    return figure


def _portion(values: F64, edges: F64) -> F64:
    finite = values[np.isfinite(values)]
    return np.histogram(finite, edges)[0] / max(len(finite), 1)


def _thinned(count: int) -> npt.NDArray[np.int64]:
    """All of the smallest 500 ranks, then about 500 more on a logarithmic scale."""
    if count <= 1000:
        return np.arange(count)
    rest = np.geomspace(500, count - 1, 500).astype(np.int64)
    return np.unique(np.concatenate([np.arange(500), rest]))
