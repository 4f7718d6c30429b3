"""The command line of `isae-analyze stability`."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.analysis import options
from isae.analysis.stability.config import StabilityConfig

_DEFAULTS = StabilityConfig()


def stability(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN1 RUN2...", help="Runs of one layer and store, other seeds."),
    ],
    store: options.StoreOption = None,
    out: options.OutOption = None,
    alpha: options.AlphaOption = _DEFAULTS.alpha,
    threshold: Annotated[
        float, typer.Option(help="Best cosine from which a feature comes back.")
    ] = _DEFAULTS.threshold,
    duplicate_cosine: Annotated[
        float, typer.Option(help="Cosine from which features of one run are duplicates.")
    ] = _DEFAULTS.duplicate_cosine,
    candidates: Annotated[
        int, typer.Option(help="Best partners kept for one-to-one matches.")
    ] = _DEFAULTS.candidates,
    dictionaries: Annotated[
        int, typer.Option(help="Random dictionaries for the null of each pair.")
    ] = _DEFAULTS.dictionaries,
    max_rows: Annotated[
        int, typer.Option(help="Rows read for firing rates where a run has no branch analysis.")
    ] = _DEFAULTS.max_rows,
    batch_size: options.RowsAtOnceOption = _DEFAULTS.batch_size,
    device: options.DeviceOption = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: options.OverwriteOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Which features, branch and label counts come back in runs of another seed."""
    from isae.analysis.stability.analyze import analyze_stability
    from isae.analysis.stability.summary import table_text

    config = StabilityConfig(
        alpha=alpha,
        threshold=threshold,
        duplicate_cosine=duplicate_cosine,
        candidates=candidates,
        dictionaries=dictionaries,
        max_rows=max_rows,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    summary = analyze_stability(
        list(runs),
        store=store,
        out=out,
        config=config,
        overwrite=overwrite,
        reporter=cli.reporter(quiet),
    )
    cli.finish(summary, as_json=as_json, lines=lambda: table_text(summary, summary["out"]))
