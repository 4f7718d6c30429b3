"""The cost of analyses: what growth says, runs cut to fewer features, what a process is charged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from isae.benchmarks import analysis_cost
from isae.benchmarks.analysis_cost import analysis_table, bench_analysis, cut_run, power
from isae.errors import ConfigError, RunError, UnknownNameError
from isae.store import BuildConfig, build_store, open_store
from isae.train import SAE

LAYER, N, K = "mixed3a", 72, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder around a random SAE."""
    folder = tmp_path_factory.mktemp("cost")
    build_store(
        BuildConfig(images="synthetic:12", layers=(LAYER,), out=str(folder / "store"), size=64,
                    workers=0, holdout=0.25, device="cpu", weights="random:0")
    )  # fmt: skip
    store = open_store(folder / "store")
    rng = np.random.default_rng(0)
    W = rng.normal(size=(N, store.layers[LAYER].channels)).astype(np.float32)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    mean_C = store.statistics(LAYER).mean_C.astype(np.float32)
    parts = (W, rng.normal(size=N).astype(np.float32), W.copy(), mean_C)
    SAE(*map(torch.from_numpy, parts), K).save(folder / "run" / "sae" / LAYER)
    content = {"store_content_id": store.manifest["content_id"]}
    config = {"store": str(store.path), "layer": LAYER, **content}
    (folder / "run" / "config.json").write_text(json.dumps(config))
    (folder / "run" / "summary.json").write_text(json.dumps(content))
    return folder / "run"


@pytest.mark.parametrize("exponent", [0.5, 1, 2])
def test_the_power_is_that_of_the_part_that_grows(exponent: float) -> None:
    sizes = np.array([100.0, 400.0, 1600.0])
    assert power(sizes, 7 + 0.3 * sizes**exponent) == pytest.approx(exponent)


@pytest.mark.parametrize(
    "costs", [(3.0, 3.0, 3.0), (3.0, 2.0, 5.0), (3.0, 4.0, 4.0), (30.0, 31.0, 60.0)]
)
def test_no_power_where_cost_hardly_rises(costs: tuple[float, ...]) -> None:
    assert np.isnan(power([100, 400, 1600], costs))


def test_a_cut_run_encodes_with_its_first_features(run: Path, tmp_path: Path) -> None:
    whole = SAE.load(run / "sae" / LAYER)
    cut = SAE.load(cut_run(run, 10, tmp_path / "cut") / "sae" / LAYER)
    x_BD = torch.randn(7, whole.d, generator=torch.Generator().manual_seed(0))
    values_BK, indices_BK = cut.encode(x_BD)
    above_BN = (x_BD - whole.b_dec_D) @ whole.W_enc_ND[:10].T + whole.b_enc_N[:10]
    wanted = above_BN.topk(K, dim=1)
    assert cut.n == 10
    assert torch.equal(indices_BK.sort(1).values, wanted.indices.sort(1).values)
    expected = wanted.values.clamp(min=0).sort(1).values
    assert torch.allclose(values_BK.sort(1).values, expected, atol=1e-5)


def test_processor_time_and_memory_are_the_childs() -> None:
    busy = "from time import process_time as t; x = b'x' * 200_000_000; e = t() + 0.4\n"
    busy += "while t() < e: pass"
    found = analysis_cost._measured([sys.executable, "-c", busy])
    assert 0.4 <= found["processor_seconds"] < 5
    assert 200 < found["own_mb"] <= found["peak_mb"] < 400


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were to be measured: every second one is cheaper and takes more memory."""
    commands: list[list[str]] = []

    def measured(command: list[str]) -> dict[str, float]:
        commands.append(command)
        cost, number = 100.0 + len(commands), float(len(commands))
        if len(commands) % 2:
            cost -= 50
        return {"seconds": cost, "processor_seconds": cost, "peak_mb": number, "own_mb": number}

    monkeypatch.setattr(analysis_cost, "_measured", measured)
    return commands


def test_an_analysis_is_measured_at_three_sizes_of_both(run: Path, asked: list[list[str]]) -> None:
    names = ("branches", "tuning", "layers")
    result = bench_analysis([run], analyses=names, most=64, repeats=2)
    sizes = [(row["analysis"], row["axis"], row["size"]) for row in result["measured"]]
    assert sizes == [
        *(("branches", "features", n) for n in (4, 16, 64)),
        *(("branches", "rows", n) for n in (4, 16, 64)),
        *(("tuning", "features", n) for n in (4, 16, 64)),
    ]
    assert len(asked) == 1 + 2 * 6 + 1 + 2 * 3  # each analysis once before it counts
    rows = [
        command[command.index("--max-rows") + 1] for command in asked if "--max-rows" in command
    ]
    assert rows == [*["64"] * 7, "4", "4", "16", "16", "64", "64"]
    # An original run may hold analyses that numbers would be taken from.
    assert not any(str(run) in command for command in asked)
    first = result["measured"][0]
    assert (first["processor_seconds"], first["seconds"]) == (53.0, 53.0)  # the second of 2, 3
    assert (first["peak_mb"], first["own_mb"]) == (3.0, 3.0)
    second = result["measured"][6]  # of 15 and 16 the cheaper, and the memory of the other
    assert (second["processor_seconds"], second["own_mb"]) == (65.0, 16.0)
    outs = {command[3]: command[command.index("--out") + 1] for command in asked}
    assert len(set(outs.values())) == 2  # an analysis does not write over another's folder
    assert list(result["left_out"]) == ["layers"]
    text = analysis_table(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "layers: left out" in text


@pytest.mark.parametrize(("axis", "wanted"), [("features", {"features"}), ("read", {"rows"})])
def test_one_axis_alone(run: Path, asked: list[list[str]], axis: str, wanted: set[str]) -> None:
    result = bench_analysis([run], analyses=("branches", "tuning"), axis=axis)
    assert {row["axis"] for row in result["measured"]} == wanted
    assert list(result["left_out"]) == (["tuning"] if axis == "read" else [])


def test_sizes_are_those_that_are_there(run: Path, asked: list[list[str]]) -> None:
    there = open_store(json.loads((run / "config.json").read_text())["store"]).layers[LAYER]
    result = bench_analysis([run], analyses=("branches",), axis="read", most=10**9)
    assert result["measured"][-1]["size"] == there.train_rows // 16 * 16


def test_what_ends_badly_is_told_with_the_command(run: Path) -> None:
    with pytest.raises(ConfigError, match="expected one run or two"):
        bench_analysis([])
    with pytest.raises(UnknownNameError, match="nonsense"):
        bench_analysis([run], analyses=("nonsense",))
    with pytest.raises(UnknownNameError, match="width"):
        bench_analysis([run], axis="width")
    with pytest.raises(ConfigError, match="at least 16 rows"):
        bench_analysis([run], analyses=("branches",), most=15)
    words = "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RunError, match="exit code 3: no such thing"):
        analysis_cost._measured([sys.executable, "-c", words, "x"])


@pytest.mark.parametrize("name", analysis_cost.COSTED)
def test_an_analysis_knows_the_options_that_it_is_asked_with(name: str) -> None:
    task = analysis_cost.COSTED[name]
    command = [sys.executable, "-m", "isae.analysis.cli", name, "--help"]
    wide = {**os.environ, "COLUMNS": "200"}
    said = subprocess.run(command, env=wide, capture_output=True, text=True, check=True).stdout
    for option in (task.option, *task.fixed):
        if option and option.startswith("--"):
            assert option in said
