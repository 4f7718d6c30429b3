"""The figures of labels: the taxonomy per branch beside chance, and scores beside choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from isae.analysis.arrays import F64
from isae.analysis.label.branches import Grouping
from isae.analysis.label.chance import Chance
from isae.analysis.label.taxonomy import KINDS, RARE, TAXONOMY, UNEXPLAINED, Labels
from isae.analysis.label.unseen import Unseen
from isae.analysis.label.unseen_figure import unseen_figure
from isae.analysis.style import NULL_COLOUR, PALETTE, save, styled

_COLOURS = {
    **dict(zip(KINDS, (*PALETTE[:6], "#F0E442", "#8C564B", "#B2182B"), strict=True)),
    UNEXPLAINED: "#DDDDDD",
    RARE: "#F4F4F4",
}


def write_label_figures(
    layer: str,
    labels: Labels,
    chance: Chance,
    sampled: Mapping[str, F64],
    grouping: Grouping,
    folder: Path,
    unseen: Unseen | None = None,
) -> list[str]:
    """Write all figures of a layer into `folder` -> their names without suffix."""
    figures: dict[str, Callable[[], Figure]] = {
        "taxonomy": lambda: taxonomy_figure(layer, labels, chance, grouping),
        "scores": lambda: scores_figure(layer, labels, sampled),
    }
    if unseen is not None:
        figures["unseen"] = lambda: unseen_figure(layer, unseen)
    with styled():
        for name, draw in figures.items():
            save(draw(), folder / name)
    return list(figures)


def taxonomy_figure(layer: str, labels: Labels, chance: Chance, grouping: Grouping) -> Figure:
    """Each branch's features by label (wide bar), and the same by exchanged images (thin bar)."""
    alive_N = labels.kind_N < len(TAXONOMY) - 1
    rows = [("all", alive_N)]
    rows += [
        (name, alive_N & (grouping.branch_N == number))
        for number, name in enumerate(grouping.branches)
        if (alive_N & (grouping.branch_N == number)).any()
    ]
    figure = Figure(figsize=(7.2, 0.62 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    shown = [name for name in TAXONOMY if name in labels.kinds or name in (UNEXPLAINED, RARE)]
    for at, (_, mine_N) in enumerate(rows):
        real = chance_start = 0.0
        for name in shown:
            number = TAXONOMY.index(name)
            share = 100 * float((labels.kind_N[mine_N] == number).mean())
            by_chance = 100 * float((chance.kind_DN[:, mine_N] == number).mean())
            axes.barh(
                at - 0.12, share, 0.5, left=real, color=_COLOURS[name],
                label=name if at == 0 else None, edgecolor="white", linewidth=0.3,
            )  # fmt: skip
            axes.barh(
                at + 0.28, by_chance, 0.14, left=chance_start, color=_COLOURS[name], linewidth=0
            )
            real, chance_start = real + share, chance_start + by_chance
    axes.set_yticks(range(len(rows)), [f"{name} ({int(mine_N.sum()):,})" for name, mine_N in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the features that are active; thin bar: images exchanged")
    axes.set_title(f"{layer}: what features of each branch are labelled as")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def scores_figure(layer: str, labels: Labels, sampled: Mapping[str, F64]) -> Figure:
    """Of labelled features: the share with the name on both halves, over the range, and chance."""
    kinds = [kind for kind in KINDS if (labels.kind_N == TAXONOMY.index(kind)).any()]
    figure = Figure(figsize=(7.2, 0.5 * max(len(kinds), 1) + 1.4), layout="constrained")
    axes = figure.subplots()
    for at, kind in enumerate(kinds):
        one, mine_N = labels.kinds[kind], labels.kind_N == TAXONOMY.index(kind)
        parts = [
            ("choosing half", one.choosing_N, "o", "white", -0.24),
            ("scoring half", one.share_N, "o", PALETTE[0], -0.08),
            ("scoring half, whole range", sampled.get(kind), "s", PALETTE[1], 0.08),
            ("chance", one.chance_N, "D", NULL_COLOUR, 0.24),
        ]
        for name, values_N, marker, face, shift in parts:
            if values_N is None:
                continue
            low, middle, high = np.nanquantile(values_N[mine_N], [0.25, 0.5, 0.75])
            edge = PALETTE[0] if face == "white" else face
            axes.plot([100 * low, 100 * high], [at + shift] * 2, color=edge, linewidth=1)
            axes.plot(
                100 * middle, at + shift, marker, color=edge, markerfacecolor=face, markersize=5,
                label=name if at == 0 else None,
            )  # fmt: skip
    counts = [int((labels.kind_N == TAXONOMY.index(kind)).sum()) for kind in kinds]
    axes.set_yticks(
        range(len(kinds)),
        [f"{kind} ({count:,})" for kind, count in zip(kinds, counts, strict=True)],
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 101)
    axes.set_xlabel("% of a feature's images that have its name (median and quartiles)")
    axes.set_title(f"{layer}: labelled features")
    if kinds:
        figure.legend(loc="outside lower center", ncols=4)
    return figure
