"""Curves of each feature's answers to stimuli, as they are drawn on its page."""

from __future__ import annotations

from typing import Any

import numpy as np

from isae.analysis.report.grouped import GroupedRows
from isae.analysis.report.scripts import rounded
from isae.analysis.report.tables import RunTables


class TuningRows:
    """The curves of a run's features; of those that answer to nothing an empty list."""

    def __init__(self, tables: RunTables) -> None:
        self._tuning = _grouped(
            tables, "tuning", "family", "period", "look", "curve", "radii", "radius_curve"
        )
        self._curves = _grouped(tables, "curves", "curve")

    def of(self, feature: int) -> list[dict[str, Any]] | None:
        """[{name, unit, x, y}] of one feature; None where neither analysis is there."""
        if self._tuning is None and self._curves is None:
            return None
        found: list[dict[str, Any]] = []
        for row in self._tuning.rows(feature) if self._tuning else ():
            found += _family(row)
        for row in self._curves.rows(feature) if self._curves else ():
            found.append(_turned("arcs of the criterion for curves", 360.0, row["curve"]))
        return found


def _grouped(tables: RunTables, analysis: str, *columns: str) -> GroupedRows | None:
    table = tables.table(analysis, "feature_curves")
    return None if table is None else GroupedRows(table, tables.features, columns)


def _family(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The curve over angles of the strongest look, and of arcs the curve over radii.

    An infinite radius is a straight stroke: no place on an axis of radii, so it stands in the name.
    """
    look = f", {row['look']}" if row["look"] else ""
    curves = [_turned(f"{row['family']}{look}", row["period"], row["curve"])]
    points = list(zip(row["radii"], row["radius_curve"], strict=True))
    bent = [point for point in points if point[0] is not None]
    straight = [f" (straight: {y:g})" for x, y in points if x is None and y is not None]
    if bent:
        curves.append(
            {
                "name": f"{row['family']}, by radius at its best angle{''.join(straight)}",
                "unit": "pixels",
                "x": [x for x, _ in bent],
                "y": [y for _, y in bent],
            }
        )
    return curves


def _turned(name: str, period: float, curve: list[float]) -> dict[str, Any]:
    angle_A = np.arange(len(curve)) * period / len(curve)
    return {"name": name, "unit": "degrees", "x": rounded(angle_A), "y": curve}
