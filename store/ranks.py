"""Several processes that build one store: who this one is, and waiting for the others.

`torchrun` sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (torch.distributed.run). Only its
key-value store is used: no collective operations, no GPU. Waiting looks at the store now and then,
so that an interrupt ends it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

from isae.errors import ConfigError, StoreError

POLL_S = 0.05
_BUILDS = count()
"""Builds of this process: names in the key-value store are used once."""


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

    @property
    def first(self) -> bool:
        """Whether this is the process that does what is done once."""
        return self.rank == 0

    def barrier(self, name: str) -> None:
        """Wait until every process is here; each name is used once."""
        if self.size == 1:
            return
        key = f"{self.prefix}/{name}"
        self.store.add(key, 1)
        while int(self.store.add(key, 0)) < self.size:
            self._wait()

    def share(self, name: str, value: Any = None) -> Any:
        """The first process's `value` (JSON types), in every process."""
        if self.size == 1:
            return value
        key = f"{self.prefix}/{name}"
        if self.first:
            self.store.set(key, json.dumps(value))
            return value
        while not self.store.check([key]):
            self._wait()
        return json.loads(self.store.get(key))

    def _wait(self) -> None:
        self.check()
        time.sleep(POLL_S)


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
    rank = os.environ.get("RANK", "")
    if missing or not (text.isdecimal() and rank.isdecimal() and int(rank) < int(text)):
        raise ConfigError(
            "expected RANK below WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment, "
            f"found RANK={rank!r}, WORLD_SIZE={text!r} and no {missing}; start with torchrun, or "
            "unset WORLD_SIZE"
        )
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    local = int(os.environ.get("LOCAL_RANK", rank))
    # The agent of torchrun already serves the store there.
    serve = rank == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = _connect(host, port, int(text), serve)
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
