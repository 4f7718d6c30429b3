"""The command line of `isae-analyze label`."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.analysis import options
from isae.analysis.label.config import LabelConfig

_DEFAULTS = LabelConfig()


def label(
    run: options.RunArgument,
    store: options.StoreOption = None,
    images: options.ImagesOption = None,
    weights: options.WeightsOption = None,
    unseen: Annotated[
        str | None,
        typer.Option(help="A second store, of pictures unseen in training: do names hold there?"),
    ] = None,
    unseen_images: Annotated[
        str | None, typer.Option(help="Where its pictures are now; default: as recorded.")
    ] = None,
    tree: Annotated[
        str | None,
        typer.Option(help="Table of a tree over the classes; default: WordNet's, packaged."),
    ] = None,
    out: options.OutOption = None,
    alpha: options.AlphaOption = _DEFAULTS.alpha,
    min_gain: Annotated[
        float, typer.Option(help="Least (share - chance) / (1 - chance) of a label.")
    ] = _DEFAULTS.min_gain,
    top: Annotated[
        int, typer.Option(help="Strongest images of a feature in each half.")
    ] = _DEFAULTS.top,
    least_images: Annotated[
        int, typer.Option(help="Images of each half that a feature must be active on.")
    ] = _DEFAULTS.least_images,
    name_images: Annotated[
        int, typer.Option(help="Images of each half that a class must have.")
    ] = _DEFAULTS.name_images,
    max_rows: Annotated[
        int, typer.Option(help="Rows to read, at most, as whole images.")
    ] = _DEFAULTS.max_rows,
    shuffles: Annotated[
        int, typer.Option(help="Exchanges of images to count labels of chance.")
    ] = _DEFAULTS.shuffles,
    padding_pictures: Annotated[
        int, typer.Option(help="Pictures to find what padding causes; 0: none.")
    ] = _DEFAULTS.padding_pictures,
    workers: Annotated[
        int, typer.Option(help="Processes that decode pictures: speed, not results.")
    ] = _DEFAULTS.workers,
    figures: Annotated[bool, typer.Option(help="Draw figures.")] = _DEFAULTS.figures,
    batch_size: options.RowsAtOnceOption = _DEFAULTS.batch_size,
    device: options.DeviceOption = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: options.OverwriteOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Names of features: class, colour, orientation, position, ..., scored on unseen images."""
    from isae.analysis.label.analyze import analyze_label
    from isae.analysis.label.summary import labels_text

    config = LabelConfig(
        alpha=alpha,
        min_gain=min_gain,
        top=top,
        least_images=least_images,
        name_images=name_images,
        max_rows=max_rows,
        tree=tree,
        shuffles=shuffles,
        padding_pictures=padding_pictures,
        batch_size=batch_size,
        workers=workers,
        figures=figures,
        device=device,
        seed=seed,
    )
    summary = analyze_label(
        run,
        store=store,
        images=images,
        weights=weights,
        unseen=unseen,
        unseen_images=unseen_images,
        out=out,
        config=config,
        overwrite=overwrite,
        reporter=cli.reporter(quiet),
    )
    cli.finish(summary, as_json=as_json, lines=lambda: labels_text(summary, summary["out"]))
