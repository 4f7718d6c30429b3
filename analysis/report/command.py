"""The command line of `isae-analyze report`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isae import cli
from isae.analysis import options
from isae.analysis.report.config import ReportConfig

_DEFAULTS = ReportConfig()


def report(
    paths: Annotated[
        list[str], typer.Argument(metavar="STUDY_OR_RUN...", help="A study, or finished runs.")
    ],
    out: Annotated[str, typer.Option(help="Folder to write.")],
    title: Annotated[str, typer.Option(help="Heading; default: the folder's name.")] = "",
    draw_map: Annotated[
        bool, typer.Option("--map/--no-map", help="Encode images for map and histograms.")
    ] = _DEFAULTS.draw_map,
    map_images: Annotated[
        int, typer.Option(help="Images whose profiles place the features on the map.")
    ] = _DEFAULTS.map_images,
    batch_size: options.RowsAtOnceOption = _DEFAULTS.batch_size,
    device: options.DeviceOption = _DEFAULTS.device,
    seed: cli.SeedOption = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a report that is there.")] = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Static pages of every feature that open from disk: overview, map, table, feature pages."""
    from isae.analysis.report.analyze import write_report

    config = ReportConfig(
        title=title,
        draw_map=draw_map,
        map_images=map_images,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    summary = write_report(
        paths, out, config=config, overwrite=overwrite, reporter=cli.reporter(quiet)
    )
    cli.finish(summary, as_json=as_json, lines=lambda: report_text(summary))


def report_text(summary: dict[str, Any]) -> str:
    """The result for a person."""
    drawn = summary["map"]
    lines = [f"{summary['features']:,} features of {len(summary['layers'])} layers"]
    if drawn is not None:
        lines.append(f"map: {drawn['shown']:,} features by {drawn['method']}")
        lines += [
            f"  {name}: {100 * one['kept']:.1f} % of neighbours kept, {100 * one['chance']:.2g} % "
            "by chance"
            for name, one in drawn["quality"].items()
        ]
    lines += summary["notes"]
    lines.append(f"open {summary['out']}/index.html")
    return "\n".join(lines)
