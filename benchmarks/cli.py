"""`isae-bench`: what kernels, training steps, stores and analyses cost on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from isae.cli import JsonOption, QuietOption, SeedOption, finish, json_safe, new_app, reporter
from isae.cli import main as run_app
from isae.errors import ConfigError, KernelError
from isae.files import write_json

EXIT_FAILED_CHECK = 1
app = new_app("Measure kernels, training steps, stores and analyses, against ceilings and peers.")

WorkloadOption = Annotated[str, typer.Option(help="L, W, M, cpu or tiny.")]
KernelOption = Annotated[str, typer.Option(help="auto, triton, cpu or reference.")]
StepKernelOption = Annotated[
    str, typer.Option(help="auto, triton, cpu or reference; also as in cpu:bfloat16.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
OutOption = Annotated[Path | None, typer.Option(help="Write the results as JSON to this file.")]
SecondsOption = Annotated[float, typer.Option(help="Seconds to measure each thing, at least.")]


@app.command()
def kernels(
    workload: WorkloadOption = "cpu",
    kernel: KernelOption = "auto",
    device: DeviceOption = "auto",
    compile_only: Annotated[
        bool, typer.Option("--compile-only", help="Compile for sm_80, sm_90 and sm_100 instead.")
    ] = False,
    seconds: SecondsOption = 1.0,
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    seed: SeedOption = 0,
) -> None:
    """Check every operation against float64, then time it. Exit code 1 if a check fails."""
    report = reporter(quiet)
    if compile_only:
        rows = compile_all(workload)
        result = {"command": "kernels --compile-only", "kernels": rows}
        _end(result, out, as_json, lambda: _tables().compile_table(rows))
        raise typer.Exit(EXIT_FAILED_CHECK if any(row["faults"] for row in rows) else 0)
    from isae.benchmarks.kernels import bench_kernels
    from isae.benchmarks.measure import Effort
    from isae.benchmarks.workloads import find_workload
    from isae.device import resolve_device

    measured = bench_kernels(
        find_workload(workload),
        kernel=kernel,
        device=resolve_device(device),
        seed=seed,
        effort=Effort(seconds=seconds),
        note=report.say,
    )
    _end(measured, out, as_json, lambda: _tables().kernels_table(measured))
    raise typer.Exit(EXIT_FAILED_CHECK if measured["failed"] else 0)


@app.command()
def train(
    workload: WorkloadOption = "cpu",
    kernel: StepKernelOption = "auto",
    device: DeviceOption = "auto",
    peers: Annotated[
        str, typer.Option(help="Comma-separated: sparsify, sae-lens, dictionary-learning; or none.")
    ] = "sparsify,sae-lens,dictionary-learning",
    steps: Annotated[int, typer.Option(min=3, help="Measured steps of every trainer.")] = 30,
    dead_rows: Annotated[
        int, typer.Option(min=1, help="Rows without firing that make a latent dead, for all.")
    ] = 10_000_000,
    seconds: SecondsOption = 1.0,
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    seed: SeedOption = 0,
) -> None:
    """Time whole training steps: isae's against its floor and against installed peers.

    One step is compared with the reference before. Exit code 1 if they differ.
    """
    from isae.benchmarks.measure import Effort
    from isae.benchmarks.peers import chosen_peers
    from isae.benchmarks.training import bench_training
    from isae.benchmarks.workloads import find_workload
    from isae.device import resolve_device

    measured = bench_training(
        find_workload(workload),
        kernel=kernel,
        device=resolve_device(device),
        peers=chosen_peers(peers),
        steps=steps,
        seed=seed,
        dead_rows=dead_rows,
        effort=Effort(seconds=seconds),
        note=reporter(quiet).say,
    )
    _end(measured, out, as_json, lambda: _tables().training_table(measured))
    raise typer.Exit(EXIT_FAILED_CHECK if measured["failed"] else 0)


@app.command()
def quality(
    store: Annotated[str, typer.Argument(help="An activation store with held-out rows.")],
    layer: Annotated[str, typer.Option(help="A layer of the store.")] = "mixed4c",
    kernels: Annotated[
        str,
        typer.Option(
            help="Kernels of isae, also as in cpu:bfloat16; the first is compared with all else."
        ),
    ] = "auto,reference",
    peers: Annotated[str, typer.Option(help="Comma-separated, or none.")] = "sparsify",
    device: DeviceOption = "auto",
    latents: Annotated[int, typer.Option(min=1, help="Dictionary size.")] = 8192,
    k: Annotated[int, typer.Option(min=1, help="Active latents per row.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 4096,
    steps: Annotated[int, typer.Option(min=1, help="Steps of every trainer.")] = 60,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate of Adam.")] = 1e-3,
    dead_rows: Annotated[
        int, typer.Option(min=1, help="Rows without firing that make a latent dead, for AuxK.")
    ] = 100_000,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train on the same rows with several trainers: held-out FVU and dead latents, paired.

    Exit code 1 if the first does not hold: FVU within 1 % and dead share within a point of other
    kernels' in the mean over seeds, FVU no higher than a peer's.
    """
    from isae.benchmarks.peers import chosen_peers
    from isae.benchmarks.quality import bench_quality
    from isae.device import resolve_device

    measured = bench_quality(
        store,
        layer,
        kernels=[name.strip() for name in kernels.split(",")],
        peers=chosen_peers(peers),
        device=resolve_device(device),
        k=k,
        latents=latents,
        batch=batch_size,
        steps=steps,
        lr=lr,
        dead_rows=dead_rows,
        seeds=tuple(range(seeds)),
        report=reporter(quiet),
        save=partial(_save, out),
    )
    _end(measured, out, as_json, lambda: _tables().quality_table(measured))
    raise typer.Exit(EXIT_FAILED_CHECK if measured["failed"] else 0)


