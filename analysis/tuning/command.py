"""The command line of `isae-analyze tuning`."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.analysis import options
from isae.analysis.tuning.config import TuningConfig

_DEFAULTS = TuningConfig()


def tuning(
    run: options.RunArgument,
    store: options.StoreOption = None,
    images: options.ImagesOption = None,
    weights: options.WeightsOption = None,
    out: options.OutOption = None,
    alpha: options.AlphaOption = _DEFAULTS.alpha,
    min_selectivity: Annotated[
        float, typer.Option(help="Least selectivity of a tuned unit, 0 to 1.")
    ] = _DEFAULTS.min_selectivity,
    faint: Annotated[
        float,
        typer.Option(help="A unit whose answers are below this part of those to photos is faint."),
    ] = _DEFAULTS.faint,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the pictures in pixels; default: the store's, or the smallest with a "
            f"cell that padding spares if that is at most {_DEFAULTS.largest}."
        ),
    ] = None,
    directions: Annotated[
        int, typer.Option(help="Angles over 360 degrees, a multiple of 4.")
    ] = _DEFAULTS.directions,
    colours: Annotated[
        str, typer.Option(help="Colours of figures, with commas between.")
    ] = ",".join(_DEFAULTS.colours),
    pictures: Annotated[
        int, typer.Option(help="Pictures to measure the effective field on.")
    ] = _DEFAULTS.pictures,
    batch_size: options.PicturesAtOnceOption = _DEFAULTS.batch_size,
    device: options.DeviceOption = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: options.OverwriteOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Tuning of every feature and neuron to arcs, lines, gratings, Gabors, corners."""
    from isae.analysis.tuning.analyze import analyze_tuning
    from isae.analysis.tuning.summary import tuning_text

    config = TuningConfig(
        alpha=alpha,
        min_selectivity=min_selectivity,
        faint=faint,
        size=size,
        directions=directions,
        colours=tuple(name.strip() for name in colours.split(",")),
        pictures=pictures,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    summary = analyze_tuning(
        run,
        store=store,
        images=images,
        weights=weights,
        out=out,
        config=config,
        overwrite=overwrite,
        reporter=cli.reporter(quiet),
    )
    cli.finish(summary, as_json=as_json, lines=lambda: tuning_text(summary, summary["out"]))
