"""The folder of a run: what it holds, when it may be used again, its metrics.

RUN/config.json     store, layer, options and the plan made of them
RUN/metrics.jsonl   one JSON object per logged step
RUN/checkpoints/    the last two
RUN/sae/<layer>/    the trained SAE in the SAELens layout
RUN/summary.json    written last: a run is complete if and only if it is there
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from isae import __version__
from isae.config import to_json
from isae.errors import RunError
from isae.files import write_bytes, write_json
from isae.train.config import TrainConfig
from isae.train.plan import Plan
from isae.train.source import ActivationSource

FORMAT = "isae-run"
COMPARED = ("layer", "store_content_id", "plan")
OPTIONS_COMPARED = ("options.recipe", "options.seed")
"""All others are either settled in the plan, which has the value that counts however it was asked
for, or do not change the result (lines of the log, checkpoints, TensorBoard)."""


class RunFolder:
    """Paths of a run and the rules for starting in them."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config, self.metrics = self.path / "config.json", self.path / "metrics.jsonl"
        self.checkpoints, self.summary = self.path / "checkpoints", self.path / "summary.json"

    def sae(self, layer: str) -> Path:
        """Where the SAE of a layer is."""
        return self.path / "sae" / layer

    def claim(self, identity: Mapping[str, Any], *, resume: bool, overwrite: bool) -> bool:
        """Make the folder ready for a run; True if an earlier run is to be continued.

        Raises RunError if something is there that may not be used: a run without `resume` or
        `overwrite`, a run of another configuration, or a folder that is no run.
        """
        taken = self.path.exists() and (
            not self.path.is_dir()
            or any(not entry.name.startswith(".") for entry in self.path.iterdir())
        )
        if taken and self._read_config() is None:
            raise RunError(
                f"expected a free folder or a run for --out, found other files in '{self.path}'; "
                "choose another folder"
            )
        if taken and not (resume or overwrite):
            raise RunError(
                f"'{self.path}' already holds a run; continue it with --resume, replace it with "
                "--overwrite, or choose another folder"
            )
        if taken and resume:
            self._compare(identity)
            return True
        if taken:
            self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config, identity)
        return False

    def _clear(self) -> None:
        """Remove all but config.json, which says until it is replaced that this is a run.

        The summary goes first: after a kill the folder is an unfinished run, not a finished one.
        Emptied, not removed, since it may be a link or the working directory.
        """
        self.summary.unlink(missing_ok=True)
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != self.config:
                entry.unlink()

    def finished(self) -> dict[str, Any] | None:
        """The summary if the run is complete."""
        if not self.summary.is_file():
            return None
        return dict(json.loads(self.summary.read_text()))

    def _read_config(self) -> dict[str, Any] | None:
        try:
            config = json.loads(self.config.read_text())
        except (OSError, ValueError):
            return None
        return config if isinstance(config, dict) and config.get("format") == FORMAT else None

    def _compare(self, identity: Mapping[str, Any]) -> None:
        before = _flat(self._read_config() or {})
        # Runs from before there was a choice.
        before.setdefault("plan.precision", "float32")
        before.setdefault("plan.clip", 0.0)
        now = _flat(json.loads(json.dumps(dict(identity))))
        keys = [
            key
            for key in sorted({*before, *now})
            if (key.split(".")[0] in COMPARED or key in OPTIONS_COMPARED)
            and before.get(key) != now.get(key)
        ]
        if keys:
            differences = "; ".join(f"{k}: run {before.get(k)!r}, now {now.get(k)!r}" for k in keys)
            raise RunError(
                f"expected the configuration of the run in '{self.path}', found differences: "
                f"{differences}; use the run's own options, or start anew with --overwrite"
            )


class MetricsLog:
    """metrics.jsonl, appended to line by line."""

    def __init__(self, path: Path, last_step: int) -> None:
        """Open, and drop lines after `last_step` (a killed run may have got further)."""
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= last_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError, TypeError):
                    break  # the line that was being written when the run was killed
        write_bytes(path, "".join(kept).encode())
        self.file: TextIO = path.open("a")

    def write(self, values: Mapping[str, float | int | None]) -> None:
        """Append one line; numbers that are not finite become null."""
        safe = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        self.file.write(json.dumps(safe) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def identity_of(config: TrainConfig, plan: Plan, store: ActivationSource) -> dict[str, Any]:
    """What config.json records: enough to repeat the run, and to refuse another one."""
    return {
        "format": FORMAT,
        "isae_version": __version__,
        "store": store.location,
        "store_content_id": store.manifest["content_id"],
        "layer": config.layer,
        "options": to_json(config),
        "plan": to_json(plan),
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
