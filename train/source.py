"""What training asks of an activation store; `isae.store.Store` has it.

Shapes: R rows, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from isae.config import check
from isae.errors import DataError
from isae.kernels.cpu.scale import can_scale, scale_rows

Array = npt.NDArray[Any]
SCAN_ROWS = 65536
CACHES = ("none", "ram", "auto", "device")
"""As in isae.store.cache, which training does without where its rows are not of a store."""


class Layer(Protocol):
    """One stored layer: rows [0, train_rows) are training rows, the rest held-out rows."""

    @property
    def name(self) -> str:
        """The layer's name."""

    @property
    def channels(self) -> int:
        """The length of a row."""

    @property
    def rows(self) -> int:
        """All rows."""

    @property
    def train_rows(self) -> int:
        """Training rows."""


class Rows(Protocol):
    """Activations of a layer, sliced by rows."""

    def __getitem__(self, rows: slice, /) -> Array:
        """Rows as NumPy [R, C]."""


class Statistics(Protocol):
    """Statistics of the training images' rows, per channel."""

    @property
    def mean_C(self) -> Array:
        """Means, float64."""

    @property
    def var_C(self) -> Array:
        """Variances, float64."""


class ActivationSource(Protocol):
    """The part of a store that training reads."""

    @property
    def location(self) -> str:
        """Where the store is: an absolute path, or an address."""

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The stored layers by name."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest; `content_id` names the store's contents."""

    def activations(self, layer: str, /) -> Rows:
        """Rows of a layer."""

    def statistics(self, layer: str, /) -> Statistics:
        """Statistics of a layer's training rows."""

    def batches(
        self, layer: str, batch_size: int, /, *, seed: int, start_batch: int = 0
    ) -> Iterator[Array]:
        """Endless shuffled batches of training rows."""


def training_batches(
    store: ActivationSource,
    layer: str,
    batch_size: int,
    *,
    seed: int,
    start_batch: int,
    cache: str,
    device: torch.device,
) -> Iterator[Array | torch.Tensor]:
    """Endless batches of training rows for a device: the same rows whatever the cache.

    `cache`: none, ram, auto or device, as `isae.store.Store.tensors` takes it. For a GPU the
    batches lie in pinned memory where the store can do that. ConfigError for a source that keeps
    no rows.
    """
    tensors: Any = getattr(store, "tensors", None)
    check(cache == "none" or tensors is not None, "a store with --cache", cache, "take none")
    if cache == "none" and (device.type != "cuda" or tensors is None):
        return store.batches(layer, batch_size, seed=seed, start_batch=start_batch)
    pin = device.type == "cuda" and cache != "device"
    options = {"start_batch": start_batch, "cache": cache, "pin": pin, "device": str(device)}
    found: Iterator[torch.Tensor] = tensors(layer, batch_size, seed=seed, **options)
    return found


def scaled(rows_RC: Array | torch.Tensor, scale: float, device: torch.device) -> torch.Tensor:
    """Stored rows times the run's scalar, float32 on `device`."""
    rows = rows_RC if isinstance(rows_RC, torch.Tensor) else torch.from_numpy(rows_RC)
    if device.type == "cuda" and not rows.is_cuda:  # in the stored type and without waiting
        rows = (rows if rows.is_pinned() else rows.pin_memory()).to(device, non_blocking=True)
    if can_scale(rows):
        return scale_rows(rows, scale)
    return rows.float() * scale


def piece_of(
    rows_RC: Array | torch.Tensor, scale: float, device: torch.device, takes_halves: bool
) -> torch.Tensor:
    """Stored rows for a stepper: `scaled`, unless it takes float16 rows as they are.

    Those are the batch's own memory, good until the next batch.
    """
    if takes_halves:
        rows = rows_RC if isinstance(rows_RC, torch.Tensor) else torch.from_numpy(rows_RC)
        if can_scale(rows):
            return rows
    return scaled(rows_RC, scale, device)


def refuse_bad_rows(store: ActivationSource, layer: str) -> None:
    """Find the rows of a layer that are not finite and raise DataError that names them.

    Returns if there are none (then the numbers went wrong later).
    """
    rows, total = store.activations(layer), store.layers[layer].rows
    for start in range(0, total, SCAN_ROWS):
        block_RC = rows[slice(start, min(start + SCAN_ROWS, total))]
        bad = np.flatnonzero(~np.isfinite(block_RC.astype(np.float32)).all(axis=1)) + start
        if bad.size:
            raise DataError(
                f"layer {layer}: expected finite activations, found NaN or infinity in {bad.size} "
                f"of the rows {start} to {start + len(block_RC) - 1}, first in row {bad[0]}, "
                f"last in row {bad[-1]}; build the store again from sound weights and images"
            )
