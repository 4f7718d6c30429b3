"""The tables that the analyses of one run wrote, read once and lined up by feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isae.analysis.arrays import F64, I64
from isae.analysis.report.compared import (
    Control,
    SaeCheck,
    check_layers,
    check_seeds,
    control_of,
)
from isae.analysis.report.sources import Source
from isae.analysis.report.summaries import read_summary, same_place
from isae.errors import DataError

ANALYSES = ("branches", "tuning", "curves", "layers", "stability", "label", "visualise")
"""What a page of a feature shows, each made by the command of its name."""


@dataclass(frozen=True)
class FeatureTable:
    """One row per feature, in order; features that a table leaves out are null.

    row_N: row of the table of each feature, -1 for none; path: where the table lies.
    """

    table: pa.Table
    row_N: I64
    path: Path

    def __contains__(self, name: str) -> bool:
        """Whether the table has such a column."""
        return name in self.table.column_names

    def numbers(self, name: str) -> F64:
        """A column as float64 [N]; NaN where null or infinite. Raises DataError without it."""
        found_N = np.full(len(self.row_N), np.nan)
        column = pc.cast(self._column(name), pa.float64())
        values = column.to_numpy(zero_copy_only=False).astype(np.float64)
        has = self.row_N >= 0
        found_N[has] = values[self.row_N[has]]
        found_N[~np.isfinite(found_N)] = np.nan
        return found_N

    def numbers_if_any(self, name: str) -> F64:
        """`numbers`, or all NaN where a part of the analysis was left out with its columns."""
        return self.numbers(name) if name in self else np.full(len(self.row_N), np.nan)

    def texts(self, name: str) -> list[str | None]:
        """A column as texts, None where null. Raises DataError without it."""
        values = self._column(name).to_pylist()
        return [None if row < 0 or values[row] is None else str(values[row]) for row in self.row_N]

    def flags(self, name: str) -> list[str | None]:
        """A column of truth values as 'yes' and 'no', None where null."""
        words = {1.0: "yes", 0.0: "no"}
        return [words.get(value) for value in self.numbers(name).tolist()]

    def _column(self, name: str) -> pa.ChunkedArray:
        if name not in self:
            raise DataError(
                f"expected the column '{name}' in {self.path}, found none; the analysis is of "
                "another version of isae: make it again with --overwrite"
            )
        return self.table[name]


class RunTables:
    """What is there of one run's analyses. `features`: how many the SAE has.

    content_id: of the run's store; analyses of another store are not there, but in `foreign`;
    comparisons of layers and seeds with older SAEs are not there either (`checks`).
    """

    def __init__(self, source: Source, features: int, content_id: str) -> None:
        self.source, self.features, self.content_id = source, features, content_id
        self._tables: dict[tuple[str, str], pa.Table | None] = {}

    @cached_property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """summary.json of every analysis that is there."""
        older = {name for name, check in self.checks.items() if check.anew}
        return {
            name: one
            for name, one in self._found.items()
            if name not in older and not self._is_foreign(one)
        }

    @property
    def foreign(self) -> list[str]:
        """Analyses in the run's folders that were made on another store than the run's."""
        return [name for name, one in self._found.items() if self._is_foreign(one)]

    @cached_property
    def checks(self) -> dict[str, SaeCheck]:
        """Whether 'layers' and 'stability' are of today's SAEs, where they are of this store."""
        return {
            name: check(self._found[name], self.source.net)
            for name, check in (("layers", check_layers), ("stability", check_seeds))
            if name in self._found and not self._is_foreign(self._found[name])
        }

    @cached_property
    def _found(self) -> dict[str, dict[str, Any]]:
        """summary.json of every analysis in the run's folders that is of this layer."""
        read = {name: read_summary(self.source.analysis(name)) for name in ANALYSES}
        return {
            name: one for name, one in read.items() if one is not None and self._is_of(name, one)
        }

    @cached_property
    def control(self) -> Control:
        """The comparison of the untrained network's layers, beside that of these."""
        return control_of(self.summaries.get("layers"), self.source.untrained_net)

    def has(self, analysis: str) -> bool:
        """Whether an analysis is there."""
        return analysis in self.summaries

    def table(self, analysis: str, name: str) -> pa.Table | None:
        """ANALYSIS/NAME.parquet, or None where the analysis or the table is not there."""
        if (analysis, name) not in self._tables:
            path = self.source.analysis(analysis) / f"{name}.parquet"
            there = self.has(analysis) and path.is_file()
            self._tables[analysis, name] = _read_table(path) if there else None
        return self._tables[analysis, name]

    def by_feature(self, analysis: str, name: str) -> FeatureTable | None:
        """A table of one row a feature, lined up. Raises DataError for other numbers than 0 to N-1.

        Of the comparison of seeds: the rows of this run.
        """
        table = self.table(analysis, name)
        if table is None:
            return None
        if analysis == "stability":
            table = table.filter(pc.field("run") == self.stability_run)
        return lined_up(table, self.features, self.source.analysis(analysis) / name)

    def forget(self) -> None:
        """Let go of the tables that were read."""
        self._tables.clear()

    @cached_property
    def stability_run(self) -> int:
        """The run's place among the runs that the comparison of seeds is of, -1 for none."""
        runs = self.summaries.get("stability", {}).get("runs", [])
        here = [i for i, one in enumerate(runs) if same_place(one.get("run"), self.source.run)]
        seeds = [i for i, one in enumerate(runs) if one.get("seed") == self.source.seed]
        chosen = here or seeds
        return chosen[0] if len(chosen) == 1 else -1

    def _is_foreign(self, summary: Mapping[str, Any]) -> bool:
        """Whether a summary states another store."""
        stated = (summary.get("store") or {}).get("content_id")
        return stated is not None and stated != self.content_id

    def _is_of(self, name: str, summary: Mapping[str, Any]) -> bool:
        """Whether a comparison of layers is of this layer; the other folders are the run's own."""
        if name == "layers":
            return self.source.layer in summary.get("layers", {})
        if name == "stability":
            return bool(summary.get("layer") == self.source.layer)
        return True


def lined_up(table: pa.Table, features: int, where: Path) -> FeatureTable:
    """A table with the column 'feature', at most one row of each -> FeatureTable.

    Raises DataError for numbers outside 0 to features - 1, and for a feature that comes twice.
    """
    number = table["feature"].to_numpy().astype(np.int64)
    row_N = np.full(features, -1, dtype=np.int64)
    inside = (number >= 0) & (number < features)
    if not inside.all() or len(np.unique(number)) < len(number):
        raise DataError(
            f"expected features 0 to {features - 1:,} at most once each in {where}, found others; "
            "the analysis is of another run: make it again with --overwrite"
        )
    row_N[number] = np.arange(len(number))
    return FeatureTable(table, row_N, where)


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"expected a Parquet table in {path}, found damage ({error}); make the analysis again "
            "with --overwrite"
        ) from error
