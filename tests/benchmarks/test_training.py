"""`isae-bench train`: our step, its floor, peers that are there and peers that are not."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from isae import kernels
from isae.benchmarks import cli, peers, step_check
from isae.benchmarks.measure import QUICK
from isae.benchmarks.peers import fastest
from isae.benchmarks.tables import training_table
from isae.benchmarks.training import Ours, bench_training
from isae.benchmarks.workloads import find_workload
from isae.cli import main as run_app
from isae.errors import UnknownNameError

CPU = torch.device("cpu")
TINY = find_workload("tiny")


class Plain:
    """A peer in plain torch; in 'broken' it fails, in 'slow' it takes its step ten times."""

    name, package, module = "plain", "torch", "torch"
    dtypes = ("broken", "slow", "float32")

    def __init__(self, job: peers.Job, dtype: str) -> None:
        if dtype == "broken":
            raise TypeError("no such dtype")
        self.dtype, self.job, self.steps = dtype, job, 0
        work = job.workload
        torch.manual_seed(job.seed)
        self.W_ND = torch.nn.Parameter(torch.randn(work.n, work.d) / work.d**0.5)
        self.optimiser = torch.optim.Adam([self.W_ND], lr=job.lr)
        self.seen: list[float] = []

    def step(self, x_BD: torch.Tensor) -> None:
        for _ in range(10 if self.dtype == "slow" else 1):
            (self.reconstruct(x_BD) - x_BD).square().sum().backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.optimiser.zero_grad()
        self.seen.append(float(x_BD.sum()))

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        pre_BN = x_BD @ self.W_ND.T
        top = pre_BN.topk(self.job.workload.k)
        z_BN = torch.zeros_like(pre_BN).scatter(1, top.indices, top.values.relu())
        return z_BN @ self.W_ND


def bench(*adapters: Any, steps: int = 5, kernel: str = "cpu") -> dict[str, Any]:
    return bench_training(
        TINY, kernel=kernel, device=CPU, peers=list(adapters), steps=steps, effort=QUICK
    )


def test_a_kernel_may_name_its_precision() -> None:
    result = bench(kernel="cpu:bfloat16")
    (ours,) = result["trainers"]
    assert (ours["kernel"], ours["dtype"], ours["fault"]) == ("cpu", "bfloat16", None)
    assert result["ceilings"]["gemm_dtype"] == "float32", "no product of the CPU step is bfloat16"
    assert bench()["trainers"][0]["dtype"] == "float32"
    with pytest.raises(UnknownNameError, match="precision"):
        bench(kernel="cpu:float8")


def test_trainers_take_turns_in_their_fastest_dtype() -> None:
    result = bench(Plain)
    ours, plain = result["trainers"]
    assert [ours["name"], plain["name"]] == ["isae", "plain"]
    assert plain["dtype"] == "float32"
    assert "TypeError" in plain["trials_s"]["broken"]
    assert plain["trials_s"]["slow"] > plain["trials_s"]["float32"]
    for row in (ours, plain):
        assert row["times_s"]["repeats"] == 5
        assert row["rows_per_s"] == pytest.approx(TINY.rows / row["times_s"]["median"])
        assert row["share_of_floor"] == pytest.approx(
            result["floor_s"]["total"] / row["times_s"]["median"]
        )
        assert row["held_out_fvu"] > 0
    assert ours["ours_times_faster"] == 1
    assert plain["ours_times_faster"] == pytest.approx(ours["rows_per_s"] / plain["rows_per_s"])


def test_a_disturbance_does_not_choose_the_dtype() -> None:
    class Peer:
        dtypes = ("float32", "bfloat16", "broken")

        def __init__(self, job: Any, dtype: str) -> None:
            if dtype == "broken":
                raise TypeError(dtype)
            self.dtype = dtype

        def step(self, x_BD: torch.Tensor) -> str:
            return self.dtype

    spans = {"float32": iter([0.6] * 9), "bfloat16": iter([0.8, 0.9, 0.41, 0.4, 0.7, 0.7])}
    trainer, trials = fastest(
        Peer,
        cast(Any, SimpleNamespace(device=CPU)),
        torch.zeros(1),
        lambda call: next(spans[str(call())]),
    )
    assert trainer.dtype == "bfloat16"
    assert trials == {"float32": 0.6, "bfloat16": 0.4, "broken": "TypeError: broken"}


def test_quality_is_compared_with_every_peer() -> None:
    result = bench(Plain)
    ours, plain = result["trainers"]
    (quality,) = result["quality"]
    assert quality["against"] == "plain"
    assert quality["fvu_no_worse"] == (ours["held_out_fvu"] <= plain["held_out_fvu"])
    assert quality["peer_held_out_fvu"] == plain["held_out_fvu"]


def doubled_gradients(*operands: Any, grad_scale: Any, **options: Any) -> Any:
    return kernels.latent_update(*operands, grad_scale=2 * grad_scale, **options)


def without_auxk(*operands: Any, aux: Any, **options: Any) -> Any:
    return kernels.latent_update(*operands, aux=None, **options)


def decoder_not_written(*operands: Any, **options: Any) -> Any:
    before = operands[6].value.clone()
    through = kernels.latent_update(*operands, **options)
    operands[6].value.copy_(before)
    return through


def one_latent_forgotten(*operands: Any, **options: Any) -> Any:
    """The latent that moved most."""
    encoder = operands[5]
    through = kernels.latent_update(*operands, **options)
    encoder.first[encoder.first.norm(dim=1).argmax()] = 0
    return through


def crash(*operands: Any, **options: Any) -> Any:
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (doubled_gradients, "first moment of W_enc"),
        (without_auxk, "first moment of W_dec"),
        (decoder_not_written, "change of W_dec"),
        (one_latent_forgotten, "first moment of W_enc"),
        (crash, "found ValueError: no such thing"),
    ],
)
def test_a_broken_update_gets_no_speed(
    broken: Any, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isae.train.fused.latent_update", broken)
    result = bench(Plain)
    ours, plain = result["trainers"]
    assert (ours["rows_per_s"], ours["share_of_floor"], ours["times_s"]) == (None, None, None)
    assert fault in ours["fault"]
    assert "expected" in ours["fault"]
    assert not ours["check"]["passed"]
    assert plain["rows_per_s"] > 0
    assert (ours["ours_times_faster"], plain["ours_times_faster"]) == (None, None)
    assert result["quality"] == []
    assert result["failed"] == ["isae"]
    table = training_table(result)
    assert "FAILED" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_broken_update_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("isae.train.fused.latent_update", doubled_gradients)
    out = tmp_path / "train.json"
    command = "isae-bench train --workload tiny --kernel cpu --peers none --steps 3 --device cpu"
    monkeypatch.setattr("sys.argv", [*command.split(), "--seconds", "0", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        run_app(cli.app)
    assert ended.value.code == 1
    assert "FAILED" in capsys.readouterr().out
    assert json.loads(out.read_text())["trainers"][0]["rows_per_s"] is None


def test_the_check_leaves_a_small_state_as_it_was() -> None:
    job = peers.Job(TINY, CPU, 1e-3, 3, 10_000_000, 0, torch.rand(48, TINY.d))
    ours = Ours(job, "cpu")
    before = {name: value.clone() for name, value in ours.state.params.items()}
    check = step_check.check_step(ours.plan, ours.state, ours.stepper, job.sample_BD, 1e-3)
    assert check.fault is None
    assert len(check.errors) == 10
    assert (ours.state.step, ours.state.rows) == (0, 0)
    assert all(torch.equal(value, before[name]) for name, value in ours.state.params.items())


def wrong_residual(*operands: Any, **options: Any) -> Any:
    found = kernels.decode_residual(*operands, **options)
    found.squares_B[0] *= 3
    return found


@pytest.mark.parametrize("broken", [False, True])
def test_a_large_state_is_checked_by_its_fvu(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_check, "SMALL_STATE", 0)
    monkeypatch.setattr(step_check, "DENSE_BYTES", 4 * TINY.n * 5)  # 48 rows, 5 at a time
    if broken:
        monkeypatch.setattr("isae.train.fused.decode_residual", wrong_residual)
    result = bench()
    (ours,) = result["trainers"]
    assert list(ours["check"]["errors"]) == ["fvu"]
    assert ours["check"]["rows"] == 48
    assert (ours["fault"] is not None) == broken
    assert (ours["rows_per_s"] is None) == broken


def test_training_lowers_the_held_out_error() -> None:
    """The same rows again and again: a step that does not learn would show."""
    start, end = bench(steps=3), bench(steps=400)
    before, after = (one["trainers"][0]["held_out_fvu"] for one in (start, end))
    assert after < 0.9 * before


def test_absent_peers_are_listed_with_how_to_get_them() -> None:
    absent = type("Absent", (Plain,), {"name": "gone", "package": "no-such-package-here"})
    failing = type("Failing", (Plain,), {"name": "failing", "dtypes": ("broken",)})
    result = bench(absent, failing)
    gone, failed = result["absent"]
    assert "pip install isae[bench-peers]" in gone["reason"]
    assert "no such dtype" in failed["reason"]
    assert len(result["trainers"]) == 1
    text = training_table(result)
    assert "pip install isae[bench-peers]" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_table_fits_80_columns_with_large_numbers() -> None:
    result = bench()
    result["trainers"][0] |= {
        "name": "dictionary-learning", "dtype": "float32 sparse", "rows_per_s": 12345678.0,
        "times_s": {"median": 1.2345}, "share_of_floor": 1.0, "ours_times_faster": 123.45,
    }  # fmt: skip
    assert max(map(len, training_table(result).splitlines())) <= 80


def test_peers_are_chosen_by_name() -> None:
    assert peers.chosen_peers("none") == []
    assert peers.chosen_peers("sparsify, sae-lens") == [peers.Sparsify, peers.SaeLens]
    with pytest.raises(UnknownNameError, match="sparsify"):
        peers.chosen_peers("sparsity")


@pytest.mark.parametrize("peer", peers.PEERS.values(), ids=list(peers.PEERS))
def test_installed_peers_train(peer: Any) -> None:
    if peers.installed(peer) is None:
        pytest.skip(f"needs {peer.package}: {peers.INSTALL}")
    result = bench(peer)
    assert [row["name"] for row in result["trainers"]] == ["isae", peer.name], result["absent"]


def test_the_command_writes_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "train.json"
    arguments = [
        "train",
        "--workload",
        "tiny",
        "--kernel",
        "cpu",
        "--peers",
        "none",
        "--steps",
        "3",
    ]
    arguments += ["--device", "cpu", "--seconds", "0", "--out", str(out), "--json", "--quiet"]
    monkeypatch.setattr("sys.argv", ["isae-bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_app(cli.app)
    assert not ended.value.code
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert set(result) >= {
        "schema", "command", "workload", "device", "machine", "versions", "commit", "settings",
        "ceilings", "floor_s", "trainers", "quality", "absent", "failed",
    }  # fmt: skip
    assert result["settings"]["steps"] == 3
    assert result["settings"]["dead_rows"] == 10_000_000


def test_a_machine_with_torch_triton_and_numpy_alone(repository: Path, tmp_path: Path) -> None:
    """What gpu.sh runs, on a CPU, without any other direct dependency."""
    owners = importlib.metadata.packages_distributions()
    direct = {"zarr", "numba", "scipy", "typer", "safetensors", "pyarrow", "rich", "matplotlib"}
    banned = {top for top, names in owners.items() if {name.lower() for name in names} & direct}
    assert {"rich", "safetensors", "typer"} <= banned
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name.partition(".")[0] not in banned and not entry.name.endswith(".pth"):
            (site / entry.name).symlink_to(entry)
    command = ["-m", "isae.benchmarks.device", "--device", "cpu", "--workloads", "tiny"]
    done = subprocess.run(
        [sys.executable, "-S", *command, "--peers", "none", "--steps", "3", "--out", str(tmp_path)],
        cwd=repository, env={**os.environ, "PYTHONPATH": f"{site}:."},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "40 checks on odd sizes, 0 failed" in done.stdout
    names = {path.name for path in tmp_path.glob("*.json")}
    assert names == {"check.json", "kernels_tiny.json", "train_tiny.json"}
    assert max(map(len, done.stdout.splitlines())) <= 80
