"""A run on a small store of photos in classes, around an SAE that is made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from isae.store import BuildConfig, Store, build_store, open_store
from isae.train import SAE

LAYER, NOISE, K = "conv2d2", 12, 4
CLASSES = {"n02123045": (200, 60, 50), "n02124075": (60, 180, 70), "n01443537": (60, 80, 200)}


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """How the run below was made: its layer, its classes and their colours, `photos`, `stored`."""
    return SimpleNamespace(layer=LAYER, classes=CLASSES, photos=photos, stored=stored)


def photos(
    folder: Path,
    colours: dict[str, tuple[int, int, int]],
    seed: int = 1,
    name: str = "{seed}-{number}.png",
) -> None:
    """18 pictures of each class, of a colour of its own, with stripes."""
    rng = np.random.default_rng(seed)
    for label, colour in colours.items():
        (folder / label).mkdir(parents=True)
        for number in range(18):
            light = 60 * np.sin(np.arange(48) * rng.uniform(0.3, 1.5))[:, None, None]
            light = light if number % 2 else light.transpose(1, 0, 2)
            pixels = np.array(colour) + light + rng.normal(0, 25, (48, 48, 1))
            pixels = pixels.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / name.format(seed=seed, number=number))


def stored(folder: Path, pictures: str, name: str, **options: Any) -> Store:
    """A store of pictures of `folder`."""
    config = {"layers": (LAYER,), "size": 48, "workers": 0, "holdout": 0.2, "seed": 2}
    images, out = str(folder / pictures), str(folder / name)
    build_store(BuildConfig(**({"images": images, "out": out, "device": "cpu"} | config | options)))
    return open_store(out)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, save_run: Callable[..., Path]) -> Path:
    """A run whose features are the classes' mean rows, one twice, noise, and a dead one."""
    folder = tmp_path_factory.mktemp("label")
    photos(folder / "photos", CLASSES)
    store = stored(folder, "photos", "store")
    rows = np.asarray(store.activations(LAYER)[:], dtype=np.float32)
    label_I = np.array(store.images.column("label").to_pylist())
    label_R = label_I[np.asarray(store.positions(LAYER)[:])[:, 0]]
    mean = rows.mean(axis=0)
    planted = np.stack([rows[label_R == one].mean(axis=0) - mean for one in CLASSES])
    noise = np.random.default_rng(3).normal(size=(NOISE, rows.shape[1])).astype(np.float32)
    W = np.concatenate([planted, planted[:1] * 0.99, noise, noise[:1]])
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    bias = np.zeros(len(W), dtype=np.float32)
    bias[-1] = -1e6
    sae = SAE(*(torch.from_numpy(one) for one in (W, bias, W.copy(), mean)), K)
    return save_run(folder, store, LAYER, sae)
