"""Patches and pictures of each feature, as its page shows them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from isae.analysis.report.grouped import GroupedRows
from isae.analysis.report.scripts import BLOCK
from isae.analysis.report.tables import RunTables

_PLAIN = ("tile", "group", "value", "quantile", "name", "label", "split", "y", "x", "border")
_MORE = ("left", "top", "right", "bottom", "shown")
_HEAT = {
    "rows": "heat_rows", "columns": "heat_columns", "top": "heat_top", "left": "heat_left",
    "values": "heat",
}  # fmt: skip


class PatchRows:
    """Where the patches of each feature lie in its sheet, and what it does there."""

    def __init__(self, tables: RunTables) -> None:
        table = tables.table("visualise", "patches")
        self._rows: GroupedRows | None = None
        if table is not None:
            columns = (*_PLAIN, *_MORE, *_HEAT.values())
            self._rows = GroupedRows(table, tables.features, columns)
            summary = tables.summaries["visualise"]
            self._tile, self._tiles = summary["tile"], summary["tiles"]
            self._folder = f"sheets/{tables.source.name}"

    def of(self, feature: int) -> dict[str, Any] | None:
        """{tile, tiles, sheet, row, entries} of one feature; None where there are no patches."""
        if self._rows is None:
            return None
        return {
            "tile": self._tile,
            "tiles": self._tiles,
            "sheet": f"{self._folder}/{feature // BLOCK}.jpg",
            "row": feature % BLOCK,
            "entries": [_entry(row) for row in self._rows.rows(feature)],
        }


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    plain = {name: row[name] for name in (*_PLAIN, *_MORE) if name in row}
    return plain | {"heat": {name: row.get(column) for name, column in _HEAT.items()}}


def picture_lists(tables: RunTables) -> list[list[dict[str, Any]]] | None:
    """[{file, kind, branch, number, reached, best, above}] of every feature.

    None where no pictures were made; file: its place in the report. Pictures of neurons are not
    features'.
    """
    table = tables.table("visualise", "pictures")
    if table is None:
        return None
    columns = ("file", "kind", "branch", "number", "reached", "best", "above", "steps", "size")
    grouped = GroupedRows(table, tables.features, columns)
    return [
        [
            {**row, "file": picture_place(tables.source.name, row["file"])}
            for row in grouped.rows(feature)
            if row["kind"] != "neuron"
        ]
        for feature in range(tables.features)
    ]


def picture_place(layer: str, file: str) -> str:
    """Where a picture of a layer lies in the report: by its file name alone."""
    return f"pictures/{layer}/{PurePosixPath(file).name}"
