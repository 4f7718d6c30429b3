"""`isae-analyze label` on a real small store of photos in classes, and a made-up SAE."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isae.analysis.cli import app
from isae.analysis.label.analyze import analyze_label
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.summary import labels_text, note_of_positions
from isae.analysis.label.taxonomy import KINDS, TAXONOMY
from isae.errors import DataError, RunError
from isae.progress import Reporter
from isae.store import open_store

FEATURES = 17
OPTIONS = ["--top", "16", "--shuffles", "3", "--padding-pictures", "6", "--workers", "0"]


@pytest.fixture(scope="module")
def printed(run: Path) -> dict[str, Any]:
    """What the command prints, run once for all tests here."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        app(["label", str(run), "--quiet", "--json", *OPTIONS], standalone_mode=False)
    return dict(json.loads(text.getvalue()))


def table_of(folder: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / "labels.parquet").to_pylist())


def test_every_file_is_there_and_the_summary_is_the_one_printed(
    run: Path, printed: dict[str, Any]
) -> None:
    folder = run / "analysis" / "label"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    figures = {f"figures/{one}.{kind}" for one in ("taxonomy", "scores") for kind in ("png", "svg")}
    tables = {f"{one}.{kind}" for one in ("labels", "names") for kind in ("parquet", "csv")}
    assert files == figures | tables | {"summary.json"}
    written = json.loads((folder / "summary.json").read_text())
    assert {**written, "out": str(folder)} == printed
    for name in ("taxonomy", "scores"):
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5
    assert max(len(line) for line in labels_text(printed, "out").splitlines()) <= 80
    with pytest.raises(RunError, match="--overwrite"):
        analyze_label(run)


def test_planted_classes_are_named_by_what_they_are(run: Path, printed: dict[str, Any]) -> None:
    rows = table_of(run / "analysis" / "label")
    words = ["tabby", "Egyptian cat", "goldfish"]
    for i, word in enumerate([*words, words[0]]):
        assert rows[i]["class_name"] == word
        assert rows[i]["class_score"] == 1.0
        assert rows[i]["class_q"] < 0.05
        assert rows[i]["taxonomy"] in ("class", "colour")
        assert rows[i]["chance"] < 0.5 < rows[i]["score"]
    assert rows[-1]["taxonomy"] == "dead"
    assert rows[0]["cluster"] == rows[3]["cluster"] != rows[1]["cluster"]
    assert printed["labelled_clusters"] < printed["labelled"]


def test_tables_agree_with_the_summary_and_are_free_of_nan(
    run: Path, printed: dict[str, Any]
) -> None:
    folder = run / "analysis" / "label"
    for name in ("labels", "names"):
        table = pq.read_table(folder / f"{name}.parquet")
        assert pa_csv.read_csv(folder / f"{name}.csv").column_names == table.column_names
        for column in table.column_names:
            values = table.column(column).to_pylist()
            assert not any(isinstance(one, float) and np.isnan(one) for one in values), column
    rows = table_of(folder)
    assert [row["feature"] for row in rows] == list(range(FEATURES))
    for name in TAXONOMY:
        count = sum(row["taxonomy"] == name for row in rows)
        one = printed["taxonomy"].get(name, {"features": 0})
        assert one["features"] == count
        branches = [part.get(name, {"features": 0}) for part in printed["branches"].values()]
        assert sum(part["features"] for part in branches) == count
    for row in rows:
        assert bool(row["label"]) == (row["taxonomy"] in KINDS)
        if row["label"]:
            kind = row["taxonomy"].replace(" ", "_")
            assert row["label"] == row[f"{kind}_name"]
            assert row["score"] == row[f"{kind}_score"]
            assert row["q"] <= printed["alpha"]
            assert (row["score"] - row["chance"]) / (1 - row["chance"]) >= printed["min_gain"]
            assert row[f"{kind}_choosing"] > row["chance"]
    tests = sum(
        row[f"{kind.replace(' ', '_')}_p"] is not None for row in rows for kind in printed["kinds"]
    )
    assert tests == printed["tests"] > 0


