"""Patches and pictures of each feature, as its page shows them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from isae.analysis.report.grouped import GroupedRows
from isae.analysis.report.scripts import BLOCK
from isae.analysis.report.tables import RunTables
from isae.analysis.visualise.config import NEURON
from isae.inception import LayerInfo

_PLAIN = ("tile", "group", "value", "quantile", "name", "label", "split", "y", "x", "border")
_MORE = ("left", "top", "right", "bottom", "shown")
_HEAT = {
    "rows": "heat_rows", "columns": "heat_columns", "top": "heat_top", "left": "heat_left",
    "values": "heat",
}  # fmt: skip


@dataclass(frozen=True)
class CellPlaces:
    """Where the cells of a layer's map are centred in the picture as the network saw it, in pixels.

    first: the centre of cell 0 along each axis; cell c is centred at first + stride * c.
    """

    first: float
    stride: int

    @staticmethod
    def of(info: LayerInfo, size: int) -> CellPlaces:
        """Those of a layer for square pictures of `size` pixels."""
        start, stop = info.window(0, size)
        return CellPlaces((start + stop) / 2, info.stride)

    def span(self, cell: int, cells: int, start: int, stop: int) -> tuple[float, float]:
        """Both ends of `cells` cells from `cell` on, as parts of the patch [start, stop) of pixels.

        A cell reaches half a stride to both sides of its centre; ends may lie outside 0 to 1.
        """
        low = self.first + self.stride * (cell - 0.5)
        ends = (low, low + self.stride * cells)
        first, last = (round((end - start) / (stop - start), 4) for end in ends)
        return first, last


class PatchRows:
    """Where the patches of each feature lie in its sheet, and what it does there."""

    def __init__(self, tables: RunTables, places: CellPlaces) -> None:
        self._places = places
        table = tables.table("visualise", "patches")
        self._rows: GroupedRows | None = None
        if table is not None:
            columns = (*_PLAIN, *_MORE, *_HEAT.values())
            self._rows = GroupedRows(table, tables.features, columns)
            summary = tables.summaries["visualise"]
            self._tile, self._tiles = summary.get("tile"), summary.get("tiles")
            sheets = tables.source.analysis("visualise") / "sheets"
            self._sheets = {
                int(sheet.stem): f"sheets/{tables.source.name}/{sheet.name}"
                for sheet in sheets.glob("*.jpg")
                if sheet.stem.isdigit()
            }

    def of(self, feature: int) -> dict[str, Any] | None:
        """{tile, tiles, sheet, row, entries} of one feature; None where there are no patches.

        sheet: None where patches were found but their pictures were not cut.
        """
        if self._rows is None:
            return None
        return {
            "tile": self._tile,
            "tiles": self._tiles,
            "sheet": self._sheets.get(feature // BLOCK),
            "row": feature % BLOCK,
            "entries": [self._entry(row) for row in self._rows.rows(feature)],
        }

    def _entry(self, row: dict[str, Any]) -> dict[str, Any]:
        """One patch; heat.box: its cells (left, top, right, bottom) as parts of the tile's side;
        heat.values: a list, or base64 of bytes where every cell has a value.
        """
        plain = {name: row[name] for name in (*_PLAIN, *_MORE) if name in row}
        heat = {name: row[column] for name, column in _HEAT.items()}
        if heat["values"] and None not in heat["values"]:  # a third of a list's size
            heat["values"] = base64.b64encode(bytes(heat["values"])).decode()
        across = self._places.span(heat["left"], heat["columns"], row["left"], row["right"])
        down = self._places.span(heat["top"], heat["rows"], row["top"], row["bottom"])
        box = [across[0], down[0], across[1], down[1]]
        return plain | {"heat": heat | {"box": box}}


def picture_lists(tables: RunTables) -> list[list[dict[str, Any]]] | None:
    """[{file, kind, branch, number, reached, best, above}] of every feature.

    None where no pictures were made; file: its place in the report.
    """
    table = feature_pictures(tables)
    if table is None:
        return None
    columns = (
        "file", "kind", "branch", "number", "reached", "best", "start", "above", "steps", "size",
    )  # fmt: skip
    grouped = GroupedRows(table, tables.features, columns)
    return [
        [
            {**row, "file": picture_place(tables.source.name, row["file"])}
            for row in grouped.rows(feature)
        ]
        for feature in range(tables.features)
    ]


def feature_pictures(tables: RunTables) -> pa.Table | None:
    """visualise/pictures without those of neurons, with the column 'feature'."""
    table = tables.table("visualise", "pictures")
    if table is None:
        return None
    table = table.filter(pc.field("kind") != NEURON)
    return table.rename_columns(["feature" if n == "unit" else n for n in table.column_names])


def picture_place(layer: str, file: str) -> str:
    """Where a picture of a layer lies in the report: by its file name alone."""
    return f"pictures/{layer}/{PurePosixPath(file).name}"
