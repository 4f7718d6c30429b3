"""Fixtures of the tests of `isae-bench store`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isae.randomness import keyed_rng
from isae.store import BuildConfig, build_store, order

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mixed4a of 40 pictures, an untrained network: 1,152 training rows, a fifth held out."""
    path = tmp_path_factory.mktemp("bench") / "store"
    config: dict[str, Any] = {"size": 96, "workers": 0, "weights": "random:0", "holdout": 0.2}
    build_store(BuildConfig(images="synthetic:40", layers=("mixed4a",), out=str(path), **config))
    return path


@pytest.fixture(scope="session")
def rows_like() -> Callable[..., Array]:
    """Make rows as activations are, half of them zeros."""

    def make(count: int, channels: int, dtype: str = "float16", seed: int = 0) -> Array:
        rows = keyed_rng(seed, "rows").standard_normal((count, channels))
        return np.maximum(rows, 0).astype(dtype)

    return make


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 128 rows, and windows of two of them."""
    monkeypatch.setattr(order, "BLOCK_ROWS", 128)
    monkeypatch.setattr(order, "WINDOW_BLOCKS", 2)
