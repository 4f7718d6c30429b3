"""Fixtures that tests of several analyses share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from isae.store import Store, open_store
from isae.train import SAE


@pytest.fixture(scope="session")
def save_run() -> Callable[[Path, Store, str, SAE], Path]:
    """Make FOLDER/run, a finished run around an SAE on a layer of a store -> its path."""

    def save(folder: Path, store: Store, layer: str, sae: SAE) -> Path:
        sae.save(folder / "run" / "sae" / layer)
        content = {"store_content_id": store.manifest["content_id"]}
        config = {"store": str(store.path), "layer": layer} | content
        (folder / "run" / "config.json").write_text(json.dumps(config))
        (folder / "run" / "summary.json").write_text(json.dumps(content))
        return folder / "run"

    return save


@pytest.fixture(scope="session")
def random_run(save_run: Callable[[Path, Store, str, SAE], Path]) -> Callable[..., Path]:
    """Make FOLDER/run, a finished run on FOLDER/store around an SAE of random rows -> its path.

    The last `dead` features never fire.
    """

    def make(folder: Path, layer: str, features: int, k: int, dead: int) -> Path:
        store, rng = open_store(folder / "store"), np.random.default_rng(1)
        W = rng.normal(size=(features, store.layers[layer].channels)).astype(np.float32)
        W /= np.linalg.norm(W, axis=1, keepdims=True)
        bias = np.zeros(features, dtype=np.float32)
        bias[features - dead :] = -1e6
        mean_C = store.statistics(layer).mean_C.astype(np.float32)
        sae = SAE(*(torch.from_numpy(part) for part in (W, bias, W.copy(), mean_C)), k)
        return save_run(folder, store, layer, sae)

    return make
