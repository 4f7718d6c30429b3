"""Check, tune and measure on a GPU machine that has only torch, triton and numpy.

    python -m isae.benchmarks.device --out OUT [--minutes 7.5]

Writes check.json, tune.json, kernels_L.json, ..., train_L.json, ... as it goes, so that a run that
is cut short leaves what it had, and prints short tables last. What took too long is left out and
said so. Exit code 1 if any check failed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch

from isae.benchmarks import bare  # isort: skip
from isae.benchmarks.kernels import bench_kernels, bench_one, operand_dtype
from isae.benchmarks.measure import QUICK, Ceilings, Effort, machine, time_call
from isae.benchmarks.operations import OPERATIONS, make_inputs
from isae.benchmarks.peers import PEERS
from isae.benchmarks.tables import kernels_table, training_table
from isae.benchmarks.training import bench_training
from isae.benchmarks.workloads import WORKLOADS, Workload
from isae.files import write_json
from isae.kernels import choose_kernel

ODD = (
    Workload("odd", 131, 67, 1031, 7),
    Workload("one", 5, 3, 17, 1),
    Workload("all", 33, 19, 23, 23),
    Workload("wide", 257, 832, 4099, 64),
    Workload("many", 64, 48, 20011, 500),
)
"""Sizes of the check: odd and prime ones, k = 1, k = n, one with blocks and many active latents."""
NO_CEILING = Ceilings(1.0, 1.0, "none")
EFFORT = Effort(warmup=3, seconds=0.3, least=5, most=30)


def check_all(device: torch.device, kernel: str) -> list[dict[str, Any]]:
    """Every operation on odd sizes, in every dtype of its operands."""
    rows = []
    dtypes = [torch.float32]
    if operand_dtype(kernel, device) == torch.bfloat16:
        dtypes += [torch.bfloat16, torch.float16]
    for workload, dtype in itertools.product(ODD, dtypes):
        inputs = make_inputs(workload, kernel, device, dtype, seed=1)
        for operation in OPERATIONS:
            row = bench_one(operation, inputs, device, NO_CEILING, QUICK)
            name = str(dtype).removeprefix("torch.")
            found = {key: row[key] for key in ("operation", "error", "allowed", "reason")}
            rows.append({"workload": workload.name, "dtype": name, **found})
    return rows


def tune_all(device: torch.device, workload: Workload, left: Callable[[], float]) -> dict[str, Any]:
    """Times of a small grid of settings for the kernels that have some; the shipped one first."""
    from isae.kernels.triton import latent_update, settings, sparse_decode, sparse_outer

    kernel = "triton"
    inputs = make_inputs(workload, kernel, device, operand_dtype(kernel, device), seed=2)
    operations = {one.name: one for one in OPERATIONS}
    key = (settings.architecture(device), settings.precision(inputs.dtype))
    tiles = [settings.ENCODE_TILES[key]]
    for n, d, warps, stages in itertools.product((128, 256), (32, 64), (4, 8), (3, 4)):
        tiles.append(replace(tiles[0], block_n=n, block_d=d, warps=warps, stages=stages))
    numbers = [sparse_decode.GATHER_ITEMS, 1024, 2048, 8192]
    grids: list[tuple[str, Any, str | tuple[int, str], Sequence[Any]]] = [
        ("topk_encode", settings.ENCODE_TILES, key, tiles),
        ("sparse_decode", sparse_decode, "GATHER_ITEMS", numbers),
        ("decode_residual", sparse_decode, "GATHER_ITEMS", numbers),
        ("latent_update", sparse_outer, "GATHER_ITEMS", numbers),
        ("latent_update", latent_update, "LATENTS", [latent_update.LATENTS, 2, 4, 16, 32]),
    ]
    rows = []
    for name, owner, place, values in grids:
        for value in dict.fromkeys(values):
            if left() < 0:
                break
            with setting(owner, place, value):
                row = {"operation": name, "setting": str(place), "value": _plain(value)}
                rows.append({**row, **_trial(operations[name], inputs, device)})
    return {"workload": workload.name, "machine": machine(device), "trials": rows}


def _trial(operation: Any, inputs: Any, device: torch.device) -> dict[str, Any]:
    try:
        times = time_call(lambda: operation.run(inputs), device, replace(EFFORT, seconds=0.1))
    except Exception as error:  # too much shared memory, a tile that does not compile
        return {"median_s": None, "reason": f"{type(error).__name__}: {error}"[:200]}
    return {"median_s": times.median}


@contextmanager
def setting(owner: Any, place: Any, value: Any) -> Iterator[None]:
    """A module's constant or a table's entry is another for a while."""
    table = owner if isinstance(owner, dict) else vars(owner)
    before = table[place]
    table[place] = value
    try:
        yield
    finally:
        table[place] = before


def _plain(value: Any) -> Any:
    return list(astuple(value)) if hasattr(value, "__dataclass_fields__") else value


def main() -> None:
    """Check, tune, measure; write JSON; print tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out")))
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--workloads", default="L,W,M")
    parser.add_argument("--peers", default="sparsify", help="comma-separated, or none")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    device = torch.device(options.device)
    kernel = choose_kernel(options.kernel, device)
    end = time.monotonic() + 60 * options.minutes
    workloads = [WORKLOADS[name] for name in options.workloads.split(",")]
    peers = [PEERS[name] for name in options.peers.split(",") if name in PEERS]
    texts, failed = _run(options, device, kernel, workloads, peers, end)
    print("\n\n".join(texts))
    sys.exit(failed)


