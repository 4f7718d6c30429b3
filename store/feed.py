"""Batches of a store's layer, from its files, from a cache, to NumPy or torch.

Which rows come when is store/order.py's; reading ahead is store/batches.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from isae.config import check
from isae.device import resolve_device
from isae.store.batches import check_threads, dealt_batches
from isae.store.cache import CACHES, DeviceRows, RamRows, fits_ram, ram_rows
from isae.store.order import Deal, Order, make_order

if TYPE_CHECKING:
    from isae.store.reader import Store


@dataclass(frozen=True)
class Feed:
    """What is read, in which order and how; only `cache`, `threads`, `pin`, `device` are free to
    differ between runs that must give the same batches.
    """

    layer: str
    """Of the store."""
    batch_size: int
    """Rows a batch."""
    seed: int
    """Of the order."""
    rank: int = 0
    """Of this process."""
    ranks: int = 1
    """Processes that share the rows."""
    holdout: bool = False
    """Rows of held-out images instead of training images."""
    epochs: int | None = None
    """Passes over the rows; None: endless."""
    drop_last: bool = False
    """With `epochs`: whole batches only, as many on every rank."""
    threads: int = 2
    """That read and gather."""
    cache: str | None = None
    """None or none; ram: rows stay in RAM from their first reading on; auto: ram if that takes at
    most half of the free memory; device: rows are kept packed on `device`."""
    pin: bool = False
    """Tensors in pinned memory where there is a GPU, so that copies to it need no waiting."""
    device: str = "auto"
    """For cache='device': auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:N."""

    def __post_init__(self) -> None:
        check_threads(self.threads)
        check(self.cache in (None, *CACHES), f"cache one of {', '.join(CACHES)}", self.cache)
        check(
            not (self.pin and self.cache == "device"),
            "pin=True with batches in RAM",
            self.cache,
            "leave one of pin and cache='device' out",
        )

    def deal(self, first: int = 0, step: int = 1) -> Deal:
        """Of this rank, batches `first`, `first + step`, ..."""
        return Deal(self.batch_size, self.rank, self.ranks, first, step)

    def order(self, store: Store, deal: Deal) -> Order:
        """The stream of rows."""
        return make_order(part(store, self)[1], deal, self.seed, self.epochs, self.drop_last)


def part(store: Store, feed: Feed) -> tuple[int, int]:
    """First row and number of rows of a layer's training or held-out part."""
    one = store.layer(feed.layer)
    if feed.holdout:
        return one.train_rows, one.rows - one.train_rows
    return 0, one.train_rows


def arrays(store: Store, feed: Feed, deal: Deal) -> Iterator[Any]:
    """Batches as NumPy arrays. ConfigError for options out of range, StoreError without rows."""
    check(
        feed.cache != "device" and not feed.pin,
        "batches in ordinary memory",
        feed.cache,
        "take store.tensors for pinned memory and for cache='device'",
    )
    return _host_batches(store, feed, deal)


def tensors(store: Store, feed: Feed, deal: Deal) -> Iterator[torch.Tensor]:
    """Batches as torch tensors, on the device with cache='device', else in RAM."""
    if feed.cache == "device":
        order = feed.order(store, deal)
        return _device_rows(store, feed).batches(order, deal)
    batches = _host_batches(store, feed, deal)
    return batches if feed.pin else _as_tensors(batches)


def _host_batches(store: Store, feed: Feed, deal: Deal) -> Iterator[Any]:
    order = feed.order(store, deal)
    return dealt_batches(
        _source(store, feed),
        order,
        deal,
        threads=feed.threads,
        first_row=part(store, feed)[0],
        pinned=feed.pin,
    )


def _as_tensors(batches: Any) -> Iterator[torch.Tensor]:
    try:
        for batch in batches:
            yield torch.from_numpy(batch)
    finally:
        batches.close()


def _source(store: Store, feed: Feed) -> Any:
    array = store.activations(feed.layer)
    kept: RamRows | None = store.caches.get(feed.layer)
    if feed.cache in (None, "none"):
        return array
    if kept is None:
        if feed.cache == "auto" and not fits_ram(array):
            return array
        kept = store.caches.setdefault(feed.layer, ram_rows(array))
    return kept


def _device_rows(store: Store, feed: Feed) -> DeviceRows:
    device = torch.empty(0, device=resolve_device(feed.device)).device  # a GPU with its number
    key = (feed.layer, feed.holdout, str(device))
    if key not in store.caches:
        array = store.activations(feed.layer)
        store.caches[key] = DeviceRows(array, *part(store, feed), device, threads=feed.threads)
    kept: DeviceRows = store.caches[key]
    return kept
