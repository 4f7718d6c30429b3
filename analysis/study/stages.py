"""Stages of a long analysis: each done once, known by what went into it, redone when that changed.

A stage writes a folder with a summary.json. When it is done, a small record is kept beside all
others: its options, and the SHA-256 of every file that says what it read. A stage whose record
agrees is left as it is; one that was cut off left no record, and is done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController

from isae import __version__
from isae.errors import IsaeError, RunError
from isae.files import sha256, write_json
from isae.progress import Reporter

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Stage:
    """One analysis: its name (a path), the folder it writes, what it reads, its options, the work.

    inputs: files whose bytes say what is read: the summary.json of runs and of earlier stages. A
    stage is not tried where one of them is not there. group: stages of one group are done by one
    process, one after the other, since they share something that is kept in memory.
    """

    name: str
    out: Path
    inputs: Sequence[Path]
    options: dict[str, Any]
    work: Callable[[], Any]
    group: str | None = None

    @property
    def summary(self) -> Path:
        """The file that says what it found."""
        return self.out / SUMMARY

    def identity(self) -> dict[str, Any]:
        """What decides the result; file names count, their places do not."""
        return {
            "isae": __version__,
            "options": json.loads(json.dumps(self.options)),
            "inputs": [sha256(path) for path in self.inputs],
        }


@dataclass
class Outcome:
    """What became of the stages: names, in order; seconds of those done now."""

    done: dict[str, float] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, later: Outcome) -> None:
        """What became of stages that came after these."""
        self.done |= later.done
        self.kept += later.kept
        self.failed |= later.failed

    def sorted(self, place: Mapping[str, int]) -> Outcome:
        """The same in the order of the stages' places."""
        return Outcome(
            {name: self.done[name] for name in sorted(self.done, key=place.__getitem__)},
            sorted(self.kept, key=place.__getitem__),
            {name: self.failed[name] for name in sorted(self.failed, key=place.__getitem__)},
        )

    def as_json(self) -> dict[str, Any]:
        """For a command's result."""
        return {
            "done": {name: round(seconds, 1) for name, seconds in self.done.items()},
            "kept": self.kept,
            "failed": self.failed,
        }


def run_stages(
    stages: Sequence[Stage], records: Path, *, overwrite: bool, reporter: Reporter
) -> Outcome:
    """Do what is not done. A stage that fails with an IsaeError does not keep others from running.

    records: folder of the records; overwrite: do all anew. Later stages may read what earlier ones
    wrote: they are taken in order. Whatever is no IsaeError (a defect, Ctrl-C) ends the work; what
    is done stays.
    """
    records.mkdir(parents=True, exist_ok=True)
    outcome, started = Outcome(), time.monotonic()
    for number, stage in enumerate(stages):
        record = _record(stage, records)
        missing = [path for path in stage.inputs if not path.is_file()]
        if missing:
            outcome.failed[stage.name] = f"expected {missing[0]}, found nothing there"
            reporter.warn(f"{stage.name}: left out, {outcome.failed[stage.name]}")
            continue
        if not overwrite and is_done(stage, records):
            outcome.kept.append(stage.name)
            continue
        identity = stage.identity()
        left = time_left(outcome, started, len(stages) - number)
        reporter.say(f"stage {number + 1} of {len(stages)}: {stage.name}{left}")
        record.unlink(missing_ok=True)
        begun = time.monotonic()
        try:
            with _one_thread_of_openblas():
                stage.work()
        except IsaeError as error:
            outcome.failed[stage.name] = str(error)
            reporter.warn(f"{stage.name}: {error}")
            continue
        seconds = time.monotonic() - begun
        outcome.done[stage.name] = seconds
        write_json(record, {**identity, "seconds": round(seconds, 2)})
    return outcome


def time_left(outcome: Outcome, started: float, stages: int) -> str:
    """' (about N min left)' for so many stages more, by the mean of those done; '' before any."""
    if not outcome.done:
        return ""
    seconds = (time.monotonic() - started) / len(outcome.done) * stages
    return f" (about {seconds / 60:,.0f} min left)"


def check_outcome(outcome: Outcome) -> None:
    """Raise RunError where a stage failed, with the first reason."""
    if outcome.failed:
        name, reason = next(iter(outcome.failed.items()))
        raise RunError(
            f"expected all stages to end well, {len(outcome.failed)} did not, first '{name}' "
            f"({reason}); mend the cause and run the same command again: what is done is kept"
        )


def is_done(stage: Stage, records: Path) -> bool:
    """Whether a stage's result is there, made by these options from what its inputs are now."""
    if not (stage.summary.is_file() and all(path.is_file() for path in stage.inputs)):
        return False
    try:
        found = json.loads(_record(stage, records).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return all(found.get(key) == value for key, value in stage.identity().items())


def _record(stage: Stage, records: Path) -> Path:
    return records / f"{stage.name.replace('/', '.')}.json"


def _one_thread_of_openblas() -> AbstractContextManager[Any]:
    """NumPy's and SciPy's products on one thread: their last bits depend on how many there are.

    Those of torch, which are the large ones, do not (`isae`).
    """
    openblas = ThreadpoolController().select(internal_api="openblas")
    context: AbstractContextManager[Any] = openblas.limit(limits=1)
    return context
