"""The folder that an analysis writes: when it may be made or replaced, and its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from isae.errors import RunError
from isae.files import atomic_path

SUMMARY = "summary.json"


def check_out(out: Path, analysis: str, overwrite: bool) -> None:
    """Raise RunError unless `out` is free, or holds an earlier `analysis` and `overwrite` is set.

    The working directory and the folders above it are refused: `out` is replaced as a whole.
    """
    here = Path.cwd()
    if out.resolve() in (here, *here.parents):
        raise RunError(
            f"expected --out to be a folder that can be replaced as a whole, found '{out}', in "
            f"which this command runs; give a folder below it, such as --out {analysis}"
        )
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not _holds(out, analysis)):
        raise RunError(
            f"expected {out} to be absent, empty or an earlier analysis of '{analysis}', found "
            "something else; choose another --out (nothing was deleted)"
        )
    if any(out.iterdir()) and not overwrite:
        raise RunError(
            f"expected no analysis in {out}, found one; choose another --out, or replace it with "
            "--overwrite"
        )


def write_table(table: pa.Table, stem: Path, *, csv: bool = True) -> None:
    """STEM.parquet, and STEM.csv unless the table has lists, each atomically."""
    with atomic_path(stem.with_suffix(".parquet")) as path:
        pq.write_table(table, path, compression="zstd")
    if csv:
        with atomic_path(stem.with_suffix(".csv")) as path:
            pa_csv.write_csv(table, path)


def _holds(out: Path, analysis: str) -> bool:
    try:
        found = json.loads((out / SUMMARY).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("analysis") == analysis
