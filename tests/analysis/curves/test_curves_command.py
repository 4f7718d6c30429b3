"""`isae-analyze curves` on a real small store of a layer without branches, and a made-up SAE."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from isae.analysis.cli import app
from isae.analysis.curves import known_units
from isae.analysis.curves.analyze import analyze_curves
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.criterion import PARTS, measure_units
from isae.analysis.curves.stimuli import curve_stimuli
from isae.analysis.curves.summary import curves_text
from isae.analysis.tuning.effective_field import effective_field, noise_pictures, read_cell
from isae.analysis.tuning.responses import read_responses
from isae.errors import RunError
from isae.inception import load_model
from isae.inception.download import cache_folder
from isae.store import BuildConfig, build_store
from isae.train import SAE

LAYER, N, K, DEAD = "conv2d2", 40, 6, 4
OPTIONS = ["--directions", "8", "--colours", "grey", "--rows", "100", "--held-out-rows", "60"]
FIGURES = ("stimuli", "criterion", "circle", "filling", "splits", "controls")
TABLES = ("neurons", "features", "controls", "gaps", "draws_on", "neuron_parts", "stimuli")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, random_run: Callable[..., Path]) -> Path:
    """A finished run's folder around an SAE with random rows and dead features."""
    folder = tmp_path_factory.mktemp("curves")
    build_store(
        BuildConfig(
            images="synthetic:20", layers=(LAYER,), out=str(folder / "store"), positions="8",
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
        app(["curves", str(run), "--quiet", "--json", *OPTIONS], standalone_mode=False)
    return json.loads(text.getvalue())


def test_every_file_is_there_and_the_summary_is_the_one_printed(run: Path, printed: dict) -> None:
    folder = run / "analysis" / "curves"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    tables = {f"{name}.{kind}" for name in TABLES for kind in ("parquet", "csv")}
    curves = {"feature_curves.parquet", "neuron_curves.parquet"}
    assert files == figures | tables | curves | {"summary.json"}
    written = json.loads((folder / "summary.json").read_text())
    assert {**written, "out": str(folder)} == printed
    for name in FIGURES:
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5
    with pytest.raises(RunError, match="--overwrite"):
        analyze_curves(run)


def test_the_summary_says_images_place_nulls_and_counts(run: Path, printed: dict) -> None:
    assert printed["images"]["effective_field"]["split"] == "holdout"
    assert printed["images"]["neurons_taken_apart"]["split"] == "holdout"
    assert printed["images"]["rates_and_percentiles"]["rows"] <= 100
    assert not printed["place"]["padding_reaches_the_cell"]
    assert set(printed["nulls"]) == {"significant", "controls", "equal_count", "splits"}
    assert "Benjamini-Hochberg" in printed["correction"]
    assert "skipped" in printed["known_units"]
    units = printed["units"]
    assert {"neuron", "feature", "encoder", "mixture", "pca", "nmf", "rotated"} <= set(units)
    assert units["feature"]["units"] == N
    assert units["feature"]["on_in_training_rows"] <= N - DEAD
    assert units["encoder"]["units"] == units["feature"]["on_in_training_rows"]
    for one in units.values():
        assert one["curve_detectors"] <= min(one["parts"].values())
        assert all(count >= one["curve_detectors"] for count in one["all_but"].values())
    stimuli = printed["stimuli"]
    families = ("arcs", "straight", "corners", "circles")
    assert stimuli["count"] == sum(stimuli[name] for name in families)
    lines = curves_text(printed, "out").splitlines()
    assert max(len(line) for line in lines) <= 80
    assert sum(line.startswith(tuple(units)) for line in lines) >= len(units)


def test_tables_agree_with_the_summary_and_are_free_of_nan(run: Path, printed: dict) -> None:
    folder = run / "analysis" / "curves"
    for name in TABLES:
        table = pq.read_table(folder / f"{name}.parquet")
        assert pa_csv.read_csv(folder / f"{name}.csv").column_names == table.schema.names
        for column in table.schema.names:
            values = table.column(column).to_pylist()
            assert not any(isinstance(one, float) and one != one for one in values), column
    for kind in ("feature", "neuron"):
        table = pq.read_table(folder / f"{kind}s.parquet")
        for part in PARTS:
            held = sum(table.column(part).to_pylist())
            assert held == printed["units"][kind]["parts"][part]
    assert "branch" not in pq.read_table(folder / "neurons.parquet").column_names
    parts = pq.read_table(folder / "neuron_parts.parquet")
    assert (parts.column("part").to_numpy() > 0).all()


@pytest.mark.skipif(
    not (cache_folder() / "inception5h.pth").is_file(),
    reason="the original weights (inception5h.pth) are not in the cache",
)
def test_the_known_units_of_the_original_network_have_their_orientations() -> None:
    network = load_model(weights="inception5h", dtype=torch.float32)
    assert known_units.applies(network, known_units.LAYER)
    at = read_cell(network.layers[known_units.LAYER], 224)
    field = effective_field(network, known_units.LAYER, at, noise_pictures(8, at.size, 0))
    config = CurvesConfig(colours=("grey",))
    stimuli = curve_stimuli(config, at.size, (at.centre, at.centre), field.side)
    channels = network.layers[known_units.LAYER].channels
    W = torch.eye(channels)
    sae = SAE(W, torch.zeros(channels), W.clone(), torch.zeros(channels), channels)
    answers = read_responses(network, sae, known_units.LAYER, at.cell, stimuli.shown)
    found = measure_units("neuron", answers.neuron_chunks(), np.ones(channels), stimuli, config)
    told = known_units.compare_known(found.direction_N, found.detector_N)
    assert told["fit"]["mean_error_degrees"] < 15
    assert told["fit"]["p"] < 0.01


def test_known_units_are_those_of_one_network_and_layer() -> None:
    network = load_model("inceptionv1", "random:0")
    assert known_units.applies(network, "mixed3b") == (network.class_count == 1008)
    assert not known_units.applies(network, "mixed3a")
