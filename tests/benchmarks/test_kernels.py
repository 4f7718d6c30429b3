"""`isae-bench kernels`: no speed without a passed check; what it writes and prints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from isae.benchmarks import cli, operations
from isae.benchmarks import kernels as bench_module
from isae.benchmarks.kernels import bench_kernels
from isae.benchmarks.measure import QUICK
from isae.benchmarks.operations import OPERATIONS, Inputs, Operation
from isae.benchmarks.tables import compile_table, kernels_table
from isae.benchmarks.workloads import WORKLOADS, Workload, find_workload
from isae.cli import main as run_app

CPU = torch.device("cpu")
TINY = find_workload("tiny")


def named(name: str) -> Operation:
    (found,) = (one for one in OPERATIONS if one.name == name)
    return found


def bench(*wanted: Operation, kernel: str = "cpu", work: Workload = TINY) -> dict[str, Any]:
    return bench_kernels(work, kernel=kernel, device=CPU, effort=QUICK, operations=wanted)


def first_value_off(result: Any) -> Any:
    values, indices = result
    values[0, 0] += 0.01
    return values, indices


def second_best(result: Any) -> Any:
    values, indices = result
    left_out = next(i for i in range(TINY.n) if i not in indices[0].tolist())
    indices[0, 0] = left_out
    return values, indices


def twice(result: Any) -> Any:
    values, indices = result
    indices[0, 0] = indices[0, 1]
    return values, indices


def swapped_pairs(result: Any) -> Any:
    result.pairs_P[[0, 1]] = result.pairs_P[[1, 0]]
    return result


def off_by_one_part_in_a_thousand(result: Any) -> Any:
    return result * 1.001


def one_gradient_missing(result: Any) -> Any:
    result.g_values_BK[0, result.g_values_BK[0].abs().argmax()] = 0
    return result


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("topk_encode", first_value_off, "values"),
        ("topk_encode", second_best, "left out"),
        ("topk_encode", twice, "twice"),
        ("group_by_latent", swapped_pairs, "out of place"),
        ("sparse_decode", off_by_one_part_in_a_thousand, "error norm"),
        ("sparse_outer", off_by_one_part_in_a_thousand, "error norm"),
        ("decode_residual", one_gradient_missing, "value gradients"),
    ],
)
def test_a_broken_kernel_gets_no_speed(name: str, spoil: Any, reason: str) -> None:
    good = named(name)
    broken = replace(good, run=lambda inputs: spoil(good.run(inputs)))
    result = bench(broken, named("column_sums"))
    row, other = result["operations"]
    assert row["times_s"] is None
    assert "gb_per_s" not in row
    assert reason in row["reason"]
    assert result["failed"] == [name]
    assert other["times_s"]["median"] > 0
    assert "FAILED" in kernels_table(result)


@pytest.mark.parametrize("name", ["adam_update", "latent_update"])
def test_an_update_that_changes_nothing_fails(name: str) -> None:
    idle = replace(named(name), run=lambda inputs: torch.zeros(TINY.d))
    assert bench(idle)["failed"] == [name]


def test_a_crash_and_a_nan_are_failures() -> None:
    def crash(inputs: Inputs) -> Any:
        raise ValueError("no such thing")

    nan = replace(
        named("sparse_decode"), run=lambda inputs: torch.full((TINY.rows, TINY.d), torch.nan)
    )
    crashed = replace(named("column_sums"), run=crash)
    result = bench(nan, crashed)
    assert result["failed"] == ["sparse_decode", "column_sums"]
    assert "no such thing" in result["operations"][1]["reason"]


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
def test_every_operation_passes(kernel: str) -> None:
    result = bench(*OPERATIONS, kernel=kernel)
    assert result["failed"] == [], result["operations"]
    assert [row["operation"] for row in result["operations"]] == [one.name for one in OPERATIONS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triton_kernels_pass_the_same_checks(dtype: torch.dtype) -> None:
    """In the interpreter, on sizes that no block divides."""
    inputs = operations.make_inputs(Workload("odd", 9, 5, 37, 3), "triton", CPU, dtype, seed=2)
    for operation in OPERATIONS:
        verdict = operation.check(inputs, operation.run)
        assert verdict.passed, (operation.name, verdict)


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["isae-bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_app(cli.app)
    return int(ended.value.code or 0)


ARGUMENTS = ["kernels", "--workload", "tiny", "--kernel", "cpu", "--device", "cpu", "--quiet"]


def test_the_command_writes_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "kernels.json"
    assert run([*ARGUMENTS, "--seconds", "0", "--out", str(out), "--json"], monkeypatch) == 0
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert set(result) >= {
        "schema", "command", "workload", "device", "machine", "versions", "commit", "settings",
        "ceilings", "operations", "failed",
    }  # fmt: skip
    assert result["workload"] == {"name": "tiny", "rows": 48, "d": 16, "n": 96, "k": 4}
    for row in result["operations"]:
        assert row["error"] <= row["allowed"]
        assert 0 < row["times_s"]["p10"] <= row["times_s"]["median"] <= row["times_s"]["p90"]
        assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["times_s"]["median"] / 1e9)
    assert [path.name for path in out.parent.iterdir()] == ["kernels.json"]


def test_a_failed_check_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = replace(
        named("column_sums"), run=lambda inputs: (inputs["x"].sum(0), inputs["x"].sum(0))
    )

    def broken_bench(workload: Workload, **options: Any) -> dict[str, Any]:
        return bench_kernels(workload, **{**options, "operations": [broken], "effort": QUICK})

    monkeypatch.setattr("isae.benchmarks.kernels.bench_kernels", broken_bench)
    assert run(ARGUMENTS, monkeypatch) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(("over", "code"), [(0, 0), (1, 1)])
def test_too_much_memory_is_exit_code_1(
    over: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a CUDA device would have measured is made up; all that is made of it is real."""
    work = replace(TINY, n=960)
    monkeypatch.setitem(WORKLOADS, "tiny", work)
    allowed = 4 * work.rows * work.n // 16
    monkeypatch.setattr(bench_module, "_peak_bytes", lambda operation, inputs: allowed + over)
    # Where results are put together only: the times are a CPU's.
    monkeypatch.setattr(bench_module, "is_gpu", lambda device: True)
    assert run([*ARGUMENTS, "--seconds", "0"], monkeypatch) == code
    assert ("FAILED: topk_encode took" in capsys.readouterr().out) == bool(over)


