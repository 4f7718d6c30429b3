"""Labels on unseen pictures: what summary.json and labels.parquet say of them."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pyarrow as pa

from isae.analysis.arrays import F64, I64
from isae.analysis.label.images import seen_by_network
from isae.analysis.label.pictures import Border
from isae.analysis.label.resampled import DRAWS
from isae.analysis.label.taxonomy import TAXONOMY, Labels
from isae.analysis.label.unseen import Differences, Unseen, UnseenKind
from isae.analysis.label.unseen_images import OWN, UNSEEN, Second

NOTES = (
    "chosen: every name that the choosing half chose; the scoring half had no part, so both sides "
    "are new to it and the difference is fair. labels: those among them that the scoring half made "
    "labels; their gain on the own side is too large, since they had to pass there",
    "both sides have as many images, of every class as many where there are classes; fewer images "
    "than the labels were scored on, so that fewer hold on either side",
    "by_chance: the same names on exchanged images, at the p that was significant",
    f"interval: {DRAWS} draws in which half of the images of a label weigh more and half less, on "
    "both sides; the names, the features and the pictures that padding was tested on stay",
    "left out because both stores hold it: a picture of the same name and pixels as one of the "
    "run's store, or of the same patches as one of those read of it; a renamed copy of a picture "
    "that was not read is not found",
    "a superclass is asked by itself, not whether it says more than its best class",
    "the SAE, too, learned from the own pictures, and the two sets may differ in more than in "
    "having been seen: a difference is not by itself what the network memorised",
)


def may_have_been_seen(second: Second, set_X: I64) -> str:
    """Why the network may have learned from the second side's pictures; '' where it has not."""
    looked = _looked(second, set_X)
    found = seen_by_network(second.inputs.store, looked)
    trained, unseen = found["training_photos"], found.get("unseen_photos", len(looked))
    if trained:
        return f"the network learned from {trained:,} of the {len(looked):,} pictures of --unseen"
    if trained is None or unseen < len(looked):
        doubtful = len(looked) - (0 if trained is None else unseen)
        return (
            f"nothing tells whether the network learned from {doubtful:,} of the {len(looked):,} "
            "pictures of --unseen"
        )
    return ""


def _looked(second: Second, set_X: I64) -> list[str]:
    """Names of the second store's pictures that are looked at."""
    names = second.table.column("name").to_pylist()
    return [name for name, side in zip(names, set_X[-len(names) :], strict=True) if side >= 0]


def describe_unseen(
    unseen: Unseen,
    second: Second,
    set_X: I64,
    in_both: int,
    labels: Labels,
    borders: Sequence[Border],
) -> dict[str, Any]:
    """The entry 'unseen' of summary.json."""
    store = second.inputs.store
    return {
        "store": {"path": store.location, "content_id": store.content_id},
        "source": store.manifest["images"]["spec"],
        "images": {
            "called": unseen.pictures,
            "of_each_side": int((set_X == UNSEEN).sum()),
            "read": len(second.image_J),
            "in_both_stores_and_left_out": in_both,
            "seen_by_the_network": seen_by_network(store, _looked(second, set_X)),
        },
        "padding": dict(zip(("own", "unseen"), (_border(one) for one in borders), strict=True)),
        "features_active_enough": {
            "own": int(unseen.active_SN[OWN].sum()),
            "unseen": int(unseen.active_SN[UNSEEN].sum()),
            "both": int(unseen.active_SN.all(axis=0).sum()),
        },
        "kinds": {kind: _kind(one) for kind, one in unseen.kinds.items()},
        "all": {
            "labels": int((labels.kind_N < TAXONOMY.index("unexplained")).sum()),
            **_counts(list(unseen.kinds.values())),
            "chosen": _differences(unseen.chosen),
            "of_labels": _differences(unseen.labels),
        },
        "notes": list(NOTES),
    }


def _border(border: Border) -> dict[str, Any]:
    return {key: border.words[key] for key in ("skipped", "pictures") if key in border.words}


def _kind(one: UnseenKind) -> dict[str, Any]:
    return {
        "labels": int(one.label_N.sum()),
        **_counts([one]),
        "chosen": _differences(one.chosen),
        "of_labels": _differences(one.labels),
    }


