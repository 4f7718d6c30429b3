"""Several processes that build one store: who this one is, and waiting for the others.

`torchrun` sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (torch.distributed.run). Only its
key-value store is used: no collective operations, no GPU. Waiting looks at the store now and then,
so that an interrupt ends it, and so does the end of any other process: of those that fail together
one says why, the others leave with `EndedTogetherError`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

from isae.errors import ConfigError, StoreError

POLL_S = 0.05
LEAVE_S = 3.0
"""So long the first process waits for the others when it ends."""
LINGER_S = 1.0
_ENDED, _LEFT = "ended", "left"
_BUILDS = count()
"""Builds of this process: names in the key-value store are used once."""


class EndedTogetherError(StoreError):
    """Another process of this build failed, and said why; this one has nothing to add."""


@dataclass
class Ranks:
    """One process, number `rank`, of the `size` that build together; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Any = None
    """torch.distributed.TCPStore, or None when alone."""
    prefix: str = ""
    check: Callable[[], None] = field(default=lambda: None)
    """Called while waiting; may raise to stop."""
    waited: bool = False
    """Whether this process has waited for the others to leave."""

    @property
    def first(self) -> bool:
        """Whether this is the process that does what is done once."""
        return self.rank == 0

    def barrier(self, name: str) -> None:
        """Wait until every process is here; each name is used once."""
        if self.size == 1:
            return
        self._ask("add", name, 1)
        while int(self._ask("add", name, 0)) < self.size:
            self._wait()

    def total(self, name: str, number: int) -> int:
        """The sum of all processes' `number`, once every process gave its own."""
        if self.size == 1:
            return number
        self._ask("add", f"{name}/sum", number)
        self.barrier(name)
        return int(self._ask("add", f"{name}/sum", 0))

    def share(self, name: str, value: Any = None) -> Any:
        """The first process's `value` (JSON types), in every process.

        For small values alone: the key-value store takes at most 8 MiB.
        """
        if self.size == 1:
            return value
        if self.first:
            self._ask("set", name, json.dumps(value))
            return value
        while not self._ask("check", name):
            self._wait()
        return json.loads(self._ask("get", name))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around a build: an error in here ends the other processes too.

        Raises EndedTogetherError in place of this process's own error, or of an interrupt, if
        another process failed before.
        """
        try:
            yield
        except BaseException as error:
            self.end(error)
            if (other := self._other_end()) and other["failed"]:
                raise self._ended(other) from None
            raise
        finally:
            self._leave()

    def end(self, error: BaseException) -> bool:
        """Tell the others that this process ends by `error`; whether they have all left by now.

        The first process waits for them, but not for long: one may have been killed.
        """
        if self.size == 1:
            return True
        mine = {"rank": self.rank, "failed": not isinstance(error, KeyboardInterrupt)}
        with suppress(StoreError):  # the error itself matters more
            self._ask("compare_set", _ENDED, "", json.dumps(mine))
            return self.first and self._all_left()
        return False

    def _leave(self) -> None:
        """Say that this process needs the others no more.

        The first one may serve the key-value store, so it waits for the others.
        """
        if self.size == 1:
            return
        with suppress(StoreError):
            if not self.first:
                self._ask("add", _LEFT, 1)
            elif not self.waited:
                self._all_left()

    def _all_left(self) -> bool:
        self.waited = True
        deadline = time.monotonic() + LEAVE_S
        while int(self._ask("add", _LEFT, 0)) < self.size - 1:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _other_end(self) -> dict[str, Any] | None:
        """What another process said of its end."""
        if self.size == 1:
            return None
        with suppress(StoreError):
            if self._ask("check", _ENDED):
                first: dict[str, Any] = json.loads(self._ask("get", _ENDED))
                return first if first["rank"] != self.rank else None
        return None

    def _wait(self) -> None:
        self.check()
        if other := self._other_end():
            raise self._ended(other)
        time.sleep(POLL_S)

    def _ended(self, other: dict[str, Any]) -> EndedTogetherError:
        why = "failed" if other["failed"] else "was interrupted"
        return EndedTogetherError(
            f"process {self.rank} of this build ends too, since process {other['rank']} {why}"
        )

    def _ask(self, call: str, name: str, *values: Any) -> Any:
        key = f"{self.prefix}/{name}"
        try:
            return getattr(self.store, call)([key] if call == "check" else key, *values)
        except RuntimeError as error:
            raise StoreError(
                "expected to reach the other processes of this build, found that the one they "
                f"meet at is gone ({type(error).__name__}); go on with --resume"
            ) from error


def linger() -> None:
    """Wait a little before this process ends after another one failed.

    So torchrun sees the one that failed end first, and names it as the cause.
    """
    time.sleep(LINGER_S)


def is_first() -> bool:
    """Whether this process is alone, or the one of a build that prints the results."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0"


def find_ranks() -> Ranks:
    """From torchrun's environment; alone without it.

    Raises ConfigError for numbers that do not fit each other, StoreError if the other processes
    cannot be reached.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    names = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if text == "1":
        return Ranks()
    missing = [name for name in names if name not in os.environ]
    rank, port = os.environ.get("RANK", ""), os.environ.get("MASTER_PORT", "")
    whole = all(one.isdecimal() for one in (text, rank, port))
    if missing or not whole or not int(rank) < int(text):
        raise ConfigError(
            "expected RANK below WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment, "
            f"found RANK={rank!r}, WORLD_SIZE={text!r}, MASTER_PORT={port!r} and no {missing}; "
            "start with torchrun, or unset WORLD_SIZE"
        )
    host = os.environ["MASTER_ADDR"]
    local = int(os.environ.get("LOCAL_RANK", rank))
    # The agent of torchrun already serves the store there.
    serve = rank == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = _connect(host, int(port), int(text), serve)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Ranks(int(rank), int(text), local, store, prefix=f"isae-store/{attempt}/{next(_BUILDS)}")


def _connect(host: str, port: int, size: int, serve: bool) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(host, port, size, serve, timedelta(seconds=60), wait_for_workers=False)
    except (RuntimeError, OSError) as error:
        raise StoreError(
            f"expected the other processes of this build at {host}:{port}, found "
            f"{type(error).__name__}; check MASTER_ADDR and MASTER_PORT, and start with torchrun"
        ) from error
