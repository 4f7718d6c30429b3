"""One function over many items in threads, where the first error or an interrupt ends it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

from isae.interrupts import Interrupts

A = TypeVar("A")
B = TypeVar("B")


def in_threads(
    run: Callable[[A], B], todo: Sequence[A], stop: Interrupts, threads: int
) -> Iterator[B]:
    """run(one) for each of `todo`, as it gets done; no more are begun than there are threads.

    After an error, which is raised here, or an interrupt none is begun any more.
    """
    waiting: set[Future[B]] = set()
    rest = iter(todo)
    with one_threaded_pool(threads, "isae-store") as pool:
        while True:
            stop.check()
            while len(waiting) < threads and (one := next(rest, None)) is not None:
                waiting.add(pool.submit(run, one))
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()


@contextmanager
def one_threaded_pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool in whose threads torch uses one thread.

    Torch's own threads would spin on after every small operation, beside these.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            threads, name, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        # The last number that any thread set is what threads that begin later use.
        torch.set_num_threads(before)
