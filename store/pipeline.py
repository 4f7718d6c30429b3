"""The threads behind shuffled batches: jobs that read blocks and gather slabs.

A job is a block to read, or the part of a slab to gather from one window; gathering goes first. A
job that ends starts what has become possible, so no thread waits for another one, and which thread
does what changes nothing in the result. Threads that give way to others are helped by who waits for
them, or a busy machine would keep it waiting.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from isae.store.order import Deal, Ints, Order, Window, split_by_window

Array = npt.NDArray[Any]
Allocate = Callable[[int], tuple[Any, Array]]
"""Memory for rows: what batches are cut from, and the same memory as an array."""
OPEN_WINDOWS = 2
BEHIND = 19
"""By so much lower is the priority of threads that give way (Linux' nice): they have a 70th of a
core's time where another thread wants it, and else what is idle."""
_Job = tuple[Callable[[], None], Callable[[BaseException | None], None]]
"""What a thread does, and what is noted after it (under the lock)."""


class Memory(Protocol):
    """Where the rows of windows lie while slabs are gathered from them."""

    def open(self, window: Window) -> None:
        """Make room; at most `OPEN_WINDOWS` windows are open at a time."""

    def read(self, window: Window, block: int) -> None:
        """Bring one of the window's blocks into memory."""

    def places(self, window: Window) -> Ints:
        """Where in `rows` each of the window's rows will lie."""

    def rows(self, window: Window) -> Array:
        """What holds the window's rows."""

    def close(self, window: Window) -> None:
        """The window is done with."""


@dataclass(eq=False)
class _Slab:
    """Rows of a few batches, gathered from one window or more."""

    number: int
    rows: int
    missing: int
    """Rows that are not there yet."""
    memory: tuple[Any, Array] | None = None


@dataclass(eq=False)
class _Part:
    """What a slab takes from one window: its rows [at, at + len(places))."""

    slab: _Slab
    at: int
    places: Ints


@dataclass(eq=False)
class OpenWindow:
    """A window that is needed, and what is left to do for it."""

    window: Window
    parts: deque[_Part]
    """To be gathered, not yet started."""
    blocks: deque[int | None]
    """To be read, not yet started; None stands for the shuffle."""
    reading: int = 0
    gathering: int = 0
    order: Ints | None = None
    error: BaseException | None = None

    @property
    def loaded(self) -> bool:
        """Whether its rows can be gathered."""
        return not self.blocks and not self.reading and self.error is None


def plan_windows(order: Order, deal: Deal, together: int) -> Iterator[OpenWindow]:
    """The windows that are needed, in order; slabs are of `together` batches."""
    last: OpenWindow | None = None
    for number in count():
        stream_rows = deal.stream_rows(number * together, together, order.total)
        if not len(stream_rows):
            break
        slab, at = _Slab(number, len(stream_rows), len(stream_rows)), 0
        for window, places in split_by_window(order, stream_rows):
            if last is None or window != last.window:
                if last is not None:
                    yield last
                last = OpenWindow(window, deque(), deque([None, *range(len(window.blocks))]))
            last.parts.append(_Part(slab, at, places))
            at += len(places)
    if last is not None:
        yield last


class Pipeline:
    """Reads and gathers in threads, at most `threads` + 1 slabs ahead of the one given out.

    gives_way: the threads run behind others that want the processor, where Linux is; who waits
    for a slab does meanwhile what it needs and no thread was given, unless there is but one thread:
    then one job is done at a time.
    """

    def __init__(
        self,
        plan: Iterator[OpenWindow],
        memory: Memory,
        allocate: Allocate,
        threads: int,
        gives_way: bool = True,
    ) -> None:
        self.plan, self.memory, self.allocate, self.threads = plan, memory, allocate, threads
        self.helped = gives_way and threads > 1
        self.pool = ThreadPoolExecutor(
            threads,
            thread_name_prefix="isae-read-ahead",
            initializer=_give_way if gives_way else None,
        )
        self.changed = threading.Condition()
        self.windows: deque[OpenWindow] = deque()
        self.slabs: dict[int, _Slab] = {}
        self.given = self.running = 0
        self.planned = self.closed = False
        self.broken: BaseException | None = None

    def results(self) -> Iterator[tuple[Any, int]]:
        """The slabs in order: what batches are cut from, and the number of rows."""
        while True:
            self._wait()
            with self.changed:
                if self.broken is not None:
                    raise self.broken
                slab = self.slabs.get(self.given)
                if slab is None:
                    return
                if slab.missing:
                    raise next(one.error for one in self.windows if one.error is not None)
                del self.slabs[self.given]
                self.given += 1
                self._start_jobs()
            whole, rows = slab.memory, slab.rows
            del slab
            assert whole is not None
            yield whole[0], rows

    def close(self) -> None:
        """End the threads, each after the block or part that it is at."""
        with self.changed:
            self.closed = True
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _wait(self) -> None:
        """Until the next slab is settled."""
        while True:
            with self.changed:
                self._start_jobs()
                job = None
                while job is None:
                    if self._settled():
                        return
                    job = self._needed()
                    if job is None:
                        self.changed.wait()
                self.running += 1
            self._run(*job)

    def _settled(self) -> bool:
        """Whether the next slab is whole, can never be, or does not exist."""
        if self.broken is not None:
            return True
        slab = self.slabs.get(self.given)
        if slab is None:
            return self.planned
        # A window that failed holds back its first slab and all later ones.
        return not slab.missing or any(
            one.error is not None and one.parts[0].slab.number <= slab.number
            for one in self.windows
        )

    def _start_jobs(self) -> None:
        """Start what can be done now, on the threads that are free (under the lock)."""
        while self.running < self.threads and not self.closed:
            job = self._next_gather() or self._next_read()
            if job is None:
                return
            self.pool.submit(self._run, *job)
            self.running += 1

    def _needed(self) -> _Job | None:
        """What the next slab waits for, to be done by who waits for it (under the lock)."""
        one = next((one for one in self.windows if one.parts), None)
        if not self.helped or one is None or one.parts[0].slab.number > self.given:
            return None
        if one.loaded:
            return self._next_gather()
        return self._next_read() if one.blocks else None

    def _run(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as found:
            error = found
        with self.changed:
            self.running -= 1
            try:
                done(error)
                self._start_jobs()
            except BaseException as found:  # no memory for a window, or Python is ending
                self.broken = found
            self.changed.notify_all()

    def _next_gather(self) -> _Job | None:
        for one in self.windows:
            if one.loaded and one.parts:
                part = one.parts[0]
                if part.slab.number > self.given + self.threads:
                    return None
                one.parts.popleft()
                one.gathering += 1
                if part.slab.memory is None:
                    part.slab.memory = self.allocate(part.slab.rows)
                return partial(self._gather, one, part), partial(self._gathered, one, part)
        return None

    def _gather(self, one: OpenWindow, part: _Part) -> None:
        assert part.slab.memory is not None
        assert one.order is not None
        out_RC = part.slab.memory[1][part.at : part.at + len(part.places)]
        # With any other mode NumPy gathers into memory of its own first.
        np.take(
            self.memory.rows(one.window), one.order[part.places], axis=0, out=out_RC, mode="clip"
        )

    def _gathered(self, one: OpenWindow, part: _Part, error: BaseException | None) -> None:
        if error is not None:
            raise error
        one.gathering -= 1
        part.slab.missing -= len(part.places)
        if not one.parts and not one.gathering:
            self.windows.remove(one)
            self.memory.close(one.window)

    def _next_read(self) -> _Job | None:
        one = next((one for one in self.windows if one.blocks or one.error is not None), None)
        if one is None:
            one = self._open()
        if one is None or one.error is not None:
            return None
        block = one.blocks.popleft()
        one.reading += 1
        return partial(self._read, one, block), partial(self._was_read, one)

    def _open(self) -> OpenWindow | None:
        if len(self.windows) == OPEN_WINDOWS:
            return None
        one = next(self.plan, None)
        if one is None:
            self.planned = True
            return None
        self.memory.open(one.window)
        self.windows.append(one)
        self.slabs |= {part.slab.number: part.slab for part in one.parts}
        return one

    def _read(self, one: OpenWindow, block: int | None) -> None:
        if block is None:
            one.order = self.memory.places(one.window)
        else:
            self.memory.read(one.window, block)

    def _was_read(self, one: OpenWindow, error: BaseException | None) -> None:
        one.reading -= 1
        one.error = one.error or error


def _give_way() -> None:
    # Reading comes in bursts, one for each window, and a step of a trainer on the CPU waits for
    # that thread of its own which a burst holds up. What is idle is used as before.
    if not sys.platform.startswith("linux"):
        return  # elsewhere a thread has no priority of its own, and the process must keep its
    with suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + BEHIND)
