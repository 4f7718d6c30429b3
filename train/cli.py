"""Command `isae-train STORE --layer mixed4c --out RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isae.cli import JsonOption, QuietOption, SeedOption, VersionOption, finish, new_app, reporter
from isae.cli import main as run_app

app = new_app("Train a sparse autoencoder on one layer of an activation store.", single=True)


@app.command()
def train(
    store: Annotated[
        str, typer.Argument(help="The store (from isae-store build): a folder, or s3://...")
    ],
    layer: Annotated[str, typer.Option(help="Layer of the store, such as mixed4c.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    recipe: Annotated[str, typer.Option(help="topk, or ksae (tied, arXiv 2504.11489).")] = "topk",
    k: Annotated[int, typer.Option(help="Active latents per row.")] = 32,
    expansion: Annotated[int, typer.Option(help="Latents per channel.")] = 16,
    latents: Annotated[
        int | None, typer.Option(help="Number of latents, instead of --expansion.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows per step (topk 4096, ksae 500000).")
    ] = None,
    micro_batch: Annotated[
        int, typer.Option(help="Most rows read at once; larger batches are put together.")
    ] = 8192,
    steps: Annotated[int | None, typer.Option(help="Run this many steps.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Run this many epochs.")] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="End after this many evaluations in which the held-out FVU did not fall by "
            "--min-fall (default 3 where neither --steps nor --epochs is given)."
        ),
    ] = None,
    min_fall: Annotated[
        float, typer.Option(help="Relative fall of the held-out FVU that counts as progress.")
    ] = 1e-3,
    max_epochs: Annotated[int, typer.Option(help="Bound where only --patience ends a run.")] = 100,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate (topk 2e-4 / sqrt(latents / 2^14), ksae 1e-3)."),
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(help="Steps of rising learning rate (topk 100, ksae 0).")
    ] = None,
    decay_fraction: Annotated[
        float | None,
        typer.Option(help="Last part of the run with falling learning rate (topk 0.2, ksae 0)."),
    ] = None,
    tied: Annotated[
        bool | None,
        typer.Option("--tied/--untied", help="One matrix for encoder and decoder (ksae: yes)."),
    ] = None,
    dead_rows: Annotated[
        int | None,
        typer.Option(help="Rows without firing that make a latent dead (10 M or one epoch)."),
    ] = None,
    aux_coefficient: Annotated[
        float | None, typer.Option(help="Weight of AuxK (topk 1/32; none with ksae).")
    ] = None,
    clip: Annotated[
        float, typer.Option(help="Longest gradient of each row of W_enc and W_dec; 0: not clipped.")
    ] = 0.0,
    kernel: Annotated[str, typer.Option(help="auto, triton, cpu, or reference (dense).")] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of products: auto, float32, bfloat16 (not with reference).")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Processor threads to use.")] = None,
    cache: Annotated[
        str,
        typer.Option(help="Keep rows once read: none, ram, auto (ram if there is room), device."),
    ] = "none",
    eval_every: Annotated[
        int | None, typer.Option(help="Steps between evaluations (one epoch, 50 to 500).")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    log_every: Annotated[int, typer.Option(help="Steps between lines of metrics.jsonl.")] = 10,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard event files too.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a killed run, to the same result.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in --out.")
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    version: VersionOption = False,
) -> None:
    """Train a TopK sparse autoencoder until its held-out FVU stops falling."""
    import torch

    from isae.config import check
    from isae.store import open_store
    from isae.train.config import TrainConfig
    from isae.train.loop import train as run_training

    config = TrainConfig(
        layer=layer,
        recipe=recipe,
        k=k,
        expansion=expansion,
        latents=latents,
        batch_size=batch_size,
        micro_batch=micro_batch,
        steps=steps,
        epochs=epochs,
        patience=patience,
        min_fall=min_fall,
        max_epochs=max_epochs,
        lr=lr,
        warmup_steps=warmup_steps,
        decay_fraction=decay_fraction,
        tied=tied,
        dead_rows=dead_rows,
        aux_coefficient=aux_coefficient,
        clip=clip,
        seed=seed,
        kernel=kernel,
        precision=precision,
        device=device,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        tensorboard=tensorboard,
    )
    check(threads is None or threads >= 1, "--threads >= 1", threads)
    check(not (resume and overwrite), "--resume or --overwrite, not both", "both")
    if threads is not None:
        torch.set_num_threads(threads)
    summary = run_training(
        config,
        open_store(store),
        out,
        resume=resume,
        overwrite=overwrite,
        cache=cache,
        reporter=reporter(quiet),
    )
    finish(summary, as_json=as_json, lines=lambda: _lines(summary))


def _lines(summary: dict[str, Any]) -> str:
    from isae.train.report import share

    holdout = summary["holdout_fvu"]
    unseen = "no held-out rows" if holdout is None else f"{holdout:.4f} held-out"
    fire = summary["holdout_silent"]
    silent = "" if fire is None else f", silent on held-out rows {fire:.1%}"
    rate = summary["rows_per_s"]
    speed = "" if rate is None else f"{rate:,.0f} rows/s, "
    return "\n".join(
        (
            f"{summary['layer']}: FVU {summary['train_fvu']:.4f} training, {unseen}",
            f"L0 {summary['train_l0']:.1f}, dead {share(summary['dead'])}{silent}",
            f"{summary['steps']:,} steps, {summary['epochs']:.1f} epochs, "
            f"{speed}{summary['seconds']:,.0f} s of training",
            f"SAE: {summary['sae']}",
        )
    )


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
