"""Measuring: times with quantiles, this machine's ceilings, and what machine it was."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "triton", "numpy", "numba", "eai-sparsify", "sae-lens", "dictionary-learning")
FLUSH_BYTES = 256 << 20
"""Written between repeats on a GPU, so that no repeat finds its operands in the L2 cache."""


@dataclass(frozen=True)
class Effort:
    """How long to measure one thing.

    warmup: calls before. seconds: calls go on until so much time was measured, but at least
    `least` and at most `most` calls.
    """

    warmup: int = 3
    seconds: float = 1.0
    least: int = 5
    most: int = 100


NORMAL = Effort()
QUICK = Effort(warmup=1, seconds=0.0, least=3, most=3)


@dataclass(frozen=True)
class Times:
    """Seconds of repeated calls."""

    median: float
    p10: float
    p90: float
    repeats: int

    def json(self) -> dict[str, float]:
        """As JSON."""
        return asdict(self)


def summarise(seconds: Sequence[float]) -> Times:
    """Median and quantiles, interpolated between the sorted times."""
    ordered = sorted(seconds)

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return Times(quantile(0.5), quantile(0.1), quantile(0.9), len(ordered))


def time_call(call: Callable[[], object], device: torch.device, effort: Effort) -> Times:
    """Times of a call after warm-up: by CUDA events on a GPU, by the clock on a CPU."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if is_gpu(device) else None
    for _ in range(effort.warmup):
        call()
    seconds: list[float] = []
    while len(seconds) < effort.most and (
        len(seconds) < effort.least or sum(seconds) < effort.seconds
    ):
        if flush is not None:
            flush.zero_()
        seconds.append(once(call, device))
    return summarise(seconds)


def once(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    if not is_gpu(device):
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def is_gpu(device: torch.device) -> bool:
    """Whether times are taken by CUDA events."""
    return device.type == "cuda"


@dataclass(frozen=True)
class Ceilings:
    """What this machine reached in the same run.

    copy: bytes/s of a large copy, read and write counted. gemm: FLOP/s of a large product of
    `dtype` operands.
    """

    copy: float
    gemm: float
    dtype: str

    def json(self) -> dict[str, Any]:
        """As JSON, in GB/s and GFLOP/s."""
        return {
            "copy_gb_per_s": self.copy / 1e9,
            "gemm_gflop_per_s": self.gemm / 1e9,
            "gemm_dtype": self.dtype,
        }


def measure_ceilings(
    device: torch.device, dtype: torch.dtype, effort: Effort, *, small: bool = False
) -> Ceilings:
    """Measure them; `small` (for tests) takes tensors that fit a cache, so it is no ceiling."""
    size = 8192 if is_gpu(device) else 2048
    count = (1 << 30) if is_gpu(device) else (256 << 20)
    if small:
        size, count = 128, 1 << 20
    copy = _time_copy(count, device, effort)
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    gemm = time_call(lambda: a @ b.T, device, effort)
    name = str(dtype).removeprefix("torch.")
    return Ceilings(2 * count / copy.median, 2 * size**3 / gemm.median, name)


def _time_copy(count: int, device: torch.device, effort: Effort) -> Times:
    source = torch.ones(count // 4, device=device)
    target = torch.empty_like(source)
    return time_call(lambda: target.copy_(source), device, effort)


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Processor, cores and memory; the GPU's name and memory where `device` is one."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found: dict[str, Any] = {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    if device is not None:
        found["threads"] = torch.get_num_threads()
    if device is not None and is_gpu(device):
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["gpu_memory_gib"] = round(properties.total_memory / 2**30)
    return found


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of what was measured, of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit, with a mark if files differ from it; '' outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
