"""Packages that import their public names at the first use: nothing is hidden by that."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import isae.store


def test_a_module_that_cannot_be_imported_is_told_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with zarr or torch of another version: it must not look like a name that is missing."""
    package = tmp_path / "lazy_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from isae.lazy import lazy_names\n"
        "__getattr__, __dir__ = lazy_names(__name__, {'Broken': 'broken', 'sound': 'sound'})\n"
    )
    (package / "broken.py").write_text("import json\n\nBroken = json.no_such_function\n")
    (package / "sound.py").write_text("sound = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("lazy_package")
    assert made.sound == 3
    with pytest.raises(ImportError, match=r"lazy_package.broken.*no_such_function") as caught:
        importlib.import_module("lazy_package").Broken  # noqa: B018
    assert isinstance(caught.value.__cause__, AttributeError)
    with pytest.raises(ImportError, match="no_such_function"):
        exec("from lazy_package import Broken")
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        made.Missing  # noqa: B018
    assert {"Broken", "sound", "lazy_names"} <= set(dir(made))


def test_public_names_are_shown() -> None:
    assert set(isae.store.__all__) <= set(dir(isae.store))
