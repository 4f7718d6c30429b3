"""Where batches come from changes nothing in what is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isae.errors import ConfigError, UnknownNameError
from isae.store import Store, open_store
from isae.store.cache import CACHES as STORE_CACHES
from isae.train import TrainConfig, train
from isae.train.source import CACHES, scaled, training_batches

CPU = torch.device("cpu")
OPTIONS = {"k": 8, "expansion": 1, "batch_size": 128, "steps": 6, "eval_every": 3, "seed": 2}


def test_every_cache_trains_the_same_bytes(small_store: Path, tmp_path: Path) -> None:
    config = TrainConfig(layer="mixed3a", kernel="cpu", device="cpu", **OPTIONS)
    weights = []
    for cache in CACHES:
        store = open_store(small_store)
        train(config, store, tmp_path / cache, cache=cache)
        assert bool(store.caches) is (cache != "none")
        weights.append((tmp_path / cache / "sae/mixed3a/sae_weights.safetensors").read_bytes())
    assert len(set(weights)) == 1


def test_the_names_of_caches_are_the_stores() -> None:
    assert CACHES == STORE_CACHES


def test_what_cannot_be_kept_is_refused(
    small_store: Path, memory_store: Callable[..., Any], tmp_path: Path
) -> None:
    config = TrainConfig(layer="mixed3a", **OPTIONS)
    with pytest.raises(UnknownNameError, match="unknown cache 'disk'"):
        train(config, open_store(small_store), tmp_path / "run", cache="disk")
    assert not (tmp_path / "run").exists()
    options = {"seed": 0, "start_batch": 0, "device": CPU}
    with pytest.raises(ConfigError, match="a store with --cache, found 'ram'"):
        training_batches(memory_store(), "layer", 8, cache="ram", **options)
    assert next(training_batches(memory_store(), "layer", 8, cache="none", **options)).shape[0] == 8


def test_arrays_and_tensors_are_scaled_alike(small_store: Path) -> None:
    store: Store = open_store(small_store)
    array = next(store.batches("mixed3a", 9, seed=0))
    tensor = next(store.tensors("mixed3a", 9, seed=0, pin=True))
    assert torch.equal(scaled(array, 0.3, CPU), scaled(tensor, 0.3, CPU))
    assert scaled(tensor, 0.3, CPU).dtype == torch.float32
