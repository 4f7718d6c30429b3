"""The command lines of `isae-analyze prepare` and `isae-analyze all`."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import typer

from isae import cli
from isae.analysis import options

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Folder of the study.")]


def prepare(
    study: StudyArgument,
    images: Annotated[
        str | None, typer.Option(help="Image source; leave it out to go on with a study.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="inceptionv1 (default) or googlenet.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights of the studied network; default: the packaged.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers, with commas; default: all with branches.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="SAEs a layer; default: 3.")] = None,
    untrained: Annotated[
        int | None, typer.Option(help="Untrained networks to compare with; default: 1.")
    ] = None,
    positions: Annotated[
        str | None, typer.Option(help="Places per image: all (default), N, N:norm:LAYER.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels; default: the weights'.")
    ] = None,
    holdout: Annotated[
        float | None, typer.Option(help="Share of images held out; default: 0.05.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use a fair sample of LIMIT images.")] = None,
    codec: Annotated[str | None, typer.Option(help="small (default), fast, none.")] = None,
    expansion: Annotated[int | None, typer.Option(help="Latents per channel; default: 16.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Active latents; default: 32.")] = None,
    rows: Annotated[
        int | None,
        typer.Option(help="Rows an SAE sees; default: until held-out FVU falls no more."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per optimiser step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    dead_rows: Annotated[
        int | None, typer.Option(help="Rows without firing that make a latent dead.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu, cuda, cuda:N.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the stores' places, split and shuffle.")
    ] = None,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Stores and SAEs of all layers and seeds, and of untrained networks; resumes."""
    from isae.analysis.study.config import StudyConfig
    from isae.analysis.study.prepare import prepare_study
    from isae.analysis.study.text import prepared_text
    from isae.errors import ConfigError

    given: dict[str, Any] = {
        name: value
        for name, value in locals().items()
        if name in {field.name for field in fields(StudyConfig)} and value is not None
    }
    if given and "images" not in given:
        raise ConfigError(
            f"expected --images with the other options of a new study, found {sorted(given)} "
            "alone; give --images too, or leave all options out to go on with a study"
        )
    if "layers" in given:
        given["layers"] = tuple(name.strip() for name in given["layers"].split(","))
    result = prepare_study(
        study, StudyConfig(**given) if given else None, reporter=cli.reporter(quiet)
    )
    cli.finish(result, as_json=as_json, lines=lambda: prepared_text(result))


def all_stages(
    study: StudyArgument,
    only: Annotated[
        str | None,
        typer.Option(
            help="With commas, of branches,tuning,curves,label,layers,stability,visualise,report."
        ),
    ] = None,
    images: options.ImagesOption = None,
    weights: options.WeightsOption = None,
    device: options.DeviceOption = "auto",
    seed: cli.SeedOption = 0,
    jobs: Annotated[
        int | None,
        typer.Option(help="Stages at once; default: one per core as memory allows, on a GPU one."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Do every stage anew.")] = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """All analyses of a study, stage by stage, and trained against untrained; resumes."""
    from isae.analysis.study.analyze import analyze_study
    from isae.analysis.study.plan import ANALYSES, StudyAnalyses
    from isae.analysis.study.text import findings_text

    chosen = ANALYSES if only is None else tuple(name.strip() for name in only.split(","))
    wanted = StudyAnalyses.uniform(chosen, images=images, weights=weights, device=device, seed=seed)
    summary = analyze_study(
        study, wanted, jobs=jobs, overwrite=overwrite, reporter=cli.reporter(quiet)
    )
    cli.finish(summary, as_json=as_json, lines=lambda: findings_text(summary, summary["out"]))
