"""What other analyses of the same run found on stimuli, beside the labels.

Labels come from the store's pictures; `isae-analyze tuning` and `curves` show stimuli of known
factors. Their findings do not change a label: they have their own tests. They stand beside it, and
the summary says how often both agree on an orientation, and how often the angles of two features
taken at random do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isae.analysis.arrays import F64, Bools
from isae.analysis.label.names import apart
from isae.analysis.label.taxonomy import KINDS, ORIENTATION, TAXONOMY, UNEXPLAINED, Labels
from isae.analysis.outputs import SUMMARY
from isae.analysis.tuning.findings import PERIOD_NAMES
from isae.analysis.tuning.stimuli import PERIODS

_FAMILIES = ("line", "grating", "gabor", "edge", "arc", "corner")
_STRAIGHT = ("line", "grating", "gabor")
_WITHIN = 22.5


@dataclass(frozen=True)
class Joined:
    """tuned_N: text of each feature's clear tuning, '' for none; axis_N: of lines, gratings or
    gabors in degrees; curve_N: whether it is a curve detector; direction_N: of such ones; found:
    which analyses were there.
    """

    tuned_N: list[str]
    axis_N: F64
    curve_N: Bools
    direction_N: F64
    found: tuple[str, ...]

    def columns(self) -> dict[str, pa.Array]:
        """Columns of labels.parquet; none of an analysis that is not there."""
        columns: dict[str, pa.Array] = {}
        if "tuning" in self.found:
            columns["tuned_to"] = pa.array(self.tuned_N, pa.string())
            columns["tuned_axis"] = pa.array(self.axis_N, from_pandas=True)
        if "curves" in self.found:
            columns["curve_detector"] = pa.array(self.curve_N)
            columns["curve_direction"] = pa.array(self.direction_N, from_pandas=True)
        return columns


def join(run: Path, features: int, content_id: str) -> Joined:
    """Read RUN/analysis/tuning and curves, where they are there and of this run's features."""
    tuned_N, axis_N = [""] * features, np.full(features, np.nan)
    curve_N, direction_N = np.zeros(features, dtype=np.bool_), np.full(features, np.nan)
    found = []
    tuning = _table(run / "analysis" / "tuning", features, content_id)
    if tuning is not None:
        found.append("tuning")
        texts: list[list[str]] = [[] for _ in range(features)]
        for family in _FAMILIES:
            _add_family(tuning, family, texts, axis_N)
        tuned_N = ["; ".join(one) for one in texts]
    curves = _table(run / "analysis" / "curves", features, content_id)
    if curves is not None:
        found.append("curves")
        curve_N = curves.column("curve_detector").to_numpy()
        at_N = curves.column("direction").to_numpy().astype(np.float64)
        direction_N = np.where(curve_N, at_N, np.nan)
    return Joined(tuned_N, axis_N, curve_N, direction_N, tuple(found))


def describe_joined(joined: Joined, labels: Labels) -> dict[str, Any]:
    """What summary.json says of them."""
    unexplained_N = labels.kind_N == TAXONOMY.index(UNEXPLAINED)
    summary: dict[str, Any] = {"found": list(joined.found)}
    if "tuning" in joined.found:
        tuned_N = np.array([bool(one) for one in joined.tuned_N])
        summary["tuned"] = int(tuned_N.sum())
        summary["tuned_of_the_unexplained"] = int((tuned_N & unexplained_N).sum())
        summary["orientation"] = orientation_agreement(joined, labels)
    if "curves" in joined.found:
        summary["curve_detectors"] = {
            name: int((joined.curve_N & (labels.kind_N == number)).sum())
            for number, name in enumerate(TAXONOMY)
            if (joined.curve_N & (labels.kind_N == number)).any()
        }
    return summary


def orientation_agreement(joined: Joined, labels: Labels) -> dict[str, Any]:
    """Orientation labels of photos against the axis of stimuli; by_chance: their axes dealt anew
    among these features.
    """
    if ORIENTATION not in labels.names:
        return {"features": 0}
    both = np.flatnonzero(
        labels.qualified_KN[KINDS.index(ORIENTATION)] & np.isfinite(joined.axis_N)
    )
    texts = labels.names[ORIENTATION].texts
    number = labels.kinds[ORIENTATION].name_N[both]
    angle = np.array([float(texts[i].split()[-1].rstrip("°")) for i in number])
    # Both kinds of angles crowd at 0 and 90 degrees: chance is that of all pairs of features.
    near = apart(angle[:, None], joined.axis_N[both], 180) <= _WITHIN
    return {
        "features": len(both),
        "within_degrees": _WITHIN,
        "agree": int(near.diagonal().sum()),
        "by_chance": float(near.mean() * len(both)) if len(both) else 0.0,
    }


def _add_family(tuning: pa.Table, family: str, texts: list[list[str]], axis_N: F64) -> None:
    if f"{family}_clear" not in tuning.column_names:
        return
    clear_N = tuning.column(f"{family}_clear").to_numpy()
    by_N = tuning.column(f"{family}_by").to_pylist()
    # The family's own period is harmonic 1, whose angle is the vector's; the half of it harmonic 2.
    whole = PERIOD_NAMES[PERIODS[family]]
    vector_N = tuning.column(f"{family}_vector").to_numpy().astype(np.float64)
    half_N = tuning.column(f"{family}_axis").to_numpy().astype(np.float64)
    for i in np.flatnonzero(clear_N & np.array([bool(by) for by in by_N])).tolist():
        angle = vector_N[i] if by_N[i] == whole else half_N[i]
        texts[i].append(f"{family} {by_N[i]} {angle:.0f}°")
        if by_N[i] == "axis" and family in _STRAIGHT and np.isnan(axis_N[i]):
            axis_N[i] = angle


def _table(folder: Path, features: int, content_id: str) -> pa.Table | None:
    """The table of features of an analysis; None where it is absent or not of these features."""
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        table = pq.read_table(folder / "features.parquet")
    except (OSError, ValueError):
        return None
    same = summary.get("store", {}).get("content_id") == content_id
    return table if same and table.num_rows == features else None
