"""The tables of the layer comparison, each as Parquet and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from isae.analysis.arrays import F64, I64
from isae.analysis.layers.against import Difference, against_table, draws_table
from isae.analysis.layers.findings import LayerFindings, MatchedLayer, PairFindings
from isae.analysis.layers.matching import METHODS
from isae.files import atomic_path


def write_tables(findings: LayerFindings, compared: Sequence[Difference], folder: Path) -> None:
    """Write the tables (.parquet, .csv; draws as Parquet alone), each atomically.

    agreement and branch_table only where two of the layers have the same branches, virtual_weights
    only with virtual weights, against only with other analyses.
    """
    tables = {
        "matches": matches_table(findings),
        "edges": edges_table(findings),
        "nearest": nearest_table(findings),
        "virtual_weights": virtual_table(findings),
        "agreement": agreement_table(findings),
        "branch_table": branch_table(findings),
        "draws": draws_table(findings),
        "against": against_table(compared),
    }
    for name, table in tables.items():
        if not table.num_columns:
            continue
        with atomic_path(folder / f"{name}.parquet") as path:
            pq.write_table(table, path, compression="zstd")
        if name != "draws":
            with atomic_path(folder / f"{name}.csv") as path:
                pa_csv.write_csv(table, path)


def edges_table(findings: LayerFindings) -> pa.Table:
    """The graph of the matches that were found, strongest measure by measure, one row an edge.

    layer_a, feature_a, layer_b, feature_b, measure; method: 'mutual', 'one_to_one' or 'both'; r
    (for 'weights' z) and q (the smaller of two methods'); r_scored on the scoring images;
    branch_a, branch_b (null: spread over branches).
    """
    wanted = (
        "layer_a", "feature_a", "layer_b", "feature_b", "measure", "r", "r_scored", "branch_a",
        "branch_b",
    )  # fmt: skip
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    table = matches_table(findings)
    if not table.num_columns:
        return table
    for row in table.filter(pc.field("found")).to_pylist():
        key = tuple(row[name] for name in wanted[:5])
        edge = found.setdefault(key, {name: row[name] for name in wanted} | {"methods": {}})
        edge["methods"][row["method"]] = row["q"]
    rows = list(found.values())
    schema = pa.schema([table.schema.field(name) for name in wanted])
    columns = pa.Table.from_pylist(
        [{name: row[name] for name in wanted} for row in rows], schema=schema
    )
    methods = [next(iter(row["methods"])) if len(row["methods"]) == 1 else "both" for row in rows]
    q = [min(row["methods"].values()) for row in rows]
    columns = columns.append_column("method", pa.array(methods, pa.string()))
    return columns.append_column("q", pa.array(q, pa.float64()))


def virtual_table(findings: LayerFindings) -> pa.Table:
    """Virtual weights of the matches by weights, found or not: one row per match and method.

    layer_a, feature_a, layer_b, feature_b, method; z: V in standard deviations of feature
    b over layer_a's features; weight: V, the change of feature b's
    pre-activation per unit of feature a's code; weight_NAME: its part through that branch of
    layer_b.
    """
    parts = []
    for pair in findings.pairs:
        if pair.virtual is None:
            continue
        for method in METHODS:
            matches, weight_XB = pair.comparison.matches[method], pair.virtual.weights[method]
            count = len(matches)
            through = {
                f"weight_{name}": weight_XB[:, number]
                for number, name in enumerate(pair.virtual.branches)
            }
            parts.append(
                {
                    "layer_a": _same(pair.one.name, count),
                    "feature_a": matches.first_X,
                    "layer_b": _same(pair.two.name, count),
                    "feature_b": matches.second_X,
                    "method": _same(method, count),
                    "z": matches.r_X,
                    "found": pair.q[method] <= findings.alpha,
                    "weight": weight_XB.sum(axis=1),
                    **through,
                }
            )
    return _stacked(parts)


def matches_table(findings: LayerFindings) -> pa.Table:
    """The graph of matches, found or not: one row per match, measure and method.

    layer_a, feature_a, layer_b, feature_b (a is the earlier layer); measure, method; r on the
    selection images, p and q of it; found: q <= alpha; r_scored on the scoring images with its
    interval low, high over resampled images; r_shuffled: the same with images exchanged; branch_a,
    branch_b: branches that the features lie in (null: none); cluster_a, cluster_b: clusters of
    near-duplicates. With the measure 'weights' r is z of `isae.analysis.layers.virtual_weights`;
    r_scored is a correlation of activations there too.
    """
    parts = []
    for pair in findings.pairs:
        for method in METHODS:
            matches, scores = pair.comparison.matches[method], pair.comparison.scores[method]
            first_X, second_X, count = matches.first_X, matches.second_X, len(matches)
            parts.append(
                {
                    "layer_a": _same(pair.one.name, count),
                    "feature_a": first_X,
                    "layer_b": _same(pair.two.name, count),
                    "feature_b": second_X,
                    "measure": _same(pair.comparison.measure, count),
                    "method": _same(method, count),
                    "r": matches.r_X,
                    "p": pair.comparison.p[method],
                    "q": pair.q[method],
                    "found": pair.q[method] <= findings.alpha,
                    "r_scored": scores.r_X,
                    "low": scores.low_X,
                    "high": scores.high_X,
                    "r_shuffled": scores.shuffled_X,
                    "branch_a": _branches(pair.one, first_X),
                    "branch_b": _branches(pair.two, second_X),
                    "cluster_a": pair.one.cluster_N[first_X],
                    "cluster_b": pair.two.cluster_N[second_X],
                }
            )
    return _stacked(parts)


def nearest_table(findings: LayerFindings) -> pa.Table:
    """One row per tested feature, other layer and measure: its best partner there.

    layer, feature, other_layer, measure, nearest (the partner), r (selection images), p of the best
    of all partners, q. Features without any partner have nulls and p = 1.
    """
    parts = []
    for pair in findings.pairs:
        names = (pair.one.name, pair.two.name)
        for side in (0, 1):
            nearest = pair.comparison.nearest[side]
            feature_X = np.flatnonzero(nearest.tested_N)
            best_X = nearest.best_N[feature_X]
            parts.append(
                {
                    "layer": _same(names[side], len(feature_X)),
                    "feature": feature_X,
                    "other_layer": _same(names[1 - side], len(feature_X)),
                    "measure": _same(pair.comparison.measure, len(feature_X)),
                    "nearest": pa.array(best_X, pa.int64(), mask=best_X < 0),
                    "r": nearest.r_N[feature_X],
                    "p": nearest.p_N[feature_X],
                    "q": pair.q_nearest[side][feature_X],
                }
            )
    return _stacked(parts)


def agreement_table(findings: LayerFindings) -> pa.Table:
    """One row per comparison, method, level and branch ('same branch': the diagonal as a whole).

    matches: those found whose features both lie in a branch; count: with both in this branch;
    expected under the null; detectable: the expected count that would be found with chance 0.8;
    log_odds with interval low, high; p one-sided and q over all rows of level 'clusters' (null at
    level 'features').
    """
    parts = []
    for pair, q in zip(findings.pairs, findings.q_agreement, strict=True):
        for key, one in pair.agreement.items():
            rows = len(one.rows)
            parts.append(
                {
                    **_where(pair, key, rows),
                    "branch": pa.array(one.rows, pa.string()),
                    "matches": np.full(rows, one.table_BB.sum()),
                    "count": one.count_R,
                    "expected": one.expected_R,
                    "detectable": one.detectable_R,
                    "log_odds": one.log_odds_R,
                    "low": one.low_R,
                    "high": one.high_R,
                    "p": one.p_R,
                    "q": q[key],
                }
            )
    return _stacked(parts)


def branch_table(findings: LayerFindings) -> pa.Table:
    """One row per comparison, method, level and pair of branches: count and expected matches."""
    parts = []
    for pair in findings.pairs:
        for key, one in pair.agreement.items():
            side = len(one.names)
            parts.append(
                {
                    **_where(pair, key, side**2),
                    "branch_a": pa.array(np.repeat(one.names, side).tolist(), pa.string()),
                    "branch_b": pa.array(list(one.names) * side, pa.string()),
                    "count": one.table_BB.ravel(),
                    "expected": one.expected_BB.ravel(),
                }
            )
    return _stacked(parts)


def _where(pair: PairFindings, key: tuple[str, str], count: int) -> dict[str, pa.Array]:
    return {
        "layer_a": _same(pair.one.name, count),
        "layer_b": _same(pair.two.name, count),
        "measure": _same(pair.comparison.measure, count),
        "method": _same(key[0], count),
        "level": _same(key[1], count),
    }


def _branches(layer: MatchedLayer, feature_X: I64) -> pa.Array:
    branch_X = layer.branch_N[feature_X]
    return pa.array([layer.branches[b] if b >= 0 else None for b in branch_X], pa.string())


def _same(text: str, count: int) -> pa.Array:
    return pa.array([text] * count, pa.string())


def _stacked(parts: list[dict[str, Any]]) -> pa.Table:
    if not parts:
        return pa.table({})
    return pa.concat_tables(
        [pa.table({name: _column(values) for name, values in part.items()}) for part in parts]
    )


def _column(values: pa.Array | npt.NDArray[Any] | F64) -> pa.Array:
    return pa.array(values, from_pandas=True) if isinstance(values, np.ndarray) else values
