"""`isae-store`: build, info, verify, repair; the others are in store/tools_cli.py."""

from __future__ import annotations

from typing import Annotated

import typer

from isae import cli
from isae.errors import ConfigError
from isae.store.ranks import EndedTogetherError, is_first, linger
from isae.store.tools_cli import register

EXIT_DAMAGED = 1

app = cli.new_app("Build, describe and check activation stores.")
StorePath = Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store.")]


@app.command()
def build(
    images: Annotated[
        str,
        typer.Option(
            help="Folder of photos, tar shards, torchvision:NAME:ROOT, or synthetic:N.",
        ),
    ],
    layers: Annotated[str, typer.Option(help="Layers, separated by commas: mixed4a,mixed4b.")],
    out: Annotated[str, typer.Option(help="Folder of the new store.")],
    model: Annotated[str, typer.Option(help="inceptionv1 or googlenet.")] = "inceptionv1",
    weights: Annotated[
        str, typer.Option(help="default, a path, random:SEED, or inception5h.")
    ] = "default",
    positions: Annotated[
        str, typer.Option(help="Places per image: all, N, or N:norm:LAYER.")
    ] = "all",
    dtype: Annotated[str, typer.Option(help="float16, float32, int8 or float8_e4m3.")] = "float16",
    codec: Annotated[
        str, typer.Option(help="small, fast, none, or a JSON list of Zarr v3 codecs.")
    ] = "small",
    size: Annotated[
        int | None, typer.Option(help="Side of the input in pixels; default: the weights' own.")
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Share of the images that no training may see.")
    ] = 0.05,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = 32,
    workers: Annotated[int, typer.Option(help="Decoding processes; 0 for none.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: cli.SeedOption = 0,
    limit: Annotated[int | None, typer.Option(help="Only a fair sample of LIMIT images.")] = None,
    max_bad: Annotated[
        int | None,
        typer.Option(
            help="More unreadable images are an error; default: the larger of 10 and 1 %."
        ),
    ] = None,
    scratch: Annotated[
        str | None,
        typer.Option(help="Folder for raw rows while building; default: inside the store."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a store that is there.")] = False,
    resume: Annotated[
        bool, typer.Option(help="Go on with a build that was ended, if there is one.")
    ] = False,
    same_photos: Annotated[
        bool, typer.Option(help="With --resume: the photos are the same, though copied since.")
    ] = False,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Store the activations of images: decode, forward pass, shuffle, compress."""
    from isae.store.build import build_store
    from isae.store.config import BuildConfig
    from isae.store.summary import describe, summarise

    config = BuildConfig(
        images=images,
        layers=tuple(name.strip() for name in layers.split(",") if name.strip()),
        out=out,
        model=model,
        weights=weights,
        positions=positions,
        dtype=dtype,
        codec=codec,
        size=size,
        holdout=holdout,
        batch_size=batch_size,
        workers=workers,
        device=device,
        seed=seed,
        limit=limit,
        max_bad=max_bad,
        scratch=scratch,
    )
    if overwrite and resume:
        raise ConfigError("expected --resume or --overwrite, found both; choose one")
    if same_photos and not resume:
        raise ConfigError("expected --same-photos with --resume, found it alone; leave it out")
    report = cli.reporter(quiet)
    try:
        how = {"overwrite": overwrite, "resume": resume, "same_photos": same_photos}
        manifest = build_store(config, **how, reporter=report)
    except EndedTogetherError as error:
        report.say(str(error))
        linger()
        raise typer.Exit(cli.EXIT_USER_ERROR) from None
    if not is_first():
        return
    results = summarise(out, manifest)
    cli.finish(results, as_json=as_json, lines=lambda: describe(results))


@app.command()
def info(
    store: StorePath,
    seed: cli.UnusedSeedOption = 0,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Say what a store holds and how it was made."""
    from isae.store.reader import open_store
    from isae.store.summary import describe, summarise

    opened = open_store(store)
    results = summarise(store, opened.manifest)
    cli.finish(results, as_json=as_json, lines=lambda: describe(results))


@app.command()
def verify(
    store: StorePath,
    seed: cli.UnusedSeedOption = 0,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Check every file and every chunk; exit code 1 if anything is wrong."""
    from isae.store.verify import verify_store

    problems = verify_store(store, reporter=cli.reporter(quiet))
    results = {"store": store, "ok": not problems, "problems": problems}
    text = "\n".join(problems) if problems else f"{store}: every file and every row is whole"
    cli.finish(results, as_json=as_json, lines=text)
    if problems:
        raise typer.Exit(EXIT_DAMAGED)


@app.command()
def repair(
    store: StorePath,
    images: Annotated[
        str | None,
        typer.Option(help="The same images as before; default: where they were when it was built."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="The same weights; default: as when it was built.")
    ] = None,
    scratch: Annotated[
        str | None, typer.Option(help="Folder for rows on their way; default: inside the store.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is broken and what it would take.")
    ] = False,
    remove_strangers: Annotated[
        bool, typer.Option("--remove-strangers", help="Delete files that are not of the store.")
    ] = False,
    seed: cli.UnusedSeedOption = 0,
    as_json: cli.JsonOption = False,
    quiet: cli.QuietOption = False,
) -> None:
    """Make damaged and missing files anew from the same images, to the same bytes."""
    from isae.store.repair import repair_store

    done = repair_store(
        store,
        images=images,
        weights=weights,
        scratch=scratch,
        remove_strangers=remove_strangers,
        dry_run=dry_run,
        reporter=cli.reporter(quiet),
    )
    cli.finish(done.results(), as_json=as_json, lines=done.describe)


register(app)


def main() -> None:
    """Entry point of `isae-store`."""
    cli.main(app)


if __name__ == "__main__":
    main()
