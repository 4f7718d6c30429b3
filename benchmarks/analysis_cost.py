"""`isae-bench analysis`: what every analysis costs as features and images grow, and its memory.

An analysis runs as its command does, in a process of its own, at three sizes (a quarter, half and
all) of the features (an SAE's first rows: the same k, so the same active codes a row) and of what
it reads (rows or images). For sizes x1 < x2 < x3 and costs t,

    growth = [(t3 - t2) / (x3 - x2)] / [(t2 - t1) / (x2 - x1)]

is 1 where cost is a constant plus a line, 2 where it is a square of sizes that double. Costs are
seconds of processor time, user and system, of all threads: other work on the machine does not add
to them as it does to the clock's. Memory is the system's peak of resident bytes (VmHWM).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isae.analysis.inputs import open_run
from isae.benchmarks.measure import commit, machine, versions
from isae.errors import ConfigError, RunError, unknown_name
from isae.train import SAE

PARTS = (4, 2, 1)
"""Sizes are the largest divided by these."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Costed:
    """How an analysis is asked for: its option for what it reads, and options that stay."""

    option: str | None
    most: int
    runs: int = 1
    fixed: tuple[str, ...] = ()


COSTED = {
    "branches": Costed("--max-rows", 160_000),
    "tuning": Costed(None, 0),
    "curves": Costed("--rows", 32_768),
    "layers": Costed("--max-images", 400, runs=2, fixed=("--virtual-images", "0")),
    "stability": Costed("--max-rows", 160_000, runs=2, fixed=("--dictionaries", "1")),
    "label": Costed("--max-rows", 160_000),
    "visualise": Costed("--patch-rows", 160_000, fixed=("--visualise", "0")),
}


