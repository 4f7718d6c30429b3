"""`isae-analyze`: branches."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.analysis.config import BranchesConfig

app = cli.new_app("Analyse trained SAEs: where their features lie in the network.")
_DEFAULTS = BranchesConfig()


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


def main() -> None:
    """Entry point of `isae-analyze`."""
    cli.main(app)


if __name__ == "__main__":
    main()
