"""Small photos, folders and shards that the tests of image sources share."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


def encoded(seed: int, width: int = 40, height: int = 30, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Bytes of a random picture: encode(seed, width, height, format)."""
    return encoded


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Six good photos (one at the root), two bad ones, and files that are no photos."""
    root = tmp_path / "photos"
    for folder in ("cat", "dog/small", "empty", ".hidden"):
        (root / folder).mkdir(parents=True)
    good = ("root.png", "cat/b.JPG", "cat/a.png", "dog/x.png", "dog/small/y.jpeg", "dog/Zé.png")
    for seed, name in enumerate(good):
        form = "PNG" if name.endswith(".png") else "JPEG"
        (root / name).write_bytes(encoded(seed, 40 + seed, 30, form))
    (root / "cat/broken.jpg").write_bytes(b"this is no picture")
    (root / "dog/zero.png").write_bytes(b"")
    (root / "notes.txt").write_text("not a photo")
    (root / ".hidden/h.png").write_bytes(encoded(9))
    return root


@pytest.fixture
def shard_folder(tmp_path: Path) -> Path:
    """Three shards of three photos: labels from .cls, from .json, from the folder."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        with tarfile.open(folder / f"part-{number:04d}.tar", "w") as tar:
            for item in range(3):
                key = f"n{number}/{item:03d}"
                _add(tar, f"{key}.jpg", encoded(10 * number + item, 33, 21, "JPEG"))
                if number == 0:
                    _add(tar, f"{key}.cls", f" class {item}\n".encode())
                if number == 1:
                    _add(tar, f"{key}.json", b'{"label": %d, "caption": "x"}' % item)
    return folder


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
