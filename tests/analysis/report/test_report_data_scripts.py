"""Scripts of a report: what a page reads back is what was written, whatever the texts are."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isae.analysis.report import scripts
from isae.errors import DataError

HOSTILE = (
    "</script><script>alert(1)</script>", "<!--", "]]>", "line\u2028and\u2029paragraph",
    'a"b\\c\n\t', "ünï \U0001f600", "'; isae.take('x', 1); '", "\ud800", "n01/../../x.JPEG",
)  # fmt: skip


Read = Callable[[str], tuple[str, Any]]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_come_back_and_leave_no_markup(text: str, read_script: Read) -> None:
    script = scripts.script_text("overview", {"title": text, "list": [text]})
    assert read_script(script) == ("overview", {"title": text, "list": [text]})
    body = script.removeprefix("isae.take")
    assert body.isascii()
    assert (body.count("<"), body.count(">"), body.count("\n")) == (0, 0, 1)


def test_numbers_that_json_has_not_become_null_wherever_they_stand(read_script: Read) -> None:
    value = {"a": math.nan, "b": [math.inf, (1.5, -math.inf)], "c": np.array([1.0, math.nan]),
             "d": np.float32(0.5), "e": np.int64(7), "f": np.bool_(True), "g": None}  # fmt: skip
    assert read_script(scripts.script_text("x", value))[1] == {
        "a": None, "b": [None, [1.5, None]], "c": [1.0, None], "d": 0.5, "e": 7, "f": True,
        "g": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("<f4", [0.0, -1.5, 3.4e38, math.nan, 1e-42]),
        ("<u2", [0, 1, 256, 65535]),
        ("<u1", [0, 255]),
        ("<f4", []),
    ],
)
def test_base64_comes_back_bit_for_bit(dtype: str, values: list[float]) -> None:
    given = np.array(values, dtype=dtype)
    back = np.frombuffer(base64.b64decode(scripts.encode(given, dtype)), dtype=dtype)
    assert back.tobytes() == given.tobytes()


@pytest.mark.parametrize(("dtype", "values"), [("<u2", [65536]), ("<u2", [-1]), ("<u1", [256])])
def test_a_whole_number_that_does_not_fit_is_refused_not_wrapped(
    dtype: str, values: list[int]
) -> None:
    with pytest.raises(DataError, match="expected whole numbers from 0 to"):
        scripts.encode(np.array(values), dtype)


def test_big_endian_and_strided_arrays_are_written_little_endian_in_order() -> None:
    given = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2]
    back = np.frombuffer(base64.b64decode(scripts.encode(given, "<f4")), "<f4")
    assert back.tolist() == [0, 2, 4, 6, 8, 10]


def test_categories_come_back_and_none_has_a_name() -> None:
    values = ["pool", None, "1x1", "pool", "", HOSTILE[0]]
    column = scripts.category_column("branch", "Branch", "where", values)
    codes = np.frombuffer(base64.b64decode(column["codes"]), "<u2")
    assert [column["names"][code] for code in codes] == [one or "none" for one in values]
    assert column["kind"] == "category"
    many = [str(i) for i in range(65537)]
    assert len(scripts.category_column("x", "x", "x", many[:-1])["names"]) == 65536
    with pytest.raises(DataError, match="at most 65,536 different texts"):
        scripts.category_column("x", "x", "x", many)


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../b", "a//b", "a b", "a\n", "x/", '"', "é"])
def test_names_that_are_no_safe_paths_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a name of letters"):
        scripts.write_script(tmp_path, name, 1)
    assert list(tmp_path.rglob("*.js")) == []


def test_a_script_lies_at_its_name(tmp_path: Path, read_script: Read) -> None:
    name = scripts.details_name("mixed3a", 3)
    path = scripts.write_script(tmp_path, name, [])
    assert path == tmp_path / "data" / "details" / "mixed3a" / "3.js"
    assert read_script(path.read_text()) == (name, [])
    with pytest.raises(DataError, match="__proto__"):
        scripts.write_script(tmp_path, "x", [{"__proto__": 1}])


def test_rounding_keeps_significant_digits_and_nulls() -> None:
    assert scripts.rounded(np.array([123456.0, 0.000123456, math.nan, 0.0])) == [
        123500.0, 0.0001235, None, 0.0,
    ]  # fmt: skip
