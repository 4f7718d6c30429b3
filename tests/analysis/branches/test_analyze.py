"""The whole command on a real small store and a made-up SAE: files, numbers, errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from isae.analysis import BranchesConfig, analyze_branches
from isae.analysis.cli import app
from isae.errors import ConfigError, DataError, IsaeError, RunError, StoreError
from isae.progress import Reporter
from isae.store import BuildConfig, Store, build_store, open_store
from isae.train import SAE

LAYER, N, K, DEAD = "mixed4a", 70, 8, 5
SHARES_ONLY = {"heldout_rows": 0, "pictures": 0, "reference_rows": 0, "figures": False}
"""Options without the measures that need replaced rows, the network or other dictionaries."""
NO_PICTURES = "synthetic:23"
"""Pictures that the store was not built from: no contact sheets are drawn."""
NAMES = ["1x1", "3x3", "5x5", "pool"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("store") / "store"
    config = BuildConfig(
        images="synthetic:24", layers=(LAYER, "conv2d2"), out=str(out), positions="12",
        size=96, workers=0, holdout=0.2, seed=3, device="cpu",
    )  # fmt: skip
    build_store(config)
    return open_store(out)


def make_run(folder: Path, store: Store, layer: str) -> Path:
    """A finished run's folder around an SAE with a planted 5x5 group and dead features."""
    rng = np.random.default_rng(1)
    stored = store.layers[layer]
    mean_C = store.statistics(layer).mean_C.astype(np.float32)
    W = rng.normal(size=(N, stored.channels)).astype(np.float32)
    if stored.branches:
        start, stop = stored.branches["5x5"]
        W[:10, start:stop] *= 8.0
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    bias = np.zeros(N, dtype=np.float32)
    bias[-DEAD:] = -1e6
    weights = [torch.from_numpy(part) for part in (W, bias, W.copy(), mean_C)]
    SAE(*weights, K).save(folder / "sae" / layer)
    recorded = {"store": str(store.path), "layer": layer}
    content = {"store_content_id": store.manifest["content_id"]}
    (folder / "config.json").write_text(json.dumps(recorded | content))
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), store, LAYER)


@pytest.fixture(scope="module")
def summary(run: Path) -> dict:
    return analyze_branches(
        run, config=BranchesConfig(top=4, pictures=8, spliced=6, reference_rows=90)
    )


@pytest.fixture(scope="module")
def folder(run: Path, summary: dict) -> Path:
    return run / "analysis" / "branches"


def test_every_file_is_there_and_whole(folder: Path, summary: dict) -> None:
    assert Path(summary["out"]) == folder
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    figures = {
        f"figures/{name}.{kind}"
        for name in ("shares", "discoveries", "p_values", "r_scores", "causal", "references")
        for kind in ("png", "svg")
    }
    sheets = {f"sheets/{name}.png" for name in NAMES}
    tables = {"features.parquet", "features.csv", "patches.parquet", "summary.json"}
    assert files == figures | sheets | tables
    assert [path.name for path in folder.parent.iterdir()] == ["branches"]
    for name in figures | sheets:
        if name.endswith("png"):
            with Image.open(folder / name) as image:
                assert min(image.size) > 300
                assert np.asarray(image.convert("L")).std() > 5
    assert json.loads((folder / "summary.json").read_text()) == {
        key: value for key, value in summary.items() if key != "out"
    }


