"""Fixtures that every test folder shares."""

from __future__ import annotations

import os

# Triton settles at its import whether kernels are interpreted; here no kernel is compiled.
os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout under test."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with photos and weights beside the checkout; the test skips where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the photos in ../shared/data, which are not part of the repository")
    return folder


@pytest.fixture
def nan_filled_allocations() -> Iterator[None]:
    """torch.empty gives NaN (integers: their maximum), so that an unwritten output is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def make_photos(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder tree of small colour pictures in the classes a and b; the folder."""

    def make(count: int = 6, seed: int = 0) -> Path:
        folder = tmp_path / "photos"
        generator = np.random.default_rng(seed)
        for number in range(count):
            target = folder / "ab"[number % 2]
            target.mkdir(parents=True, exist_ok=True)
            height, width = generator.integers(40, 90, 2)
            coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((int(width), int(height)))
            picture.save(target / f"photo{number:03d}.jpg")
        return folder

    return make
