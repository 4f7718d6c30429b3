"""Columns of what features prefer of the stimuli: kind, angle and selectivity by family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isae.analysis.arrays import I64, Bools
from isae.analysis.report.scripts import category_column, number_column
from isae.analysis.report.tables import FeatureTable, RunTables
from isae.analysis.tuning.findings import PERIOD_NAMES
from isae.analysis.tuning.radial import HARMONICS
from isae.analysis.tuning.stimuli import PERIODS


def tuning_columns(tables: RunTables) -> list[dict[str, Any]]:
    """Three columns a family of oriented stimuli, and the families that a feature is tuned to."""
    table = tables.by_feature("tuning", "features")
    if table is None:
        return []
    families = [
        name.removesuffix("_look") for name in table.table.column_names if name.endswith("_look")
    ]
    clear = {family: table.numbers(f"{family}_clear") == 1 for family in families}
    joined = [
        ";".join(family for family in families if clear[family][i]) or None
        for i in range(len(table.row_N))
    ]
    columns = [
        category_column(
            "tuned_to", "tuned to",
            "Families of stimuli to whose angle it is tuned without doubt, joined by ';'.", joined,
        )
    ]  # fmt: skip
    for family in families:
        columns += _family(table, family, clear[family])
    return columns


def _family(table: FeatureTable, family: str, clear_N: Bools) -> list[dict[str, Any]]:
    by = [
        kind if clear else None
        for kind, clear in zip(table.texts(f"{family}_by"), clear_N, strict=True)
    ]
    harmonic_N = _harmonic(by, family)
    selectivity_NM = np.stack([table.numbers(f"{family}_selectivity_{m}") for m in HARMONICS], 1)
    own_N = selectivity_NM[np.arange(len(by)), np.maximum(harmonic_N, 1) - 1]
    angle_N = np.where(harmonic_N == 1, table.numbers(f"{family}_vector"), np.nan)
    return [
        category_column(
            f"{family}_by", f"{family}: tuned by",
            "Direction (period 360 degrees), axis (180) or cross (90); 'none': not tuned without "
            "doubt.",
            by,
        ),
        number_column(
            f"{family}_angle", f"{family}: angle", "degrees",
            "Preferred angle where tuned without doubt, counter-clockwise from the right, by the "
            "harmonic that it counts with.",
            np.where(harmonic_N == 2, table.numbers(f"{family}_axis"), angle_N),
        ),
        number_column(
            f"{family}_selectivity", f"{family}: selectivity", "",
            "Length of the harmonic that it is tuned by over the curve's sum; untuned: the larger.",
            np.where(harmonic_N > 0, own_N, np.fmax.reduce(selectivity_NM, axis=1)),
        ),
    ]  # fmt: skip


def _harmonic(by: Sequence[str | None], family: str) -> I64:
    """The harmonic that each feature counts with, by its kind and the family's period; 0: none."""
    of_kind = {PERIOD_NAMES[PERIODS[family] // m]: m for m in HARMONICS}
    return np.array([of_kind.get(kind or "", 0) for kind in by], dtype=np.int64)
