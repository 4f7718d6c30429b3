"""The numbers of each analysis that are compared between trained and untrained networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Summary = Mapping[str, Any]


class Key(NamedTuple):
    """What a number is of: analysis, layer or pair of layers, branch or measure, the number."""

    analysis: str
    where: str
    part: str
    number: str


def headlines(summary: Summary) -> dict[Key, float]:
    """The headline numbers of one analysis' summary; those that it lacks are left out."""
    of = {
        "branches": _branches, "layers": _layers, "tuning": _tuning, "curves": _curves,
        "label": _label,
    }  # fmt: skip
    analysis = str(summary["analysis"])
    if analysis not in of:
        return {}
    return {
        Key(analysis, where, part, number): float(value)
        for where, part, number, value in of[analysis](summary)
        if isinstance(value, int | float)
    }


Found = Iterator[tuple[str, str, str, Any]]


def _branches(summary: Summary) -> Found:
    layer, tested = str(summary["layer"]), max(int(summary["tested"]), 1)
    for branch, one in summary["branches"].items():
        expected = one["assigned"]["expected_by_channels"]
        excess = one["decoder"]["mean_share"] - one["channel_share"]
        yield layer, branch, "mean share beyond channel share", excess
        yield layer, branch, "share above null in both bases", one["above_null_in_both"] / tested
        if expected:
            ratio = one["assigned"]["features"] / expected
            yield layer, branch, "assigned over expected", ratio
        yield (
            layer,
            branch,
            "share above null, channels ranked",
            (one["relative"]["above_null"] / tested),
        )
        causal = _at(summary, "causal", "branches", branch, "other", "share", "mean")
        yield layer, branch, "causal share", causal
        logits = _at(summary, "logits", "branches", branch, "share", "mean")
        yield layer, branch, "share of the drop of logits", logits
    kept = _at(summary, "kernel_size", "features", "all", "ring", "kept", "mean")
    yield layer, "5x5", "code kept without the kernels' ring", kept


def _layers(summary: Summary) -> Found:
    for pair in summary["pairs"]:
        where, measure, mutual = "-".join(pair["layers"]), pair["measure"], pair["mutual"]
        tested = min(side["tested"] for side in pair["nearest"].values())
        if tested:
            yield where, measure, "share of tested with a mutual match", mutual["found"] / tested
        yield where, measure, "median r of matches, scored", mutual.get("median_r_scored")
        agreement = pair.get("agreement", {}).get("mutual clusters", {})
        for branch, one in agreement.items():
            yield where, f"{measure}, {branch}", "log odds of one branch", one["log_odds"]


def _tuning(summary: Summary) -> Found:
    layer = str(summary["layer"])
    for kind in ("neurons", "features"):
        for how in ("direction_tuned", "axis_tuned"):
            for family, one in summary[kind][how].items():
                what = how.replace("_", "-")
                yield layer, f"{kind}, {family}", f"share {what}", one["share"]
                yield layer, f"{kind}, {family}", f"share {what}, agreeing", one["agreeing_share"]


def _curves(summary: Summary) -> Found:
    layer = str(summary["layer"])
    for kind, one in summary["units"].items():
        name = f"{kind}s" if kind in ("neuron", "feature") else f"control: {kind}"
        yield layer, name, "share of curve detectors", one["share"]
        yield layer, name, "curve detectors", one["curve_detectors"]
    for kind in ("curve", "directed"):
        one = _at(summary, "splits", kind)
        if isinstance(one, Mapping) and "splits" in one:
            beyond = one["splits"] - one["expected_by_the_null"]
            yield layer, f"by {kind} features", "neurons split, beyond the null", beyond


def _label(summary: Summary) -> Found:
    layer, tested = str(summary["layer"]), max(int(summary["tested"]), 1)
    beyond = summary["labelled"] - summary["by_chance"]["mean"]
    yield layer, "all", "share labelled, beyond chance", beyond / tested
    for name, one in summary["taxonomy"].items():
        if isinstance(one, Mapping) and "by_chance" in one:
            share = (one["features"] - one["by_chance"]) / tested
            yield layer, name, "share labelled, beyond chance", share


def _at(summary: Any, *path: str) -> Any:
    """What stands at a path of keys, or None where a part was skipped."""
    for key in path:
        if not isinstance(summary, Mapping) or key not in summary:
            return None
        summary = summary[key]
    return summary
