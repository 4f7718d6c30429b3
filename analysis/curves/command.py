"""The command line of `isae-analyze curves`."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.analysis import options
from isae.analysis.curves.config import CurvesConfig

_DEFAULTS = CurvesConfig()


def curves(
    run: options.RunArgument,
    store: options.StoreOption = None,
    images: options.ImagesOption = None,
    weights: options.WeightsOption = None,
    out: options.OutOption = None,
    alpha: options.AlphaOption = _DEFAULTS.alpha,
    min_selectivity: Annotated[
        float, typer.Option(help="Least selectivity for direction, 0 to 1.")
    ] = _DEFAULTS.min_selectivity,
    min_contrast: Annotated[
        float, typer.Option(help="Least contrast of arcs over straight and reversed ones.")
    ] = _DEFAULTS.min_contrast,
    min_peak: Annotated[
        float, typer.Option(help="Least answer, in 99th percentiles of the unit on real rows.")
    ] = _DEFAULTS.min_peak,
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels; default: the store's.")
    ] = None,
    directions: Annotated[
        int, typer.Option(help="Directions over 360 degrees, a multiple of 4.")
    ] = _DEFAULTS.directions,
    colours: Annotated[
        str, typer.Option(help="Colours of figures, with commas between.")
    ] = ",".join(_DEFAULTS.colours),
    rows: Annotated[
        int, typer.Option(help="Training rows for rates and percentiles, at most.")
    ] = _DEFAULTS.rows,
    held_out_rows: Annotated[
        int, typer.Option(help="Held-out rows to take neurons apart on, at most.")
    ] = _DEFAULTS.held_out_rows,
    batch_size: options.PicturesAtOnceOption = _DEFAULTS.batch_size,
    device: options.DeviceOption = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: options.OverwriteOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Curve detectors among features, neurons and controls; gaps filled; neurons split."""
    from isae.analysis.curves.analyze import analyze_curves
    from isae.analysis.curves.summary import curves_text

    config = CurvesConfig(
        alpha=alpha,
        min_selectivity=min_selectivity,
        min_contrast=min_contrast,
        min_peak=min_peak,
        size=size,
        directions=directions,
        colours=tuple(name.strip() for name in colours.split(",")),
        rows=rows,
        held_out_rows=held_out_rows,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    summary = analyze_curves(
        run,
        store=store,
        images=images,
        weights=weights,
        out=out,
        config=config,
        overwrite=overwrite,
        reporter=cli.reporter(quiet),
    )
    cli.finish(summary, as_json=as_json, lines=lambda: curves_text(summary, summary["out"]))
