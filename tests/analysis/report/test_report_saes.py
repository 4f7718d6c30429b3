"""Comparisons of layers and of seeds belong to the SAEs that they were made of."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isae.analysis.report.analyze import write_report
from isae.analysis.report.compared import Control, control_of
from isae.analysis.report.config import ReportConfig
from isae.analysis.report.sources import find_sources
from isae.files import sha256

Data = Callable[[str], Any]
Change = Callable[[dict[str, Any]], object]
FIRST, SECOND = "mixed5a", "mixed5b"
NO_MAP = ReportConfig(draw_map=False, device="cpu")
DOUBT = "is of these SAEs cannot be checked"
DOUBT_OF_ITS = "is of its SAEs cannot be checked: an older version made it"
TRAINED = "1" * 64


def change(path: Path, how: Change) -> None:
    """Change a summary.json in place."""
    about = json.loads(path.read_text())
    how(about)
    path.write_text(json.dumps(about))


def weights(run: Path) -> Path:
    (path,) = run.glob("sae/*/sae_weights.safetensors")
    return path


def train_anew(run: Path) -> None:
    """Other weights in the same folder."""
    changed = bytearray(weights(run).read_bytes())
    changed[-1] ^= 1
    weights(run).write_bytes(changed)


@pytest.fixture
def report(tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """report(study): its summary."""

    def write(study: Path) -> dict[str, Any]:
        return write_report([study], tmp_path / "out", config=NO_MAP, overwrite=True)

    return write


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Path:
    """A copy of the study, without seeds; its layers' comparison records the study's place."""
    shutil.copytree(study, tmp_path / "study")
    shutil.rmtree(tmp_path / "study/trained/stability")
    return tmp_path / "study"


def shown(summary: dict[str, Any], part: str) -> list[str]:
    return [one["name"] for one in summary["layers"] if one["has"][part]]


def said(summary: dict[str, Any], text: str) -> list[str]:
    return [note for note in summary["notes"] if text in note]


@pytest.mark.parametrize("recorded", ["as it was", "gone"])
def test_matches_of_older_saes_are_left_out_of_a_copied_and_a_moved_study(
    copied: Path, tmp_path: Path, report: Callable[[Path], Any], recorded: str
) -> None:
    if recorded == "gone":
        gone = [str(tmp_path / "gone" / layer) for layer in (FIRST, SECOND)]
        change(copied / "trained/seed0/layers/summary.json", lambda one: one.update(runs=gone))
    before = report(copied)
    assert shown(before, "matches") == [FIRST, SECOND]
    assert said(before, DOUBT) == said(before, "trained anew") == []
    train_anew(copied / "trained/seed0" / SECOND)
    after = report(copied)
    assert shown(after, "matches") == []
    words = f"the comparison of layers was made before {SECOND} was trained anew"
    (note,) = said(after, words)
    assert note.startswith(f"{FIRST}, {SECOND}: ")


def test_a_copy_keeps_its_matches_where_the_original_is_trained_anew(
    copied: Path, tmp_path: Path, report: Callable[[Path], Any]
) -> None:
    runs = [str(copied / "trained/seed0" / layer) for layer in (FIRST, SECOND)]
    change(copied / "trained/seed0/layers/summary.json", lambda one: one.update(runs=runs))
    shutil.copytree(copied, tmp_path / "copy")
    train_anew(copied / "trained/seed0" / SECOND)
    assert shown(report(copied), "matches") == []
    summary = report(tmp_path / "copy")
    assert shown(summary, "matches") == [FIRST, SECOND]
    assert said(summary, "trained anew") == []


def test_single_runs_are_sought_where_they_were(copied: Path, tmp_path: Path) -> None:
    runs = [copied / "trained/seed0" / layer for layer in (FIRST, SECOND)]
    shutil.move(copied / "trained/seed0/layers", runs[0] / "analysis/layers")
    change(runs[0] / "analysis/layers/summary.json", lambda one: one.update(runs=[*map(str, runs)]))

    def report() -> dict[str, Any]:
        return write_report(runs[:1], tmp_path / "out", config=NO_MAP, overwrite=True)

    summary = report()
    assert shown(summary, "matches") == [FIRST]
    assert said(summary, DOUBT) == []
    kept = runs[1].rename(tmp_path / "kept")
    summary = report()
    assert shown(summary, "matches") == [FIRST]
    (note,) = said(summary, DOUBT)
    assert f"no SAE of {SECOND} was found" in note
    train_anew(kept.rename(runs[1]))
    summary = report()
    assert shown(summary, "matches") == []
    assert said(summary, f"before {SECOND} was trained anew")


def test_seeds_of_older_saes_are_left_out(
    study: Path, copied: Path, tmp_path: Path, report: Callable[[Path], Any]
) -> None:
    net = copied / "trained"
    shutil.copytree(study / "trained/stability", net / "stability")
    shutil.copytree(net / f"seed0/{FIRST}", net / f"seed1/{FIRST}")
    train_anew(net / f"seed1/{FIRST}")
    runs = {seed: net / f"seed{seed}" / FIRST for seed in (1, 0)}

    def state(about: dict[str, Any]) -> None:
        about["saes"] = {str(run): sha256(weights(run)) for run in runs.values()}
        for one in about["runs"]:
            one["run"] = str(runs[one["seed"]])

    change(net / "stability" / FIRST / "summary.json", state)
    summary = report(copied)
    assert shown(summary, "stability") == [FIRST]
    assert said(summary, DOUBT) == []
    moved = copied.rename(tmp_path / "moved")
    summary = report(moved)
    assert shown(summary, "stability") == [FIRST]
    assert said(summary, DOUBT) == []
    changed = weights(moved / f"trained/seed1/{FIRST}")
    changed.write_bytes(changed.read_bytes()[::-1])
    summary = report(moved)
    assert shown(summary, "stability") == []
    (note,) = said(summary, "the comparison of seeds was made before seed 1 was trained anew")
    assert note.startswith(f"{FIRST}: ")


@pytest.mark.parametrize("part", ["layers", "stability"])
def test_comparisons_that_state_no_saes_are_shown_with_a_note(
    study: Path, tmp_path: Path, report: Callable[[Path], Any], part: str
) -> None:
    shutil.copytree(study, tmp_path / "study")
    where = {"layers": "trained/seed0/layers", "stability": f"trained/stability/{FIRST}"}
    change(tmp_path / "study" / where[part] / "summary.json", lambda one: one.pop("saes", None))
    summary = report(tmp_path / "study")
    assert FIRST in shown(summary, part)
    words = {"layers": "the comparison of layers", "stability": "the comparison of seeds"}
    (note,) = said(summary, f"whether {words[part]} {DOUBT}: an older version made it")
    assert note.startswith({"layers": f"{FIRST}, {SECOND}: ", "stability": f"{FIRST}: "}[part])


@pytest.fixture
def control(copied: Path) -> Path:
    """The study with an untrained network, whose layers have 700 and more matches; the file."""
    beside = copied / "untrained0/seed0"
    for layer in (FIRST, SECOND):
        shutil.copytree(copied / "trained/seed0" / layer, beside / layer)
        train_anew(beside / layer)
    shutil.copytree(copied / "trained/seed0/layers", beside / "layers")

    def fill(about: dict[str, Any]) -> None:
        about["runs"] = [str(beside / layer) for layer in (FIRST, SECOND)]
        about["saes"] = {layer: sha256(weights(beside / layer)) for layer in (FIRST, SECOND)}
        about["model"] |= {"weights": "random:0", "weights_sha256": "0" * 64}
        for number, pair in enumerate(about["pairs"]):
            pair["mutual"]["found"] = 700 + number
            for side in pair["nearest"].values():
                side["tested"] = 900
        about["pairs"].pop()

    change(beside / "layers/summary.json", fill)
    return beside / "layers/summary.json"


@pytest.fixture
def rows(tmp_path: Path, read_script: Data) -> Callable[[], list[dict[str, Any]]]:
    """rows(): the report's table of matches."""

    def read() -> list[dict[str, Any]]:
        findings = read_script((tmp_path / "out/data/overview.js").read_text())[1]["findings"]
        one = next(one for one in findings if one["title"] == "Counterparts in other layers")
        return [
            dict(zip(one["table"]["columns"], row, strict=True)) for row in one["table"]["rows"]
        ]

    return read


