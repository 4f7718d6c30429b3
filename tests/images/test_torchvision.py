from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isae.errors import ImageError
from isae.images import decode_batches, open_source


def write_idx(path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
    path.write_bytes(head + values.tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Five training and two test digits in the files of MNIST."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 5), ("t10k", 2)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{stem}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) + 3)
    return tmp_path


def test_arrays_on_the_disk(mnist: Path) -> None:
    train, test = (open_source(f"torchvision:MNIST:{mnist}{split}") for split in ("", ":test"))
    assert (len(train), len(test)) == (5, 2)
    assert train.row(1) == {"name": "MNIST/00000001", "label": "4 - four"}
    assert test.row(0) == {"name": "MNIST/test/00000000", "label": "3 - three"}
    expected = np.random.default_rng(2).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    np.testing.assert_array_equal(test.load(1), np.repeat(expected[1][:, :, None], 3, axis=2))
    assert train.fingerprint() != test.fingerprint()


def test_folders_on_the_disk_and_bad_pictures_by_name(tmp_path: Path) -> None:
    for folder in ("FR", "IT"):
        (tmp_path / "country211" / "valid" / folder).mkdir(parents=True)
        Image.new("RGB", (9, 7), "red").save(tmp_path / "country211" / "valid" / folder / "a.png")
    (tmp_path / "country211" / "valid" / "IT" / "b.png").write_bytes(b"nothing")
    source = open_source(f"torchvision:Country211:{tmp_path}:valid")
    assert [source.row(i)["label"] for i in range(len(source))] == ["FR", "IT", "IT"]
    assert source.fingerprint() != open_source("torchvision:FakeData:3").fingerprint()
    for workers in (0, 1):
        (batch,) = decode_batches(source, 8, 8, workers)
        assert batch.indices.tolist() == [0, 1]
        assert [bad.name for bad in batch.bad] == ["Country211/valid/00000002"]
    with pytest.raises(ImageError, match="expected the files of torchvision's Country211"):
        open_source(f"torchvision:Country211:{tmp_path}:nosplit")