@app.command()
def store(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[STORE]", help="A store to read; without it, those built."),
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Image source of builds to measure; without it, none.")
    ] = None,
    layer: Annotated[str, typer.Option(help="The layer that is read.")] = "mixed4c",
    layers: Annotated[
        str, typer.Option(help="Layers of the builds, comma-separated; default: the one read.")
    ] = "",
    codec: Annotated[
        str, typer.Option(help="Codecs of the builds, comma-separated, or one as JSON.")
    ] = "",
    sizes: Annotated[
        str, typer.Option("--sizes", "--size", help="Sizes of the builds, comma-separated.")
    ] = "112",
    limit: Annotated[int, typer.Option(min=1, help="Images of a build.")] = 1000,
    rows: Annotated[int, typer.Option(min=1, help="Rows that everybody reads, at most.")] = 131_072,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 4096,
    threads: Annotated[int, typer.Option(min=1, help="Threads of isae's reader.")] = 2,
    peers: Annotated[str, typer.Option(help="all, none, or names separated by commas.")] = "all",
    cold: Annotated[
        bool, typer.Option("--cold", help="Drop the files from the page cache before every turn.")
    ] = False,
    train_steps: Annotated[
        int, typer.Option(min=0, help="Training steps from the store and from memory each.")
    ] = 0,
    latents: Annotated[int, typer.Option(min=64, help="Dictionary size of that training.")] = 8192,
    memory_rows: Annotated[
        str, typer.Option(help="Numbers of rows to measure memory with, comma-separated.")
    ] = "",
    device: DeviceOption = "auto",
    seconds: Annotated[float, typer.Option(help="Seconds to measure each thing.")] = 2.0,
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    seed: SeedOption = 0,
) -> None:
    """Build and read stores beside other formats: MB/s, core-ms an image, memory, shuffling.

    Every reader must give exactly the right rows. Exit code 1 if one does not.
    """
    from isae.benchmarks.measure import Effort
    from isae.benchmarks.store_bench import StoreJob, bench_store
    from isae.benchmarks.store_peers import chosen_store_peers
    from isae.benchmarks.store_tables import store_table
    from isae.device import resolve_device

    job = StoreJob(
        store=path,
        images=images,
        layer=layer,
        build_layers=_names(layers),
        codecs=(codec,) if codec.lstrip().startswith("[") else _names(codec),
        sizes=_numbers("--sizes", sizes),
        limit=limit,
        rows=rows,
        batch=batch_size,
        threads=threads,
        cold=cold,
        train_steps=train_steps,
        latents=latents,
        memory_rows=_numbers("--memory-rows", memory_rows),
        seed=seed,
    )
    measured = bench_store(
        job,
        peers=chosen_store_peers(peers),
        device=resolve_device(device),
        effort=Effort(seconds=seconds),
        note=reporter(quiet).say,
    )
    _end(measured, out, as_json, lambda: store_table(measured))
    raise typer.Exit(EXIT_FAILED_CHECK if measured["failed"] else 0)


@app.command()
def analysis(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN [RUN2]", help="A finished run, or two of one store.")
    ],
    only: Annotated[
        str, typer.Option(help="Analyses, comma-separated; default: all that the runs allow.")
    ] = "",
    store: Annotated[str | None, typer.Option(help="Where the runs' store is now.")] = None,
    images: Annotated[str | None, typer.Option(help="Where its pictures are now.")] = None,
    weights: Annotated[str | None, typer.Option(help="Where the weights are now.")] = None,
    axis: Annotated[str, typer.Option(help="What grows: features, read, or both.")] = "both",
    most: Annotated[
        int | None, typer.Option(min=16, help="Rows or images at full size; default: by analysis.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the least counts.")] = 1,
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Cost and memory of analyses at three numbers of features and of rows or images."""
    from isae.benchmarks.analysis_cost import COSTED, analysis_table, bench_analysis

    measured = bench_analysis(
        runs,
        analyses=_names(only) or tuple(COSTED),
        store=store,
        images=images,
        weights=weights,
        axis=axis,
        most=most,
        repeats=repeats,
        note=reporter(quiet).say,
    )
    _end(measured, out, as_json, lambda: analysis_table(measured))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(option: str, text: str) -> tuple[int, ...]:
    found = _names(text)
    if not all(one.isdecimal() and int(one) > 0 for one in found):
        raise ConfigError(f"expected {option} as whole numbers above 0, found {text}; write 1,2,3")
    return tuple(map(int, found))


def compile_all(workload: str) -> list[dict[str, Any]]:
    """Compile ahead of time, in a process that has not imported Triton's interpreter.

    The workloads cpu and tiny mean all that have Triton settings of their own. Raises KernelError
    where the compiler fails.
    """
    command = [sys.executable, "-m", "isae.kernels.triton.catalogue", "--quiet"]
    command += ["--workload", workload] if workload in ("L", "W", "M") else []
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not done.stdout:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise KernelError(f"expected every kernel to compile, found: {last}; see {command[2]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _end(result: dict[str, Any], out: Path | None, as_json: bool, lines: Callable[[], str]) -> None:
    _save(out, result)
    finish(result, as_json=as_json, lines=lines)


def _save(out: Path | None, result: dict[str, Any]) -> None:
    if out is not None:
        write_json(out, json_safe(result))


def _tables() -> Any:
    from isae.benchmarks import tables

    return tables


def main() -> None:
    """Entry point of `isae-bench`."""
    run_app(app)


if __name__ == "__main__":
    main()
