"""The table of features: one row each, the same columns as Parquet and as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from isae.analysis.activity import Activity
from isae.analysis.arrays import I64, Bools
from isae.analysis.branches.findings import BOTH, RELATIVE, Findings
from isae.analysis.branches.shares import BASES
from isae.analysis.outputs import write_table


def features_table(
    findings: Findings,
    activity: Activity,
    images: pa.Table,
    measured: Mapping[str, npt.NDArray[Any]] | None = None,
) -> pa.Table:
    """One row per feature.

    feature, alive, fired_rows, firing_rate, mean_activation (over the rows where it fires),
    max_activation; r_BRANCH; per basis share_, p_ and q_BASIS_BRANCH (null where not tested);
    q_both_BRANCH (above the null in every basis); dominant_BASIS; significant_BASIS and
    significant_both (branch names joined by ';'), assigned;
    `measured` (cluster of near-duplicates; excess_BASIS_BRANCH; causal_WAY_MEASURE_BRANCH, see
    isae.analysis.branches.causal; logit_, see logits; cut_, see rings; null where a feature has no
    rows or, for intervals, too few images);
    top_image, top_name, top_label, top_y, top_x of the strongest row. Units: activations are the
    SAE's code, shares are parts of 1.
    """
    names = list(findings.branches)
    columns: dict[str, Any] = {
        "feature": pa.array(np.arange(len(findings.alive_N)), pa.int32()),
        "alive": findings.alive_N,
        "fired_rows": activity.fired_n,
        "firing_rate": activity.rate_n,
        "mean_activation": activity.mean_n,
        "max_activation": activity.max_n,
    }
    for j, name in enumerate(names):
        columns[f"r_{name}"] = findings.scores_NB[:, j]
    for basis in (*BASES, RELATIVE):
        tests = {"share": findings.shares, "p": findings.p, "q": findings.q}
        for measure, values in tests.items():
            for j, name in enumerate(names):
                columns[f"{measure}_{basis}_{name}"] = values[basis][:, j]
    for j, name in enumerate(names):
        columns[f"q_both_{name}"] = findings.q[BOTH][:, j]
    for basis in BASES:
        columns[f"dominant_{basis}"] = _named(findings.dominant[basis], names)
        columns[f"significant_{basis}"] = _joined(findings.significant[basis], names)
    columns["significant_both"] = _joined(findings.both_NB, names)
    columns["assigned"] = _named(findings.assigned_N, names)
    columns |= measured or {}
    columns |= _strongest(activity, images)
    return pa.table(
        {
            name: pa.array(values, from_pandas=True) if isinstance(values, np.ndarray) else values
            for name, values in columns.items()
        }
    )


def write_tables(features: pa.Table, patches: pa.Table, folder: Path) -> None:
    """features.parquet, features.csv and patches.parquet, each atomically."""
    write_table(features, folder / "features")
    write_table(patches, folder / "patches", csv=False)


def _named(numbers_N: I64, names: list[str]) -> pa.Array:
    return pa.array([names[number] if number >= 0 else None for number in numbers_N], pa.string())


def _joined(chosen_NB: Bools, names: list[str]) -> pa.Array:
    return pa.array(
        [";".join(name for name, one in zip(names, row, strict=True) if one) for row in chosen_NB],
        pa.string(),
    )


def _strongest(activity: Activity, images: pa.Table) -> dict[str, pa.Array]:
    position_N3 = activity.top.position_nN3[:, 0].astype(np.int64)
    none = position_N3[:, 0] < 0
    image = pa.array(position_N3[:, 0], pa.int64(), mask=none)
    return {
        "top_image": image,
        "top_name": images.column("name").take(image).combine_chunks(),
        "top_label": images.column("label").take(image).combine_chunks(),
        "top_y": pa.array(position_N3[:, 1], pa.int16(), mask=none),
        "top_x": pa.array(position_N3[:, 2], pa.int16(), mask=none),
    }