def _counts(kinds: list[UnseenKind]) -> dict[str, Any]:
    """Names that hold on each side, on both, and by chance; the labels among them."""
    chance_SD = np.sum([one.chance_SD for one in kinds], axis=0)
    hold = {"own": OWN, "unseen": UNSEEN}
    return {
        "chosen_tested": int(sum(one.pair_N.sum() for one in kinds)),
        "chosen_hold": {
            **{name: int(sum(one.holds_SN[s].sum() for one in kinds)) for name, s in hold.items()},
            "both": int(sum(one.holds_SN.all(axis=0).sum() for one in kinds)),
        },
        "by_chance": {name: float(chance_SD[side].mean()) for name, side in hold.items()},
        "labels_tested": int(sum((one.pair_N & one.label_N).sum() for one in kinds)),
        "labels_hold": {
            name: int(sum((one.holds_SN[side] & one.label_N).sum() for one in kinds))
            for name, side in hold.items()
        },
    }


def _differences(one: Differences) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return {
        "features": one.features,
        "gain": {"own": number(one.gain_S[OWN]), "unseen": number(one.gain_S[UNSEEN])},
        "difference": number(one.mean),
        "interval_95": [number(one.low), number(one.high)],
    }


def unseen_columns(unseen: Unseen | None, labels: Labels) -> dict[str, pa.Array]:
    """Columns of labels.parquet, of each feature's label; null without a label or a test there.

    unseen_score, unseen_chance, unseen_gain, unseen_q; own_gain: on as many images of the scoring
    half; unseen_holds.
    """
    if unseen is None:
        return {}
    count = len(labels.kind_N)
    values = {
        name: np.full(count, np.nan)
        for name in ("unseen_score", "unseen_chance", "unseen_gain", "unseen_q", "own_gain")
    }
    holds: list[bool | None] = [None] * count
    for one in unseen.kinds.values():
        there = one.tested_S[UNSEEN]
        mine_N = one.label_N & one.pair_N
        found: tuple[F64, ...] = (
            there.share_N, there.chance_N, there.gain_N, one.q_SN[UNSEEN],
            one.tested_S[OWN].gain_N,
        )  # fmt: skip
        for column, part in zip(values.values(), found, strict=True):
            column[mine_N] = part[mine_N]
        for i in np.flatnonzero(mine_N).tolist():
            holds[i] = bool(one.holds_SN[UNSEEN, i])
    columns = {name: pa.array(one, pa.float64(), from_pandas=True) for name, one in values.items()}
    return columns | {"unseen_holds": pa.array(holds, pa.bool_())}


def unseen_lines(summary: dict[str, Any]) -> list[str]:
    """The result for a person, at most 80 columns wide."""
    one, images, called = summary["all"], summary["images"], summary["images"]["called"]
    lines = [
        "",
        f"on {images['of_each_side']:,} {called} images and as many of the scoring half:",
        f"chosen names     tested hold own{called:>8}  by chance  lost gain  95 %",
    ]
    for kind, each in [*summary["kinds"].items(), ("all", one)]:
        if not each["chosen_tested"] and each is not one:
            continue
        lost = each["chosen"]
        low, high = lost["interval_95"]
        lines.append(
            f"{kind:<16}{each['chosen_tested']:>7,}{each['chosen_hold']['own']:>9,}"
            f"{each['chosen_hold']['unseen']:>8,}{each['by_chance']['unseen']:>11,.1f}"
            f"{_fixed(lost['difference']):>11}  {_fixed(low)} to {_fixed(high)}"
        )
    held = one["labels_hold"]
    lines.append(
        f"of {one['labels']:,} labels {one['labels_tested']:,} could be tested there: "
        f"{held['unseen']:,} hold ({held['own']:,} on own)"
    )
    if "skipped" in summary["padding"]["unseen"]:
        lines += wrap(f"no edge artefacts: {summary['padding']['unseen']['skipped']}", 80)
    if images["in_both_stores_and_left_out"]:
        count = images["in_both_stores_and_left_out"]
        lines.append(f"{count:,} images are in both stores and were left out")
    return lines


def _fixed(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"
