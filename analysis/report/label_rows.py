"""The labels of each feature: the best of every kind, whether it passed or not."""

from __future__ import annotations

from typing import Any

from isae.analysis.report.grouped import GroupedRows
from isae.analysis.report.tables import RunTables

NUMBERS = ("score", "chance", "q", "gain", "bits", "sampled", "choosing")
_NAME = "_name"


def label_lists(tables: RunTables) -> list[list[dict[str, Any]]] | None:
    """[{kind, name, score, chance, q, ...}] of every feature; None where labels were not made.

    The first is the label itself (kind: its taxonomy), where there is one; then the best of each
    kind, as the table's columns KIND_name, KIND_score and so on (NUMBERS) have it.
    """
    table = tables.table("label", "labels")
    if table is None:
        return None
    kinds = [name.removesuffix(_NAME) for name in table.column_names if name.endswith(_NAME)]
    columns = ["label", "taxonomy", *NUMBERS]
    columns += [f"{kind}_{part}" for kind in kinds for part in ("name", *NUMBERS)]
    grouped = GroupedRows(table, tables.features, columns)
    return [
        [entry for row in grouped.rows(feature) for entry in _entries(row, kinds)]
        for feature in range(tables.features)
    ]


def _entries(row: dict[str, Any], kinds: list[str]) -> list[dict[str, Any]]:
    found = []
    if row.get("label"):
        main = {name: row.get(name) for name in NUMBERS}
        found.append({"kind": row["taxonomy"], "name": row["label"], **main})
    for kind in kinds:
        if row.get(f"{kind}{_NAME}"):
            values = {name: row.get(f"{kind}_{name}") for name in NUMBERS}
            words = f"best {kind.replace('_', ' ')}"
            found.append({"kind": words, "name": row[f"{kind}{_NAME}"], **values})
    return found
