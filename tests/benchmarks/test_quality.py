"""`isae-bench quality`: the same rows for everybody, judged on held-out rows."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from isae.benchmarks import cli, peers, quality
from isae.benchmarks.peers import Job
from isae.errors import ConfigError, DataError, KernelError, UnknownNameError
from isae.progress import Reporter
from isae.store import BuildConfig, build_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quality") / "store"
    build_store(
        small(path),
    )
    return path


def small(path: Path, **options: object) -> BuildConfig:
    settings: dict[str, Any] = {"size": 64, "workers": 0, "weights": "random:0", **options}
    return BuildConfig(images="synthetic:60", layers=("mixed3a",), out=str(path), **settings)


class Mean:
    """A peer that predicts the mean of what it saw; half of its latents fire."""

    name, package, module = "mean", "torch", "torch"
    dtypes = ("float32",)
    seen: list[tuple[int, float]] = []  # noqa: RUF012

    def __init__(self, job: Job, dtype: str) -> None:
        self.job, self.dtype = job, dtype
        self.sum_D, self.rows = torch.zeros(job.workload.d), 0

    def step(self, x_BD: torch.Tensor) -> None:
        self.sum_D, self.rows = self.sum_D + x_BD.sum(0), self.rows + len(x_BD)
        self.seen.append((self.job.seed, float(x_BD.sum())))

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        return (self.sum_D / self.rows).expand_as(x_BD)

    def fired(self, x_BD: torch.Tensor) -> torch.Tensor:
        return torch.arange(self.job.workload.n) % 2 == 0


def test_everybody_sees_the_same_rows_and_is_judged_alike(store: Path) -> None:
    Mean.seen.clear()
    result = quality.bench_quality(
        store,
        "mixed3a",
        kernels=["cpu", "reference"],
        peers=[Mean],
        device=torch.device("cpu"),
        k=4,
        latents=128,
        batch=100,
        steps=5,
        seeds=(0, 1),
    )
    runs: dict[tuple[str, int], Any] = {(run["name"], run["seed"]): run for run in result["runs"]}
    assert len(runs) == 6
    for seed in (0, 1):
        ours, reference = runs["isae cpu", seed], runs["isae reference", seed]
        # Five steps in float32 from the same start: rounding only.
        assert ours["fvu"] == pytest.approx(reference["fvu"], rel=1e-3)
        assert 0 < ours["fvu"] < 2
        assert runs["mean", seed]["dead"] == 0.5
        # The mean of the training rows explains nothing of the held-out ones, and loses little.
        assert 1 <= runs["mean", seed]["fvu"] < 1.3
    scales = [
        total / unscaled
        for (_, total), unscaled in zip(Mean.seen[5:], store_batches(store, 1), strict=True)
    ]
    # One number for all batches, up to the rounding of float32 sums of 25,600 numbers.
    assert scales == pytest.approx([scales[0]] * 5, rel=1e-4)
    pair = result["against_first"][1]
    want = [runs["isae cpu", seed]["fvu"] / runs["mean", seed]["fvu"] - 1 for seed in (0, 1)]
    assert pair["fvu_relative"] == pytest.approx(want)
    assert pair["fvu_relative_mean"] == pytest.approx(sum(want) / 2)


def pair_of(name: str, fvu: list[float], dead: list[float]) -> dict[str, Any]:
    """The first trainer has FVU 1 and no dead latents; `name` these."""
    rows: list[dict[str, Any]] = []
    for seed, (its_fvu, its_dead) in enumerate(zip(fvu, dead, strict=True)):
        rows.append({"name": "isae cpu", "seed": seed, "fvu": 1.0, "dead": 0.0})
        rows.append({"name": name, "seed": seed, "fvu": its_fvu, "dead": its_dead})
    return quality._paired(rows, name)


@pytest.mark.parametrize(
    ("name", "fvu", "dead", "holds"),
    [
        ("isae reference", [1.05, 0.96], [0.05, -0.05], True),  # in the mean over seeds
        ("isae reference", [1.012, 1.012], [0.0, 0.0], False),  # better by more than 1 % too
        ("isae reference", [0.985, 0.985], [0.0, 0.0], False),
        ("isae reference", [1.0, 1.0], [0.02, 0.005], False),
        ("isae reference", [1.0, 1.0], [-0.02, -0.005], False),
        ("isae reference", [1.0, float("nan")], [0.0, 0.0], False),
        ("sparsify", [1.0, 1.0], [0.3, 0.3], True),
        ("sparsify", [1.5, 0.9], [0.0, 0.0], True),
        ("sparsify", [0.999, 0.999], [0.0, 0.0], False),
        ("sparsify", [float("nan"), 1.5], [0.0, 0.0], False),
    ],
)
def test_the_bars(name: str, fvu: list[float], dead: list[float], holds: bool) -> None:
    assert pair_of(name, fvu, dead)["holds"] is holds


class Perfect(Mean):
    """A peer that nobody can match."""

    name = "perfect"

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        return x_BD * 0.999


@pytest.mark.parametrize(("peer", "code"), [(Mean, 0), (Perfect, 1)])
def test_exit_code_1_where_the_first_does_not_hold(
    peer: Any,
    code: int,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(peers.PEERS, peer.name, peer)
    options = f"--layer mixed3a --kernels cpu,reference --peers {peer.name} --latents 64 --k 4"
    options += " --batch-size 100 --steps 30 --seeds 1 --lr 0.01 --quiet"
    monkeypatch.setattr(sys, "argv", f"isae-bench quality {store} {options}".split())
    with pytest.raises(SystemExit) as end:
        cli.main()
    *_, reference, last = capsys.readouterr().out.splitlines()
    assert end.value.code == code
    assert reference.endswith(": holds")
    assert last.endswith(": fails" if code else ": holds")
    assert len(last) <= 80


def store_batches(path: Path, seed: int) -> list[float]:
    from isae.store import open_store

    batches = open_store(path).batches("mixed3a", 100, seed=seed)
    return [float(next(batches).astype("float64").sum()) for _ in range(5)]


def test_the_command_prints_a_table_and_writes_json(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quality.json"
    arguments = f"quality {store} --layer mixed3a --kernels cpu --peers none --latents 64 --k 2"
    command = f"isae-bench {arguments} --batch-size 50 --steps 2 --seeds 1 --out {out}"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    table = capsys.readouterr().out
    assert "isae cpu" in table
    assert max(len(line) for line in table.splitlines()) <= 80
    assert json.loads(out.read_text())["settings"]["latents"] == 64


def tiny_run(store: Path, **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"kernels": ["cpu"], "peers": [Mean], "k": 2, "latents": 64}
    settings |= {"batch": 50, "steps": 2, "seeds": (0, 1), "device": torch.device("cpu"), **options}
    return quality.bench_quality(store, settings.pop("layer", "mixed3a"), **settings)


def test_what_is_known_is_saved_after_every_training(store: Path) -> None:
    saved: list[dict[str, Any]] = []
    result = tiny_run(store, save=lambda results: saved.append(json.loads(json.dumps(results))))
    assert [len(one["runs"]) for one in saved] == [1, 2, 3, 4]
    assert not any(one["complete"] for one in saved)
    assert result["complete"]
    assert saved[0]["against_first"] == []
    # The third training is the first one's second seed, which the peer has not finished.
    assert [pair["seeds"] for pair in saved[2]["against_first"]] == [[0]]
    assert [pair["seeds"] for pair in result["against_first"]] == [[0, 1]]
    assert saved[3]["runs"] == result["runs"]


def test_every_training_reports_its_progress(store: Path) -> None:
    stream = io.StringIO()
    tiny_run(store, seeds=(3,), report=Reporter(stream=stream))
    assert "isae cpu, seed 3: 2/2 steps" in stream.getvalue()
    assert "mean, seed 3: FVU" in stream.getvalue()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"layer": "mixed3q"}, UnknownNameError, "unknown layer 'mixed3q': nearest: mixed3a"),
        ({"kernels": ["cpu", "gpu"]}, KernelError, "unknown kernel 'gpu'"),
        ({"kernels": ["cpu", "cpu:float8"]}, UnknownNameError, "unknown precision 'float8'"),
        ({"kernels": ["cpu", "reference:bfloat16"]}, ConfigError, "precision float32 with this"),
        ({"k": 65}, ConfigError, "k of at most latents = 64, found 65"),
        ({"batch": 10**6}, DataError, "use a smaller batch"),
        ({"lr": -1.0}, ConfigError, "lr"),
    ],
)
def test_what_nobody_can_train_is_refused(
    options: dict[str, Any], error: type[Exception], says: str, store: Path
) -> None:
    with pytest.raises(error, match=says):
        tiny_run(store, **options)


def test_a_store_without_held_out_rows_is_refused(tmp_path: Path) -> None:
    build_store(small(tmp_path / "store", holdout=0.0))
    with pytest.raises(DataError, match="held-out rows"):
        quality.bench_quality(
            tmp_path / "store", "mixed3a", kernels=[], peers=[], device=torch.device("cpu")
        )
