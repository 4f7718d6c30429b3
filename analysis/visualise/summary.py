"""What the optimised pictures of a folder amount to, for summary.json and for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isae.analysis.curves.summary import quartiles, wilson
from isae.analysis.visualise.config import KINDS, NEURON
from isae.analysis.visualise.records import Record

NOTES = (
    "reached is the activation at the picture's file: rounded to whole pixel values, read again, "
    "without transformations, through the network and the encoder's TopK; best is the largest of "
    "the rows read ('best_rows'), which are all images' where the store has no more rows",
    "for features and diversity sets both are TopK codes, 0 where TopK does not keep the feature; "
    "for neurons activations; for the kind branch that branch's part of the pre-activation",
    "start is the same at the noise that the picture began with: what no optimisation reaches",
    "a picture that reaches far beyond the data shows what the network does with such a picture, "
    "not what photos show it",
    "a diversity set's pictures pay for likeness, so they may reach less than a picture alone",
)


def summarise_pictures(records: Sequence[Record], *, made: int, wanted: int) -> dict[str, Any]:
    """Counts by kind. made: pictures of this call, wanted: asked for by it."""
    return {
        "count": len(records),
        "asked_for": wanted,
        "made_now": made,
        "seconds_of_all": round(float(sum(one.seconds for one in records)), 2),
        "sizes": sorted({one.size for one in records}),
        "kinds": {
            kind: _kind([one for one in records if one.kind == kind])
            for kind in KINDS
            if any(one.kind == kind for one in records)
        },
    }


def _kind(records: list[Record]) -> dict[str, Any]:
    """Share above the data's largest, with its interval; ratios; time. Units with best 0 have no
    ratio, and are not counted in the share: any picture would beat them. Several pictures of a unit
    are not independent: then there is no interval. settings: the ids of all that are counted here.
    """
    judged = [one for one in records if one.best > 0]
    above = sum(one.above for one in judged)
    ratio = np.array([one.reached / one.best for one in judged])
    start = np.array([one.start / one.best for one in judged])
    units = len({one.unit for one in records})
    found: dict[str, Any] = {
        "pictures": len(records),
        "units": units,
        "settings": sorted({one.settings for one in records}),
        "judged": len(judged),
        "above": above,
        "share_above": above / len(judged) if judged else None,
        "share_interval": wilson(above, len(judged)) if units == len(records) else None,
        "starts_above": sum(one.start > one.best for one in judged),
        "reached_over_best": quartiles(ratio),
        "start_over_best": quartiles(start),
        "best_rows": sorted({one.best_rows for one in records}),
        "seconds_each": float(np.mean([one.seconds for one in records])),
    }
    if records[0].kind != NEURON:
        found["kept_by_topk"] = sum(one.kept for one in records)
    return found


def visualise_text(summary: dict[str, Any], out: str) -> str:
    """The result for a person, at most 80 columns wide (the path apart)."""
    pictures, place, patches = summary["pictures"], summary["place"], summary["patches"]
    sizes = " and ".join(str(one) for one in pictures["sizes"] or [place["size"]])
    lines = [
        f"{summary['layer']}: {patches['patches']:,} patches of {patches['features']:,} features",
        f"{pictures['count']} pictures of {sizes} pixels, {pictures['made_now']} of them made now "
        f"at cell {place['cell']}",
    ]
    if pictures["kinds"]:
        lines += ["", "kind       pictures   above the data   reached/best   kept  seconds each"]
    for kind, one in pictures["kinds"].items():
        ratio = one["reached_over_best"]
        middle = f"{ratio[1]:14.2f}" if ratio else f"{'none':>14}"
        kept = f"{one['kept_by_topk']:7}" if "kept_by_topk" in one else f"{'':7}"
        share = f"{one['above']} of {one['judged']}"
        lines.append(
            f"{kind:<10}{one['pictures']:>9}{share:>17}{middle:>15}{kept}"
            f"{one['seconds_each']:>14.2f}"
        )
    mixed = [kind for kind, one in pictures["kinds"].items() if len(one["settings"]) > 1]
    if mixed:
        lines += ["", f"made with several settings, counted together: {', '.join(mixed)}"]
    used = summary["settings"].values()
    if any(one["colours"] == "plain" for one in used):
        lines += [
            "",
            "colours and amplitudes plain (grey, 1/f): not measured on the store's photos",
        ]
    lines += ["", f"pictures, patches, tables and figures: {out}"]
    return "\n".join(lines)