def test_the_untrained_network_stands_beside_the_matches(
    copied: Path,
    control: Path,
    report: Callable[[Path], Any],
    rows: Callable[[], list[dict[str, Any]]],
) -> None:
    change(control, lambda one: one["options"].update(batch_size=7, device="cuda"))
    assert said(report(copied), "untrained0's comparison") == []
    *there, last = rows()
    assert [row["untrained: mutual matches"] for row in there] == [
        700 + number for number in range(len(there))
    ]
    assert {row["untrained: tested"] for row in there} == {900}
    assert last["untrained: mutual matches"] == "-"
    change(control, lambda one: one.pop("saes"))
    (note,) = said(report(copied), f"whether untrained0's comparison of layers {DOUBT_OF_ITS}")
    assert note.startswith(f"{FIRST}, {SECOND}: ")
    assert rows()[0]["untrained: mutual matches"] == 700
    control.unlink()
    assert said(report(copied), "untrained0's comparison") == []
    assert {row["untrained: mutual matches"] for row in rows()} == {"-"}


MISFITS: dict[str, tuple[Change, str]] = {
    "network": (
        lambda one: one["model"].update(name="another"), "an analysis of inceptionv1 in .*another",
    ),
    "weights": (lambda one: one["model"].update(weights_sha256=TRAINED), "of other weights in"),
    "pictures": (lambda one: one["images"].update(fingerprint="f"), "of the same pictures in"),
    "input size": (lambda one: one["store"].update(size=224), "with the input size 64 in .*224"),
    "positions": (lambda one: one["store"].update(positions="3"), "the positions all in .* 3;"),
    "dtype": (lambda one: one["store"].update(dtype="int8"), "the dtype float16 in .* int8;"),
    "images": (lambda one: one["images"].update(numbers_hash="f"), "of different images"),
    "images read": (
        lambda one: one["options"].update(max_images=7), r"\(max_images 2000 and 7\)",
    ),
    "level": (lambda one: one["options"].update(alpha=0.01), r"\(alpha 0.05 and 0.01\)"),
    "no such option": (lambda one: one["options"].pop("pairs"), r"\(pairs adjacent and None\)"),
    "version": (lambda one: one.pop("model"), r"does not say what it is of \('model'\)"),
}  # fmt: skip


def test_an_untrained_network_that_was_compared_otherwise_stands_nowhere(
    copied: Path, control: Path, tmp_path: Path
) -> None:
    source = find_sources([copied]).runs[0]
    own = json.loads((copied / "trained/seed0/layers/summary.json").read_text())
    own["model"]["weights_sha256"] = TRAINED
    whole = control.read_text()
    assert control_of(own, source.untrained_net) == Control(json.loads(whole))
    for how, words in MISFITS.values():
        control.write_text(whole)
        change(control, how)
        found = control_of(own, source.untrained_net)
        assert found.summary is None
        assert re.search(
            f"untrained0's comparison of layers is not shown beside: .*{words}", found.note
        )


def test_an_untrained_network_of_older_saes_stands_nowhere(
    copied: Path,
    control: Path,
    report: Callable[[Path], Any],
    rows: Callable[[], list[dict[str, Any]]],
) -> None:
    train_anew(control.parents[1] / SECOND)
    (note,) = said(report(copied), "untrained0's comparison of layers is not shown beside")
    assert f"before {SECOND} was trained anew" in note
    assert {row["untrained: mutual matches"] for row in rows()} == {"-"}
