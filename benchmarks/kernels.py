"""`isae-bench kernels`: every operation checked, then timed against this machine's ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from isae.benchmarks.measure import (
    NORMAL,
    Ceilings,
    Effort,
    Times,
    commit,
    is_gpu,
    machine,
    measure_ceilings,
    time_call,
    versions,
)
from isae.benchmarks.operations import OPERATIONS, Cost, Inputs, Operation, make_inputs
from isae.benchmarks.references import Verdict
from isae.benchmarks.workloads import Workload
from isae.kernels import choose_kernel

SCHEMA = 1
MEMORY_SHARE = 16
"""topk_encode may take one part in so many of a float32 [B, N]."""
RESULT_BYTES = 12
"""A float32 value and an int64 index."""


def bench_kernels(
    workload: Workload,
    *,
    kernel: str,
    device: torch.device,
    seed: int = 0,
    effort: Effort = NORMAL,
    operations: Sequence[Operation] = OPERATIONS,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Check and time the operations -> one JSON object; `failed` names those whose check failed.

    On a GPU it also names topk_encode_memory where topk_encode took more memory than it may.
    """
    chosen = choose_kernel(kernel, device)
    dtype = operand_dtype(chosen, device)
    small = workload.rows * workload.d < 1 << 16
    ceilings = measure_ceilings(device, dtype, effort, small=small)
    inputs = make_inputs(workload, chosen, device, dtype, seed)
    rows = []
    for operation in operations:
        note(operation.name)
        rows.append(bench_one(operation, inputs, device, ceilings, effort))
    result = {
        **header("kernels", workload, device),
        "settings": {"kernel": chosen, "seed": seed, "operands": ceilings.dtype},
        "ceilings": ceilings.json(),
        "operations": rows,
        "failed": [row["operation"] for row in rows if row["times_s"] is None],
    }
    if is_gpu(device) and "topk_encode" not in result["failed"]:
        memory = _memory(workload, inputs, operations)
        result["topk_encode_memory"] = memory
        if memory is not None and not memory["within"]:
            result["failed"].append("topk_encode_memory")
    return result


def header(command: str, workload: Workload, device: torch.device) -> dict[str, Any]:
    """What every results file begins with."""
    return {
        "schema": SCHEMA,
        "command": command,
        "workload": vars(workload),
        "device": str(device),
        "machine": machine(device),
        "versions": versions(),
        "commit": commit(),
    }


def operand_dtype(kernel: str, device: torch.device) -> torch.dtype:
    """Of products and gathers: bfloat16 for Triton on a GPU, else float32."""
    return torch.bfloat16 if kernel == "triton" and is_gpu(device) else torch.float32


def bench_one(
    operation: Operation,
    inputs: Inputs,
    device: torch.device,
    ceilings: Ceilings,
    effort: Effort,
) -> dict[str, Any]:
    """One operation: no speed without a passed check."""
    try:
        verdict = operation.check(inputs, operation.run)
    except Exception as error:
        verdict = Verdict(float("inf"), 0.0, f"{type(error).__name__}: {error}")
    row: dict[str, Any] = {
        "operation": operation.name,
        "error": verdict.error if verdict.passed else None,
        "allowed": verdict.limit,
        "reason": None if verdict.passed else (verdict.reason or "the error is not a number"),
        "times_s": None,
    }
    if not verdict.passed:
        return row
    cost = operation.cost(inputs.workload, inputs["x_low"].element_size())
    times = time_call(lambda: operation.run(inputs), device, effort)
    return {**row, "times_s": times.json(), **achieved(cost, times, ceilings)}


def achieved(cost: Cost, times: Times, ceilings: Ceilings) -> dict[str, float]:
    """Counted bytes and FLOPs over the median time, and their shares of the ceilings."""
    return {
        "bytes": cost.bytes,
        "flops": cost.flops,
        "gb_per_s": cost.bytes / times.median / 1e9,
        "gflop_per_s": cost.flops / times.median / 1e9,
        "share_of_copy": cost.bytes / times.median / ceilings.copy,
        "share_of_gemm": cost.flops / times.median / ceilings.gemm,
    }


def _memory(
    workload: Workload, inputs: Inputs, operations: Sequence[Operation]
) -> dict[str, Any] | None:
    """What topk_encode takes beyond its operands against what it may.

    None where it is left out, or where N is so small that its results alone are more than that.
    """
    encode = next((one for one in operations if one.name == "topk_encode"), None)
    limit = 4 * workload.rows * workload.n // MEMORY_SHARE
    if encode is None or RESULT_BYTES * workload.rows * workload.k > limit:
        return None
    extra = _peak_bytes(encode, inputs)
    return {"extra_bytes": extra, "allowed_bytes": limit, "within": extra <= limit}


def _peak_bytes(operation: Operation, inputs: Inputs) -> int:
    """Peak memory of a call beyond what was held before it, its results included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    operation.run(inputs)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
