"""Work that is done ahead in a thread, so that two stages of a pipeline overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar, cast

T = TypeVar("T")
_POLL_S = 0.2
_END = object()


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, computed in a thread, at most `depth` waiting.

    An error of `items` is raised here, after the items before it. When the generator is closed the
    thread ends after the item it is at, and so does `items`, if that is a generator.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=depth)
    stopping = threading.Event()
    thread = threading.Thread(
        target=_work, args=(items, waiting, stopping), name="isae-ahead", daemon=True
    )
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield cast(T, item)
    finally:
        stopping.set()
        thread.join()


def _work(
    items: Iterable[Any],
    waiting: queue.Queue[tuple[Any, BaseException | None]],
    stopping: threading.Event,
) -> None:
    def put(item: Any, error: BaseException | None = None) -> bool:
        while not stopping.is_set():
            with suppress(queue.Full):
                waiting.put((item, error), timeout=_POLL_S)
                return True
        return False

    try:
        if all(put(item) for item in items):
            put(_END)
    except BaseException as error:
        put(_END, error)
    finally:
        if close := getattr(items, "close", None):
            close()
