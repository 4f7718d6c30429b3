"""`isae-analyze layers` on a real small store and made-up SAEs: files, numbers, errors."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from isae.analysis import LayersConfig, analyze_layers
from isae.analysis.cli import app
from isae.analysis.layers.codes import Room, pool_codes, read_codes
from isae.analysis.layers.summary import table_text
from isae.errors import ConfigError, DataError, RunError
from isae.store import BuildConfig, Store, build_store, open_store
from isae.train import SAE

LAYERS, N, K = ("mixed4d", "mixed4e", "mixed5a"), 60, 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("store") / "store", "synthetic:36", LAYERS, holdout=0.3)


def build(out: Path, images: str, layers: tuple[str, ...], holdout: float) -> Store:
    config = BuildConfig(
        images=images, layers=layers, out=str(out), positions="all",
        size=96, workers=0, holdout=holdout, seed=3, device="cpu",
    )  # fmt: skip
    build_store(config)
    return open_store(out)


def make_run(folder: Path, store: Store, layer: str, seed: int = 1) -> Path:
    """A finished run's folder around an SAE whose features are single channels and mixtures."""
    rng = np.random.default_rng(seed)
    stored = store.layers[layer]
    mean_C = store.statistics(layer).mean_C.astype(np.float32)
    W = rng.normal(size=(N, stored.channels)).astype(np.float32)
    for feature, channel in enumerate(rng.choice(stored.channels, N // 2, replace=False)):
        W[feature, channel] = 40.0
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    weights = [torch.from_numpy(part) for part in (W, np.zeros(N, np.float32), W.copy(), mean_C)]
    SAE(*weights, K).save(folder / "sae" / layer)
    recorded = {"store": str(store.path), "layer": layer}
    content = {"store_content_id": store.manifest["content_id"]}
    (folder / "config.json").write_text(json.dumps(recorded | content))
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def runs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [make_run(tmp_path_factory.mktemp(layer), store, layer) for layer in LAYERS]


@pytest.fixture(scope="module")
def summary(runs: list[Path]) -> dict:
    """What the command prints: one JSON object and nothing else."""
    numbers = {"--least-images": "4", "--shuffles": "5", "--max-images": "24", "--alpha": "0.95"}
    options = [*(part for option in numbers.items() for part in option), "--quiet", "--json"]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        app(["layers", *map(str, (runs[2], runs[0], runs[1])), *options], standalone_mode=False)
    assert err.getvalue() == ""
    return json.loads(out.getvalue())


def test_every_file_is_there_and_the_summary_repeats_the_tables(
    runs: list[Path], summary: dict
) -> None:
    folder = runs[0] / "analysis" / "layers"
    assert Path(summary["out"]) == folder
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    names = ("matches", "scored", "branches", "log_odds")
    figures = {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")}
    names = ("matches", "nearest", "agreement", "branch_table")
    tables = {f"{name}.{kind}" for name in names for kind in ("parquet", "csv")}
    assert files == figures | tables | {"summary.json"}
    assert summary["figures"] == ["matches", "scored", "branches", "log_odds"]
    for name in figures:
        if name.endswith("png"):
            with Image.open(folder / name) as image:
                assert min(image.size) > 200
                assert np.asarray(image.convert("L")).std() > 5
    assert json.loads((folder / "summary.json").read_text()) == {
        key: value for key, value in summary.items() if key != "out"
    }
    compared = [(*one["layers"], one["measure"]) for one in summary["pairs"]]
    assert compared == [
        ("mixed4d", "mixed4e", "place"), ("mixed4d", "mixed4e", "image"),
        ("mixed4e", "mixed5a", "max"), ("mixed4e", "mixed5a", "mean"),
        ("mixed4e", "mixed5a", "image"),
    ]  # fmt: skip
    matches = pq.read_table(folder / "matches.parquet").to_pylist()
    nearest = pq.read_table(folder / "nearest.parquet").to_pylist()
    assert len(nearest) == summary["tests"]["nearest"]
    joined = 0
    for one in summary["pairs"]:
        where = (*one["layers"], one["measure"])
        for method in ("mutual", "one_to_one"):
            mine = [
                row
                for row in matches
                if (row["layer_a"], row["layer_b"], row["measure"]) == where
                and row["method"] == method
            ]
            assert len(mine) == one[method]["matches"] > 0
            assert sum(row["q"] <= 0.95 for row in mine) == one[method]["found"]
            assert sum(row["found"] for row in mine) == one[method]["found"]
            assert len({row["feature_a"] for row in mine}) == len(mine)
        counted = one["agreement"]["mutual features"]["same branch"]
        same = [
            row["branch_a"] == row["branch_b"]
            for row in matches
            if (row["layer_a"], row["layer_b"], row["measure"]) == where
            and row["method"] == "mutual"
            and row["found"]
        ]
        assert counted["count"] == sum(same)
        joined += len(same)
    assert joined > 20
    assert summary["images"]["selection"]["images"] == 24
    assert summary["images"]["scoring"]["from"] == "held-out images of the store"
    for name in ("null", "correction", "agreement_null", "notes"):
        assert summary[name]


def test_csv_and_parquet_hold_the_same(runs: list[Path], summary: dict) -> None:
    folder = Path(summary["out"])
    for name in ("matches", "agreement"):
        parquet, csv = (
            pq.read_table(folder / f"{name}.parquet"),
            pa_csv.read_csv(folder / f"{name}.csv"),
        )
        assert csv.schema.names == parquet.schema.names
        assert csv.num_rows == parquet.num_rows > 0
    text = table_text(summary, "out").splitlines()
    assert max(map(len, text)) <= 80


class ChannelEncoder:
    """Each channel is a feature; the K largest of a row. Exact, whatever the batch."""

    n = 500

    def encode(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = torch.relu(x_BD[:, : self.n]).topk(K, dim=1)
        return values, indices


def test_codes_are_those_of_the_rows_at_each_place_whatever_the_batch(
    store: Store, tmp_path: Path
) -> None:
    images_I = np.array([1, 4, 5, 20, 35])
    codes = read_codes(ChannelEncoder(), store, "mixed4d", images_I, batch_size=4096)
    again = read_codes(
        ChannelEncoder(), store, "mixed4d", images_I, batch_size=37, room=Room(tmp_path)
    )
    for name in ("image_P", "cell_P", "start_Q", "feature_E", "value_E"):
        np.testing.assert_array_equal(getattr(codes, name), getattr(again, name))
    for name in ("first_M", "place_T", "value_T"):
        np.testing.assert_array_equal(getattr(codes.columns, name), getattr(again.columns, name))
    assert codes.places == 5 * codes.grid[0] * codes.grid[1]
    x_RC, sae = store.activations("mixed4d"), ChannelEncoder()
    for p in (0, 17, codes.places - 1):
        image, cell = images_I[codes.image_P[p]], int(codes.cell_P[p])
        (row,) = store.rows_at("mixed4d", [[image, cell // codes.grid[1], cell % codes.grid[1]]])
        values, indices = sae.encode(torch.from_numpy(x_RC[[row]].astype(np.float32)))
        span = slice(codes.start_Q[p], codes.start_Q[p + 1])
        np.testing.assert_array_equal(codes.feature_E[span], indices[0].numpy())
        np.testing.assert_array_equal(codes.value_E[span], values[0].numpy())
    # The finer cells beneath a coarse one are those that the store names.
    coarse = store.layers["mixed5a"]
    pooled = pool_codes(codes, coarse.grid, coarse.stride // store.layers["mixed4d"].stride, "max")
    p = pooled.places - 1
    place = [[images_I[pooled.image_P[p]], *divmod(int(pooled.cell_P[p]), coarse.grid[1])]]
    finer = store.same_place("mixed5a", store.rows_at("mixed5a", place), "mixed4d")[0]
    beneath = [sae.encode(torch.from_numpy(x_RC[[r]].astype(np.float32))) for r in finer if r >= 0]
    highest: dict[int, float] = {}
    for values, indices in beneath:
        for value, index in zip(values[0].tolist(), indices[0].tolist(), strict=True):
            if value > 0:
                highest[index] = max(highest.get(index, 0.0), value)
    span = slice(pooled.start_Q[p], pooled.start_Q[p + 1])
    assert (
        dict(zip(pooled.feature_E[span].tolist(), pooled.value_E[span].tolist(), strict=True))
        == highest
    )


def test_runs_that_cannot_be_compared_are_refused(
    runs: list[Path], summary: dict, store: Store, tmp_path: Path
) -> None:
    another = build(tmp_path / "store", "synthetic:3", LAYERS[1:], holdout=0.3)
    with pytest.raises(RunError, match="at least two runs"):
        analyze_layers(runs[:1])
    with pytest.raises(RunError, match="two of 'mixed4d'"):
        analyze_layers([runs[0], make_run(tmp_path / "twin", store, "mixed4d", seed=2)])
    with pytest.raises(RunError, match="--overwrite"):
        analyze_layers(runs)
    other = make_run(tmp_path / "other", another, "mixed5a")
    with pytest.raises(RunError, match="runs of one store"):
        analyze_layers([runs[0], other])
    lone = [make_run(tmp_path / layer, another, layer) for layer in ("mixed4e", "mixed5a")]
    with pytest.raises(DataError, match="larger store"):
        analyze_layers(lone, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option",
    [{"alpha": 1.0}, {"pairs": "some"}, {"max_images": 1}, {"shuffles": 4}, {"duplicate_r": 0.0}],
)
def test_options_out_of_range_are_refused(option: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        LayersConfig(**option)
