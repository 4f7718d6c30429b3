"""The graph of matches as flows: how many matches join which branches of adjacent layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Curve

from isae.analysis.arrays import F64, I64
from isae.analysis.layers.findings import CLUSTERS, PairFindings
from isae.analysis.layers.matching import MUTUAL
from isae.analysis.style import branch_colour, styled

_BAR, _GAP = 0.08, 0.03


def flows_figure(pairs: Sequence[PairFindings]) -> Figure:
    """One panel a pair of layers: bars of matched clusters per branch, bands between them.

    Bands have the colour of the earlier layer's branch; those within a branch of one name are
    darker. Heights are shares of the pair's matches, whose number stands above.
    """
    with styled():
        figure = Figure(figsize=(max(1.9 * len(pairs) + 0.6, 4.8), 3.4), layout="constrained")
        panels = figure.subplots(1, max(len(pairs), 1), squeeze=False)[0]
        for number, (axes, pair) in enumerate(zip(panels, pairs, strict=False)):
            agreement = pair.agreement[MUTUAL, CLUSTERS]
            _panel(axes, agreement.table_BB, agreement.names, first=number == 0)
            axes.set_title(f"{int(agreement.table_BB.sum()):,} by {pair.comparison.measure}")
            axes.set_xticks([0, 1], [pair.one.name, pair.two.name])
        handles = [
            Rectangle((0, 0), 1, 1, color=branch_colour(name, number))
            for number, name in enumerate(pairs[0].agreement[MUTUAL, CLUSTERS].names)
        ]
        names = pairs[0].agreement[MUTUAL, CLUSTERS].names
        figure.legend(handles, names, loc="outside upper right", ncols=len(names))
    return figure


def _panel(axes: Any, table_BB: I64, names: tuple[str, ...], *, first: bool) -> None:
    total = max(int(table_BB.sum()), 1)
    share_BB = table_BB / total
    left_B, right_B = _starts(share_BB.sum(axis=1)), _starts(share_BB.sum(axis=0))
    for number, name in enumerate(names):
        colour = branch_colour(name, number)
        for x, start, height in (
            (-_BAR, left_B[number], share_BB[number].sum()),
            (1.0, right_B[number], share_BB[:, number].sum()),
        ):
            axes.add_patch(Rectangle((x, start), _BAR, height, color=colour, linewidth=0))
    begin_B, end_B = left_B.copy(), right_B.copy()
    for a, b in np.ndindex(share_BB.shape):
        share = float(share_BB[a, b])
        if share:
            strength = 0.85 if a == b else 0.3
            band = _band(float(begin_B[a]), float(end_B[b]), share)
            colour = branch_colour(names[a], a)
            axes.add_patch(PathPatch(band, alpha=strength, linewidth=0, facecolor=colour))
            begin_B[a] += share
            end_B[b] += share
    axes.set_xlim(-0.12, 1.12)
    axes.set_ylim(1 + _GAP * len(names), -_GAP)
    axes.set_yticks([])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(bottom=False)
    if first:
        axes.set_ylabel("matched clusters by branch")


def _starts(share_B: F64) -> F64:
    """Where each branch's bar begins, with gaps between them."""
    before_B = np.concatenate([[0.0], np.cumsum(share_B)[:-1]])
    return np.asarray(before_B + _GAP * np.arange(len(share_B)), dtype=np.float64)


def _band(start: float, end: float, height: float) -> Curve:
    """A band of one height from (0, start) to (1, end)."""
    corners = [
        (0, start), (0.5, start), (0.5, end), (1, end),
        (1, end + height), (0.5, end + height), (0.5, start + height), (0, start + height),
        (0, start),
    ]  # fmt: skip
    codes = [
        Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4,
        Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4, Curve.CLOSEPOLY,
    ]  # fmt: skip
    return Curve(corners, codes)
