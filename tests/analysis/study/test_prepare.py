"""A small study prepared for real: stores and SAEs, going on, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from isae.analysis.study.config import StudyConfig
from isae.analysis.study.layout import begin_study
from isae.analysis.study.prepare import prepare_study
from isae.analysis.study.text import prepared_text
from isae.errors import ConfigError, RunError, UnknownNameError
from isae.store import open_store
from isae.train import SAE


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_study_is_made_once_and_grows(
    prepared: tuple[Path, dict[str, Any]], options: dict[str, Any], tmp_path: Path
) -> None:
    folder, result = tmp_path / "study", prepared[1]
    shutil.copytree(prepared[0], folder)
    done = [(one["net"], one["seed"], one["layer"]) for one in result["saes"]]
    assert done == [
        ("trained", 0, "mixed5a"), ("trained", 0, "mixed5b"),
        ("untrained0", 0, "mixed5a"), ("untrained0", 0, "mixed5b"),
    ]  # fmt: skip
    ours, theirs = (open_store(folder / name / "store") for name in ("trained", "untrained0"))
    assert theirs.manifest["model"]["weights"] == "random:0"
    for column in ("name", "split", "label"):
        assert ours.images[column].equals(theirs.images[column])
    assert (ours.positions("mixed5a")[:] == theirs.positions("mixed5a")[:]).all()
    assert ours.manifest["content_id"] != theirs.manifest["content_id"]
    sae = SAE.load(folder / "trained/seed0/mixed5a/sae/mixed5a")
    assert (sae.n, sae.d) == (832, 832)
    assert all(len(line) <= 80 for line in prepared_text({**result, "study": "s"}).splitlines())
    before = files(folder)
    assert prepare_study(folder)["saes"] == result["saes"]
    assert files(folder) == before
    more = prepare_study(folder, StudyConfig(**options | {"seeds": 2}))
    assert len(more["saes"]) == 6
    after = files(folder)
    assert all(after[name] == old for name, old in before.items() if name != "study.json")
    assert json.loads((folder / "study.json").read_text())["seeds"] == 2
    with pytest.raises(RunError, match=r"found differences: k: study 4, now 5; leave"):
        prepare_study(folder, StudyConfig(**options | {"k": 5}))


def test_what_is_no_study(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a study in"):
        begin_study(tmp_path / "none", None)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(RunError, match="expected a free folder or a study"):
        begin_study(tmp_path, StudyConfig(**options))
    (tmp_path / "study.json").write_text('{"images": 3, "other": 1}')
    with pytest.raises(RunError, match="found damage"):
        begin_study(tmp_path, None)


def test_options_that_no_study_could_have(options: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="layer of inceptionv1"):
        StudyConfig(**options | {"layers": ("mixed9",)})
    for wrong in ({"seeds": 0}, {"rows": 0}, {"untrained": -1}, {"k": 0}, {"holdout": 1.0}):
        with pytest.raises(ConfigError):
            StudyConfig(**options | wrong)
    assert StudyConfig(images="x").layers == (
        "mixed3a", "mixed3b", "mixed4a", "mixed4b", "mixed4c", "mixed4d", "mixed4e", "mixed5a",
        "mixed5b",
    )  # fmt: skip