def test_the_summary_repeats_the_table(folder: Path, summary: dict) -> None:
    table = pq.read_table(folder / "features.parquet")
    column = {
        name: table.column(name).to_numpy(zero_copy_only=False) for name in table.schema.names
    }
    alive = column["alive"].astype(bool)
    assert (summary["features"], summary["alive"], summary["dead"]) == (
        N,
        alive.sum(),
        N - alive.sum(),
    )
    assert summary["dead"] >= DEAD
    assert not alive[-DEAD:].any()
    assert summary["tests"] == summary["tested"] * 4 * 2 == alive.sum() * 8
    both = np.zeros(N, dtype=bool)
    for name in NAMES:
        one = summary["branches"][name]
        start, stop = {"1x1": (0, 192), "3x3": (192, 396), "5x5": (396, 444), "pool": (444, 508)}[
            name
        ]
        assert one["channels"] == stop - start
        above = []
        for basis in ("decoder", "spread"):
            q = column[f"q_{basis}_{name}"].astype(float)
            p = column[f"p_{basis}_{name}"].astype(float)
            assert np.isfinite(p[alive]).all()
            assert np.isnan(p[~alive]).all()
            assert (q[alive] >= p[alive]).all()
            above.append(q <= 0.05)
            assert one[basis]["above_null"] == above[-1].sum()
            assert one[basis]["above_null_holm"] <= one[basis]["above_null"]
            share = column[f"share_{basis}_{name}"].astype(float)
            assert one[basis]["median_share"] == pytest.approx(np.median(share[alive]))
            chosen = column[f"dominant_{basis}"][alive] == name
            assert one[basis]["dominant"]["features"] == chosen.sum()
            marked = [name in cell.split(";") for cell in column[f"significant_{basis}"]]
            np.testing.assert_array_equal(marked, above[-1])
        joint = column[f"q_both_{name}"].astype(float) <= 0.05
        marked = [name in cell.split(";") for cell in column["significant_both"]]
        np.testing.assert_array_equal(marked, joint)
        assert one["above_null_in_both"] == joint.sum()
        both |= joint
        assert one["assigned"]["features"] == (column["assigned"] == name).sum()
        r = column[f"r_{name}"].astype(float)[alive]
        assert one["r_score"]["above_0.5"] == (r > 0.5).sum()
        assert one["r_score"]["even_spread"] == pytest.approx(np.sqrt((stop - start) / 508))
    assert summary["features_above_null"]["both"] == both.sum()
    planted = np.flatnonzero(alive[:10])
    assert len(planted) >= 3
    assert (column["q_decoder_5x5"][planted] < 1e-6).all()
    shares = sum(column[f"share_decoder_{name}"] for name in NAMES)
    np.testing.assert_allclose(shares, 1.0)


def test_the_measures_stand_in_the_table_and_the_summary(folder: Path, summary: dict) -> None:
    table = pq.read_table(folder / "features.parquet")
    assert summary["skipped"] == {}
    assert {"causal shares", "logits", "kernel size", "references"} <= set(
        summary["seconds_by_stage"]
    )
    causal, logits = summary["causal"], summary["logits"]
    rows = table.column("causal_rows").to_numpy()
    assert causal["features_with_pairs"] == (rows > 0).sum() > 20
    assert causal["pairs"] == rows.sum()
    assert causal["split"] == logits["pictures"]["split"] == "holdout"
    enough = table.column("causal_images").to_numpy() >= 5
    assert causal["features_with_images_enough"] == enough.sum() > 0
    for name in NAMES:
        share = table.column(f"causal_other_share_{name}").to_numpy()
        assert np.isfinite(share[rows > 0]).all()
        assert np.isnan(share[rows == 0]).all()
        one = causal["branches"][name]["other"]["share"]
        assert one["mean"] == pytest.approx(share[enough].mean())
        low, high = (table.column(f"causal_other_share_{end}_{name}") for end in ("low", "high"))
        assert (low.to_numpy()[enough] <= high.to_numpy()[enough]).all()
        assert one["interval_95"][0] <= one["mean"] <= one["interval_95"][1]
        excess = table.column(f"excess_decoder_{name}").to_numpy()
        chance = summary["branches"][name]["channel_share"]
        shares = table.column(f"share_decoder_{name}").to_numpy()
        np.testing.assert_allclose(excess, shares - chance)
    parts = sum(table.column(f"logit_share_{name}").to_numpy() for name in NAMES)
    seen = table.column("logit_images").to_numpy() > 0
    np.testing.assert_allclose(parts[seen], 1.0)
    assert logits["splices"]["features"] == 6
    assert logits["splices"]["correlation"] > 0.5
    assert set(summary["kernel_size"]["features"]) == {"all", "assigned_to_5x5"}
    lines = summary["references"]["dictionaries"]
    assert set(lines) == {"sae", "gaussian", "rotated within", "rotated", "pca", "nmf", "neurons"}
    assert lines["sae"]["rows"] == summary["tested"]
    assert summary["effects"]["clusters"] <= summary["alive"]


def test_several_runs_are_corrected_together(store: Store, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, store, LAYER) for name in ("one", "two")]
    short = [
        "--heldout-rows",
        "0",
        "--pictures",
        "0",
        "--reference-rows",
        "0",
        "--no-figures",
        "--quiet",
    ]
    out = ["--out", str(tmp_path / "joint"), "--max-rows", "60", "--images", NO_PICTURES]
    command = ["branches", *map(str, runs), *short]
    with pytest.raises(ConfigError, match="--out"):
        app(command, standalone_mode=False)
    app([*command, *out], standalone_mode=False)
    joint = json.loads((tmp_path / "joint" / "summary.json").read_text())
    single = [
        json.loads((run / "analysis" / "branches" / "summary.json").read_text()) for run in runs
    ]
    assert joint["tests"] == sum(one["tests"] for one in single)
    assert joint["runs"] == [str(run) for run in runs]
    with pytest.raises(RunError, match="--overwrite"):
        app([*command, *out], standalone_mode=False)


