"""`isae-analyze stability` on a real small store and made-up SAEs: files, numbers, errors."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from isae.analysis import StabilityConfig, analyze_stability
from isae.analysis.cli import app
from isae.analysis.stability.summary import table_text
from isae.errors import RunError
from isae.progress import Reporter
from isae.store import BuildConfig, Store, build_store, open_store
from isae.train import SAE

LAYER, SHARED, DEAD, WIDTHS, K = "mixed3a", 60, 5, (110, 110, 130), 8


def build(out: Path, images: str, weights: str = "default") -> Store:
    config = BuildConfig(
        images=images, layers=(LAYER, "mixed3b"), out=str(out), positions="10", weights=weights,
        size=64, workers=0, holdout=0.2, seed=3, device="cpu",
    )  # fmt: skip
    build_store(config)
    return open_store(out)


def make_run(folder: Path, store: Store, seed: int, width: int, layer: str = LAYER) -> Path:
    """A finished run around an SAE whose first rows are noisy copies of the same in every seed."""
    channels = store.layers[layer].channels
    common, own = np.random.default_rng(0), np.random.default_rng(100 + seed)
    W = own.normal(size=(width, channels)).astype(np.float32)
    shared = min(SHARED, width)
    W[:shared] = common.normal(size=(SHARED, channels))[:shared]
    W[:shared] += 0.3 * own.normal(size=(shared, channels))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    bias = np.zeros(width, dtype=np.float32)
    bias[-DEAD:] = -1e6
    mean_C = store.statistics(layer).mean_C.astype(np.float32)
    weights = [torch.from_numpy(part) for part in (W.copy(), bias, W, mean_C)]
    SAE(*weights, min(K, width)).save(folder / "sae" / layer)
    recorded = {"store": str(store.path), "layer": layer, "options": {"seed": seed, "k": K}}
    content = {"store_content_id": store.manifest["content_id"]}
    (folder / "config.json").write_text(json.dumps(recorded | content))
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("store") / "store", "synthetic:20")


@pytest.fixture(scope="module")
def runs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds; two of them have a branch analysis and a made-up tuning table."""
    folder = tmp_path_factory.mktemp("runs")
    made = [make_run(folder / f"seed{i}", store, i, width) for i, width in enumerate(WIDTHS)]
    for place, run in enumerate(made[:2]):
        sae = SAE.load(run / "sae" / LAYER)
        values, indices = sae.encode(
            torch.from_numpy(store.activations(LAYER)[:].astype(np.float32))
        )
        fired = torch.bincount(indices[values > 0], minlength=sae.n).numpy()
        number = np.arange(sae.n)
        names = np.array(["1x1", "3x3", "5x5", "pool"])
        # Every fifth feature has another branch in the second run.
        dominant = names[(number + place * (number % 5 == 0)) % 4]
        branch = {"fired_rows": fired, "dominant_decoder": dominant}
        branch["assigned"] = pa.array(["5x5" if i < 10 else None for i in range(sae.n)])
        write_analysis(
            run, store, "branches", branch, count=int(fired.sum()), edges=[len(values), 1]
        )
        write_analysis(run, store, "tuning", {"arc_tuned": number % 3 == 0, "arc_p": number / 200})
    return made