def _run(
    options: argparse.Namespace,
    device: torch.device,
    kernel: str,
    workloads: list[Workload],
    peers: list[Any],
    end: float,
) -> tuple[list[str], int]:
    out, texts = options.out, []

    def left() -> float:
        return end - time.monotonic()

    if bare.ABSENT:
        texts.append("not installed, and not needed here: " + ", ".join(bare.ABSENT))
    checks = check_all(device, kernel)
    write_json(out / "check.json", checks)
    bad = [row for row in checks if row["reason"]]
    texts.append(f"{len(checks)} checks on odd sizes, {len(bad)} failed")
    texts += [
        f"  {row['operation']} {row['workload']} {row['dtype']}: {row['reason']}" for row in bad
    ]
    failed = bool(bad)
    for workload in workloads:
        for name, measure in (("kernels", _kernels), ("train", _train)):
            if left() < 30:
                texts.append(f"{name} {workload.name}: left out, no time")
                continue
            result, text = measure(options, device, kernel, workload, peers)
            failed |= bool(result.get("failed"))
            write_json(out / f"{name}_{workload.name}.json", _finite(result))
            texts.append(text)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if kernel == "triton" and device.type == "cuda" and left() > 30:
        tuned = tune_all(device, workloads[min(1, len(workloads) - 1)], lambda: left() - 10)
        write_json(out / "tune.json", tuned)
        texts.append(_tuned_text(tuned))
    return texts, int(failed)


def _kernels(
    options: argparse.Namespace, device: torch.device, kernel: str, workload: Workload, _: list[Any]
) -> tuple[dict[str, Any], str]:
    try:
        result = bench_kernels(workload, kernel=kernel, device=device, effort=EFFORT)
    except torch.OutOfMemoryError as error:
        return _failed("kernels", workload, error)
    return result, kernels_table(result)


def _train(
    options: argparse.Namespace,
    device: torch.device,
    kernel: str,
    workload: Workload,
    peers: list[Any],
) -> tuple[dict[str, Any], str]:
    settings: dict[str, Any] = {"steps": options.steps, "effort": EFFORT}
    try:
        result = bench_training(workload, kernel=kernel, device=device, peers=peers, **settings)
    except torch.OutOfMemoryError as error:
        return _failed("train", workload, error)
    if device.type == "cuda":
        result["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return result, training_table(result)


def _failed(command: str, workload: Workload, error: Exception) -> tuple[dict[str, Any], str]:
    reason = f"{command} {workload.name}: {type(error).__name__}"
    return {"command": command, "workload": vars(workload), "failed": [str(error)]}, reason


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON has not, as None."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _tuned_text(tuned: dict[str, Any]) -> str:
    lines = [f"tuning on {tuned['workload']}: the shipped setting, then the best"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in tuned["trials"]:
        groups.setdefault((row["operation"], row["setting"]), []).append(row)
    for (operation, place), rows in groups.items():
        good = [row for row in rows if row["median_s"] is not None]
        if not good or rows[0]["median_s"] is None:
            continue
        best = min(good, key=lambda row: row["median_s"])
        lines.append(
            f"{operation:16} {place[:20]:20} {rows[0]['value']} {rows[0]['median_s'] * 1e3:.3f} ms;"
            f" {best['value']} {best['median_s'] * 1e3:.3f} ms"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
