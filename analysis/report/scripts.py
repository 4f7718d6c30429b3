"""The data of a report as scripts: `isae.take(NAME, VALUE);`, which pages load without a server.

A page opened from disk may not fetch files, but it may add <script> tags. VALUE is JSON that is
also safe inside a page: no '<', no line separators, NaN and infinity as null. Long columns are
base64 of little-endian arrays, which a page turns into a typed array at once.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.errors import DataError
from isae.files import write_bytes

BLOCK = 64
"""Features in one script of details, and in one sheet of patches."""
NO_PLACE = 65535
"""x and y of a feature that is not on the map."""
NONE = "none"
"""Name of a category's value where there is none."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_MOST_NAMES = 65536


def encode(values: npt.NDArray[Any], dtype: str) -> str:
    """Base64 of an array's bytes as '<f4', '<u2' or '<u1' (little-endian, C order).

    Raises DataError where a whole number does not fit into the type.
    """
    wanted = np.dtype(dtype)
    if wanted.kind == "u" and values.size:
        low, high = values.min(), values.max()
        if low < 0 or high > np.iinfo(wanted).max:
            raise DataError(
                f"expected whole numbers from 0 to {np.iinfo(wanted).max:,}, found {low} to "
                f"{high}; this is a defect of isae: please report it"
            )
    return base64.b64encode(np.ascontiguousarray(values, dtype=wanted).tobytes()).decode()


def number_column(
    name: str, title: str, unit: str, help_text: str, values_N: npt.NDArray[Any]
) -> dict[str, Any]:
    """A column of numbers, float32 [N]; NaN: none."""
    return _column(name, title, unit, help_text, "number") | {"values": encode(values_N, "<f4")}


def category_column(
    name: str, title: str, help_text: str, values: Sequence[str | None]
) -> dict[str, Any]:
    """A column of few different texts, as numbers uint16 [N] into `names`, in order of first use.

    None and '' become the name 'none'. Raises DataError for more than 65,536 different texts.
    """
    number_of: dict[str, int] = {}
    codes = [number_of.setdefault(value or NONE, len(number_of)) for value in values]
    if len(number_of) > _MOST_NAMES:
        raise DataError(
            f"expected at most {_MOST_NAMES:,} different texts in a category, found "
            f"{len(number_of):,} in '{name}'; give it as a column of texts"
        )
    return _column(name, title, "", help_text, "category") | {
        "codes": encode(np.array(codes, dtype=np.int64), "<u2"),
        "names": list(number_of),
    }


def text_column(
    name: str, title: str, help_text: str, values: Sequence[str | None]
) -> dict[str, Any]:
    """A column of free texts; None becomes ''."""
    return _column(name, title, "", help_text, "text") | {"values": [one or "" for one in values]}


def _column(name: str, title: str, unit: str, help_text: str, kind: str) -> dict[str, Any]:
    return {"name": name, "title": title, "unit": unit, "help": help_text, "kind": kind}


def rounded(values: npt.NDArray[Any], digits: int = 4) -> list[float | None]:
    """An array's numbers with so many significant digits; NaN and infinity as None."""
    return [
        float(f"{one:.{digits}g}") if math.isfinite(one) else None
        for one in np.asarray(values, dtype=np.float64).ravel().tolist()
    ]


def script_text(name: str, value: Any) -> str:
    """The text of the script that hands `value` to the page under `name`.

    value: dicts with text keys, sequences, arrays, texts, numbers, None. Raises DataError for a
    name that is no safe relative path, or for a key '__proto__', which is no plain key in a script.
    """
    _check_name(name)
    body = _json(value)
    if '"__proto__":' in body:
        raise DataError(
            "expected plain keys, found '__proto__'; this is a defect of isae: please report it"
        )
    body = body.replace("<", "\\u003c").replace(">", "\\u003e")
    return f"isae.take({json.dumps(name)},{body});\n"


def write_script(folder: Path, name: str, value: Any) -> Path:
    """Write FOLDER/data/NAME.js atomically -> its path. Raises as `script_text`."""
    path = folder / "data" / f"{name}.js"
    write_bytes(path, script_text(name, value).encode("ascii"))
    return path


def details_name(layer: str, block: int) -> str:
    """Name of the script with features 64 * block to 64 * block + 63 of a layer."""
    return f"details/{layer}/{block}"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name:
        raise DataError(
            f"expected a name of letters, digits, '.', '_', '+', '-' and '/', found {name!r}; this "
            "is a defect of isae: please report it"
        )


def _json(value: Any) -> str:
    """ASCII JSON; most values are plain as they are, and walking through them takes long."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """The same with NaN and infinity as None, NumPy's numbers and arrays as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
