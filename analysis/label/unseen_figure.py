"""The figure of labels on unseen pictures."""

from __future__ import annotations

from matplotlib.figure import Figure

from isae.analysis.label.unseen import SIDES, Unseen
from isae.analysis.style import NULL_COLOUR, PALETTE


def unseen_figure(layer: str, unseen: Unseen) -> Figure:
    """Of each kind: how many chosen names hold on each side; how much gain is lost."""
    kinds = [kind for kind, one in unseen.kinds.items() if one.pair_N.any()]
    figure = Figure(figsize=(7.2, 0.45 * max(len(kinds), 1) + 1.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for at, kind in enumerate(kinds):
        one = unseen.kinds[kind]
        tests = max(int(one.pair_N.sum()), 1)
        for side, name in zip(SIDES, ("own", unseen.pictures), strict=True):
            place = at + (-0.18, 0.18)[side]
            left.barh(
                place, 100 * one.holds_SN[side].sum() / tests, 0.34, color=PALETTE[side],
                label=f"{name} pictures" if at == 0 else None,
            )  # fmt: skip
            left.plot(
                100 * one.chance_SD[side].mean() / tests, place, "D", color=NULL_COLOUR,
                markersize=4, label="images exchanged" if at == side == 0 else None,
            )  # fmt: skip
        lost = one.chosen
        right.plot([lost.low, lost.high], [at, at], color="black", linewidth=1)
        right.plot(lost.mean, at, "o", color="black", markersize=4)
    texts = [f"{kind} ({int(unseen.kinds[kind].pair_N.sum()):,})" for kind in kinds]
    left.set_yticks(range(len(kinds)), texts)
    left.invert_yaxis()
    left.set_xlim(0, 101)
    left.set_xlabel("% of the chosen names that hold")
    right.axvline(0, color=NULL_COLOUR, linewidth=0.8)
    right.set_xlabel(f"gain on own less on {unseen.pictures} pictures (95 %)")
    figure.suptitle(f"{layer}: names on {unseen.pictures} pictures", x=0.01, ha="left")
    if kinds:
        figure.legend(loc="outside lower center", ncols=3)
    return figure
