"""The packaged weights reach the accuracy that their header states, by the header's protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isae.images import resize_crop
from isae.inception import Network


@pytest.mark.photos
def test_packaged_weights_reach_their_stated_accuracy(network: Network, shared_dir: Path) -> None:
    folder = shared_dir / "data" / "tiny_imagenet"
    lines = (folder / "classes.tsv").read_text().splitlines()
    class_of = {line.split("\t")[1]: int(line.split("\t")[0]) for line in lines}
    photos = sorted((folder / "val").glob("*/*.JPEG"))
    assert len(photos) == 2000
    right = 0
    for start in range(0, len(photos), 80):
        batch = photos[start : start + 80]
        pixels = [
            resize_crop(np.asarray(Image.open(photo).convert("RGB")), network.input_size)
            for photo in batch
        ]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        labels = torch.tensor([class_of[photo.parent.name] for photo in batch])
        right += int((network.logits(images).argmax(1) == labels).sum())
    stated = float(network.weights.metadata["val_top1"])
    assert right / len(photos) == pytest.approx(stated, abs=0.01)
