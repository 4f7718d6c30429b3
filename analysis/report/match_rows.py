"""Partners of features in other layers, from the comparison of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isae.analysis.arrays import F64
from isae.analysis.layers.virtual_pairs import WEIGHTS
from isae.analysis.report.grouped import GroupedRows
from isae.analysis.report.tables import RunTables

ABSENT = " (not in this report)"
"""Behind the name of a layer that has no pages here."""


@dataclass(frozen=True)
class BestMatch:
    """Of one other layer: r_N, the largest r of measures whose q is at most alpha; q_N: smallest q.

    NaN where a feature was not tested, or (r_N) has no partner beyond the null.
    """

    r_N: F64
    q_N: F64


def nearest_rows(tables: RunTables) -> pa.Table | None:
    """The rows of layers/nearest of this layer, measures of activations and of weights alike."""
    table = tables.table("layers", "nearest")
    if table is None or not table.num_columns:
        return None
    return table.filter(pc.field("layer") == tables.source.layer)


def best_matches(tables: RunTables) -> dict[str, BestMatch]:
    """{other layer: BestMatch} over measures that correlate activations; {} without a comparison.

    r is as the table has it, chosen on the selection images and therefore too large.
    """
    table = nearest_rows(tables)
    if table is None:
        return {}
    alpha = float(tables.summaries["layers"]["alpha"])
    table = table.filter(pc.field("measure") != WEIGHTS)
    found = {}
    for other in dict.fromkeys(table["other_layer"].to_pylist()):
        rows = table.filter(pc.field("other_layer") == other)
        feature = rows["feature"].to_numpy().astype(np.int64)
        r, q = (_floats(rows, name) for name in ("r", "q"))
        r_N, q_N = (np.full(tables.features, np.nan) for _ in range(2))
        np.fmin.at(q_N, feature, q)
        there = q <= alpha
        np.fmax.at(r_N, feature[there], r[there])
        found[str(other)] = BestMatch(r_N, q_N)
    return found


def match_lists(tables: RunTables, names: Mapping[str, str]) -> list[list[dict[str, Any]]]:
    """Of every feature its best partner in each other layer and measure, in the table's order.

    {layer, feature, score, measure, q}; score: r, of the measure 'weights' z. Features that were
    not tested have an empty list. names: {layer: its name in the report} of the layers compared.
    """
    table = nearest_rows(tables)
    if table is None:
        return [[] for _ in range(tables.features)]
    there = table.filter(pc.is_valid(pc.field("nearest")))
    columns = ("other_layer", "nearest", "r", "measure", "q")
    grouped = GroupedRows(there, tables.features, columns)
    return [
        [
            {
                "layer": names.get(row["other_layer"], f"{row['other_layer']}{ABSENT}"),
                "feature": row["nearest"],
                "score": row["r"],
                "measure": row["measure"],
                "q": row["q"],
            }
            for row in grouped.rows(feature)
        ]
        for feature in range(tables.features)
    ]


def _floats(rows: pa.Table, name: str) -> F64:
    values: F64 = rows[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return values