def bench_analysis(
    runs: Sequence[str | Path],
    *,
    analyses: Sequence[str] = tuple(COSTED),
    store: str | None = None,
    images: str | None = None,
    weights: str | None = None,
    parts: Sequence[int] = PARTS,
    most: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Cost and memory of analyses of a finished run at three numbers of features and of images.

    runs: a run, and a second one of the same store for those that compare two (another layer for
    layers, another seed for stability), which are left out without it. most: rows or images at
    full size (default: by analysis). Raises ConfigError for a name that is none, RunError where an
    analysis ends badly.
    """
    for name in analyses:
        if name not in COSTED:
            raise unknown_name("analysis", name, tuple(COSTED))
    if not 1 <= len(runs) <= 2:
        raise ConfigError(f"expected one run or two, found {len(runs)}; name one or two folders")
    where = _Where(store, images, weights)
    left_out = {
        name: f"compares {COSTED[name].runs} runs, given {len(runs)}"
        for name in analyses
        if COSTED[name].runs > len(runs)
    }
    rows = []
    with tempfile.TemporaryDirectory(prefix="isae-cost-") as scratch:
        for name in (name for name in analyses if name not in left_out):
            chosen = [Path(run) for run in runs[: COSTED[name].runs]]
            for axis, size, command in _commands(name, chosen, Path(scratch), store, parts, most):
                note(f"{name}: {size:,} {axis}")
                found = _measured([*command, *where.options(name)])
                rows.append({"analysis": name, "axis": axis, "size": size, **found})
    return {
        "command": "analysis",
        "runs": [str(run) for run in runs],
        "features": [open_run(run, store).sae.n for run in runs],
        "layer": open_run(runs[0], store).layer,
        "measured": rows,
        "growth": _growths(rows),
        "left_out": left_out,
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
        "commit": commit(),
    }


@dataclass(frozen=True)
class _Where:
    """Where store, pictures and weights are now; None: as recorded."""

    store: str | None
    images: str | None
    weights: str | None

    def options(self, analysis: str) -> list[str]:
        """Options of an analysis's command, but for the store's; stability reads no pictures."""
        given = {"--images": self.images, "--weights": self.weights}
        if analysis == "stability":
            return []
        return [part for name, value in given.items() if value for part in (name, value)]


def growth(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The last step's cost per unit of size over the first step's; NaN where cost does not rise."""
    first = (costs[1] - costs[0]) / (sizes[1] - sizes[0])
    last = (costs[2] - costs[1]) / (sizes[2] - sizes[1])
    return last / first if first > 0 else float("nan")


def cut_run(run: Path, features: int, folder: Path, store: str | None = None) -> Path:
    """A copy of a run whose SAE has its first features only -> its folder."""
    opened = open_run(run, store)
    sae = opened.sae
    W_enc_ND, b_enc_N, W_dec_ND = (
        part[:features].clone() for part in (sae.W_enc_ND, sae.b_enc_N, sae.W_dec_ND)
    )
    k = min(sae.k, features)
    cut = SAE(W_enc_ND, b_enc_N, W_dec_ND, sae.b_dec_D.clone(), k, metadata=sae.metadata)
    cut.save(folder / "sae" / opened.layer)
    for name in ("config.json", "summary.json"):
        shutil.copyfile(run / name, folder / name)
    return folder


def _commands(
    name: str,
    runs: list[Path],
    scratch: Path,
    store: str | None,
    parts: Sequence[int],
    most: int | None,
) -> Iterator[tuple[str, int, list[str]]]:
    """(what grows, its size, the command) of both axes; the full size is in both."""
    task, out = COSTED[name], scratch / "out" / name
    full, whole = open_run(runs[0], store).sae.n, most or task.most
    base = [sys.executable, "-m", "isae.analysis.cli", name]
    end = [*task.fixed, *(["--store", store] if store else [])]
    end += ["--out", str(out), "--overwrite", "--quiet", "--json"]
    for part in parts:
        cut = [
            cut_run(run, full // part, scratch / f"{number}-{part}" / run.name, store)
            for number, run in enumerate(runs)
        ]
        read = [task.option, str(whole)] if task.option else []
        yield "features", full // part, [*base, *map(str, cut), *read, *end]
    for part in parts if task.option else ():
        read = [str(task.option), str(whole // part)]
        yield "images" if "images" in read[0] else "rows", whole // part, [
            *base, *map(str, runs), *read, *end,
        ]  # fmt: skip


def _measured(command: list[str]) -> dict[str, float]:
    """Run a command -> its seconds by the clock and of processors, its peak of memory in MB."""
    started, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while True:
            done, status, used = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            peak = max(peak, _resident_peak(process.pid))
            time.sleep(_POLL_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RunError(
                f"expected '{command[3]}' to end well, found exit code {process.returncode}: "
                f"{' '.join(said.read().split())[-300:]}; run {' '.join(command[2:])} by itself"
            )
    return {
        "seconds": round(time.monotonic() - started, 2),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(peak / 1e6, 1),
    }


def _resident_peak(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    words = next((line.split() for line in lines if line.startswith("VmHWM:")), None)
    return float(words[1]) * 1024 if words else 0.0


def _growths(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for name, axis in dict.fromkeys((row["analysis"], row["axis"]) for row in rows):
        mine = sorted(
            (row for row in rows if (row["analysis"], row["axis"]) == (name, axis)),
            key=lambda row: int(row["size"]),
        )
        sizes, costs, peaks = (
            [float(row[key]) for row in mine] for key in ("size", "processor_seconds", "peak_mb")
        )
        found.append({
            "analysis": name,
            "axis": axis,
            "growth": growth(sizes, costs),
            "memory_ratio": peaks[-1] / peaks[0] if peaks[0] else float("nan"),
        })  # fmt: skip
    return found


def analysis_table(result: dict[str, Any]) -> str:
    """The table of `isae-bench analysis`, at most 80 columns."""
    lines = [f"{'analysis':11}{'of':9}{'size':>9}{'s':>9}{'core s':>9}{'peak MB':>10}"]
    growths = {(row["analysis"], row["axis"]): row for row in result["growth"]}
    for row in result["measured"]:
        lines.append(
            f"{row['analysis']:11}{row['axis']:9}{row['size']:>9,}{row['seconds']:>9.1f}"
            f"{row['processor_seconds']:>9.1f}{row['peak_mb']:>10,.0f}"
        )
        of_axis = [one for one in result["measured"] if one["analysis"] == row["analysis"]
                   and one["axis"] == row["axis"]]  # fmt: skip
        if row is of_axis[-1]:
            found = growths[row["analysis"], row["axis"]]
            lines.append(
                f"{'':11}growth {found['growth']:.2f} (1: a line, 2: a square), "
                f"memory x {found['memory_ratio']:.2f} over the sizes"
            )
    lines += [f"{name}: left out, {why}" for name, why in result["left_out"].items()]
    return "\n".join(lines)
