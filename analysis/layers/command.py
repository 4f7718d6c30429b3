"""The command line of `isae-analyze layers`."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.analysis import options
from isae.analysis.layers.config import LayersConfig

_DEFAULTS = LayersConfig()


def layers(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN1 RUN2...", help="Finished runs of one store.")
    ],
    store: options.StoreOption = None,
    images: options.ImagesOption = None,
    weights: options.WeightsOption = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Finished layers analysis of an untrained network; may be repeated."),
    ] = None,
    out: options.OutOption = None,
    pairs: Annotated[str, typer.Option(help="Layers to compare: adjacent, all.")] = _DEFAULTS.pairs,
    alpha: options.AlphaOption = _DEFAULTS.alpha,
    max_images: Annotated[
        int, typer.Option(help="Training images, and held-out images, to read at most.")
    ] = _DEFAULTS.max_images,
    least_images: Annotated[
        int, typer.Option(help="Images that a feature must be active on.")
    ] = _DEFAULTS.least_images,
    candidates: Annotated[
        int, typer.Option(help="Best partners kept for one-to-one matches.")
    ] = _DEFAULTS.candidates,
    shuffles: Annotated[
        int, typer.Option(help="Exchanges of images for the null.")
    ] = _DEFAULTS.shuffles,
    duplicate_r: Annotated[
        float, typer.Option(help="Correlation from which features are duplicates.")
    ] = _DEFAULTS.duplicate_r,
    virtual_images: Annotated[
        int, typer.Option(help="Pictures to measure virtual weights on; 0: none.")
    ] = _DEFAULTS.virtual_images,
    batch_size: options.RowsAtOnceOption = _DEFAULTS.batch_size,
    device: options.DeviceOption = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: options.OverwriteOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Features of layers matched on the same places, and the branches that matches join."""
    from isae.analysis.layers.analyze import analyze_layers
    from isae.analysis.layers.summary import table_text

    config = LayersConfig(
        alpha=alpha,
        pairs=pairs,
        max_images=max_images,
        least_images=least_images,
        candidates=candidates,
        shuffles=shuffles,
        duplicate_r=duplicate_r,
        virtual_images=virtual_images,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    summary = analyze_layers(
        list(runs),
        store=store,
        images=images,
        weights=weights,
        against=against or (),
        out=out,
        config=config,
        overwrite=overwrite,
        reporter=cli.reporter(quiet),
    )
    cli.finish(summary, as_json=as_json, lines=lambda: table_text(summary, summary["out"]))
