"""`isae-bench analysis`: what every analysis costs as features and images grow, and its memory.

An analysis runs as its command does, in a process of its own, at three sizes (a sixteenth, a
quarter and all) of the features (an SAE's first rows: the same k, so the same active codes a row)
and of what it reads (rows or images, at most those of training that the store has). It reads copies
of the runs, which hold no analysis that it could take numbers from instead of reading rows. It runs
once at the smallest size before anything counts: what is compiled or read for the first time is no
part of the smallest cost. For sizes x, f x and f^2 x and costs t1, t2, t3,

    power = log_f [(t3 - t2) / (t2 - t1)]

is p where cost is a + b x^p: 1 for a constant plus a line, 2 for a square. It says nothing where
the constant is most of the cost, and is not given where the first step adds less than a tenth;
t3 / t1 is given beside it. Costs are seconds of processor time, user and system, of all threads, of
the cheapest of the repeats: other work on the machine does not add its own time, though it can slow
down this one's. Memory is that of the process, the most of the repeats: the system's peak of
resident bytes (VmHWM), and the part of it that is not of files (RssAnon, looked at 20 times a
second): pages of files, where codes lie, are given back when memory is short.
"""

from __future__ import annotations

import math
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

FACTOR, SIZES = 4, 3
"""Each of so many sizes is so many times the one before."""
LEAST_STEP = 0.1
"""Part of the smallest cost that the first step must add for `power` to say something."""
BOTH, FEATURES, READ = AXES = ("both", "features", "read")
"""What grows: both one after the other, the features, or the rows or images that are read."""
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
    axis: str = BOTH,
    most: int | None = None,
    repeats: int = 1,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Cost and memory of analyses of a finished run at three numbers of features and of images.

    runs: a run, and a second one of the same store for those that compare two (another layer for
    layers, another seed for stability), which are left out without it. axis: one of AXES; most:
    rows or images at full size (default: by analysis); repeats: times that each is run. Raises
    ConfigError for a name that is none, RunError where an analysis ends badly.
    """
    for name in analyses:
        if name not in COSTED:
            raise unknown_name("analysis", name, tuple(COSTED))
    if axis not in AXES:
        raise unknown_name("axis", axis, AXES)
    if not 1 <= len(runs) <= 2:
        raise ConfigError(f"expected one run or two, found {len(runs)}; name one or two folders")
    where = _Where(store, images, weights)
    left_out = _left_out(analyses, len(runs), axis)
    rows = []
    with tempfile.TemporaryDirectory(prefix="isae-cost-") as scratch:
        for name in (name for name in analyses if name not in left_out):
            chosen = [Path(run) for run in runs[: COSTED[name].runs]]
            tasks = list(_commands(name, chosen, Path(scratch), store, axis, most))
            note(f"{name}: once before it counts")
            _measured([*tasks[0][2], *where.options(name)])
            for what, size, command in tasks:
                note(f"{name}: {size:,} {what}")
                tries = [_measured([*command, *where.options(name)]) for _ in range(repeats)]
                rows.append({"analysis": name, "axis": what, "size": size, **_best(tries)})
    return {
        "command": "analysis",
        "runs": [str(run) for run in runs],
        "features": [open_run(run, store).sae.n for run in runs],
        "layer": open_run(runs[0], store).layer,
        "repeats": repeats,
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


def _left_out(analyses: Sequence[str], runs: int, axis: str) -> dict[str, str]:
    """Analyses that are not measured, and why."""
    found = {}
    for name in analyses:
        if COSTED[name].runs > runs:
            found[name] = f"compares {COSTED[name].runs} runs, given {runs}"
        elif axis == READ and COSTED[name].option is None:
            found[name] = "reads no rows"
    return found


def _best(tries: Sequence[dict[str, float]]) -> dict[str, float]:
    """The cheapest repeat's times, the most memory of all."""
    cheapest = min(tries, key=lambda one: one["processor_seconds"])
    memory = {key: max(one[key] for one in tries) for key in ("peak_mb", "own_mb")}
    return {**cheapest, **memory}