def test_memory_is_judged_where_topk_encode_works_and_n_is_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_module, "_peak_bytes", lambda operation, inputs: 1 << 40)
    monkeypatch.setattr(bench_module, "is_gpu", lambda device: True)
    encode = named("topk_encode")
    broken = replace(encode, run=lambda inputs: second_best(encode.run(inputs)))
    work = replace(TINY, n=960)
    assert bench(encode, work=work)["failed"] == ["topk_encode_memory"]
    assert bench(broken, work=work)["failed"] == ["topk_encode"]
    assert bench(named("column_sums"), work=work)["failed"] == []
    assert bench(encode)["failed"] == []  # its 12 B K bytes are more than a sixteenth of 4 B N


def test_tables_fit_80_columns() -> None:
    result = bench(*OPERATIONS)
    result["workload"] = vars(Workload("M", 8192, 832, 1 << 20, 64))
    result["ceilings"] = {
        "copy_gb_per_s": 4321.5, "gemm_gflop_per_s": 789012.3, "gemm_dtype": "bfloat16"
    }  # fmt: skip
    result["machine"]["processor"] = "a processor of an uncommonly long name " * 3
    for row in result["operations"]:
        row |= {"gb_per_s": 4321.5, "gflop_per_s": 789012.3, "share_of_copy": 1.0}
        row["times_s"] = {"median": 1.2345, "p10": 1.1, "p90": 12.5, "repeats": 3}
    result["operations"][0] |= {"times_s": None, "reason": "x" * 200}
    text = kernels_table(result)
    assert max(map(len, text.splitlines())) <= 80
    row = {
        "workload": "W", "architecture": 100, "kernel": "_pre_and_maxima_kernel",
        "operation": "decode_residual bfloat16", "registers": 255, "spilled": 1280,
        "shared": 232448, "faults": ["spills " * 20],
    }  # fmt: skip
    assert max(map(len, compile_table([row]).splitlines())) <= 80
