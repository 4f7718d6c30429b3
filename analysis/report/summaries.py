"""Summaries of analyses that may not be there, and folders as they were recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isae.analysis.outputs import SUMMARY
from isae.errors import DataError


def read_summary(folder: Path) -> dict[str, Any] | None:
    """An analysis' summary.json, None where there is none. Raises DataError for a damaged one."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(
            f"expected JSON in {path}, found damage ({error}); make the analysis again with "
            "--overwrite"
        ) from error
    return found if isinstance(found, dict) else None


def same_place(recorded: str | None, path: Path) -> bool:
    """Whether a recorded folder is this one."""
    return recorded is not None and Path(recorded).resolve() == path.resolve()
