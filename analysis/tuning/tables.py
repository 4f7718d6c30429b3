"""The tables of the tuning analysis: units, their curves, the stimuli."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from isae.analysis.tuning.findings import TuningFindings, harmonic_names
from isae.files import atomic_path


def units_table(findings: TuningFindings, branches: dict[str, tuple[int, int]]) -> pa.Table:
    """One row per feature or neuron.

    feature (or neuron, with its branch), fired (stimuli it answers to), max_response,
    best_stimulus; per family F: F_vector, F_axis, F_peak, F_half_width (degrees), F_selectivity_1
    and _2, F_p and F_q (shuffled orientations), F_p_rotated and F_q_rotated (blocks turned at
    random), F_tuned, F_variance_FACTOR, F_invariance_FACTOR; arc_radius (pixels) at the peak.
    Null where not defined.
    """
    count = len(findings.fired_N)
    columns: dict[str, Any] = {findings.kind: np.arange(count, dtype=np.int32)}
    if findings.kind == "neuron" and branches:
        owner = [
            next((name for name, (a, z) in branches.items() if a <= c < z), "")
            for c in range(count)
        ]
        columns["branch"] = pa.array(owner, pa.string())
    silent = findings.best_N < 0
    columns["fired"] = findings.fired_N
    columns["max_response"] = findings.max_N
    columns["best_stimulus"] = pa.array(findings.best_N, pa.int32(), mask=silent)
    for family, one in findings.families.items():
        columns |= {
            f"{family}_vector": one.vector_N,
            f"{family}_axis": one.axis_N,
            f"{family}_peak": one.peak_N,
            f"{family}_half_width": one.half_width_N,
        }
        for number, name in enumerate(harmonic_names()):
            columns[f"{family}_{name}"] = one.selectivity_NM[:, number]
        columns |= {
            f"{family}_p": one.p_N,
            f"{family}_q": findings.q[family],
            f"{family}_p_rotated": one.p_rotated_N,
            f"{family}_q_rotated": findings.q_rotated[family],
            f"{family}_tuned": findings.tuned[family],
        }
        columns |= {f"{family}_variance_{name}": part for name, part in one.variance.items()}
        columns |= {f"{family}_invariance_{name}": part for name, part in one.invariance.items()}
        if family == "arc":
            columns["arc_radius"] = one.best_radius_N
    return pa.table(
        {
            name: pa.array(values, from_pandas=values.dtype.kind == "f")
            if isinstance(values, np.ndarray)
            else values
            for name, values in columns.items()
        }
    )


def curves_table(findings: TuningFindings) -> pa.Table:
    """One row per family and unit that answers: its mean answer at each angle, as lists.

    Columns: family, feature (or neuron), period (degrees), curve (the angles are evenly spaced over
    the period, the first is 0), radii (pixels) and radius_curve (arcs, at the peak angle; of other
    families empty).
    """
    parts = []
    for family, one in findings.families.items():
        chosen = np.flatnonzero(one.curve_NA.max(axis=1) > 0)
        arcs = family == "arc"
        parts.append(
            pa.table(
                {
                    "family": pa.array([family] * len(chosen), pa.string()),
                    findings.kind: pa.array(chosen, pa.int32()),
                    "period": pa.array(np.full(len(chosen), one.design.period)),
                    "curve": _lists(one.curve_NA[chosen]),
                    "radii": _lists(np.tile(one.radii_L if arcs else [], (len(chosen), 1))),
                    "radius_curve": _lists(
                        one.radius_NL[chosen] if arcs else np.zeros((len(chosen), 0))
                    ),
                }
            )
        )
    return pa.concat_tables(parts)


def write_table(table: pa.Table, stem: Path, *, csv: bool = True) -> None:
    """STEM.parquet, and STEM.csv unless the table has lists, each atomically."""
    with atomic_path(stem.with_suffix(".parquet")) as path:
        pq.write_table(table, path, compression="zstd")
    if csv:
        with atomic_path(stem.with_suffix(".csv")) as path:
            pa_csv.write_csv(table, path)


def _lists(values_NA: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array([row.tolist() for row in values_NA], pa.list_(pa.float32()))