def test_another_dictionary_stands_beside_the_saes(run: Path, store: Store, tmp_path: Path) -> None:
    config = BranchesConfig(max_rows=60, **SHARES_ONLY)
    against = make_run(tmp_path / "other", store, LAYER)
    found = analyze_branches(
        run, against=against, images=NO_PICTURES, out=tmp_path / "out", config=config
    )
    assert set(found["references"]["dictionaries"]) == {"sae", "against"}
    apart = found["against"]["sae_minus_against"]["mean_share"]["5x5"]
    low, high = apart["interval_95"]
    assert low <= apart["difference"] <= high
    plain = make_run(tmp_path / "plain", store, "conv2d2")
    with pytest.raises(RunError, match="conv2d2"):
        analyze_branches(
            run, against=plain, images=NO_PICTURES, out=tmp_path / "two", config=config
        )


def test_the_csv_holds_the_same_table(folder: Path) -> None:
    parquet = pq.read_table(folder / "features.parquet")
    csv = pa_csv.read_csv(folder / "features.csv")
    assert csv.schema.names == parquet.schema.names
    for name in ("feature", "fired_rows", "share_decoder_5x5", "p_spread_pool"):
        assert csv.column(name).to_pylist() == pytest.approx(parquet.column(name).to_pylist())


def test_patches_are_the_strongest_rows(folder: Path, run: Path, store: Store) -> None:
    sae = SAE.load(run / "sae" / LAYER)
    x = torch.from_numpy(store.activations(LAYER)[:].astype(np.float32))
    values, indices = sae.encode(x)
    features = pq.read_table(folder / "features.parquet")
    patches = pq.read_table(folder / "patches.parquet")
    position = store.positions(LAYER)[:]
    for feature in (0, 3, 30):
        fired = ((indices == feature) & (values > 0)).any(dim=1).numpy()
        assert features.column("fired_rows")[feature].as_py() == fired.sum()
        mine = patches.filter(np.equal(patches.column("feature").to_numpy(), feature)).to_pylist()
        code = torch.where((indices == feature), values, 0.0).sum(dim=1).numpy()
        by_image: dict[int, float] = {}
        for (image, _, _), value in zip(position[fired], code[fired], strict=True):
            by_image[int(image)] = max(by_image.get(int(image), 0.0), float(value))
        expected = sorted(by_image.values(), reverse=True)[:4]
        assert [one["value"] for one in mine] == pytest.approx(expected, rel=1e-5)
        assert [one["rank"] for one in mine] == list(range(len(expected)))
        for one in mine:
            assert by_image[one["image"]] == pytest.approx(one["value"], rel=1e-5)
            assert one["name"] == store.images.column("name")[one["image"]].as_py()


def test_the_same_seed_gives_the_same_tables_at_any_batch_size(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    config = BranchesConfig(top=4, pictures=0, reference_rows=0, figures=False, batch_size=37)
    analyze_branches(run, out=tmp_path / "out", images=NO_PICTURES, config=config)
    for name in ("features.parquet", "patches.parquet"):
        one, two = (pq.read_table(where / name) for where in (folder, tmp_path / "out"))
        for column in two.schema.names:
            left, right = one.column(column), two.column(column)
            if pa.types.is_floating(left.type):
                # The encoder's products may differ in the last bits with the number of rows.
                np.testing.assert_allclose(left.to_numpy(), right.to_numpy(), rtol=1e-5, atol=1e-6)
            else:
                assert left.to_pylist() == right.to_pylist()


def test_an_analysis_is_replaced_only_when_asked(run: Path, folder: Path, tmp_path: Path) -> None:
    before = (folder / "summary.json").read_bytes()
    with pytest.raises(RunError, match="--overwrite"):
        analyze_branches(run)
    assert (folder / "summary.json").read_bytes() == before
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="nothing was deleted"):
        analyze_branches(run, out=foreign, overwrite=True)
    assert (foreign / "summary.json").exists()


