"""The command line of `isae-analyze branches`."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.analysis import options
from isae.analysis.branches.config import BranchesConfig

_DEFAULTS = BranchesConfig()


def branches(
    run: options.RunArgument,
    store: options.StoreOption = None,
    images: options.ImagesOption = None,
    out: options.OutOption = None,
    alpha: options.AlphaOption = _DEFAULTS.alpha,
    top: Annotated[int, typer.Option(help="Strongest patches per feature.")] = _DEFAULTS.top,
    max_rows: Annotated[
        int | None, typer.Option(help="Rows of the store to read; default: all.")
    ] = None,
    batch_size: options.RowsAtOnceOption = _DEFAULTS.batch_size,
    device: options.DeviceOption = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: options.OverwriteOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Every feature's energy per branch against a null: tables, summary, figures, patches."""
    from isae.analysis.branches.analyze import analyze_branches
    from isae.analysis.branches.summary import table_text

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