def write_analysis(
    run: Path, store: Store, name: str, columns: dict[str, Any], **numbers: object
) -> None:
    """What the stability analysis reads of a run's own analysis."""
    folder = run / "analysis" / name
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "features.parquet")
    about = {"analysis": name, "store": {"content_id": store.content_id}, **numbers}
    about["images"] = {"rows_read": store.layers[LAYER].rows}
    (folder / "summary.json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def summary(runs: list[Path]) -> dict:
    """What the command prints: one JSON object and nothing else."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        app(["stability", *map(str, runs), "--quiet", "--json"], standalone_mode=False)
    assert err.getvalue() == ""
    return json.loads(out.getvalue())


def test_every_file_is_there_and_the_summary_repeats_the_tables(
    runs: list[Path], summary: dict
) -> None:
    folder = runs[0] / "analysis" / "stability"
    assert Path(summary["out"]) == folder
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    names = ("best_cosine", "thresholds", "comes_back")
    figures = {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")}
    stems = ("features", "matches", "spread")
    tables = {f"{name}.{kind}" for name in stems for kind in ("parquet", "csv")}
    assert files == figures | tables | {"summary.json", "spread.json"}
    assert summary["figures"] == list(names)
    for name in figures:
        if name.endswith("png"):
            with Image.open(folder / name) as image:
                assert min(image.size) > 200
                assert np.asarray(image.convert("L")).std() > 5
    assert json.loads((folder / "summary.json").read_text()) == {
        key: value for key, value in summary.items() if key != "out"
    }
    for name in stems:
        parquet, csv = (
            pq.read_table(folder / f"{name}.parquet"),
            pa_csv.read_csv(folder / f"{name}.csv"),
        )
        assert csv.schema.names == parquet.schema.names
        assert csv.num_rows == parquet.num_rows > 0
    features = pq.read_table(folder / "features.parquet").to_pylist()
    matches = pq.read_table(folder / "matches.parquet").to_pylist()
    for number, one in enumerate(summary["runs"]):
        mine = [row for row in features if row["run"] == number]
        assert len(mine) == one["tested"] == WIDTHS[number] - one["dead"]
        assert one["dead"] >= DEAD
        assert max(row["feature"] for row in mine) < WIDTHS[number] - DEAD
        back = {row["feature"] for row in mine if row["comes_back"]}
        assert len(back) == one["comes_back"] == round(one["share"] * len(mine))
        assert back <= set(range(SHARED))
        assert len(back) > 0.9 * len([row for row in mine if row["feature"] < SHARED]) > 30
        low, high = one["interval_95"]
        assert low < one["share"] < high
        for row in mine:
            others = [m for m in matches if (m["run"], m["feature"]) == (number, row["feature"])]
            assert len(others) == 2
            assert row["least_cosine"] == min(m["cosine"] for m in others)
            assert row["p"] == max(m["p"] for m in others)
            assert row["comes_back_in"] == sum(m["comes_back"] for m in others)
    assert summary["over_runs"]["comes_back"]["mean"] == np.mean(
        [one["comes_back"] for one in summary["runs"]]
    )
    for row in matches:
        if row["comes_back"]:
            assert (row["partner"], row["match"]) == (row["feature"], row["feature"])
            assert row["cosine"] >= 0.7
            assert row["match_encoder_cosine"] == pytest.approx(row["cosine"], abs=1e-6)
    for one in summary["pairs"]:
        mine = [m for m in matches if (m["run"], m["other_run"]) == (one["of"], one["in"])]
        assert sum(m["comes_back"] for m in mine) == one["comes_back"]
        assert sum(m["mutual"] for m in mine) == one["mutual"]["matches"]
    for name in ("null", "correction", "rule", "notes", "tests"):
        assert summary[name]
    assert summary["saes"] == {
        str(run): hashlib.sha256(
            (run / "sae" / LAYER / "sae_weights.safetensors").read_bytes()
        ).hexdigest()
        for run in runs
    }
    assert summary["images"]["firing_from"] == ["branch analysis"] * 2 + ["rows of the store"]


def test_labels_and_numbers_of_the_runs_analyses(runs: list[Path], summary: dict) -> None:
    assert set(summary["labels"]) == {
        "branches assigned", "branches dominant_decoder", "tuning arc_tuned",
    }  # fmt: skip
    for name, one in summary["labels"].items():
        assert one["runs"] == [0, 1]
        for number, counts in enumerate(one["by_run"]):
            total = sum(value["features"] for value in counts.values())
            assert total == summary["runs"][number]["tested"], name
    (pair,) = summary["labels"]["tuning arc_tuned"]["agreement"]
    assert pair["comes_back"]["kappa"] == pair["comes_back"]["observed"] == 1
    assert pair["comes_back"]["matches"] > 30
    (pair,) = summary["labels"]["branches dominant_decoder"]["agreement"]
    found = pair["comes_back"]
    assert found["observed"] == pytest.approx(0.8, abs=0.05)
    assert found["kappa"] == pytest.approx((found["observed"] - 0.25) / 0.75, abs=0.02)
    assert 0.4 < found["interval_95"][0] < found["kappa"] < found["interval_95"][1] < 1
    assert pair["one_to_one"]["kappa"] < found["kappa"]
    assert pair["above_null"]["matches"] >= found["matches"] > 30
    spreads = json.loads((Path(summary["out"]) / "spread.json").read_text())
    assert summary["spread_of"] == list(spreads) == ["branches", "tuning"]
    counts = [
        json.loads((run / "analysis/branches/summary.json").read_text())["count"]
        for run in runs[:2]
    ]
    found = spreads["branches"]["count"]
    assert (found["n"], found["mean"]) == (2, np.mean(counts))
    rows = pq.read_table(Path(summary["out"]) / "spread.parquet").to_pylist()
    (row,) = [row for row in rows if (row["analysis"], row["key"]) == ("branches", "count")]
    assert row["mean"] == found["mean"]
    text = table_text(summary, "out").splitlines()
    assert max(map(len, text)) <= 80
    (place,) = [i for i, line in enumerate(text) if line.startswith("tuning arc_tuned")]
    assert text[place + 1].endswith("above the null 1.00 to 1.00; coming back 1.00 to 1.00")


def test_runs_that_cannot_be_compared_are_refused(
    runs: list[Path], summary: dict, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="at least two runs"):
        analyze_stability(runs[:1])
    with pytest.raises(RunError, match="seed0 twice"):
        analyze_stability([runs[0], runs[1], runs[0] / ".." / "seed0"])
    with pytest.raises(RunError, match="the same decoder in"):
        analyze_stability([runs[0], make_run(tmp_path / "twin", store, 0, WIDTHS[0])])
    with pytest.raises(RunError, match="runs of one layer, found 'mixed3a'"):
        analyze_stability([runs[0], make_run(tmp_path / "layer", store, 4, 70, "mixed3b")])
    another = build(tmp_path / "store", "synthetic:3")
    with pytest.raises(RunError, match="runs of one store"):
        analyze_stability([runs[0], make_run(tmp_path / "another", another, 4, 70)])
    untrained = build(tmp_path / "untrained", "synthetic:3", "random:0")
    with pytest.raises(RunError, match="runs on one network"):
        analyze_stability([runs[0], make_run(tmp_path / "network", untrained, 4, 70)])
    with pytest.raises(RunError, match="--overwrite"):
        analyze_stability(runs)
    stale = make_run(tmp_path / "stale", store, 4, 70)
    folder = stale / "analysis" / "branches"
    folder.mkdir(parents=True)
    for name in ("features.parquet", "summary.json"):
        (folder / name).write_bytes((runs[0] / "analysis" / "branches" / name).read_bytes())
    with pytest.raises(RunError, match=r"the 70 features of .* found 110"):
        analyze_stability([runs[2], stale])
    (folder / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="found damage"):
        analyze_stability([runs[2], stale])
    silent = make_run(tmp_path / "silent", store, 5, DEAD + 1)
    with pytest.raises(RunError, match="at least 2 features that fire, found 1 of 6"):
        analyze_stability([runs[2], silent])
    assert not (runs[2] / "analysis").exists()


def test_runs_that_differ_in_more_than_the_seed_are_named(
    runs: list[Path], store: Store, tmp_path: Path
) -> None:
    other = make_run(tmp_path / "other", store, 2, 90)
    config = json.loads((other / "config.json").read_text())
    config["options"]["expansion"] = 4
    (other / "config.json").write_text(json.dumps(config))
    stream = io.StringIO()
    found = analyze_stability(
        [runs[2], other],
        out=tmp_path / "out",
        config=StabilityConfig(max_rows=100, resamples=100),
        reporter=Reporter(stream=stream),
    )
    said = " ".join(stream.getvalue().split())
    assert "differ in more than the seed (expansion)" in said
    assert "seeds are [2, 2]" in said
    assert found["options_that_differ"] == {"expansion": [None, 4]}
    assert [one["rows_read"] for one in found["runs"]] == [100, 100]
    assert found["labels"] == {}
    assert not (tmp_path / "out" / "spread.json").exists()
