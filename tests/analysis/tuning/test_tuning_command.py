"""`isae-analyze tuning` on a real small store and a made-up SAE: files, numbers, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isae.analysis import TuningConfig, analyze_tuning
from isae.analysis.cli import app
from isae.analysis.tuning.summary import tuning_text
from isae.errors import ConfigError, RunError
from isae.progress import Reporter
from isae.store import BuildConfig, build_store, open_store

LAYER, N, K, DEAD = "mixed3a", 40, 6, 4
OPTIONS = ["--directions", "8", "--colours", "grey", "--pictures", "3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, random_run: Callable[..., Path]) -> Path:
    """A finished run's folder around an SAE with random rows and dead features."""
    folder = tmp_path_factory.mktemp("tuning")
    build_store(
        BuildConfig(
            images="synthetic:10", layers=(LAYER,), out=str(folder / "store"), positions="8",
            size=48, workers=0, holdout=0.4, seed=2, device="cpu",
        )
    )  # fmt: skip
    return random_run(folder, LAYER, N, K, DEAD)


@pytest.fixture(scope="module")
def printed(run: Path) -> dict:
    """What the command prints, run once for all tests here."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as text:
        app(["tuning", str(run), "--quiet", "--json", *OPTIONS], standalone_mode=False)
    return json.loads(text.getvalue())


def test_every_file_is_there_and_the_summary_is_the_one_printed(run: Path, printed: dict) -> None:
    folder = run / "analysis" / "tuning"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    names = ("field", "stimuli", "radial", "preferences", "modes")
    figures = {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")}
    tables = {
        f"{name}.{kind}"
        for name in ("features", "neurons", "stimuli")
        for kind in ("parquet", "csv")
    }
    curves = {"feature_curves.parquet", "neuron_curves.parquet"}
    assert files == figures | tables | curves | {"summary.json"}
    written = json.loads((folder / "summary.json").read_text())
    assert {**written, "out": str(folder)} == printed
    for name in names:
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_the_summary_says_images_stimuli_place_nulls_and_seed(run: Path, printed: dict) -> None:
    assert printed["images"]["kind"] == "pictures of the store"
    assert printed["images"]["split"] == "holdout"
    assert printed["seed"] == 0
    assert sum(printed["stimuli"]["by_family"].values()) == printed["stimuli"]["count"]
    place = printed["place"]
    # The theoretical field is 59 pixels, more than the store's pictures have.
    assert 59 <= place["size"] < 70
    assert place["cell"][0] in place["cells_free_of_padding"]
    assert place["mirrored_read"] is None
    assert 3 <= place["effective_field"]["side"] <= place["theoretical_field"]
    assert place["stimuli_sized_to"] == place["effective_field"]["side"]
    for kind, units in (("features", N), ("neurons", 256)):
        assert printed[kind]["units"] == units
        for of in ("direction", "axis", "cross"):
            for one in printed[kind][f"{of}_tuned"].values():
                assert one["share"] == one["count"] / units
    assert printed["features"]["silent"] >= DEAD
    held = open_store(json.loads((run / "config.json").read_text())["store"]).layer(LAYER)
    assert printed["photos"]["rows"] == held.rows - held.train_rows
    modes = printed["neurons"]["families"]["arc"]["fourier_modes_dark_strokes"]
    assert 0.5 < sum(modes) <= 1 + 1e-9


def test_padded_cells_are_read_a_second_time_elsewhere(run: Path) -> None:
    config = TuningConfig(size=40, directions=8, colours=("grey",), pictures=2)
    summary = analyze_tuning(run, out=run / "padded", config=config)
    place = summary["place"]
    assert place["cells_free_of_padding"] == []
    assert "--size 6" in place["note"]
    assert place["mirrored_read"]["cell"] != place["cell"]
    table = pq.read_table(run / "padded" / "neurons.parquet")
    framed = np.array(table.column("arc_framed").to_pylist())
    tuned = np.array(table.column("arc_tuned").to_pylist())
    clear = np.array(table.column("arc_clear").to_pylist())
    assert framed.any()  # where everything that is seen is border, it must show
    assert not (framed & ~tuned).any()
    assert not (framed & clear).any()
    text = tuning_text(summary, "out")
    assert "PADDED" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    counted = sum(
        summary["neurons"][f"{of}_tuned"]["arcs"]["framed"] for of in ("direction", "axis")
    )
    assert counted == framed.sum()


def test_tables_agree_with_the_summary_and_are_free_of_nan(run: Path, printed: dict) -> None:
    folder = run / "analysis" / "tuning"
    for kind in ("features", "neurons"):
        table = pq.read_table(folder / f"{kind}.parquet")
        assert pa_csv.read_csv(folder / f"{kind}.csv").column_names == table.schema.names
        for family, one in printed[kind]["families"].items():
            column = {
                name: np.array(table.column(f"{family}_{name}").to_pylist(), dtype=object)
                for name in ("by", "clear", "tuned", "vector", "q_1", "selectivity_1", "p_1")
            }
            assert sum(p is not None for p in column["p_1"]) == one["tested"]
            assert column["tuned"].sum() == one["tuned"]
            assert ((column["by"] != None) == column["tuned"]).all()  # noqa: E711
            passed = np.array([q is not None and q <= 0.05 for q in column["q_1"]])
            assert (np.array([v is not None for v in column["vector"]]) == passed).all()
            assert all(s >= 0.1 for s in column["selectivity_1"][passed])
            counts = {
                of: printed[kind][f"{of}_tuned"].get(f"{family}s", {"count": 0})["count"]
                for of in ("direction", "axis", "cross")
            }
            for of, count in counts.items():
                assert ((column["by"] == of) & column["clear"].astype(bool)).sum() == count
        for name in table.schema.names:
            assert not any(isinstance(v, float) and v != v for v in table.column(name).to_pylist())
    assert pq.read_table(folder / "neurons.parquet").column("branch").to_pylist()[-1] == "pool"
    stimuli = pq.read_table(folder / "stimuli.parquet")
    best = pq.read_table(folder / "features.parquet").column("best_stimulus").to_pylist()
    assert best[-1] is None
    assert all(one is None or 0 <= one < stimuli.num_rows for one in best)


def test_an_analysis_that_is_there_stays_unless_asked(run: Path, printed: dict) -> None:
    before = (run / "analysis" / "tuning" / "summary.json").read_bytes()
    with pytest.raises(RunError, match="--overwrite"):
        analyze_tuning(run)
    other = run / "analysis" / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="something else"):
        analyze_tuning(run, out=other, overwrite=True)
    assert (other / "mine.txt").exists()
    assert (run / "analysis" / "tuning" / "summary.json").read_bytes() == before


def test_a_person_gets_a_small_table(printed: dict) -> None:
    lines = tuning_text(printed, "out").splitlines()
    assert max(len(line) for line in lines) <= 80
    # Six families by two harmonics, each for features and neurons.
    assert sum(line.startswith(("features", "neurons")) for line in lines) == 24


def test_pictures_that_are_gone_are_replaced_by_noise_with_a_warning(
    run: Path, capsys: pytest.CaptureFixture
) -> None:
    from isae.analysis.tuning.inputs import field_pictures

    store = open_store(json.loads((run / "config.json").read_text())["store"])
    pixels, about = field_pictures(store, "/nowhere", 40, 2, 0, Reporter(quiet=True))
    assert pixels.shape == (2, 40, 40, 3)
    assert about["kind"].startswith("noise")
    assert "effective field" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [{"alpha": 0.0}, {"min_selectivity": 2.0}, {"size": 0}, {"pictures": 0}, {"faint": -1.0}],
)
def test_options_out_of_range_are_refused(option: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        TuningConfig(**option)
