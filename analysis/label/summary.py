"""Labels in numbers (summary.json) and in a small table for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.label.branches import Grouping
from isae.analysis.label.chance import Chance
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.names import POSITION
from isae.analysis.label.padding import Mirrored
from isae.analysis.label.taxonomy import (
    DEAD,
    KINDS,
    RARE,
    TAXONOMY,
    UNEXPLAINED,
    Labels,
)
from isae.analysis.label.unseen_summary import unseen_lines

NULLS = {
    "names of images and places": "images exchanged within their half, every location kept: the "
    "chance of a name at a cell is the share of the half's images that have it there",
    "position": "the places of the strongest images of all tested features of the layer, pooled",
    "edge artefact": "for its place every cell alike; for padding, of pictures that keep less than "
    "half of the activity where padding reaches, the layer's usual share, or half if that is more",
    "by_chance": "the whole choice and test on exchanged images (positions and edges: on places "
    "dealt among the features), counted at the p that was significant in the real tests; "
    "by_chance_alone: corrected by itself",
}
CORRECTION = (
    "one test a feature and kind, on the scoring half; Benjamini-Hochberg over all features and "
    "kinds together"
)
NOTES = (
    "score: the share of a feature's strongest scoring images that have the name, one place an "
    "image; at most as many images as have it",
    "the name was chosen on the other half of the images; 'choosing' is flattered by that choice, "
    "and the scores of those that became labels by the bounds that they had to pass",
    "a label says what the strongest images have in common, 'sampled' what images of the whole "
    "range have; no label says what causes the activity",
    "features that are near-duplicates share a label: read counts of clusters beside those of "
    "features; features of one dictionary are not independent",
    "'unexplained' means: by none of the names that were tried",
    "colours, directions and fineness are cut at fixed angles and at quantiles of these pictures",
    "mirrored content disturbs features as the lack of padding does: 'padding' says how much is "
    "usual in this layer; where padding reaches every cell, an edge artefact is hardly told from "
    "a position",
    "a feature active on too few of the mirrored pictures is not tested for padding: its position "
    "may be padding's doing",
    "by_chance is for all kinds at one bound: a kind of few labels can have a larger part of "
    "chance than the whole",
)


def note_of_positions(positions: str) -> list[str]:
    """What a reader must know where a store has but some places of each image."""
    if positions == "all":
        return []
    note = f"places of each image were chosen ({positions}): the strongest are those of stored ones"
    if ":norm:" in positions:
        note += (
            "; chosen by norm, places with large activations are there more often than others, so "
            "that names of position, and what most stored places look like, follow the norm"
        )
    return [note]


def summarise_labels(
    labels: Labels,
    chance: Chance,
    sampled: Mapping[str, F64],
    grouping: Grouping,
    left_out: Mapping[str, str],
    mirrored: Mirrored,
    config: LabelConfig,
) -> dict[str, Any]:
    """What summary.json says of names, tests, labels and chance."""
    labelled_N = labels.kind_N < len(KINDS)
    tested = int(labels.tested_N.sum())
    by_chance_D = (chance.kind_DN < len(KINDS)).sum(axis=1)
    return {
        "features": len(labels.kind_N),
        "tested": tested,
        "labelled": int(labelled_N.sum()),
        "labelled_share_of_tested": float(labelled_N.sum() / tested) if tested else None,
        "labelled_clusters": _clusters(grouping, labelled_N),
        "tested_clusters": _clusters(grouping, labels.tested_N),
        "by_chance": _spread(by_chance_D),
        "by_chance_alone": _spread(chance.own_D),
        "unexplained": int((labels.kind_N == TAXONOMY.index(UNEXPLAINED)).sum()),
        "draws_of_chance": len(chance.kind_DN),
        "tests": int(sum(np.isfinite(one.p_N).sum() for one in labels.kinds.values())),
        "significant_p": labels.bound if labels.bound >= 0 else None,
        "alpha": config.alpha,
        "min_gain": config.min_gain,
        "kinds": {
            kind: _kind(labels, chance, sampled, grouping, kind, config.alpha)
            for kind in KINDS
            if kind in labels.kinds
        },
        "kinds_left_out": dict(left_out),
        "positions_by_padding": _positions(labels, mirrored, config.padding_images),
        "taxonomy": _taxonomy(labels, chance, grouping, np.ones(len(labels.kind_N), np.bool_)),
        "branches": {
            name: _taxonomy(labels, chance, grouping, grouping.branch_N == number)
            for number, name in enumerate(grouping.branches)
        },
        "nulls": NULLS,
        "correction": CORRECTION,
        "notes": list(NOTES),
    }


def _kind(
    labels: Labels,
    chance: Chance,
    sampled: Mapping[str, F64],
    grouping: Grouping,
    kind: str,
    alpha: float,
) -> dict[str, Any]:
    one, number = labels.kinds[kind], TAXONOMY.index(kind)
    mine_N = labels.kind_N == number
    q_N = np.nan_to_num(labels.q[kind], nan=1.0)
    return {
        "names": len(labels.names[kind].texts),
        "tests": int(np.isfinite(one.p_N).sum()),
        "significant": int((q_N <= alpha).sum()),
        "qualified": int(labels.qualified_KN[KINDS.index(kind)].sum()),
        "labels": int(mine_N.sum()),
        "clusters": _clusters(grouping, mine_N),
        "by_chance": _spread((chance.kind_DN == number).sum(axis=1)),
        "median_of_labels": {
            "score": _median(one.share_N[mine_N]),
            "chance": _median(one.chance_N[mine_N]),
            "choosing": _median(one.choosing_N[mine_N]),
            "sampled": _median(sampled[kind][mine_N]) if kind in sampled else None,
        },
    }


def _taxonomy(labels: Labels, chance: Chance, grouping: Grouping, among_N: Bools) -> dict[str, Any]:
    """Counts of every entry of the taxonomy among some features."""
    found: dict[str, Any] = {"features": int(among_N.sum())}
    for number, name in enumerate(TAXONOMY):
        mine_N = among_N & (labels.kind_N == number)
        if name not in (UNEXPLAINED, RARE, DEAD) and name not in labels.kinds:
            continue
        found[name] = {"features": int(mine_N.sum()), "clusters": _clusters(grouping, mine_N)}
        if name not in (RARE, DEAD):
            by_chance = (chance.kind_DN[:, among_N] == number).sum(axis=1)
            found[name]["by_chance"] = float(by_chance.mean())
    return found


def _positions(labels: Labels, mirrored: Mirrored, least: int) -> dict[str, int]:
    """Of the features labelled by position, those that padding was tested for, and lose half."""
    mine_N = labels.kind_N == TAXONOMY.index(POSITION)
    tested_N = mine_N & (mirrored.images_N >= least)
    with np.errstate(invalid="ignore"):
        lost_N = tested_N & (mirrored.kept_N < 0.5)
    return {
        "labels": int(mine_N.sum()),
        "tested_for_padding": int(tested_N.sum()),
        "keep_less_than_half": int(lost_N.sum()),
    }


def labels_text(summary: dict[str, Any], out: str) -> str:
    """The result for a person, at most 80 columns wide (the path apart)."""
    images = summary["images"]
    lines = [
        f"{summary['layer']}: {summary['tested']:,} of {summary['features']:,} features tested; "
        f"names chosen on {images['choosing']['images']:,} images,",
        f"scored on {images['scoring']['images']:,} others; {summary['tests']:,} tests",
        "",
        "taxonomy        features clusters  by chance   score  chance  sampled",
    ]
    for name, one in summary["taxonomy"].items():
        if name == "features":
            continue
        row = f"{name:<16}{one['features']:>8,}{one['clusters']:>9,}"
        row += f"{one['by_chance']:>11,.1f}" if "by_chance" in one else ""
        medians = summary["kinds"].get(name, {}).get("median_of_labels", {})
        if medians.get("score") is not None:
            row += f"{medians['score']:>8.2f}{medians['chance']:>8.3f}"
            row += f"{medians['sampled']:>9.2f}" if medians["sampled"] is not None else ""
        lines.append(row)
    lines += [f"not tried: {kind} ({reason})" for kind, reason in _short(summary)]
    lines += unseen_lines(summary["unseen"]) if "unseen" in summary else []
    lines += [
        "",
        f"labelled: {summary['labelled']:,} (of exchanged images "
        f"{summary['by_chance']['mean']:,.1f}); resist: {summary['unexplained']:,}",
        f"tables, summary and figures: {out}",
    ]
    return "\n".join(lines)


def _short(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Why kinds were left out, each cut to its line."""
    room = 62
    return [
        (kind, reason if len(reason) + len(kind) <= room else reason[: room - len(kind)] + "...")
        for kind, reason in summary["kinds_left_out"].items()
    ]


def _clusters(grouping: Grouping, among_N: Bools) -> int:
    return len(np.unique(grouping.cluster_N[among_N]))


def _spread(counts_D: I64) -> dict[str, float]:
    return {
        "mean": float(counts_D.mean()), "least": int(counts_D.min()), "most": int(counts_D.max())
    }  # fmt: skip


def _median(values: F64) -> float | None:
    return float(np.median(values)) if len(values) else None
