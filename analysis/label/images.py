"""The images that labels are chosen and scored on.

Whole images are drawn by the seed until `max_rows` rows are used up, then dealt into two halves,
class by class: one to choose names on, one to score them on. The image is the unit of every test,
so no place of one image is in both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from isae.analysis.arrays import I64
from isae.analysis.label.config import LabelConfig
from isae.errors import DataError
from isae.randomness import hash64, keyed_seed
from isae.store import Store

CHOOSING, SCORING = 0, 1
_TRAINED_ON = re.compile(r"n\d{8}_\d+\.JPEG$")
_UNSEEN = re.compile(r"val_\d+\.JPEG$")


@dataclass(frozen=True)
class Halves:
    """image_I: int64, rising numbers of the store's images that are read; half_I: int64, CHOOSING
    or SCORING; table: their rows of the store's images table.
    """

    image_I: I64
    half_I: I64
    table: pa.Table

    @property
    def labels(self) -> list[str]:
        """The label of each image, '' where it has none."""
        return [label or "" for label in self.table.column("label").to_pylist()]


def choose_images(store: Store, layer: str, config: LabelConfig) -> Halves:
    """Draw images and deal them into halves; raises DataError for fewer than 2 images."""
    split = np.array(store.images.column("split").to_pylist(), dtype=object)
    usable = np.flatnonzero((split == "train") | (split == "holdout"))
    stored = store.layer(layer)
    rows_an_image = max(stored.rows / max(len(usable), 1), 1.0)
    most = int(config.max_rows / rows_an_image)
    stream = keyed_seed(config.seed, "label", "images")
    order = np.lexsort((usable, hash64(stream, usable)))
    image_I = np.sort(usable[order[:most]])
    if len(image_I) < 2:
        raise DataError(
            f"expected at least 2 images to choose and score labels on, found {len(image_I)}; "
            "build a larger store, or raise --max-rows"
        )
    table = store.images.take(pa.array(image_I))
    labels = [label or "" for label in table.column("label").to_pylist()]
    return Halves(image_I, deal_halves(image_I, labels, config.seed), table)


def deal_halves(image_I: I64, labels: list[str], seed: int) -> I64:
    """Half of each image, int64 [I]: of every class one half each, the odd image by the seed."""
    stream = keyed_seed(seed, "label", "halves")
    class_I = np.unique(np.array(labels, dtype=str), return_inverse=True)[1].astype(np.int64)
    order = np.lexsort((image_I, hash64(stream, image_I), class_I))
    sizes = np.bincount(class_I)
    first_I = np.concatenate([[0], np.cumsum(sizes)])[class_I[order]]
    # Classes of an odd size give their odd image to either half in turn, so that halves are equal.
    turn = np.concatenate([[0], np.cumsum(sizes % 2)])[class_I[order]] % 2
    half_I = np.empty(len(image_I), dtype=np.int64)
    half_I[order] = (np.arange(len(order)) - first_I + turn) % 2
    return half_I


def describe_images(store: Store, halves: Halves) -> dict[str, Any]:
    """What summary.json says of the images: halves, splits, classes, and what the network saw."""
    split = np.array(halves.table.column("split").to_pylist(), dtype=object)
    labels = np.array(halves.labels, dtype=object)
    _, counts = np.unique(labels[labels != ""].astype(str), return_counts=True)

    def part(which: int) -> dict[str, int]:
        mine = halves.half_I == which
        return {
            "images": int(mine.sum()),
            "held_out_of_the_sae": int((mine & (split == "holdout")).sum()),
        }

    stream = keyed_seed(0, "label", "numbers")
    return {
        "source": store.manifest["images"]["spec"],
        "choosing": part(CHOOSING),
        "scoring": part(SCORING),
        "classes": len(counts),
        "images_a_class": [int(counts.min()), int(counts.max())] if len(counts) else None,
        "without_label": int((labels == "").sum()),
        "numbers_hash": f"{int(hash64(stream, halves.image_I).sum(dtype=np.uint64)):016x}",
        "seen_by_the_network": seen_by_network(store, halves.table.column("name").to_pylist()),
    }


def seen_by_network(store: Store, names: list[str]) -> dict[str, Any]:
    """Whether the network was trained on these pictures, as far as their names tell."""
    model = store.manifest["model"]
    if str(model["weights"]).startswith("random:"):
        return {"training_photos": 0, "note": "the network is untrained"}
    if "tiny-imagenet" not in str(model.get("weights_metadata", {}).get("classes", "")):
        return {"training_photos": None, "note": "not known for these weights"}
    return {
        "training_photos": sum(bool(_TRAINED_ON.search(name)) for name in names),
        "unseen_photos": sum(bool(_UNSEEN.search(name)) for name in names),
        "note": "by their names: the network was trained on Tiny ImageNet's training photos, so "
        "its features may answer to these better than to new ones",
    }
