"""The command line of `isae-analyze branches`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isae import cli
from isae.analysis import options
from isae.analysis.branches.config import BranchesConfig
from isae.errors import ConfigError

_DEFAULTS = BranchesConfig()


def branches(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Folder of a finished training run; several: corrected together."
        ),
    ],
    store: options.StoreOption = None,
    images: options.ImagesOption = None,
    weights: options.WeightsOption = None,
    against: Annotated[
        str | None,
        typer.Option(help="Run on the same layer of an untrained network, to compare with."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder to write; default: analysis/branches in the run. With several runs: the "
            "folder of the joint tables."
        ),
    ] = None,
    alpha: options.AlphaOption = _DEFAULTS.alpha,
    top: Annotated[int, typer.Option(help="Strongest patches per feature.")] = _DEFAULTS.top,
    max_rows: Annotated[
        int | None, typer.Option(help="Rows of the store to read; default: all.")
    ] = None,
    heldout_rows: Annotated[
        int, typer.Option(help="Held-out rows in which branches are replaced; 0: none.")
    ] = _DEFAULTS.heldout_rows,
    pairs: Annotated[
        int, typer.Option(help="Rows a feature is measured on, at most.")
    ] = _DEFAULTS.pairs,
    draws: Annotated[
        int, typer.Option(help="Other images that a row's branch is taken from.")
    ] = _DEFAULTS.draws,
    pictures: Annotated[
        int, typer.Option(help="Held-out pictures for logits and cut kernels; 0: neither.")
    ] = _DEFAULTS.pictures,
    spliced: Annotated[
        int, typer.Option(help="Features whose effect on logits is checked by true splicing.")
    ] = _DEFAULTS.spliced,
    reference_rows: Annotated[
        int, typer.Option(help="Rows of each reference dictionary, at most; 0: none.")
    ] = _DEFAULTS.reference_rows,
    alike: Annotated[
        float, typer.Option(help="Cosine from which decoder rows are near-duplicates.")
    ] = _DEFAULTS.alike,
    figures: Annotated[
        bool, typer.Option(help="Draw figures and contact sheets.")
    ] = _DEFAULTS.figures,
    sheets: Annotated[
        bool, typer.Option(help="Draw contact sheets, where figures are drawn.")
    ] = _DEFAULTS.sheets,
    batch_size: options.RowsAtOnceOption = _DEFAULTS.batch_size,
    device: options.DeviceOption = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: options.OverwriteOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Every feature's place among the branches: energy, causal shares, references, patches."""
    from isae.analysis.branches.analyze import analyze_branches
    from isae.analysis.branches.join import joint_text
    from isae.analysis.branches.summary import table_text

    config = BranchesConfig(
        alpha=alpha,
        top=top,
        max_rows=max_rows,
        heldout_rows=heldout_rows,
        pairs=pairs,
        draws=draws,
        pictures=pictures,
        spliced=spliced,
        reference_rows=reference_rows,
        alike=alike,
        figures=figures,
        sheets=sheets,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    if len(runs) > 1:
        where = {"store": store, "images": images, "weights": weights}
        summary = _several(runs, where, against, out, config, overwrite, quiet)
        cli.finish(summary, as_json=as_json, lines=lambda: joint_text(summary))
        return
    summary = analyze_branches(
        runs[0],
        store=store,
        images=images,
        weights=weights,
        against=against,
        out=out,
        config=config,
        overwrite=overwrite,
        reporter=cli.reporter(quiet),
    )
    cli.finish(summary, as_json=as_json, lines=lambda: table_text(summary, summary["out"]))


def _several(
    runs: list[str],
    where: dict[str, str | None],
    against: str | None,
    out: str | None,
    config: BranchesConfig,
    overwrite: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Each run's own folder, then the joint tables in `out`."""
    from isae.analysis.branches.analyze import ANALYSIS, analyze_branches
    from isae.analysis.branches.join import JOINT, join_branches
    from isae.analysis.outputs import check_out

    if out is None:
        raise ConfigError("expected --out FOLDER for the joint tables of several runs, found none")
    if against is not None:
        raise ConfigError(
            "expected one run with --against, found several; compare each run with its own"
        )
    # All refusals first: the first run's analysis takes a minute.
    check_out(Path(out), JOINT, overwrite)
    folders = [Path(run) / "analysis" / ANALYSIS for run in runs]
    for folder in folders:
        check_out(folder, ANALYSIS, overwrite)
    reporter = cli.reporter(quiet)
    for run in runs:
        analyze_branches(run, **where, config=config, overwrite=overwrite, reporter=reporter)
    return join_branches(folders, out, alpha=config.alpha, overwrite=overwrite, reporter=reporter)
