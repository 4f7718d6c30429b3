"""What labels and optimised pictures amount to, for the report's first page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isae.analysis.report.findings import (
    Finding,
    LayerSummaries,
    finding,
    interval,
    number,
    percent,
)


def label_finding(layers: Sequence[LayerSummaries]) -> Finding | None:
    """How many features get a label, and how many would by chance."""
    rows: list[list[Any]] = []
    for layer in layers:
        one, other = layer.own.get("label"), layer.untrained.get("label")
        if one is not None:
            rows.append(
                [layer.name, one["tested"], one["labelled"],
                 percent(one["labelled_share_of_tested"]),
                 number(one["by_chance"]["mean"], 1), one["unexplained"],
                 percent(None if other is None else other["labelled_share_of_tested"])]
            )  # fmt: skip
    if not rows:
        return None
    return finding(
        "What features are named",
        "Features with a name that was chosen on one half of the images and holds on the other, "
        "beside the number that exchanged images give, those that resist every name that was "
        "tried, and the share named in the untrained network.",
        ["layer", "tested", "labelled", "share of tested", "labelled by chance", "unexplained",
         "untrained: share of tested"],
        rows,
    )  # fmt: skip


def taxonomy_finding(layers: Sequence[LayerSummaries]) -> Finding | None:
    """Labels by kind and branch, beside their number by chance."""
    rows: list[list[Any]] = []
    for layer in layers:
        one = layer.own.get("label")
        if one is None:
            continue
        for branch, counts in {"all": one["taxonomy"], **one["branches"]}.items():
            for kind, each in counts.items():
                if kind != "features" and each["features"]:
                    rows.append(
                        [layer.name, branch, kind, each["features"],
                         percent(each["features"] / max(counts["features"], 1)),
                         number(each.get("by_chance"), 1)]
                    )  # fmt: skip
    if not rows:
        return None
    return finding(
        "Taxonomy by branch",
        "Features by the kind of their label; shares are of the branch's features. By chance: the "
        "same choice and test on exchanged images.",
        ["layer", "branch", "kind", "features", "share", "by chance"],
        rows,
    )


def picture_finding(layers: Sequence[LayerSummaries]) -> Finding | None:
    """What optimised pictures reach, against the largest activation in the data."""
    rows: list[list[Any]] = []
    for layer in layers:
        pictures = (layer.own.get("visualise") or {}).get("pictures") or {}
        for kind, one in pictures.get("kinds", {}).items():
            ratio = one["reached_over_best"]
            rows.append(
                [layer.name, kind, one["pictures"], f"{one['above']:,} of {one['judged']:,}",
                 percent(one["share_above"]), interval(one["share_interval"]),
                 number(ratio[1] if ratio else None, 2), number(one["seconds_each"], 2)]
            )  # fmt: skip
    if not rows:
        return None
    return finding(
        "Optimised pictures",
        "Pictures whose activation, read again from the saved file, is above the largest of the "
        "data. A picture far beyond the data shows what the network does with such a picture, not "
        "what photos show it.",
        ["layer", "kind", "pictures", "above the data", "share", "95 % interval",
         "median reached / best", "seconds each"],
        rows,
    )  # fmt: skip
