"""What the page of each feature shows, in scripts of 64 features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isae.analysis.arrays import F64
from isae.analysis.layers.correlation import Tops
from isae.analysis.report.density_rows import Densities
from isae.analysis.report.label_rows import label_lists
from isae.analysis.report.match_rows import match_lists
from isae.analysis.report.patch_rows import CellPlaces, PatchRows, picture_lists
from isae.analysis.report.profiles import Histograms
from isae.analysis.report.scripts import BLOCK, details_name, write_script
from isae.analysis.report.tables import FeatureTable, RunTables
from isae.analysis.report.tuning_rows import TuningRows

DIGITS = 6
"""Significant digits of the numbers on a feature's page."""


def write_details(
    folder: Path,
    tables: RunTables,
    branches: Mapping[str, tuple[int, int]],
    neighbours: Tops,
    histograms: Histograms | None,
    names: Mapping[str, str],
    places: CellPlaces,
) -> None:
    """Write data/details/LAYER/0.js and so on.

    branches: channel ranges of the layer's branches; neighbours: nearest decoder rows; names:
    {layer: name in the report} of the layers it is compared with; places: of the layer's cells.
    """
    page = FeaturePages(tables, branches, neighbours, histograms, names, places)
    for block in range(-(-tables.features // BLOCK)):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, tables.features)
        pages = [page.of(feature) for feature in range(start, stop)]
        write_script(folder, details_name(tables.source.name, block), pages)


class FeaturePages:
    """Everything known of the features of a layer, each by its number."""

    def __init__(
        self,
        tables: RunTables,
        branches: Mapping[str, tuple[int, int]],
        neighbours: Tops,
        histograms: Histograms | None,
        names: Mapping[str, str],
        places: CellPlaces,
    ) -> None:
        self.features = tables.by_feature("branches", "features")
        self.branches = _branch_numbers(self.features, branches)
        self.tuning = TuningRows(tables)
        self.neighbours, self.densities = neighbours, Densities(tables, histograms)
        self.matches = match_lists(tables, names) if tables.has("layers") else None
        self.labels = label_lists(tables)
        self.patches = PatchRows(tables, places)
        self.pictures = picture_lists(tables)

    def of(self, feature: int) -> dict[str, Any]:
        """One feature; what is not known is None."""
        return {
            "feature": feature,
            "patches": self.patches.of(feature),
            "branches": None
            if self.branches is None
            else [_branch(name, one, feature) for name, one in self.branches.items()],
            "tuning": self.tuning.of(feature),
            "neighbours": self._neighbours(feature),
            "matches": None if self.matches is None else self.matches[feature],
            "labels": None if self.labels is None else self.labels[feature],
            "pictures": None if self.pictures is None else self.pictures[feature],
            "density": self.densities.of(feature),
        }

    def _neighbours(self, feature: int) -> list[dict[str, Any]]:
        found = zip(
            self.neighbours.feature_NK[feature].tolist(),
            self.neighbours.r_NK[feature].tolist(),
            strict=True,
        )
        return [{"feature": other, "cosine": short(r)} for other, r in found if other >= 0]


def short(value: float) -> float | None:
    """A number with six significant digits; None for NaN."""
    return None if np.isnan(value) else float(f"{value:.{DIGITS}g}")


def _branch_numbers(
    table: FeatureTable | None, branches: Mapping[str, tuple[int, int]]
) -> dict[str, dict[str, F64 | float]] | None:
    """Per branch the numbers of its bar; None where the analysis is not there."""
    if table is None or not branches:
        return None
    channels = sum(stop - start for start, stop in branches.values())
    alive_N = table.numbers("alive") == 1
    columns = {
        "energy": "share_decoder", "scaled": "share_spread", "causal": "causal_other_share",
        "q": "q_both",
    }  # fmt: skip
    return {
        name: {
            "expected": (stop - start) / channels,
            **{
                key: np.where(alive_N, table.numbers_if_any(f"{column}_{name}"), np.nan)
                for key, column in columns.items()
            },
        }
        for name, (start, stop) in branches.items()
    }


def _branch(name: str, one: Mapping[str, F64 | float], feature: int) -> dict[str, Any]:
    return {
        "name": name,
        **{
            key: short(value if isinstance(value, float) else value[feature])
            for key, value in one.items()
        },
    }
