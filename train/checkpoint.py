"""Checkpoints: the whole state of a run, written so that it is either whole or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from isae.errors import RunError
from isae.files import save_tensors, swap_folder, write_json
from isae.train.parameters import State
from isae.train.schedule import Schedule

KEEP = 2
GROUPS = ("params", "first", "second", "best")


def save_checkpoint(folder: Path, state: State, schedule: Schedule, seconds: float) -> None:
    """Write `folder`/step-N and drop all but the last two."""

    def fill(path: Path) -> None:
        tensors = {"last_fired": state.last_fired_N}
        for group in GROUPS:
            for name, value in getattr(state, group).items():
                tensors[f"{group}.{name}"] = value
        save_tensors(path / "state.safetensors", tensors)
        counters = {"step": state.step, "rows": state.rows, "seconds": seconds}
        write_json(path / "state.json", {**counters, "schedule": dataclasses.asdict(schedule)})

    swap_folder(folder / f"step-{state.step:09d}", fill)
    for old in _complete(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, device: torch.device) -> tuple[State, Schedule, float] | None:
    """The newest checkpoint in `folder` (state, schedule, seconds spent), or None without one.

    Raises RunError if it cannot be read.
    """
    found = _complete(folder)
    if not found:
        return None
    path = found[-1]
    try:
        tensors = load_file(path / "state.safetensors", device=str(device))
        counters = json.loads((path / "state.json").read_text())
        schedule = Schedule.from_json(counters["schedule"])
        groups = {
            group: {
                key.removeprefix(f"{group}."): value
                for key, value in tensors.items()
                if key.startswith(f"{group}.")
            }
            for group in GROUPS
        }
        state = State(
            groups["params"],
            groups["first"],
            groups["second"],
            tensors["last_fired"],
            counters["step"],
            counters["rows"],
            groups["best"],
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"checkpoint '{path}' cannot be read ({error}); remove that folder to go on from the "
            "one before it, or start again with --overwrite"
        ) from error
    return state, schedule, float(counters["seconds"])


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill left half written."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())
