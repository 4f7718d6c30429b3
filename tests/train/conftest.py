"""Sources of activations for training tests: planted dictionaries in memory, a small real store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices are tiny here: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class MemoryLayer:
    name: str
    channels: int
    rows: int
    train_rows: int


@dataclass(frozen=True)
class MemoryStatistics:
    mean_C: np.ndarray
    var_C: np.ndarray


class MemoryStore:
    """Rows in memory behind the interface of a store, with the store's own order of batches."""

    def __init__(self, rows: np.ndarray, train_rows: int, content_id: str = "memory") -> None:
        self.rows, self.location = rows, str(Path("memory").resolve())
        self.manifest: dict[str, Any] = {"content_id": content_id, "model": {"name": "none"}}
        self.layers = {"layer": MemoryLayer("layer", rows.shape[1], len(rows), train_rows)}

    def activations(self, layer: str) -> np.ndarray:
        return self.rows

    def statistics(self, layer: str) -> MemoryStatistics:
        train = self.rows[: self.layers[layer].train_rows].astype(np.float64)
        return MemoryStatistics(train.mean(axis=0), train.var(axis=0))

    def batches(
        self, layer: str, batch_size: int, *, seed: int, start_batch: int = 0
    ) -> Iterator[np.ndarray]:
        from isae.store.batches import shuffled_batches

        rows = self.layers[layer].train_rows
        return shuffled_batches(self.rows, rows, batch_size, seed=seed, start_batch=start_batch)


@pytest.fixture(scope="session")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """Rows [6000, 24] that are sums of about 3 of 40 unit directions [40, 24], off the origin."""
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((40, 24))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    active = generator.random((6000, 40)) < 3 / 40
    codes = active * generator.uniform(0.5, 1.5, (6000, 40))
    rows = 7 * (codes @ directions) + generator.standard_normal(24)
    return rows.astype(np.float32), directions


@pytest.fixture
def memory_store(planted: tuple[np.ndarray, np.ndarray]) -> Callable[..., MemoryStore]:
    """Make a store of the planted rows (or of `rows`), the last 600 held out."""
    pytest.importorskip("zarr", reason="whole runs need the packages of isae.store")

    def make(
        rows: np.ndarray | None = None, holdout: int = 600, content_id: str = "memory"
    ) -> MemoryStore:
        rows = planted[0] if rows is None else rows
        return MemoryStore(rows, len(rows) - holdout, content_id)

    return make


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real store of mixed3a (256 channels), some thousand rows of procedural pictures."""
    from isae.store import BuildConfig, build_store

    path = tmp_path_factory.mktemp("train_store") / "store"
    build_store(
        BuildConfig(
            images="synthetic:40", layers=("mixed3a",), out=str(path), size=64, workers=0, seed=1
        )
    )
    return path
