"""Pictures on disk and what is known of each: a folder that grows, and keeps what it has.

`pictures.parquet` has one row a picture, with the SHA-256 of its file and the id of the settings
that it was made with. A picture is kept if its row has the settings asked for and its file is the
very one; it is made again otherwise. Files are written before the table, so that a kill leaves at
most pictures without a row, which are then made again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from isae.analysis.arrays import U8
from isae.analysis.outputs import write_table
from isae.analysis.visualise.targets import Objective, Picture
from isae.errors import RunError
from isae.files import sha256, write_bytes

PICTURES, TABLE = "pictures", "pictures.parquet"


@dataclass(frozen=True)
class Record:
    """One picture. `unit`: a neuron of the kind neuron, else a feature; `branch`: the one that is
    driven for the kind branch, else that of most decoder energy (of a neuron: its own).

    reached, best, start: the activation at the picture as saved, the largest of the data, and that
    at the noise from which it began; for features and sets TopK codes, for neurons activations, for
    the kind branch that branch's part of the pre-activation. above: reached > best. drive,
    best_drive: the same two for the linear function that was maximised (pre-activations); code:
    the feature's TopK code (NaN for neurons); kept: whether TopK keeps the feature. best_rows:
    rows that were read for `best`. seconds: wall-clock time of its batch over its pictures.
    """

    unit: int
    kind: str
    branch: str
    number: int
    file: str
    reached: float
    best: float
    start: float
    above: bool
    drive: float
    best_drive: float
    code: float
    kept: bool
    best_rows: int
    steps: int
    size: int
    seconds: float
    settings: str
    sha256: str

    @property
    def picture(self) -> Picture:
        """Which picture this is."""
        named = self.branch if self.kind == "branch" else ""
        return Picture(Objective(self.kind, self.unit, named), self.number)


def settings_id(settings: dict[str, Any]) -> str:
    """A short name of settings, the same for the same ones."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def save_picture(pixels_HW3: U8, path: Path) -> tuple[U8, str]:
    """Write a PNG -> (its pixels as any reader sees them, the SHA-256 of the file)."""
    held = io.BytesIO()
    Image.fromarray(pixels_HW3).save(held, "PNG")
    write_bytes(path, held.getvalue())
    with Image.open(path) as image:
        return np.array(image.convert("RGB")), sha256(path)


def write_records(records: Iterable[Record], folder: Path) -> None:
    """pictures.parquet, ordered by kind, unit, branch and number."""
    ordered = sorted(records, key=lambda one: (one.kind, one.unit, one.branch, one.number))
    columns: dict[str, Any] = {
        _column(field.name): pa.array(
            [getattr(one, field.name) for one in ordered], _TYPES[field.type]
        )
        for field in fields(Record)
    }
    write_table(pa.table(columns), folder / PICTURES, csv=False)


def read_records(folder: Path) -> list[Record]:
    """The rows of pictures.parquet; none where it is not there.

    Raises RunError for a file that is no such table.
    """
    path = folder / TABLE
    if not path.is_file():
        return []
    try:
        rows = pq.read_table(path).to_pylist()
        return [
            Record(**{field.name: row[_column(field.name)] for field in fields(Record)})
            for row in rows
        ]
    except (pa.ArrowInvalid, KeyError) as error:
        raise RunError(
            f"expected the table of pictures in {path}, found {error}; remove it, or begin anew "
            "with --overwrite"
        ) from error


def is_whole(record: Record, folder: Path) -> bool:
    """Whether the picture's file is there and is the one that was written."""
    path = folder / record.file
    return path.is_file() and sha256(path) == record.sha256


_TYPES: dict[Any, pa.DataType] = {
    "int": pa.int32(), "float": pa.float32(), "bool": pa.bool_(), "str": pa.string(),
}  # fmt: skip


def _column(name: str) -> str:
    return "feature" if name == "unit" else name
