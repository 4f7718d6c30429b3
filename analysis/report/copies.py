"""Files that a report takes over: its pages, and the sheets and pictures of each layer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from isae.analysis.report.patch_rows import picture_place
from isae.analysis.report.tables import RunTables
from isae.errors import DataError

STATIC = Path(__file__).with_name("static")
INDEX = "index.html"


def copy_pages(folder: Path) -> None:
    """index.html to the folder, whatever else the pages need to FOLDER/app."""
    (folder / "app").mkdir()
    for path in sorted(STATIC.iterdir()):
        if path.is_file():
            shutil.copyfile(
                path, folder / path.name if path.name == INDEX else folder / "app" / path.name
            )


def link_images(tables: RunTables, folder: Path) -> int:
    """Sheets to sheets/LAYER, pictures to pictures/LAYER -> how many files.

    Linked where the file system allows it, so that they take no room, else copied. Raises
    DataError for a picture that is in the table but not in the folder.
    """
    visualise, layer = tables.source.analysis("visualise"), tables.source.name
    if not tables.has("visualise"):
        return 0
    count = 0
    for sheet in sorted((visualise / "sheets").glob("*.jpg")):
        link(sheet, folder / "sheets" / layer / sheet.name)
        count += 1
    if tables.table("visualise", "pictures") is None:
        return count
    table = pq.read_table(visualise / "pictures.parquet", columns=["file"])
    for file in dict.fromkeys(table["file"].to_pylist()):
        found = [visualise / file, visualise / "pictures" / Path(file).name]
        there = next((path for path in found if path.is_file()), None)
        if there is None:
            raise DataError(
                f"expected the picture '{file}' in {visualise}, found none; make it again with "
                f"isae-analyze visualise '{tables.source.run}'"
            )
        link(there, folder / picture_place(layer, file))
        count += 1
    return count


def link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where that cannot be (another disk)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
