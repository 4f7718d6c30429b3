"""The folder of `isae-analyze visualise`: it grows, as long as it is of one dictionary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isae.analysis.outputs import SUMMARY, check_out
from isae.analysis.visualise.records import Record, is_whole, read_records
from isae.analysis.visualise.targets import Picture
from isae.errors import RunError

ANALYSIS = "visualise"


def open_folder(out: Path, made_of: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Make the folder, or go on in it -> the summary that is there, {} for a new one.

    made_of: what identifies dictionary, store and network; overwrite: begin anew, deleting what is
    there. Raises RunError for a folder of something else, or of another dictionary.
    """
    check_out(out, ANALYSIS, True)
    earlier: dict[str, Any] = {}
    if (out / SUMMARY).is_file():
        earlier = json.loads((out / SUMMARY).read_text())
    if earlier and overwrite:
        # The summary goes last: without it a killed deletion would be somebody else's folder.
        for path in sorted(out.iterdir(), key=lambda path: path.name == SUMMARY):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        earlier = {}
    if earlier and earlier.get("made_of") != made_of:
        raise RunError(
            f"expected pictures of this run's dictionary in {out}, found those of another one, or "
            "of the same one on another store or network; choose another --out, or begin anew "
            "with --overwrite"
        )
    out.mkdir(parents=True, exist_ok=True)
    return earlier


def split_wanted(
    wanted: Sequence[Picture], settings: dict[str, str], out: Path
) -> tuple[list[Picture], list[Record]]:
    """(pictures that are to be made, records of all pictures that stay as they are).

    settings: the settings' id of each kind. Pictures of a set are made together: where one is
    missing, all are. Records of a set of other settings give way to the new ones. A picture whose
    file is not what was written does not stay, wanted or not.
    """
    held = {one.picture: one for one in read_records(out) if is_whole(one, out)}
    lacking = {
        one.objective
        for one in wanted
        if one not in held or held[one].settings != settings[one.objective.kind]
    }
    missing = [one for one in wanted if one.objective in lacking]
    return missing, [one for picture, one in held.items() if picture.objective not in lacking]


def drop_strays(records: Sequence[Record], out: Path, folder: str) -> None:
    """Delete pictures that no record names."""
    named = {one.file for one in records}
    for path in sorted((out / folder).glob("*.png")):
        if f"{folder}/{path.name}" not in named:
            path.unlink()
