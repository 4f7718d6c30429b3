"""Stages side by side, in worker processes of one or a few threads each.

Much of an analysis runs on one thread, and what does not gains little from a second one: two
stages side by side on two cores take little more than half the time of one after the other.
Results do not depend on it: a stage reads only what is on disk.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from isae.analysis.study.stages import Outcome, Stage, is_done, time_left
from isae.errors import ConfigError, RunError
from isae.progress import Reporter
from isae.store.cache import free_memory

Work = Callable[[Sequence[str]], Outcome]
"""Does the named stages one after the other, in another process: it has to be picklable."""
STAGE_BYTES = 4 * 2**30
"""Memory set aside for a stage: the largest took 3 GiB over 16 times 832 features."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip


def choose_jobs(jobs: int | None, device: torch.device) -> int:
    """How many stages to do at once: `jobs`, or, for None, one per core as far as memory goes.

    On a GPU it is one, since stages would share it. Raises ConfigError for less than one.
    """
    if jobs is not None:
        if jobs < 1:
            raise ConfigError(f"expected at least one job, found {jobs}; leave --jobs out")
        return jobs
    if device.type != "cpu":
        return 1
    memory = free_memory()
    fit = torch.get_num_threads() if memory is None else memory // STAGE_BYTES
    return max(1, min(torch.get_num_threads(), fit))


@dataclass
class _Unit:
    """Stages that one worker does one after the other, and the units that they wait for."""

    names: list[str] = field(default_factory=list)
    after: set[int] = field(default_factory=set)

    def __str__(self) -> str:
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return self.names[0] + more


def run_parallel(
    stages: Sequence[Stage],
    work: Work,
    jobs: int,
    records: Path,
    *,
    overwrite: bool,
    reporter: Reporter,
) -> Outcome:
    """Do what is not done, `jobs` stages at once, each after those whose summaries it reads.

    work: does stages by their names; it looks again at what is done. Stages of one group go to one
    worker, in order. As with `run_stages`, a stage that fails with an IsaeError keeps none but its
    readers from running. After anything else no stage is begun, those that run are done, and it is
    raised; RunError where a worker died, which ends the others. What is done stays.
    """
    schedule = _Schedule(stages, records, overwrite, reporter)
    running: dict[Future[Outcome], int] = {}
    error: BaseException | None = None
    with _workers(jobs) as pool:
        while running or (error is None and schedule.waiting):
            for number in schedule.ready(jobs - len(running)) if error is None else ():
                names = schedule.units[number].names
                running[pool.submit(_unwound, work, names)] = number
            if not running and schedule.waiting:
                raise RuntimeError(f"stages wait for each other: {list(schedule.waiting)}")
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                try:
                    found = future.result()
                except BrokenProcessPool as broken:
                    raise _died([schedule.units[one] for one in running.values()]) from broken
                except Exception as defect:
                    error, found = error or defect, Outcome()
                schedule.end(running.pop(future), found)
    if error is not None:
        raise error
    return schedule.outcome.sorted({stage.name: place for place, stage in enumerate(stages)})


class _Schedule:
    """Which stages wait, and what became of the others."""

    def __init__(
        self, stages: Sequence[Stage], records: Path, overwrite: bool, reporter: Reporter
    ) -> None:
        self.units, self.outcome, self.reporter = _units(stages), Outcome(), reporter
        self.waiting = dict(enumerate(self.units))
        self._stages = {stage.name: stage for stage in stages}
        self._records, self._overwrite = records, overwrite
        self._ended: set[int] = set()
        self._running = 0
        self._started = time.monotonic()

    def ready(self, count: int) -> Iterator[int]:
        """Up to so many units that can begin; those that are done already are told as kept."""
        while count > 0:
            free = [n for n, unit in self.waiting.items() if unit.after <= self._ended]
            if not free:
                break
            unit = self.waiting.pop(free[0])
            if not self._overwrite and all(
                is_done(self._stages[name], self._records) for name in unit.names
            ):
                self.outcome.kept += unit.names
                self._ended.add(free[0])
                continue
            self.reporter.say(f"{unit}: begun")
            self._running += len(unit.names)
            count -= 1
            yield free[0]

    def end(self, number: int, found: Outcome) -> None:
        """Take in what became of a unit."""
        unit = self.units[number]
        self._running -= len(unit.names)
        self._ended.add(number)
        self.outcome.add(found)
        left = self._running + sum(len(one.names) for one in self.waiting.values())
        word = "failed" if found.failed else "done"
        time_for_rest = time_left(self.outcome, self._started, left)
        self.reporter.say(f"{unit}: {word}, {left} of {len(self._stages)} to go{time_for_rest}")


def _units(stages: Sequence[Stage]) -> list[_Unit]:
    units: list[_Unit] = []
    by_group: dict[str, int] = {}
    writer = {stage.summary: number for number, stage in enumerate(stages)}
    unit_of: list[int] = []
    for stage in stages:
        key = stage.group or stage.name
        if key not in by_group:
            by_group[key] = len(units)
            units.append(_Unit())
        unit_of.append(by_group[key])
        units[unit_of[-1]].names.append(stage.name)
    for number, stage in enumerate(stages):
        before = {writer[path] for path in stage.inputs if writer.get(path, number) < number}
        units[unit_of[number]].after |= {unit_of[one] for one in before} - {unit_of[number]}
    return units


def _died(running: Sequence[_Unit]) -> RunError:
    return RunError(
        f"expected the worker processes to live, found one dead (killed, or out of memory?) during "
        f"{', '.join(map(str, running))}; what is done is kept: run the same command again, with "
        "fewer --jobs where memory ran out"
    )


def _unwound(work: Work, names: Sequence[str]) -> Outcome:
    """What a worker does: the work, and where it is told to leave, leave after cleaning up.

    The pool's own loop would take a SystemExit for a result, and wait for more work for ever.
    """
    try:
        return work(names)
    except SystemExit:
        os._exit(128 + signal.SIGTERM)


@contextlib.contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes share this one's threads; ended with whatever raises in the body."""
    threads = str(max(1, torch.get_num_threads() // jobs))
    before = set(multiprocessing.active_children())
    # Spawned, not forked: threads of torch and numba do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with _environment(dict.fromkeys(THREAD_VARIABLES, threads)):
        pool = ProcessPoolExecutor(jobs, context, initializer=_begin_worker)
        try:
            yield pool
        except BaseException:
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that children begin with: the libraries read them when they are loaded."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin_worker() -> None:
    """Ctrl-C is the parent's to handle; its end, however it comes, is this process's end too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.join,), daemon=True).start()


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the cleaning short
    sys.exit(128 + number)  # unwinds, so that half-written folders are removed


def _die_with(join: Callable[[], None]) -> None:
    join()
    os._exit(1)
