"""A store's layer as a torch data set: `DataLoader(store.dataset(...), batch_size=None)`.

The data set gives whole batches. Its own threads read ahead, so it needs no worker processes; with
N of them, worker w gives batches w, w + N, ... of its rank, and since a DataLoader asks its workers
in turn, the batches come in the same order as without. Each worker decodes every window that it
needs a row of and holds buffers of its own, so workers cost more than they bring unless other work
is done in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from isae.config import check
from isae.store.feed import Feed, tensors

if TYPE_CHECKING:
    from isae.store.reader import Store

FREE = ("threads", "cache", "pin", "device")
"""Options that may differ between a state's run and the one that goes on from it."""


class StoreDataset(IterableDataset[torch.Tensor]):
    """Shuffled batches [batch_size, C] of one layer, endless or for some epochs.

    An iteration starts at the first batch, or at the one that `load_state_dict` named, each time.
    """

    def __init__(self, store: Store, feed: Feed) -> None:
        super().__init__()
        feed.order(store, feed.deal())  # refuses what cannot be read
        self.store, self.feed = store, feed
        self._begin = self._next = 0
        self._share: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The batches of this process, or of this worker of a DataLoader."""
        worker, store, feed = get_worker_info(), self.store, self.feed
        if worker is None:
            first, step = self._begin, 1
            self._check_share(None)
        else:
            check(feed.cache != "device", "no workers with cache='device'", worker.num_workers)
            from isae.store.reader import reopen_store

            # Threads, connections and pinned memory do not survive a fork.
            store = reopen_store(store.path, store.content_id)
            feed = dataclasses.replace(feed, pin=False)
            share, step = (worker.id, worker.num_workers), worker.num_workers
            self._check_share(share)
            first = self._begin if self._share is not None else self._begin + worker.id
        deal = feed.deal(first, step)
        self._next = first
        batches: Any = tensors(store, feed, deal)
        try:
            for batch in batches:
                self._next += step
                yield batch
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the last iteration is: what to give `load_state_dict` to go on behind the batch
        that was given last.

        It tells of iterations of this very object: within a worker of that worker's; the object in
        the main process stands still while workers iterate, so there ask a loader that collects
        its workers' states, or count batches and use `start_batch` of `Store.tensors`.
        """
        worker = get_worker_info()
        share = None if worker is None else [worker.id, worker.num_workers]
        return {"batch": self._next, "share": share, "of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let iterations begin where a state was taken.

        A state of the main process (`share` None) counts the rank's batches, and may go on with
        any number of workers. ConfigError if the state is of another store, layer, batch size,
        seed, rank or number of epochs.
        """
        identity = self._identity()
        found = dict(state["of"])
        differing = sorted(name for name in identity if found.get(name) != identity[name])
        check(
            not differing,
            f"a state with {', '.join(f'{name} {identity[name]!r}' for name in differing)}",
            [found.get(name) for name in differing],
            "go on with the options that the state was taken with",
        )
        self._begin = self._next = int(state["batch"])
        share = state["share"]
        self._share = None if share is None else (int(share[0]), int(share[1]))

    def _identity(self) -> dict[str, Any]:
        options = dataclasses.asdict(self.feed)
        kept = {name: value for name, value in options.items() if name not in FREE}
        return {"content_id": self.store.content_id, **kept}

    def _check_share(self, share: tuple[int, int] | None) -> None:
        check(
            self._share in (None, share),
            "the worker (number, of how many) that the state was taken in",
            share,
            "go on with as many workers, or from a state of the main process",
        )
