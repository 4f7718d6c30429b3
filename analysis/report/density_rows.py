"""How often and how strongly each feature fires, as its page draws it."""

from __future__ import annotations

from typing import Any

import numpy as np

from isae.analysis.report.profiles import Histograms
from isae.analysis.report.scripts import rounded
from isae.analysis.report.tables import FeatureTable, RunTables

_FIRING = {"rate": "firing_rate", "mean": "mean_activation", "max": "max_activation"}


class Densities:
    """Rate, mean and largest activation of the branches analysis, else of the patches'.

    The histogram is that of the map's images (bins of half an octave), else that of the patches'
    (equal bins from 0 to the largest). `rows`: rows that rate, mean and max are of; `places`: those
    of the histogram.
    """

    def __init__(self, tables: RunTables, histograms: Histograms | None) -> None:
        self._histograms = histograms
        self._drawn = tables.by_feature("visualise", "densities")
        self._numbers: dict[str, Any] = {}
        branches = tables.by_feature("branches", "features")
        if branches is not None:
            rows = tables.summaries["branches"]["images"]["rows_read"]
            self._take(branches, _FIRING, np.full(tables.features, rows))
        elif self._drawn is not None:
            self._take(self._drawn, {name: name for name in _FIRING}, self._drawn.numbers("places"))
        self._counts = None
        if histograms is None and self._drawn is not None and "counts" in self._drawn:
            self._counts = self._drawn.table["counts"].combine_chunks()

    def _take(self, table: FeatureTable, names: dict[str, str], rows_N: Any) -> None:
        numbers = {name: table.numbers(column) for name, column in names.items()}
        self._numbers = numbers | {"rows": rows_N.astype(np.float64)}

    def of(self, feature: int) -> dict[str, Any] | None:
        """{rate, mean, max, rows, edges, counts, places} of one feature; None without any."""
        known: dict[str, Any] = {
            name: rounded(values_N[feature], 6)[0] for name, values_N in self._numbers.items()
        }
        if self._histograms is not None:
            known |= self._histograms.of(feature)
        elif self._counts is not None and self._drawn is not None:
            known |= self._stored(self._drawn, feature)
        return known or None

    def _stored(self, table: FeatureTable, feature: int) -> dict[str, Any]:
        row = int(table.row_N[feature])
        counts = [] if row < 0 or self._counts is None else self._counts[row].as_py() or []
        largest = table.table["max"][row].as_py() if row >= 0 else None
        if not counts or not largest:
            return {"edges": [], "counts": []}
        edges = np.linspace(0.0, largest, len(counts) + 1)
        return {
            "edges": rounded(edges, 6),
            "counts": counts,
            "places": table.table["places"][row].as_py(),
        }
