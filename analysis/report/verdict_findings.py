"""The verdicts of a study, trained against untrained, for the report's first page."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from isae.analysis.report.findings import Finding, finding, number, share_text
from isae.analysis.report.summaries import read_summary
from isae.analysis.study.figures import figure_stem
from isae.analysis.study.layout import FINDINGS, Study
from isae.analysis.study.verdicts import LESS, MORE, SAME, UNKNOWN

_COLUMNS = ("layer", "of", "trained (seeds)", "untrained (networks)", "difference", "95 % interval",
            "verdict")  # fmt: skip


def verdict_findings(studies: Sequence[Study], folder: Path) -> list[Finding]:
    """One finding a headline number of each study with verdicts; figures go to FOLDER/figures."""
    found = []
    for place, study in enumerate(studies):
        path = study.path / FINDINGS / "verdicts.parquet"
        if path.is_file():
            summary = read_summary(study.path / FINDINGS) or {}
            found += _of_study(
                study, pq.read_table(path).to_pylist(), summary, folder / "figures" / str(place)
            )
    return found


def _of_study(
    study: Study, rows: list[dict[str, Any]], summary: dict[str, Any], folder: Path
) -> list[Finding]:
    found = []
    for analysis, measure in dict.fromkeys((row["analysis"], row["number"]) for row in rows):
        mine = [row for row in rows if (row["analysis"], row["number"]) == (analysis, measure)]
        counts = {
            word: sum(row["verdict"] == word for row in mine)
            for word in (MORE, LESS, SAME, UNKNOWN)
        }
        one = finding(
            f"Trained against untrained: {measure} ({analysis})",
            f"{share_text(counts)}, of {len(mine):,} numbers. Null: {summary.get('null', '')}. "
            f"Correction: {summary.get('correction', '')}. 'not judged': too few seeds or networks "
            "for a spread.",
            _COLUMNS,
            [_row(row) for row in mine],
        )
        one["figure"] = _figure(study, analysis, measure, folder)
        found.append(one)
    return found


def _row(row: dict[str, Any]) -> list[Any]:
    return [
        row["where"], row["part"],
        f"{number(row['trained'], 4)} ({row['trained_n']})",
        f"{number(row['untrained'], 4)} ({row['untrained_n']})",
        number(row["difference"], 4),
        "-" if math.isnan(row["low"]) else f"{number(row['low'], 4)} to {number(row['high'], 4)}",
        row["verdict"],
    ]  # fmt: skip


def _figure(study: Study, analysis: str, measure: str, folder: Path) -> str | None:
    """Copy the study's figure of this number, if there is one -> its place in the report."""
    drawn = study.path / FINDINGS / "figures" / f"{figure_stem(analysis, measure)}.png"
    if not drawn.is_file():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(drawn, folder / drawn.name)
    return f"figures/{folder.name}/{drawn.name}"
