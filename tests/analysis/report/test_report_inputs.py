"""What a report is made of: several stores, older analyses, what is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isae.analysis.report.analyze import write_report
from isae.analysis.report.config import ReportConfig
from isae.errors import DataError, RunError
from isae.store import BuildConfig, build_store

Data = Callable[[str], Any]
FIRST, SECOND, N = "mixed5a", "mixed5b", 100


def test_runs_of_different_stores_stand_side_by_side(
    study: Path, tmp_path: Path, random_run: Callable[..., Path], read_script: Data
) -> None:
    build_store(
        BuildConfig(
            images="synthetic:30", layers=(SECOND,), out=str(tmp_path / "store"), size=64,
            positions="3", workers=0, holdout=0.5, seed=2, device="cpu",
        )
    )  # fmt: skip
    other = random_run(tmp_path, SECOND, 40, 4, 0)
    runs = [study / "trained/seed0" / SECOND, other]
    config = ReportConfig(epochs=1, sample=5, device="cpu", map_neighbours=99)
    summary = write_report(runs, tmp_path / "out", config=config)
    assert [one["name"] for one in summary["layers"]] == [SECOND, f"{SECOND}-2"]
    assert [one["features"] for one in summary["layers"]] == [N, 40]
    assert summary["layers"][1]["dead"] is None
    assert summary["map"]["images"] == 30
    assert len(summary["made_of"]["stores"]) == 2
    page = read_script((tmp_path / f"out/data/details/{SECOND}-2/0.js").read_text())[1][0]
    assert page["branches"] is None
    assert page["density"]["places"] == 90
    bare = write_report(runs, tmp_path / "bare", config=ReportConfig(draw_map=False, device="cpu"))
    assert bare["map"] is None
    assert bare["notes"][0] == "no map: it was left out (--no-map)"
    assert f"no label of {SECOND}, {SECOND}-2: isae-analyze label {runs[0]}" in bare["notes"]
    assert not (tmp_path / "bare/data/map.js").exists()


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Iterator[Path]:
    """A run that may be spoilt."""
    shutil.copytree(study / "trained/seed0" / FIRST, tmp_path / "run")
    yield tmp_path / "run"
    assert not (tmp_path / "out").exists()


def test_an_analysis_of_another_store_is_left_out_and_said(
    study: Path, tmp_path: Path, read_script: Data
) -> None:
    run = tmp_path / "run"
    shutil.copytree(study / "trained/seed0" / FIRST, run)
    path = run / "analysis/branches/summary.json"
    about = json.loads(path.read_text())
    about["store"]["content_id"] = "f" * 64
    path.write_text(json.dumps(about))
    config = ReportConfig(draw_map=False, device="cpu")
    summary = write_report([run], tmp_path / "out", config=config)
    assert any(f"{FIRST}: branches is of another store" in note for note in summary["notes"])
    assert not summary["layers"][0]["has"]["branches"]
    page = read_script((tmp_path / f"out/data/details/{FIRST}/0.js").read_text())[1][0]
    assert page["branches"] is None


def test_what_stands_in_the_way_is_said(copied: Path, tmp_path: Path) -> None:
    config, out = ReportConfig(draw_map=False, device="cpu"), tmp_path / "out"

    def report(*paths: Path) -> None:
        write_report(paths, out, config=config)

    with pytest.raises(RunError, match="expected the folder of a study or of finished runs"):
        report()
    with pytest.raises(RunError, match=r"every run once, found .* twice"):
        report(copied, copied)
    with pytest.raises(RunError, match="found nothing at"):
        report(tmp_path / "nowhere")
    table = copied / "analysis/branches/features.parquet"
    kept = pq.read_table(table)
    pq.write_table(kept.drop_columns(["dominant_decoder"]), table)
    with pytest.raises(DataError, match="expected the column 'dominant_decoder' in"):
        report(copied)
    pq.write_table(pa.concat_tables([kept, kept]), table)
    with pytest.raises(DataError, match=r"at most once each in .*branches/features"):
        report(copied)
    table.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="expected a Parquet table in"):
        report(copied)
    (copied / "analysis/branches/summary.json").write_text("{")
    with pytest.raises(DataError, match="expected JSON in"):
        report(copied)
