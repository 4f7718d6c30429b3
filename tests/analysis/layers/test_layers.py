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
from isae.analysis.codes import Room, pool_codes, read_codes
from isae.analysis.layers import against
from isae.analysis.layers.against import Drawn
from isae.analysis.layers.inputs import choose_images
from isae.analysis.layers.summary import table_text
from isae.analysis.layers.virtual_pairs import measure_paths
from isae.analysis.layers.windows import pool_windows
from isae.errors import ConfigError, DataError, RunError, StoreError
from isae.images import open_source, resize_crop
from isae.inception import layer_table, load_model
from isae.progress import QUIET
from isae.store import BuildConfig, Store, build_store, open_store
from isae.train import SAE

LAYERS, N, K = ("mixed4d", "mixed4e", "mixed5a"), 60, 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("store") / "store", "synthetic:36", LAYERS, holdout=0.3)


def build(
    out: Path,
    images: str,
    layers: tuple[str, ...],
    holdout: float,
    weights: str = "default",
    positions: str = "all",
) -> Store:
    config = BuildConfig(
        images=images, layers=layers, out=str(out), positions=positions, weights=weights,
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
    numbers = {
        "--least-images": "4", "--shuffles": "5", "--max-images": "24", "--alpha": "0.95",
        "--virtual-images": "10",
    }  # fmt: skip
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
    names = ("matches", "scored", "branches", "log_odds", "flows")
    figures = {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")}
    names = ("matches", "edges", "nearest", "virtual_weights", "agreement", "branch_table")
    tables = {f"{name}.{kind}" for name in names for kind in ("parquet", "csv")}
    assert files == figures | tables | {"summary.json", "draws.parquet"}
    assert summary["figures"] == ["matches", "scored", "branches", "log_odds", "flows"]
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
        ("mixed4d", "mixed4e", "weights"),
        ("mixed4e", "mixed5a", "max"), ("mixed4e", "mixed5a", "mean"),
        ("mixed4e", "mixed5a", "image"), ("mixed4e", "mixed5a", "weights"),
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
            row["branch_a"] is not None and row["branch_a"] == row["branch_b"]
            for row in matches
            if (row["layer_a"], row["layer_b"], row["measure"]) == where
            and row["method"] == "mutual"
            and row["found"]
        ]
        assert counted["count"] == sum(same)
        assert counted["p"] is None
        assert one["mutual"]["scored"] <= one["mutual"]["found"]
        joined += len(same)
    assert joined > 20
    assert summary["images"]["selection"]["images"] == 24
    assert summary["images"]["scoring"]["from"] == "held-out images of the store"
    for name in ("null", "weights_null", "correction", "agreement_null", "notes"):
        assert summary[name]
    assert summary["left_out"] == []
    assert summary["against"] is None


def test_virtual_weights_are_those_of_the_sae_and_the_mean_path(
    runs: list[Path], summary: dict, store: Store
) -> None:
    virtual = {tuple(one["layers"]): one["virtual"] for one in summary["pairs"] if "virtual" in one}
    assert {one["pictures"] for one in virtual.values()} == {10}
    # At 96 pixels mixed5a has 3 x 3 cells, all of which the 5x5 kernel's padding reaches.
    assert virtual["mixed4d", "mixed4e"]["places"] == 10 * 2 * 2
    assert virtual["mixed4e", "mixed5a"]["places_that_padding_reaches"]
    rows = pq.read_table(Path(summary["out"]) / "virtual_weights.parquet").to_pylist()
    row = next(row for row in rows if row["layer_b"] == "mixed4e")
    parts = [row[f"weight_{name}"] for name in store.layers["mixed4e"].branches]
    assert sum(parts) == pytest.approx(row["weight"])
    first, second = (
        SAE.load(run / "sae" / run_layer)
        for run, run_layer in zip(runs[:2], LAYERS[:2], strict=True)
    )
    # One unit more of the feature, at every place of the map, moves the reader by about V.
    network = load_model("inceptionv1", "default", dtype=torch.float32)
    pixels = torch.randint(0, 256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    map_BCHW = network.activations(pixels.to(torch.uint8), ["mixed4d"])["mixed4d"]
    step = 1e-2 * first.W_dec_ND[row["feature_a"]].detach()[:, None, None]
    moved = [
        network.activations_from("mixed4d", map_BCHW + sign * step, ["mixed4e"])["mixed4e"]
        for sign in (1, -1)
    ]
    reader = second.W_enc_ND[row["feature_b"]].detach()
    change = ((moved[0] - moved[1]).mean(dim=(0, 2, 3)) / 2e-2 * reader).sum()
    assert float(change) == pytest.approx(row["weight"], rel=0.6)
    meter = summary["pairs"][2]["virtual"]["best_partner_as_by_correlation"]
    assert [one["features"] > 0 for one in meter] == [True, True]


def test_edges_are_the_found_matches(summary: dict) -> None:
    folder = Path(summary["out"])
    matches = pq.read_table(folder / "matches.parquet").to_pylist()
    edges = pq.read_table(folder / "edges.parquet").to_pylist()
    where = ("layer_a", "feature_a", "layer_b", "feature_b", "measure")
    found = {tuple(row[name] for name in where) for row in matches if row["found"]}
    assert {tuple(row[name] for name in where) for row in edges} == found
    assert len(edges) == len(found)
    assert {row["method"] for row in edges} <= {"mutual", "one_to_one", "both"}
    assert all(row["q"] <= 0.95 for row in edges)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A finished analysis of the same pictures in an untrained network."""
    folder = tmp_path_factory.mktemp("untrained")
    store = build(folder / "store", "synthetic:36", LAYERS[:2], holdout=0.3, weights="random:1")
    own = [make_run(folder / layer, store, layer) for layer in LAYERS[:2]]
    analyze_layers(own, out=folder / "layers", config=SMALL)
    return [folder / "layers"]


SMALL = LayersConfig(
    least_images=4, shuffles=5, max_images=24, alpha=0.95, virtual_images=0, resamples=100,
    label_draws=100,
)  # fmt: skip


def test_trained_against_untrained(runs: list[Path], untrained: list[Path], tmp_path: Path) -> None:
    found = analyze_layers(runs[:2], out=tmp_path / "out", config=SMALL, against=untrained)
    assert "weights" not in {one["measure"] for one in found["pairs"]}
    assert "not asked for" in found["left_out"][0]["why"]
    rows = pq.read_table(tmp_path / "out" / "against.parquet").to_pylist()
    assert len(rows) == len(found["against"]) == 2 * 2 * 3
    others = [pq.read_table(one / "draws.parquet").to_pylist() for one in untrained]
    for row in rows:
        key = ("layer_a", "layer_b", "measure", "method", "quantity")
        there = [
            one["value"]
            for other in others
            for one in other
            if all(one[name] == row[name] for name in key)
        ]
        assert row["untrained_networks"] == len(there) == 1
        assert row["difference"] == pytest.approx(row["trained"] - np.mean(there))
        assert row["verdict"] == (
            "beyond" if row["low"] > 0 else "below" if row["high"] < 0 else "not told apart"
        )
        assert row["low"] <= row["high"]
    text = table_text({**found, "left_out": []}, "out").splitlines()
    assert max(map(len, text)) <= 80
    # A network is not told apart from itself, and pictures must be the same.
    with pytest.raises(RunError, match="other weights"):
        analyze_layers(runs[:2], out=tmp_path / "same", config=SMALL, against=[tmp_path / "out"])
    with pytest.raises(RunError, match="finished analysis of layers"):
        analyze_layers(runs[:2], out=tmp_path / "same", config=SMALL, against=[tmp_path])


def test_differences_know_which_draws_belong_together() -> None:
    """What both networks owe to the images cancels where they saw the same ones."""
    rng = np.random.default_rng(0)
    images_T = rng.normal(scale=0.1, size=500)
    key = ("a", "b", "place", "mutual", "r")
    mine = Drawn(0.5, 0.5 + images_T + rng.normal(scale=0.01, size=500))
    theirs = Drawn(0.45, 0.45 + images_T + rng.normal(scale=0.01, size=500))
    together = against._difference(key, mine, [theirs], paired=True)
    apart = against._difference(key, mine, [theirs], paired=False)
    assert together.verdict == "beyond"
    assert apart.verdict == "not told apart"
    assert apart.high - apart.low > 5 * (together.high - together.low)
    # Untrained networks that differ widen the interval.
    far = Drawn(0.2, theirs.drawn_T - 0.25)
    several = against._difference(key, mine, [theirs, far], paired=True)
    assert several.difference == pytest.approx(0.5 - 0.325)
    assert several.high - several.low > 5 * (together.high - together.low)
    none = against._difference(key, mine, [None], paired=True)
    assert none.verdict == "not compared"
    assert np.isnan(none.low)


def test_csv_and_parquet_hold_the_same(runs: list[Path], summary: dict) -> None:
    folder = Path(summary["out"])
    for name in ("matches", "agreement", "edges", "virtual_weights"):
        parquet, csv = (
            pq.read_table(folder / f"{name}.parquet"),
            pa_csv.read_csv(folder / f"{name}.csv"),
        )
        assert csv.schema.names == parquet.schema.names
        assert csv.num_rows == parquet.num_rows > 0
        for column in parquet.schema.names:
            written, read = (table.column(column).to_pylist() for table in (parquet, csv))
            for one, two in zip(written, read, strict=True):
                assert two in ("", None) if one is None else one == pytest.approx(two)
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


class EveryChannel:
    """Every channel of the first 300 is a feature, and none is left out."""

    n = 300

    def encode(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.relu(x_BD[:, : self.n])
        return values, torch.arange(self.n).expand(values.shape)


def test_pooled_codes_are_the_networks_own_max_pool(store: Store) -> None:
    """Through windows with the real paddings: the map that mixed5a reads."""
    images_I, size = np.array([0, 7]), int(store.manifest["size"])
    codes = read_codes(EveryChannel(), store, "mixed4e", images_I)
    table = layer_table("inceptionv1")
    along = pool_windows(table["mixed4e"], table["mixed5a"], size)
    pooled = pool_codes(codes, store.layers["mixed5a"].grid, (along, along), "max")
    source = open_source("synthetic:36", seed=3)
    pixels = np.stack([resize_crop(source.load(int(i)), size) for i in images_I])
    network = load_model("inceptionv1", "default")  # its rounding is the store's
    map_BCHW = network.activations(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), ["maxpool10"]
    )["maxpool10"]
    dense_PN = np.zeros((pooled.places, pooled.features), dtype=np.float32)
    place_E = np.repeat(np.arange(pooled.places), np.diff(pooled.start_Q))
    dense_PN[place_E, pooled.feature_E] = pooled.value_E
    expected_PN = map_BCHW.permute(0, 2, 3, 1).reshape(-1, map_BCHW.shape[1])[:, :300].numpy()
    np.testing.assert_allclose(dense_PN, expected_PN, rtol=2e-3, atol=1e-2)


def test_images_are_split_as_the_store_has_them(store: Store, tmp_path: Path) -> None:
    images_I, split, words = choose_images(store, LayersConfig(max_images=20))
    recorded = np.array(store.images.column("split").to_pylist())[images_I]
    np.testing.assert_array_equal(recorded[split.select_I], "train")
    np.testing.assert_array_equal(recorded[split.score_I], "holdout")
    assert not (split.select_I & split.score_I).any()
    assert words["selection"]["images"] == split.select_I.sum() == 20
    labels = [store.images.column("label").to_pylist()[i] for i in images_I]
    for i, j in np.ndindex(len(labels), len(labels)):
        assert (split.class_I[i] == split.class_I[j]) == (i == j or labels[i] == labels[j] != "")
    whole = build(tmp_path / "store", "synthetic:9", LAYERS[2:], holdout=0.0)
    _, halves, words = choose_images(whole, LayersConfig())
    assert (halves.select_I.sum(), halves.score_I.sum()) == (5, 4)
    assert not (halves.select_I & halves.score_I).any()
    assert words["scoring"]["from"].startswith("other training images")


def test_some_places_an_image_are_compared_by_image_alone(tmp_path: Path) -> None:
    store = build(tmp_path / "store", "synthetic:36", LAYERS[:2], holdout=0.3, positions="3")
    runs = [make_run(tmp_path / layer, store, layer) for layer in LAYERS[:2]]
    found = analyze_layers(runs, out=tmp_path / "out", config=SMALL)
    assert [one["measure"] for one in found["pairs"]] == ["image"]
    why = {one["measure"]: one["why"] for one in found["left_out"]}
    assert "--positions all" in why["place"]


def test_pictures_that_are_gone_leave_virtual_weights_out(
    runs: list[Path], store: Store, tmp_path: Path
) -> None:
    found, why = measure_paths(
        store, [("mixed4d", "mixed4e"), ("mixed4d", "mixed5a")], np.arange(4), LayersConfig(),
        images="synthetic:35", weights=None, device=torch.device("cpu"), reporter=QUIET,
    )  # fmt: skip
    assert found == {}
    assert "pictures are gone" in why["mixed4d", "mixed4e"]
    assert "max pool" in why["mixed4d", "mixed5a"]
    with pytest.raises(StoreError, match="--weights"):
        measure_paths(
            store, [("mixed4d", "mixed4e")], np.arange(4), LayersConfig(), images=None,
            weights="random:1", device=torch.device("cpu"), reporter=QUIET,
        )  # fmt: skip


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
