"""`isae-store ls | head | merge | convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.errors import ConfigError
from isae.store.listing import describe_list, describe_rows, first_rows, list_stores
from isae.store.merge import MergeConfig, merge_stores
from isae.store.reader import open_store
from isae.store.summary import describe, summarise

OutOption = Annotated[str, typer.Option(help="Folder or address of what is written.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace what is there, if isae wrote it.")]
ResumeOption = Annotated[bool, typer.Option(help="Go on where an earlier run was ended.")]
ScratchOption = Annotated[
    str | None, typer.Option(help="Folder for raw rows on their way; default: inside --out.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `isae-store`."""
    app.command(name="ls")(list_)
    app.command()(head)
    app.command()(merge)


def list_(
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Folder or bucket address.")
    ] = ".",
    seed: cli.UnusedSeedOption = 0,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """List the stores in and below a folder: complete, unfinished, damaged."""
    stores = list_stores(folder)
    results = {"folder": folder, "stores": stores}
    cli.finish(results, as_json=as_json, lines=lambda: describe_list(stores))


def head(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder or address of the store.")],
    layer: Annotated[str, typer.Argument(metavar="LAYER", help="A layer of the store.")],
    count: Annotated[int, typer.Option("-n", "--rows", help="How many rows.")] = 5,
    row: Annotated[int, typer.Option(help="The first of them.")] = 0,
    seed: cli.UnusedSeedOption = 0,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Show rows of a layer: their image, place and largest channels."""
    opened = open_store(store)
    rows = first_rows(opened, layer, count, row)
    results = {"store": store, "layer": layer, "of_rows": opened.layer(layer).rows, "rows": rows}
    cli.finish(results, as_json=as_json, lines=lambda: describe_rows(rows))


def merge(
    stores: Annotated[list[str], typer.Argument(metavar="STORE STORE...", help="Two or more.")],
    out: OutOption,
    codec: Annotated[
        str | None,
        typer.Option(help="small, fast, none, or JSON; default: the stores' own if they agree."),
    ] = None,
    seed: cli.SeedOption = 0,
    scratch: ScratchOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Make one new store of several: all their images, all rows shuffled anew."""
    _check_one(overwrite, resume)
    config = MergeConfig(tuple(stores), out, seed, codec, scratch)
    made = merge_stores(config, overwrite=overwrite, resume=resume, reporter=cli.reporter(quiet))
    results = summarise(out, made)
    cli.finish(results, as_json=as_json, lines=lambda: describe(results))


def _check_one(overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise ConfigError("expected --resume or --overwrite, found both; choose one")
