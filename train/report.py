"""What a run tells while it runs: remarks at its start, notes beside the bar, TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isae.kernels import interpreted
from isae.progress import Reporter
from isae.train.config import TrainConfig
from isae.train.plan import BATCH, Plan

Line = Mapping[str, float | int | None]


def opening(config: TrainConfig, plan: Plan, has_holdout: bool, reporter: Reporter) -> None:
    """Say what will be done, and where that differs from what was asked for."""
    steps = f"at most {plan.steps:,} steps" if plan.patience else f"{plan.steps:,} steps"
    reporter.say(
        f"{config.layer}: {plan.n:,} latents, k {plan.k}, {plan.batch:,} rows a step, {steps}, "
        f"kernel {plan.kernel} on {plan.device}, {plan.precision}"
    )
    if interpreted(plan.kernel, plan.device):
        reporter.warn(
            "kernel triton without a GPU runs in Triton's interpreter: the same kernels, thousands "
            "of times slower, for checking; use --kernel cpu for training"
        )
    if config.recipe == "ksae" or config.batch_size:
        wanted = config.batch_size or BATCH["ksae"]
        if plan.batch != wanted:
            reporter.say(
                f"batch of {plan.batch:,} rows instead of {wanted:,}: {plan.epoch_rows:,} training "
                f"rows, taken in pieces of {plan.micro_batch:,}"
            )
    if not has_holdout:
        reporter.say("the store has no held-out rows: only the training FVU can be reported")
        if config.patience is not None:
            reporter.say(f"--patience has no effect without them: all {plan.steps:,} steps are run")


def note(line: Line) -> str:
    """The last evaluation, for the progress bar."""
    text = f"FVU training {line['train_fvu']:.4f}"
    if "holdout_fvu" in line:
        text += f", held-out {line['holdout_fvu']:.4f}"
    return f"{text}, dead {share(line['dead'])}"


def share(fraction: float | None) -> str:
    """A fraction in per cent; '-' where there is none."""
    return "-" if fraction is None else f"{fraction:.1%}"


def open_board(folder: Path, step: int) -> Any:
    """A writer of TensorBoard event files in folder/tensorboard, without what came after `step`."""
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def to_board(board: Any, line: Line) -> None:
    """Write one line's numbers, if there is a board."""
    if board is None:
        return
    for name, value in line.items():
        if name != "step" and value is not None:
            board.add_scalar(name, value, line["step"])
