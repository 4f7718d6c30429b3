"""What the analyses found, as short texts and tables for the report's first page.

Every number stands beside what chance, the null or an untrained network gives. Where a study has
verdicts, what is told apart from the untrained network is said to be; the rest is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isae.analysis.report.summaries import read_summary
from isae.analysis.report.tables import ANALYSES, RunTables

Finding = dict[str, Any]
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class LayerSummaries:
    """Of one layer of the report: its name, summaries by analysis, those of the untrained run."""

    name: str
    own: Summary
    untrained: Summary

    @staticmethod
    def of(tables: RunTables) -> LayerSummaries:
        """Read what is there."""
        other = tables.source.untrained
        names = ("branches", "tuning", "curves", "label")
        found = {name: read_summary(other / "analysis" / name) if other else None for name in names}
        found["layers"] = tables.control.summary
        there = {name: one for name, one in found.items() if one is not None}
        return LayerSummaries(tables.source.name, tables.summaries, there)


def finding(title: str, text: str, columns: Sequence[str], rows: list[list[Any]]) -> Finding:
    """One entry of the overview; figure: none."""
    return {
        "title": title,
        "text": text,
        "table": {"columns": list(columns), "rows": rows},
        "figure": None,
    }


def branch_finding(layers: Sequence[LayerSummaries]) -> Finding | None:
    """How many features lie in a branch beyond the null, and in the untrained network."""
    rows: list[list[Any]] = []
    for layer in layers:
        one = layer.own.get("branches")
        for branch, each in (one or {}).get("branches", {}).items():
            other = layer.untrained.get("branches")
            rows.append(
                [
                    layer.name, branch, percent(each["channel_share"]),
                    percent(each["decoder"]["mean_share"]),
                    percent(_above(one, branch)),
                    percent(_above(other, branch)),
                    each["assigned"]["features"],
                    number(each["assigned"]["expected_by_channels"], 0),
                ]
            )  # fmt: skip
    if not rows:
        return None
    return finding(
        "Do features lie in branches?",
        "Share of living features whose decoder energy in a branch is above the null of "
        "exchangeable channels in both bases (q at most alpha), beside the untrained network's. A "
        "share that the untrained network has as well says nothing of what was learned; the "
        "verdicts below tell the two apart where there are seeds. Assigned: features given to one "
        "branch, beside the number that the branch's channels alone would give.",
        ["layer", "branch", "channels", "mean share of energy", "above the null", "untrained",
         "assigned", "expected by channels"],
        rows,
    )  # fmt: skip


def tuning_finding(layers: Sequence[LayerSummaries]) -> Finding | None:
    """How many features are tuned to the angle of stimuli without doubt."""
    rows: list[list[Any]] = []
    for layer in layers:
        one, other = layer.own.get("tuning"), layer.untrained.get("tuning")
        if one is not None:
            rows.append(
                [layer.name, one["features"]["units"], one["features"]["answering"],
                 percent(_tuned(one, "features")), percent(_tuned(one, "neurons")),
                 percent(_tuned(other, "features"))]
            )  # fmt: skip
    if not rows:
        return None
    return finding(
        "Tuning to oriented stimuli",
        "Share of all features tuned without doubt to the angle of at least one family of stimuli "
        "(arcs, corners, edges, lines, gratings, Gabors), beside the layer's neurons and the "
        "untrained network's features: deterministic, smooth answers are tuned by themselves.",
        ["layer", "features", "answering", "tuned", "neurons tuned", "untrained: features tuned"],
        rows,
    )  # fmt: skip


def curve_finding(layers: Sequence[LayerSummaries]) -> Finding | None:
    """Curve detectors among features, beside controls and the untrained network."""
    rows: list[list[Any]] = []
    for layer in layers:
        one, other = layer.own.get("curves"), layer.untrained.get("curves")
        if one is not None:
            units = one["units"]
            rows.append(
                [layer.name, units["feature"]["curve_detectors"],
                 percent(units["feature"]["share"]), percent(units["neuron"]["share"]),
                 percent(_share(units, "rotated")),
                 percent(_share((other or {}).get("units", {}), "feature"))]
            )  # fmt: skip
    if not rows:
        return None
    return finding(
        "Curve detectors",
        "Features that hold every part of the criterion, as a share of those that fire, beside "
        "neurons, directions that are no features (the encoder's rows rotated at random), and the "
        "untrained network.",
        ["layer", "features", "share", "neurons", "rotated at random", "untrained"],
        rows,
    )


def layers_finding(layers: Sequence[LayerSummaries]) -> Finding | None:
    """Features that have a counterpart in the next layer."""
    rows: list[list[Any]] = []
    seen: set[tuple[str, ...]] = set()
    for layer in layers:
        for pair in (layer.own.get("layers") or {}).get("pairs", []):
            key = (*pair["layers"], pair["measure"])
            if key not in seen:
                seen.add(key)
                rows.append(_pair_row(pair, _same_pair(layer.untrained.get("layers"), pair)))
    if not rows:
        return None
    return finding(
        "Counterparts in other layers",
        "Pairs of features that are each other's best partner beyond the null (q at most alpha); "
        "r on images that had no part in the choice, and of the same pairs with images exchanged "
        "within their class; and the same pair in the untrained network. Neighbouring layers of "
        "an untrained network share information too: "
        "only the comparison with it tells what was learned.",
        ["layers", "measure", "tested", "mutual matches", "median r, scored",
         "images exchanged", "untrained: tested", "untrained: mutual matches"],
        rows,
    )  # fmt: skip


def _pair_row(pair: Summary, untrained: Summary | None) -> list[Any]:
    mutual = pair["mutual"]
    return [
        "-".join(pair["layers"]), pair["measure"], _tested(pair), mutual["found"],
        number(mutual["median_r_scored"]), number(mutual["median_r_shuffled"]),
        "-" if untrained is None else _tested(untrained),
        "-" if untrained is None else untrained["mutual"]["found"],
    ]  # fmt: skip


def _same_pair(summary: Summary | None, pair: Summary) -> Summary | None:
    """The same pair of layers by the same measure in another comparison."""
    same = [
        one
        for one in (summary or {}).get("pairs", [])
        if one["layers"] == pair["layers"] and one["measure"] == pair["measure"]
    ]
    return same[0] if same else None


def _tested(pair: Summary) -> int:
    return min(int(side["tested"]) for side in pair["nearest"].values())


def stability_finding(tables: Sequence[RunTables]) -> Finding | None:
    """Features that come back in SAEs of other seeds."""
    rows: list[list[Any]] = []
    for one in tables:
        summary = one.summaries.get("stability")
        if summary is None or one.stability_run < 0:
            continue
        run = summary["runs"][one.stability_run]
        rows.append(
            [one.source.name, len(summary["runs"]), run["tested"], percent(run["share"]),
             interval(run["interval_95"]), number(run["median_least_cosine"]),
             number(run["median_neighbour_cosine"])]
        )  # fmt: skip
    if not rows:
        return None
    return finding(
        "What comes back in other seeds",
        "Share of living features with a decoder row of cosine at the threshold and beyond random "
        "dictionaries (q at most alpha) in every other seed. The null is weak; the nearest other "
        "feature of the same dictionary is the stronger reference.",
        ["layer", "seeds", "tested", "come back", "95 % interval", "median cosine",
         "median cosine with the nearest of its own dictionary"],
        rows,
    )  # fmt: skip


def share_text(counts: Mapping[str, int]) -> str:
    """'3 more, 2 less, ...' in the order of the counts."""
    return ", ".join(f"{count:,} {word}" for word, count in counts.items())


def cost_finding(tables: Sequence[RunTables]) -> Finding | None:
    """What every analysis took, as it recorded it."""
    names = [name for name in ANALYSES if any(one.has(name) for one in tables)]
    if not names:
        return None
    rows = [
        [
            one.source.name,
            *(number(one.summaries.get(name, {}).get("seconds"), 1) for name in names),
        ]
        for one in tables
    ]
    return finding(
        "What it cost",
        "Seconds of each analysis, as it was made last; of pictures and patches those of the last "
        "call. The comparison of layers is one for all of them.",
        ["layer", *names],
        rows,
    )


def percent(value: float | None) -> str:
    """A share as per cent; '-' for none."""
    return "-" if value is None or value != value else f"{100 * value:.3g} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number; '-' for none."""
    return "-" if value is None or value != value else f"{value:,.{digits}f}"


def interval(ends: Sequence[float | None] | None) -> str:
    """An interval of shares; '-' for none."""
    return "-" if not ends else f"{percent(ends[0])} to {percent(ends[1])}"


def _above(summary: Summary | None, branch: str) -> float | None:
    """Share of tested features above the null in both bases."""
    if summary is None or branch not in summary["branches"]:
        return None
    return float(summary["branches"][branch]["above_null_in_both"] / max(summary["tested"], 1))


def _tuned(summary: Summary | None, kind: str) -> float | None:
    if summary is None:
        return None
    return float(summary[kind]["tuned_to_any"] / max(summary[kind]["units"], 1))


def _share(units: Mapping[str, Any], kind: str) -> float | None:
    return units[kind]["share"] if kind in units else None