def test_the_working_directory_is_no_place_for_a_folder_that_is_replaced(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (".", "..", tmp_path / "here", tmp_path / "link"):
        with pytest.raises(RunError, match="can be replaced as a whole"):
            analyze_branches(run.resolve(), out=out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "link"]


def test_a_link_to_an_analysis_is_followed(run: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    config = BranchesConfig(top=3, max_rows=200, **SHARES_ONLY)
    analyze_branches(run, out=tmp_path / "link", overwrite=True, config=config)
    assert (tmp_path / "link").is_symlink()
    read = json.loads((tmp_path / "real" / "summary.json").read_text())
    assert read["options"]["top"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_failure_on_the_way_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("isae.analysis.branches.analyze.write_figures", full)
    with pytest.raises(OSError, match="No space"):
        analyze_branches(
            run,
            out=tmp_path / "out",
            config=BranchesConfig(max_rows=50, **SHARES_ONLY | {"figures": True}),
        )
    assert list(tmp_path.iterdir()) == []


def test_changed_pictures_cost_the_sheets_only(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = BranchesConfig(max_rows=50, heldout_rows=0, reference_rows=0)
    reporter = Reporter(quiet=True)
    analyze_branches(
        run, images=NO_PICTURES, out=tmp_path / "out", config=config, reporter=reporter
    )
    assert "does not hold the pictures" in capsys.readouterr().err
    assert not (tmp_path / "out" / "sheets").exists()
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written["skipped"]["causal"] == "not asked for"
    assert "--images" in written["skipped"]["logits"]
    assert "--images" in written["skipped"]["kernel_size"]
    assert not {"causal", "logits", "kernel_size", "references"} & set(written)
    read = written["images"]
    assert read["rows_read"] == 50
    assert sum(read["rows_read_by_split"].values()) == 50
    assert min(read["rows_read_by_split"].values()) > 0
    assert pq.read_table(tmp_path / "out" / "patches.parquet").num_rows > 0


def broken(run: Path, copy: Path, what: str) -> Path:
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    if what == "unfinished":
        (copy / "summary.json").unlink()
    elif what == "no config":
        (copy / "config.json").unlink()
    elif what == "damaged":
        (copy / "config.json").write_text("{")
    elif what == "store gone":
        config["store"] = "/nowhere/store"
    elif what == "other store":
        config["store_content_id"] = "0" * 64
        (copy / "summary.json").write_text("{}")
    if what in ("store gone", "other store"):
        (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("unfinished", RunError, "--resume"),
        ("no config", RunError, "no config.json"),
        ("damaged", RunError, "damage"),
        ("store gone", StoreError, "--store"),
        ("other store", StoreError, "another one"),
    ],
)
def test_runs_and_stores_that_do_not_serve_are_refused(
    run: Path, tmp_path: Path, what: str, error: type[IsaeError], words: str
) -> None:
    with pytest.raises(error, match=words):
        analyze_branches(broken(run, tmp_path / "run", what), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_run_and_a_layer_without_branches_are_refused(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="nothing at"):
        analyze_branches(tmp_path / "nowhere")
    plain = make_run(tmp_path / "plain", store, "conv2d2")
    with pytest.raises(DataError, match="conv2d2"):
        analyze_branches(plain)


@pytest.mark.parametrize(
    "option",
    [
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"top": 0},
        {"max_rows": 0},
        {"batch_size": 0},
        {"heldout_rows": -1},
        {"pairs": 0},
        {"draws": 0},
        {"pictures": -1},
        {"alike": 0.0},
    ],
)
def test_options_out_of_range_are_refused(option: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        BranchesConfig(**option)


def test_the_command_prints_one_json_object_and_nothing_else(
    run: Path, summary: dict, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    short = ["--heldout-rows", "0", "--pictures", "0", "--reference-rows", "0", "--no-figures"]
    arguments = ["branches", str(run), "--quiet", "--out", str(tmp_path / "out"), "--top", "4"]
    arguments += short
    app([*arguments, "--json"], standalone_mode=False)
    printed = capfd.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out)["branches"] == summary["branches"]
    command = [sys.executable, "-m", "isae.analysis.cli", *arguments]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("error: expected no analysis")
    assert again.stderr.count("\n") == 1
    assert not again.stdout


def test_the_table_for_a_person_fits_80_columns(summary: dict) -> None:
    from isae.analysis.branches.summary import table_text

    large = json.loads(json.dumps(summary))
    for one in large["branches"].values():
        one["above_null_in_both"] = one["relative"]["above_null"] = 16384
        one["decoder"]["above_null"] = one["spread"]["above_null"] = 16384
        one["r_score"]["above_0.9"] = 16384
    lines = table_text(large, "out").splitlines()
    assert max(len(line) for line in lines) <= 80
    assert {line.split()[0] for line in lines if line} >= set(NAMES)
