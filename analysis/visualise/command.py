"""The command line of `isae-analyze visualise`."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.analysis import options
from isae.analysis.visualise.config import KINDS, VisualiseConfig
from isae.analysis.visualise.patch_config import PatchesConfig
from isae.errors import ConfigError

_DEFAULTS = VisualiseConfig()


def visualise(
    run: options.RunArgument,
    store: options.StoreOption = None,
    images: options.ImagesOption = None,
    weights: options.WeightsOption = None,
    out: options.OutOption = None,
    count: Annotated[
        int, typer.Option("--visualise", metavar="N", help="Units that get pictures, by rank.")
    ] = _DEFAULTS.visualise,
    features: Annotated[
        str, typer.Option(help="Units that get pictures instead, by number: 1,2,3.")
    ] = "",
    kind: Annotated[
        str, typer.Option(help=f"Pictures of each unit, commas between: {', '.join(KINDS)}.")
    ] = ",".join(_DEFAULTS.kind),
    branch: Annotated[
        str, typer.Option(help="Of --kind branch: a name, all, or main (most decoder energy).")
    ] = _DEFAULTS.branch,
    steps: Annotated[int, typer.Option(help="Steps of the ascent.")] = _DEFAULTS.steps,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the pictures in pixels; default: what the cell sees."),
    ] = None,
    cells: Annotated[
        str, typer.Option(help="centre: drive the middle cell; all: the mean over cells.")
    ] = _DEFAULTS.cells,
    lr: Annotated[float, typer.Option(help="Adam's step.")] = _DEFAULTS.lr,
    colours: Annotated[
        str, typer.Option(help="pictures: colours and spectrum of the store's; plain: grey, 1/f.")
    ] = _DEFAULTS.colours,
    jitter: Annotated[
        float, typer.Option(help="Most pixels that a picture is moved by.")
    ] = _DEFAULTS.jitter,
    rotation: Annotated[
        float, typer.Option(help="Most degrees that a picture is turned by.")
    ] = _DEFAULTS.rotation,
    scale: Annotated[
        float, typer.Option(help="Most natural logarithm of enlarging.")
    ] = _DEFAULTS.scale,
    set_size: Annotated[
        int, typer.Option(help="Pictures of a diversity set.")
    ] = _DEFAULTS.set_size,
    diversity: Annotated[
        float, typer.Option(help="Weight of likeness within a diversity set.")
    ] = _DEFAULTS.diversity,
    rows: Annotated[
        int, typer.Option(help="Rows among which the data's largest is sought, at most.")
    ] = _DEFAULTS.rows,
    patch_rows: Annotated[
        int, typer.Option(help="Rows encoded for patches, at most.")
    ] = PatchesConfig().max_rows,
    batch_size: options.PicturesAtOnceOption = _DEFAULTS.batch_size,
    device: options.DeviceOption = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: Annotated[
        bool, typer.Option(help="Delete what is there and begin anew; default: add to it.")
    ] = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Patches of every feature, and pictures by optimisation of some; a folder that grows."""
    from isae.analysis.visualise.analyze import analyze_visualise
    from isae.analysis.visualise.summary import visualise_text

    config = VisualiseConfig(
        visualise=count,
        features=_numbers(features),
        kind=tuple(name.strip() for name in kind.split(",")),
        branch=branch,
        steps=steps,
        size=size,
        cells=cells,
        lr=lr,
        colours=colours,
        jitter=jitter,
        rotation=rotation,
        scale=scale,
        set_size=set_size,
        diversity=diversity,
        rows=rows,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    summary = analyze_visualise(
        run,
        store=store,
        images=images,
        weights=weights,
        out=out,
        config=config,
        patches=PatchesConfig(max_rows=patch_rows, seed=seed),
        overwrite=overwrite,
        reporter=cli.reporter(quiet),
    )
    cli.finish(summary, as_json=as_json, lines=lambda: visualise_text(summary, summary["out"]))


def _numbers(text: str) -> tuple[int, ...]:
    """Numbers with commas between, each once."""
    try:
        return tuple(dict.fromkeys(int(one) for one in text.split(",") if one.strip()))
    except ValueError:
        raise ConfigError(
            f"expected --features as whole numbers with commas between, found '{text}'; "
            "write them as 1,2,3"
        ) from None