def test_the_summary_says_images_nulls_and_what_the_network_saw(printed: dict[str, Any]) -> None:
    images = printed["images"]
    assert images["choosing"]["images"] + images["scoring"]["images"] == 54
    held_out = [images[half]["held_out_of_the_sae"] for half in ("choosing", "scoring")]
    assert sum(held_out) == 11
    assert images["classes"] == 3
    assert images["images_a_class"] == [18, 18]
    assert images["seen_by_the_network"]["training_photos"] == 0
    assert printed["kinds_left_out"] == {"factor": "the pictures are not procedural"}
    assert printed["padding"]["pictures"] == 6
    assert printed["patches"]["readable_pictures"] == 54
    assert printed["draws_of_chance"] == 3
    assert {"names of images and places", "position", "edge artefact"} <= set(printed["nulls"])


def test_a_note_says_where_places_were_chosen() -> None:
    assert note_of_positions("all") == []
    assert "chosen (5)" in note_of_positions("5")[0]
    assert "norm" not in note_of_positions("5")[0]
    assert "follow the norm" in note_of_positions("5:norm:mixed4c")[0]


def test_batches_and_workers_do_not_change_the_labels(
    run: Path, printed: dict[str, Any], tmp_path: Path
) -> None:
    config = LabelConfig(top=16, shuffles=3, padding_pictures=6, workers=1, batch_size=999)
    again = analyze_label(run, out=tmp_path / "again", config=config)
    for key in ("taxonomy", "branches", "by_chance", "tests"):
        assert again[key] == printed[key]
    assert table_of(tmp_path / "again") == table_of(run / "analysis" / "label")


def test_without_the_pictures_classes_are_still_named(run: Path, tmp_path: Path) -> None:
    texts: list[str] = []

    class Warned(Reporter):
        def warn(self, text: str) -> None:
            texts.append(text)

    reporter = Warned()
    config = LabelConfig(top=16, shuffles=3, figures=False)
    found = analyze_label(
        run, images=str(tmp_path), out=tmp_path / "out", config=config, reporter=reporter
    )
    assert "--images" in texts[0]
    assert {"colour", "orientation", "curvature", "frequency", "edge artefact"} <= set(
        found["kinds_left_out"]
    )
    assert found["figures"] == []
    rows = table_of(tmp_path / "out")
    assert [row["taxonomy"] for row in rows[:3]] == ["class"] * 3
    with pytest.raises(DataError, match="--tree"):
        analyze_label(run, out=tmp_path / "x", config=LabelConfig(tree=str(tmp_path / "none")))


def test_findings_on_stimuli_stand_beside_the_labels(run: Path, tmp_path: Path) -> None:
    features, content = FEATURES, open_store(run.parent / "store").content_id
    other = tmp_path / "run"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("label"))
    for name, columns in {
        "tuning": {
            "line_clear": [True] + [False] * (features - 1),
            "line_by": ["axis"] + [None] * (features - 1),
            "line_vector": [135.0] + [None] * (features - 1),
            "line_axis": [45.0] + [None] * (features - 1),
            "arc_clear": [False, False, True] + [False] * (features - 3),
            "arc_by": [None, None, "axis"] + [None] * (features - 3),
            "arc_vector": [None, None, 300.0] + [None] * (features - 3),
            "arc_axis": [None, None, 60.0] + [None] * (features - 3),
        },
        "curves": {
            "curve_detector": [False, True] + [False] * (features - 2),
            "direction": [10.0] * features,
        },
    }.items():
        folder = other / "analysis" / name
        folder.mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "features.parquet")
        (folder / "summary.json").write_text(json.dumps({"store": {"content_id": content}}))
    config = LabelConfig(top=16, shuffles=1, padding_pictures=0, workers=0, figures=False)
    found = analyze_label(other, config=config)
    rows = table_of(other / "analysis" / "label")
    assert rows[0]["tuned_to"] == "line axis 135°", "harmonic 1 of a family of period 180"
    assert rows[0]["tuned_axis"] == 135.0
    assert rows[2]["tuned_to"] == "arc axis 60°", "harmonic 2 of a family of period 360"
    assert rows[2]["tuned_axis"] is None
    assert rows[1]["curve_direction"] == 10.0
    assert rows[2]["curve_direction"] is None
    assert found["joined"]["tuned"] == 2
    assert sum(found["joined"]["curve_detectors"].values()) == 1
    assert found["kinds_left_out"]["edge artefact"] == "--padding-pictures 0"