def power(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Exponent p of a cost a + b x^p at sizes of one ratio; NaN where it hardly rises."""
    first, last = costs[1] - costs[0], costs[2] - costs[1]
    if first <= LEAST_STEP * costs[0] or last <= 0:
        return float("nan")
    return math.log(last / first) / math.log(sizes[2] / sizes[1])


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
    axis: str,
    most: int | None,
) -> Iterator[tuple[str, int, list[str]]]:
    """(what grows, its size, the command) of both axes; the full size is in both."""
    task, out = COSTED[name], scratch / "out" / name
    opened = [open_run(run, store) for run in runs]
    features = [_sizes(one.sae.n, one.sae.k, "features") for one in opened]
    what = "images" if task.option == "--max-images" else "rows"
    read = [0] * SIZES
    if task.option:
        there = opened[0].stored.train_rows
        if what == "images":
            there = opened[0].store.images.column("split").to_pylist().count("train")
        read = _sizes(min(most or task.most, there), 1, what)
    base = [sys.executable, "-m", "isae.analysis.cli", name]
    end = [*task.fixed, *(["--store", store] if store else [])]
    end += ["--out", str(out), "--overwrite", "--quiet", "--json"]

    def command(size: int, reads: int) -> list[str]:
        folders = [scratch / f"{number}-{size}" / run.name for number, run in enumerate(runs)]
        for folder, run, counts in zip(folders, runs, features, strict=True):
            if not folder.exists():
                cut_run(run, counts[size], folder, store)
        asked = [task.option, str(read[reads])] if task.option else []
        return [*base, *map(str, folders), *asked, *end]

    whole = SIZES - 1
    for size in range(SIZES) if axis != READ else ():
        yield "features", features[0][size], command(size, whole)
    for size in range(SIZES) if task.option and axis != FEATURES else ():
        yield what, read[size], command(whole, size)


def _sizes(most: int, least: int, what: str) -> list[int]:
    """Sizes in the ratio of FACTOR, the last one `most` or a little below."""
    smallest = most // FACTOR ** (SIZES - 1)
    if smallest < max(least, 1):
        raise ConfigError(
            f"expected at least {max(least, 1) * FACTOR ** (SIZES - 1)} {what}, so that a "
            f"sixteenth is enough for k active ones, found {most}; take a larger run or store"
        )
    return [smallest * FACTOR**step for step in range(SIZES)]


def _measured(command: list[str]) -> dict[str, float]:
    """Run a command -> its seconds by the clock and of processors, its peak of memory in MB."""
    started, peak, own = time.monotonic(), 0.0, 0.0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while True:
            done, status, used = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            now = _resident(process.pid)
            peak, own = max(peak, now[0]), max(own, now[1])
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
        "own_mb": round(own / 1e6, 1),
    }


def _resident(pid: int) -> tuple[float, float]:
    """(peak of resident bytes, those of now that are not of files); zeros of an ended process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    words = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return 1024 * float(words.get("VmHWM", 0)), 1024 * float(words.get("RssAnon", 0))


def _growths(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for name, axis in dict.fromkeys((row["analysis"], row["axis"]) for row in rows):
        mine = sorted(
            (row for row in rows if (row["analysis"], row["axis"]) == (name, axis)),
            key=lambda row: int(row["size"]),
        )
        sizes, costs, peaks, own = (
            [float(row[key]) for row in mine]
            for key in ("size", "processor_seconds", "peak_mb", "own_mb")
        )
        found.append({
            "analysis": name,
            "axis": axis,
            "size_ratio": sizes[-1] / sizes[0],
            "cost_ratio": costs[-1] / costs[0],
            "power": power(sizes, costs),
            "memory_ratio": peaks[-1] / peaks[0] if peaks[0] else float("nan"),
            "own_memory_ratio": own[-1] / own[0] if own[0] else float("nan"),
        })  # fmt: skip
    return found


def analysis_table(result: dict[str, Any]) -> str:
    """The table of `isae-bench analysis`, at most 80 columns."""
    lines = [f"{'analysis':11}{'of':9}{'size':>10}{'s':>9}{'core s':>9}{'peak MB':>9}{'own MB':>8}"]
    growths = {(row["analysis"], row["axis"]): row for row in result["growth"]}
    for row in result["measured"]:
        lines.append(
            f"{row['analysis']:11}{row['axis']:9}{row['size']:>10,}{row['seconds']:>9.1f}"
            f"{row['processor_seconds']:>9.1f}{row['peak_mb']:>9,.0f}{row['own_mb']:>8,.0f}"
        )
        of_axis = [one for one in result["measured"] if one["analysis"] == row["analysis"]
                   and one["axis"] == row["axis"]]  # fmt: skip
        if row is of_axis[-1]:
            found = growths[row["analysis"], row["axis"]]
            rises = "mostly a constant"
            if math.isfinite(found["power"]):
                rises = f"as a constant and size^{found['power']:.1f}"
            lines.append(
                f"{'':11}size x {found['size_ratio']:.0f}: cost x {found['cost_ratio']:.2f}, "
                f"{rises}; own memory x {found['own_memory_ratio']:.2f}"
            )
    lines += [f"{name}: left out, {why}" for name, why in result["left_out"].items()]
    return "\n".join(lines)
