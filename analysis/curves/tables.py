"""The tables of the curve analysis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isae.analysis.arrays import I64
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.criterion import PARTS, CurveUnits
from isae.analysis.curves.findings import CurvesFindings, gap_rows
from isae.analysis.curves.stimuli import CurveStimuli
from isae.analysis.outputs import write_table


def write_curve_tables(
    findings: CurvesFindings,
    stimuli: CurveStimuli,
    config: CurvesConfig,
    branches: dict[str, tuple[int, int]],
    folder: Path,
) -> None:
    """Write all tables into `folder`."""
    write_table(stimuli.shown.table(), folder / "stimuli")
    for kind in ("neuron", "feature"):
        one = findings.units[kind]
        table = units_table(one, findings.fires[kind], branches if kind == "neuron" else {})
        write_table(table, folder / f"{kind}s")
        write_table(curves_table(one), folder / f"{kind}_curves", csv=False)
    kinds = [kind for kind in findings.units if kind not in ("neuron", "feature")]
    if kinds:
        controls = pa.concat_tables(
            [_named(units_table(findings.units[k], findings.fires[k], {}), k) for k in kinds]
        )
        write_table(controls, folder / "controls")
    write_table(gaps_table(findings, config), folder / "gaps")
    write_table(draws_on_table(findings), folder / "draws_on")
    write_table(parts_table(findings), folder / "neuron_parts")


def units_table(one: CurveUnits, fires_N: I64, branches: dict[str, tuple[int, int]]) -> pa.Table:
    """One row per unit.

    its number, branch (neurons of layers with branches), training rows on which it is on (fires);
    what the criterion measures (criterion.py): direction, peak, half_width, radius, selectivity,
    selectivity_2, contrasts, peak_share, p, q, per factor the levels answered and their largest
    turn; each part, and curve_detector. Null where not defined.
    """
    count = len(fires_N)
    columns: dict[str, Any] = {one.kind: np.arange(count, dtype=np.int32)}
    if branches:
        owner = [
            next((name for name, (a, z) in branches.items() if a <= c < z), "")
            for c in range(count)
        ]
        columns["branch"] = pa.array(owner, pa.string())
    columns["fires"] = fires_N
    columns |= {name: pa.array(values, from_pandas=True) for name, values in one.columns.items()}
    columns |= {name: one.parts[name] for name in PARTS}
    columns["curve_detector"] = one.detector_N
    return pa.table(columns)


def curves_table(one: CurveUnits) -> pa.Table:
    """The mean answer to arcs at each direction (evenly spaced from 0) of each answering unit."""
    chosen = np.flatnonzero(one.curve_NA.max(axis=1) > 0)
    curves = [row.tolist() for row in one.curve_NA[chosen]]
    return pa.table(
        {
            one.kind: pa.array(chosen, pa.int32()),
            "curve": pa.array(curves, pa.list_(pa.float32())),
        }
    )


def gaps_table(findings: CurvesFindings, config: CurvesConfig) -> pa.Table:
    """One row per gap between curve neurons, and between curve features (findings.gap_rows)."""
    rows = gap_rows(findings, config)
    if rows:
        return pa.Table.from_pylist(rows)
    return pa.table({"kind": pa.array([], pa.string()), "start": pa.array([], pa.float64())})


def draws_on_table(findings: CurvesFindings) -> pa.Table:
    """One row per curve feature and neuron it draws on, by falling decoder share.

    feature, direction, rank, neuron, decoder, decoder_share, decoder_cumulative, encoder,
    encoder_share, neuron_is_curve, neuron_direction; of the feature: neurons_for_80_percent,
    curve_share, main_1 and main_2 (its two main curve neurons), between them or not, arc.
    """
    sources, neurons = findings.sources, findings.units["neuron"]
    count, kept = sources.neuron_FT.shape
    neuron = sources.neuron_FT.ravel()
    of = np.repeat(np.arange(count), kept)
    main_F2, mixed = sources.main_F2, sources.mixed_F
    columns: dict[str, Any] = {
        "feature": sources.feature_F[of],
        "direction": findings.units["feature"].direction_N[sources.feature_F][of],
        "rank": np.tile(np.arange(kept, dtype=np.int16), count),
        "neuron": neuron,
        "decoder": sources.decoder_FT.ravel(),
        "decoder_share": sources.decoder_share_FT.ravel(),
        "decoder_cumulative": np.cumsum(sources.decoder_share_FT, axis=1).ravel(),
        "encoder": sources.encoder_FT.ravel(),
        "encoder_share": sources.encoder_share_FT.ravel(),
        "neuron_is_curve": neurons.detector_N[neuron],
        "neuron_direction": pa.array(neurons.direction_N[neuron], from_pandas=True),
        "neurons_for_80_percent": sources.neurons_F[of],
        "curve_share": sources.curve_share_F[of],
        "main_1": pa.array(main_F2[of, 0], mask=main_F2[of, 0] < 0),
        "main_2": pa.array(main_F2[of, 1], mask=main_F2[of, 1] < 0),
        "between": pa.array(sources.between_F[of], mask=~mixed[of]),
        "arc": pa.array(sources.arc_F[of], from_pandas=True),
    }
    return pa.table(columns)


def parts_table(findings: CurvesFindings) -> pa.Table:
    """One row per neuron and feature that explains part of its large activations.

    neuron, rank, feature, part with low and high (95 % over images), the feature's direction and
    whether it is a curve detector; of the neuron: whether it is one, rows and images of large
    activations, bias, residual, features_for_80_percent, splits (into curve features), splits_p,
    splits_q, and the laxer splits_directed with its p and q.
    """
    parts, features = findings.parts, findings.units["feature"]
    neuron, rank = np.nonzero(parts.feature_CT >= 0)
    feature = parts.feature_CT[neuron, rank]
    columns: dict[str, Any] = {
        "neuron": neuron,
        "rank": rank.astype(np.int16),
        "feature": feature,
        "part": parts.part_CT[neuron, rank],
        "low": pa.array(parts.low_CT[neuron, rank], from_pandas=True),
        "high": pa.array(parts.high_CT[neuron, rank], from_pandas=True),
        "direction": pa.array(features.direction_N[feature], from_pandas=True),
        "feature_is_curve": features.detector_N[feature],
        "neuron_is_curve": findings.units["neuron"].detector_N[neuron],
        "rows": parts.rows_C[neuron],
        "images": parts.images_C[neuron],
        "bias": parts.bias_C[neuron],
        "residual": parts.residual_C[neuron],
        "features_for_80_percent": parts.features_C[neuron],
    }
    for name, one in findings.splits.items():
        stem = "splits" if name == "curve" else f"splits_{name}"
        columns[stem] = one.splits_C[neuron]
        columns[f"{stem}_p"] = pa.array(one.p_C[neuron], from_pandas=True)
        columns[f"{stem}_q"] = pa.array(one.q_C[neuron], from_pandas=True)
    return pa.table(columns)


def _named(table: pa.Table, kind: str) -> pa.Table:
    numbered = table.rename_columns(["number", *table.column_names[1:]])
    return numbered.add_column(0, "kind", pa.array([kind] * table.num_rows, pa.string()))
