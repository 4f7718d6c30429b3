"""`isae-store ls | head | merge | convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.config import check
from isae.errors import ConfigError

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
    app.command()(convert)


def list_(
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Folder or bucket address.")
    ] = ".",
    seed: cli.UnusedSeedOption = 0,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """List the stores in and below a folder: complete, unfinished, damaged."""
    from isae.store.listing import describe_list, list_stores

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
    from isae.store.listing import describe_rows, first_rows
    from isae.store.reader import open_store

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
    keep_copies: Annotated[
        bool,
        typer.Option(
            "--keep-copies",
            help="Photos that are in two stores stay; all copies held out if one is.",
        ),
    ] = False,
    seed: cli.SeedOption = 0,
    scratch: ScratchOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Make one new store of several: all their images, all rows shuffled anew."""
    from isae.store.merge import MergeConfig, merge_stores
    from isae.store.summary import describe, summarise

    _check_one(overwrite, resume)
    config = MergeConfig(tuple(stores), out, seed, codec, scratch, keep_copies)
    made = merge_stores(config, overwrite=overwrite, resume=resume, reporter=cli.reporter(quiet))
    results = summarise(out, made)
    cli.finish(results, as_json=as_json, lines=lambda: describe(results))


def convert(
    source: Annotated[
        str, typer.Argument(metavar="STORE|FOLDER|FILE", help="What is read; it stays as it is.")
    ],
    out: OutOption,
    to: Annotated[
        str | None, typer.Option("--to", help="From a store to npy, safetensors or zarr.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="To a store from npy or safetensors.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="--to: layers, separated by commas; default: all.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="--from: name of the layer.")] = None,
    index: Annotated[
        str | None,
        typer.Option(help="--from: .npy file of (image, y, x); default: the folder's index.npy."),
    ] = None,
    tensor: Annotated[
        str | None, typer.Option(help="--from safetensors: tensor; default: activations.")
    ] = None,
    rows_per_image: Annotated[
        int, typer.Option(help="--from without an index: rows of each image.")
    ] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="--from: float16 or float32; default: as the arrays are.")
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(help="--from: share of images held out; default: 0.05, or the export's own."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="--from: network of the layer, for its branches.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="With --model: side of the input.")] = None,
    seed: cli.SeedOption = 0,
    codec: Annotated[
        str | None,
        typer.Option(help="Of a store: small, fast, none, or JSON; default: small, for zarr zstd."),
    ] = None,
    scratch: ScratchOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Write a store as npy, safetensors or plain Zarr, or make one of caches made elsewhere."""
    from isae.store.convert import describe_export, export
    from isae.store.import_arrays import import_arrays
    from isae.store.import_config import ImportConfig
    from isae.store.summary import describe, summarise

    _check_one(overwrite, resume)
    if (to is None) == (from_ is None):
        raise ConfigError("expected one of --to and --from, found both or neither; give one")
    reporter = cli.reporter(quiet)
    if to is not None:
        check(
            not resume, "--resume with --from only", "--to", "leave it out; an export is made anew"
        )
        check(codec is None or to == "zarr", "--codec with --to zarr only", codec)
        chosen = [name.strip() for name in (layers or "").split(",") if name.strip()]
        results = export(source, to, out, chosen, codec, overwrite, reporter)
        cli.finish(results, as_json=as_json, lines=lambda: describe_export(results))
        return
    check(layer is not None, "--layer with --from", None, "name the layer")
    config = ImportConfig(
        source=source,
        format=str(from_),
        layer=str(layer),
        out=out,
        index=index,
        tensor=tensor,
        rows_per_image=rows_per_image,
        dtype=dtype,
        holdout=holdout,
        model=model,
        size=size,
        seed=seed,
        codec=codec or "small",
        scratch=scratch,
    )
    made = import_arrays(config, overwrite=overwrite, resume=resume, reporter=reporter)
    results = summarise(out, made)
    cli.finish(results, as_json=as_json, lines=lambda: describe(results))


def _check_one(overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise ConfigError("expected --resume or --overwrite, found both; choose one")
