"""Where an analysis is written: a folder that is replaced as a whole, and only where it may be."""

from __future__ import annotations

import json
from pathlib import Path

from isae.errors import RunError

SUMMARY = "summary.json"


def check_out(out: Path, analysis: str, overwrite: bool) -> None:
    """Raise RunError unless `out` is absent, empty, or an analysis of this kind to overwrite.

    Also for the working directory and the folders above it, since `out` is replaced.
    """
    here = Path.cwd()
    if out.resolve() in (here, *here.parents):
        raise RunError(
            f"expected --out to be a folder that can be replaced as a whole, found '{out}', in "
            f"which this command runs; give a folder below it, such as --out {analysis}"
        )
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not _is_ours(out, analysis)):
        raise RunError(
            f"expected {out} to be absent, empty or an earlier analysis of '{analysis}', found "
            "something else; choose another --out (nothing was deleted)"
        )
    if any(out.iterdir()) and not overwrite:
        raise RunError(
            f"expected no analysis in {out}, found one; choose another --out, or replace it with "
            "--overwrite"
        )


def _is_ours(out: Path, analysis: str) -> bool:
    try:
        found = json.loads((out / SUMMARY).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("analysis") == analysis
