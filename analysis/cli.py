"""`isae-analyze`: branches, tuning, layers."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.analysis.config import BranchesConfig, LayersConfig, TuningConfig

app = cli.new_app("Analyse trained SAEs: where their features lie in the network.")
_DEFAULTS = BranchesConfig()
_TUNING = TuningConfig()
_LAYERS = LayersConfig()


@app.command()
def branches(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished training run.")],
    store: Annotated[
        str | None, typer.Option(help="Where the run's store is now; default: as recorded.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Where the store's pictures are now; default: as recorded.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder to write; default: RUN/analysis/branches.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="False-discovery rate.")] = _DEFAULTS.alpha,
    top: Annotated[int, typer.Option(help="Strongest patches per feature.")] = _DEFAULTS.top,
    max_rows: Annotated[
        int | None, typer.Option(help="Rows of the store to read; default: all.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows encoded at once.")] = _DEFAULTS.batch_size,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an analysis that is there.")] = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Every feature's energy per branch against a null: tables, summary, figures, patches."""
    from isae.analysis.analyze import analyze_branches
    from isae.analysis.summary import table_text

    config = BranchesConfig(
        alpha=alpha,
        top=top,
        max_rows=max_rows,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    summary = analyze_branches(
        run,
        store=store,
        images=images,
        out=out,
        config=config,
        overwrite=overwrite,
        reporter=cli.reporter(quiet),
    )
    cli.finish(summary, as_json=as_json, lines=lambda: table_text(summary, summary["out"]))


@app.command()
def tuning(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished training run.")],
    store: Annotated[
        str | None, typer.Option(help="Where the run's store is now; default: as recorded.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Where the store's pictures are now; default: as recorded.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Where the network's weights are now; default: as recorded.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder to write; default: RUN/analysis/tuning.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="False-discovery rate.")] = _TUNING.alpha,
    min_selectivity: Annotated[
        float, typer.Option(help="Least selectivity of a tuned unit, 0 to 1.")
    ] = _TUNING.min_selectivity,
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels; default: the store's.")
    ] = None,
    directions: Annotated[
        int, typer.Option(help="Angles over 360 degrees, a multiple of 4.")
    ] = _TUNING.directions,
    colours: Annotated[
        str, typer.Option(help="Colours of figures, with commas between.")
    ] = ",".join(_TUNING.colours),
    pictures: Annotated[
        int, typer.Option(help="Pictures to measure the effective field on.")
    ] = _TUNING.pictures,
    batch_size: Annotated[int, typer.Option(help="Pictures shown at once.")] = _TUNING.batch_size,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = _TUNING.device,
    seed: cli.SeedOption = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an analysis that is there.")] = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Tuning of every feature and neuron to arcs, lines, gratings, Gabors, corners."""
    from isae.analysis.tuning_analysis import analyze_tuning
    from isae.analysis.tuning_summary import tuning_text

    config = TuningConfig(
        alpha=alpha,
        min_selectivity=min_selectivity,
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


@app.command()
def layers(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN1 RUN2...", help="Finished runs of one store.")
    ],
    store: Annotated[
        str | None, typer.Option(help="Where the runs' store is now; default: as recorded.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder to write; default: analysis/layers of one run.")
    ] = None,
    pairs: Annotated[str, typer.Option(help="Layers to compare: adjacent, all.")] = _LAYERS.pairs,
    alpha: Annotated[float, typer.Option(help="False-discovery rate.")] = _LAYERS.alpha,
    max_images: Annotated[
        int, typer.Option(help="Training images, and held-out images, to read at most.")
    ] = _LAYERS.max_images,
    least_images: Annotated[
        int, typer.Option(help="Images that a feature must be active on.")
    ] = _LAYERS.least_images,
    candidates: Annotated[
        int, typer.Option(help="Best partners kept for one-to-one matches.")
    ] = _LAYERS.candidates,
    shuffles: Annotated[
        int, typer.Option(help="Exchanges of images for the null.")
    ] = _LAYERS.shuffles,
    duplicate_r: Annotated[
        float, typer.Option(help="Correlation from which features are duplicates.")
    ] = _LAYERS.duplicate_r,
    batch_size: Annotated[int, typer.Option(help="Rows encoded at once.")] = _LAYERS.batch_size,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = _LAYERS.device,
    seed: cli.SeedOption = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an analysis that is there.")] = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Features of layers matched on the same places, and the branches that matches join."""
    from isae.analysis.layer_summary import table_text
    from isae.analysis.layers import analyze_layers

    config = LayersConfig(
        alpha=alpha,
        pairs=pairs,
        max_images=max_images,
        least_images=least_images,
        candidates=candidates,
        shuffles=shuffles,
        duplicate_r=duplicate_r,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    summary = analyze_layers(
        list(runs),
        store=store,
        out=out,
        config=config,
        overwrite=overwrite,
        reporter=cli.reporter(quiet),
    )
    cli.finish(summary, as_json=as_json, lines=lambda: table_text(summary, summary["out"]))


def main() -> None:
    """Entry point of `isae-analyze`."""
    cli.main(app)


if __name__ == "__main__":
    main()
