"""Progress on stderr: a bar with rate and ETA in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_INTERVAL_S = 10.0


class Meter:
    """One running task: `advance` it, `note` what it found. Cheap enough to call per batch."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done, self.started, self.remark = 0, time.monotonic(), ""
        self.first_advance = 0

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self.done += count

    def note(self, text: str) -> None:
        """Show a short remark (a loss, a count of bad files) beside the rate."""
        self.remark = text

    def skip_to(self, done: int) -> None:
        """Start from `done` units that an earlier run did; they do not count for the rate."""
        self.done = self.first_advance = done
        self.started = time.monotonic()

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self.first_advance) / max(time.monotonic() - self.started, 1e-9)

    def line(self) -> str:
        """'label: done/total unit, rate, ETA, remark' in one line."""
        left = (self.total - self.done) / self.rate if self.rate > 0 else float("nan")
        eta = "?" if left != left else _clock(left)
        tail = f", {self.remark}" if self.remark else ""
        counts = f"{self.done:,}/{self.total:,} {self.unit}, {self.rate:,.1f}/s"
        return f"{self.label}: {counts}, ETA {eta}{tail}"


class _PlainMeter(Meter):
    def __init__(self, total: int, label: str, unit: str, stream: TextIO) -> None:
        super().__init__(total, label, unit)
        self.stream, self.printed = stream, time.monotonic()

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        now = time.monotonic()
        if now - self.printed >= PLAIN_INTERVAL_S:
            self.printed = now
            print(self.line(), file=self.stream, flush=True)


class _BarMeter(Meter):
    def __init__(self, total: int, label: str, unit: str, bar: Progress) -> None:
        super().__init__(total, label, unit)
        self.bar, self.task = bar, bar.add_task(label, total=total, rate="", remark="")

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        rate = f"{self.rate:,.1f} {self.unit}/s"
        self.bar.update(
            self.task, completed=self.done, total=self.total, rate=rate, remark=self.remark
        )


class _Field(ProgressColumn):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get(self.name, "")))


class Reporter:
    """Where a command's progress and remarks go: stderr, or nowhere when quiet."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self.console = Console(file=self.stream, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one remark, unless quiet."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print one warning, also when quiet: silence must not hide a doubtful result."""
        self.console.print(f"warning: {text}", markup=False)

    @contextmanager
    def task(self, total: int, label: str, unit: str) -> Iterator[Meter]:
        """A running task of `total` units; its last line stays on the screen."""
        if self.quiet:
            yield Meter(total, label, unit)
        elif self.console.is_terminal:
            with self._bar() as bar:
                yield _BarMeter(total, label, unit, bar)
        else:
            meter = _PlainMeter(total, label, unit, self.stream)
            yield meter
            print(meter.line(), file=self.stream, flush=True)

    def _bar(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            _Field("rate"),
            TimeRemainingColumn(),
            _Field("remark"),
        )
        return Progress(*columns, console=self.console)


QUIET = Reporter(quiet=True)
"""For library callers that do not want progress."""


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds + 0.5), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
