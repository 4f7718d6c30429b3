"""Small real stores: procedural pictures through the packaged network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isae.store import BuildConfig, build_store

SMALL = {
    "images": "synthetic:26",
    "layers": ("mixed3b", "mixed4a", "mixed4b"),
    "size": 56,
    "holdout": 0.2,
    "batch_size": 8,
    "workers": 0,
    "seed": 3,
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete store; tests must not change it."""
    path = tmp_path_factory.mktemp("built") / "store"
    build_store(BuildConfig(out=str(path), **SMALL))
    return path


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """A copy of the complete store, free to be damaged."""
    return shutil.copytree(built, tmp_path / "copy")


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., BuildConfig]:
    """The small store's configuration with changes, into this test's folder."""

    def make(**changes: object) -> BuildConfig:
        return BuildConfig(**{"out": str(tmp_path / "store"), **SMALL, **changes})

    return make
