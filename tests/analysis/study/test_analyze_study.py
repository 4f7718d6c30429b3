"""`isae-analyze all` on the small study: stages, tables, figures, going on, what fails."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isae.analysis.branches.config import BranchesConfig
from isae.analysis.label.config import LabelConfig
from isae.analysis.report.config import ReportConfig
from isae.analysis.study.analyze import analyze_study
from isae.analysis.study.config import StudyConfig
from isae.analysis.study.layout import Study, find_study, locked
from isae.analysis.study.plan import Planner, StudyAnalyses
from isae.analysis.study.prepare import prepare_study
from isae.analysis.study.text import findings_text
from isae.analysis.visualise.config import VisualiseConfig
from isae.errors import RunError, StoreError, UnknownNameError
from isae.progress import QUIET, Reporter

LIGHT = BranchesConfig(
    heldout_rows=0, pictures=0, reference_rows=0, samples=100, figures=False, device="cpu"
)
OPTIONS = StudyAnalyses(only=("branches",), branches=LIGHT)
STAGES = [
    f"{net}/seed0/branches/{layer}"
    for net in ("untrained0", "trained")
    for layer in ("mixed5a", "mixed5b")
]


@pytest.fixture(scope="module")
def study(prepared: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysed") / "study"
    shutil.copytree(prepared[0], folder)
    return folder


@pytest.fixture(scope="module")
def summary(study: Path) -> dict[str, Any]:
    return analyze_study(study, OPTIONS)


def test_every_stage_and_every_number(study: Path, summary: dict[str, Any]) -> None:
    assert list(summary["stages"]["done"]) == STAGES
    rows = pq.read_table(study / "findings/verdicts.parquet").to_pylist()
    assert len(rows) == summary["tests"] == sum(summary["verdicts"].values())
    ours = json.loads((study / "trained/seed0/mixed5a/analysis/branches/summary.json").read_text())
    theirs = json.loads(
        (study / "untrained0/seed0/mixed5a/analysis/branches/summary.json").read_text()
    )
    (row,) = [
        one for one in rows
        if (one["where"], one["part"]) == ("mixed5a", "5x5")
        and one["number"] == "mean share beyond channel share"
    ]  # fmt: skip
    found, other = (
        one["branches"]["5x5"]["decoder"]["mean_share"] - one["branches"]["5x5"]["channel_share"]
        for one in (ours, theirs)
    )
    np.testing.assert_allclose((row["trained"], row["untrained"]), (found, other))
    np.testing.assert_allclose(row["difference"], found - other)
    assert row["verdict"] == "not judged"  # one seed has no spread
    spread = json.loads((study / "findings/spread.json").read_text())
    assert spread["trained"]["branches/mixed5a"]["alive"]["mean"] == ours["alive"]
    text = (study / "findings/findings.md").read_text()
    assert "## branches: mean share beyond channel share" in text
    assert all(len(line) <= 80 for line in findings_text(summary, "study/findings").splitlines())
    for name in summary["figures"]:
        assert (study / f"findings/figures/{name}.svg").is_file()
        with Image.open(study / f"findings/figures/{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_nothing_is_done_twice_and_changed_options_are(
    study: Path, summary: dict, tmp_path: Path
) -> None:
    study = Path(shutil.copytree(study, tmp_path / "study"))  # other tests read the other
    again = analyze_study(study, OPTIONS)
    assert again["stages"]["kept"] == STAGES
    assert again["stages"]["done"] == {}
    changed = replace(OPTIONS, branches=replace(LIGHT, alpha=0.1))
    (study / "stages" / f"{STAGES[3].replace('/', '.')}.json").unlink()
    assert list(analyze_study(study, OPTIONS)["stages"]["done"]) == STAGES[3:]
    assert list(analyze_study(study, changed)["stages"]["done"]) == STAGES


def of_one_layer(prepared: tuple[Path, Any], folder: Path) -> Path:
    """A copy of the prepared study that knows of mixed5a alone."""
    shutil.copytree(prepared[0], folder)
    options = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**options, "layers": ["mixed5a"]}))
    return folder


def test_side_by_side_is_one_after_the_other(
    prepared: tuple[Path, Any], study: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    other = of_one_layer(prepared, tmp_path / "study")
    held = locked(other)
    with held, pytest.raises(StoreError, match=r"no running isae-analyze prepare or all in .*stud"):
        analyze_study(other, OPTIONS)
    more = replace(find_study(other, None).config, seeds=2)
    with locked(other), pytest.raises(StoreError, match="no running isae-analyze prepare or all"):
        prepare_study(other, more)
    assert find_study(other, None).config.seeds == 1
    found = analyze_study(other, OPTIONS, jobs=2)
    assert list(found["stages"]["done"]) == STAGES[::2]
    for net in ("trained", "untrained0"):
        name = f"{net}/seed0/mixed5a/analysis/branches/features.parquet"
        for mine, expected in zip(
            pq.read_table(other / name).columns, pq.read_table(study / name).columns, strict=True
        ):
            np.testing.assert_array_equal(mine.to_pylist(), expected.to_pylist())
    assert analyze_study(other, OPTIONS)["stages"]["kept"] == STAGES[::2]


def test_networks_analysed_otherwise_are_named(
    study: Path, summary: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    analyze_study(study, OPTIONS)
    assert "differ between" not in capsys.readouterr().err
    path = study / "untrained0/seed0/mixed5a/analysis/branches/summary.json"
    before = path.read_text()
    changed = json.loads(before)
    changed["options"]["max_rows"] = 7
    path.write_text(json.dumps(changed))
    analyze_study(study, replace(OPTIONS, only=()), reporter=Reporter())
    path.write_text(before)
    warned = capsys.readouterr().err
    assert "branches/mixed5a: analysed with options that differ" in warned
    assert "mixed5b" not in warned


SHOWN = StudyAnalyses(
    only=("label", "visualise", "report"),
    label=LabelConfig(
        figures=False, padding_pictures=0, shuffles=2, field_pictures=2, workers=0, device="cpu"
    ),
    visualise=VisualiseConfig(visualise=1, steps=2, device="cpu"),
    report=ReportConfig(draw_map=False, device="cpu"),
)
SHOWN_STAGES = [
    "untrained0/seed0/label/mixed5a",
    "trained/seed0/label/mixed5a",
    "trained/seed0/visualise/mixed5a",
    "report",
]


def test_labels_pictures_and_pages_go_on_where_they_were(
    prepared: tuple[Path, Any], tmp_path: Path
) -> None:
    study = of_one_layer(prepared, tmp_path / "study")
    found = analyze_study(study, SHOWN)
    assert list(found["stages"]["done"]) == SHOWN_STAGES
    numbers = pq.read_table(study / "findings/verdicts.parquet").column("number").to_pylist()
    assert "share labelled, beyond chance" in numbers
    pages = study / "report"
    assert (pages / "index.html").is_file()
    assert (pages / "data/columns/mixed5a.js").is_file()
    picture = next((study / "trained/seed0/mixed5a/analysis/visualise/pictures").glob("*.png"))
    made = picture.stat().st_mtime_ns
    assert analyze_study(study, SHOWN)["stages"]["done"] == {}
    for name in SHOWN_STAGES[1:3]:
        (study / "stages" / f"{name.replace('/', '.')}.json").unlink()
    redone = list(analyze_study(study, SHOWN)["stages"]["done"])
    assert redone == SHOWN_STAGES[1:]
    assert picture.stat().st_mtime_ns == made  # a folder of pictures grows
    analyze_study(study, replace(SHOWN, only=("visualise",)), overwrite=True)
    assert picture.stat().st_mtime_ns > made


def test_seeds_are_compared_again_when_an_analysis_that_they_read_changes(
    options: dict[str, Any], tmp_path: Path
) -> None:
    study = Study(tmp_path, StudyConfig(**{**options, "seeds": 2}))
    alone = StudyAnalyses(only=("stability",))

    def read() -> list[Path]:
        stages = Planner(study, alone, QUIET).stages()
        return list(next(s for s in stages if s.name == "trained/stability/mixed5a").inputs)

    runs = [study.nets[0].run(seed, "mixed5a") / "summary.json" for seed in (0, 1)]
    assert read() == runs
    made = [runs[1].parent / "analysis" / name / "summary.json" for name in ("branches", "curves")]
    for path in made:
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert read() == [*runs, *made]


def test_what_stands_in_the_way(prepared: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown analysis 'brances'"):
        StudyAnalyses(only=("brances",))
    folder = tmp_path / "study"
    shutil.copytree(prepared[0], folder)
    (folder / "trained/seed0/mixed5b/summary.json").rename(tmp_path / "kept.json")
    with pytest.raises(RunError, match=r"none finished for trained, seed 0, mixed5b; finish"):
        analyze_study(folder, OPTIONS)
    (tmp_path / "kept.json").rename(folder / "trained/seed0/mixed5b/summary.json")
    (folder / "untrained0/seed0/mixed5b/sae/mixed5b/sae_weights.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match=r"2 did not, first 'untrained0/seed0/branches/mixed5b'"):
        analyze_study(folder, OPTIONS)
    done = pq.read_table(folder / "findings/verdicts.parquet").column("where").to_pylist()
    assert set(done) == {"mixed5a"}
