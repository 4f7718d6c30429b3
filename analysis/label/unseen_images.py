"""Pictures of a second store, beside as many of the run's scoring half, class by class.

A label is compared between pictures that the network (and the SAE) learned from and others that
both never saw. The strongest 48 of 4,000 images have a name more often than the strongest 48 of
2,000, whatever was learned; so both sides are cut to as many images of every label, drawn by the
seed. A picture that both stores hold is left out.

Legend: I images read of the run's store, J of the second one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from isae.analysis.arrays import I64, Bools
from isae.analysis.inputs import RunInputs
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.images import SCORING, Halves, choose_images
from isae.analysis.label.patch_names import PatchMeans
from isae.analysis.patches import Cropper
from isae.errors import DataError, StoreError
from isae.images import ImageSource
from isae.randomness import hash64, keyed_seed
from isae.store import Store, open_store

OWN, UNSEEN = 0, 1
Strings = npt.NDArray[np.str_]
_BLOCK = 64


@dataclass(frozen=True)
class Second:
    """The second store. inputs: the run's SAE on it; image_J: int64, rising numbers of its images
    that are read; table: their rows of its images table.
    """

    inputs: RunInputs
    image_J: I64
    table: pa.Table

    @property
    def labels(self) -> list[str]:
        """The label of each image, '' where it has none."""
        return [label or "" for label in self.table.column("label").to_pylist()]


def open_second(inputs: RunInputs, path: str, config: LabelConfig) -> Second:
    """Open a store of the run's layer whose rows mean the same as those of the run's store.

    Raises StoreError where it is the run's store, or anything that makes the rows is another: the
    network, its weights, input size, preprocessing, arithmetic, rule of resizing, precision of the
    rows, rule of positions. Any of these would pass for a difference between pictures.
    """
    store = open_store(path)
    if store.content_id == inputs.store.content_id:
        raise StoreError(
            f"expected --unseen to hold other pictures than the run's store, found the run's "
            f"store in {path}; give a store of pictures that the network never saw"
        )
    mine, found = makers(inputs.store.manifest), makers(store.manifest)
    for what in mine:
        if mine[what] != found[what]:
            raise StoreError(
                f"expected --unseen to be a store like the run's with {what} {mine[what]}, found "
                f"{found[what]} in {path}; build one with the same options from other pictures"
            )
    if inputs.layer not in store.layers:
        raise StoreError(
            f"expected the layer '{inputs.layer}' in --unseen {path}, found "
            f"{', '.join(store.layers)}; build it with --layers {inputs.layer}"
        )
    halves = choose_images(store, inputs.layer, config)
    second = replace(inputs, store=store, stored=store.layer(inputs.layer))
    return Second(second, halves.image_I, halves.table)


def makers(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a store's rows out of a picture, by its name in a message."""
    model = manifest["model"]
    return {
        "network": model["name"],
        "weights": str(model["weights_sha256"])[:16],
        "input size": manifest["size"],
        "preprocessing": model.get("preprocessing"),
        "arithmetic": model.get("compute_dtype"),
        "resizing": manifest["images"].get("resize"),
        "dtype": manifest["dtype"],
        "positions": manifest["positions"],
    }


def in_both(
    own: tuple[Store, ImageSource | None, PatchMeans | None, int],
    second: tuple[Second, ImageSource | None, PatchMeans | None],
    size: int,
) -> Bools:
    """Whether each picture of the second store is one of the run's store, bool [J].

    own: the store, its pictures, patches of the images read, and how many these are. Of one name
    and with the same pixels (where pictures are gone: of one name), or with the very same means in
    every patch as a picture that was read.
    """
    (store, source, patches, images), (other, other_source, other_patches) = own, second
    number_of = {name: i for i, name in enumerate(store.images.column("name").to_pylist())}
    twin_J = np.array([number_of.get(one, -1) for one in other.table.column("name").to_pylist()])
    found: Bools = np.asarray(twin_J >= 0)
    if source is not None and other_source is not None and found.any():
        at = np.flatnonzero(found)
        mine = pixel_hashes(source, twin_J[at].tolist(), size)
        theirs = pixel_hashes(other_source, other.image_J[at].tolist(), size)
        found[at] = [one != b"" and one == two for one, two in zip(mine, theirs, strict=True)]
    if patches is not None and other_patches is not None:
        held = set(_keys(patches, images)) - {b""}
        found |= np.array([key in held for key in _keys(other_patches, len(other.image_J))])
    return np.asarray(found)


def pixel_hashes(source: ImageSource, images: Sequence[int], size: int) -> list[bytes]:
    """The hash of each picture's pixels as the network is shown them; b'' where it is unreadable.

    Few pictures are held at once: both stores may have many of the same names.
    """
    found: list[bytes] = []
    for first in range(0, len(images), _BLOCK):
        block = images[first : first + _BLOCK]
        boxes = np.tile([0, 0, size, size], (len(block), 1))
        found += [
            b"" if pixels is None else hash_bytes(pixels.tobytes())
            for pixels in Cropper(source, size).cut(block, boxes)
        ]
    return found


def hash_bytes(content: bytes) -> bytes:
    """What stands for a content where contents are compared, 16 bytes."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _keys(patches: PatchMeans, images: int) -> list[bytes]:
    """What tells pictures apart; b'' where one could not be read."""
    mean_IX = patches.mean_RC.reshape(images, -1)
    known_IG = patches.known_R.reshape(images, -1)
    return [
        hash_bytes(row.tobytes()) if known_G.all() else b""
        for row, known_G in zip(mean_IX, known_IG, strict=True)
    ]


def match_images(halves: Halves, second: Second, both_J: Bools, seed: int) -> I64:
    """OWN for images of the scoring half, UNSEEN for images of the second store, -1 for those that
    neither side looks at, int64 [I + J]: of every label as many on both sides.

    Where no picture of the second store has a label, as many of all. Raises DataError where both
    have labels and none is the same, or no picture of the second store is left.
    """
    mine, theirs = _matched_by(halves, second)
    own_I = np.flatnonzero(halves.half_I == SCORING)
    other_J = np.flatnonzero(~both_J)
    shared = sorted(set(mine[own_I]) & set(theirs[other_J]))
    if not shared:
        raise DataError(
            f"expected pictures in --unseen that the run's store does not hold, with labels that "
            f"it has, found {len(other_J):,} others and no label of both; take other pictures of "
            "the same classes, or pictures without classes"
        )
    set_X = np.full(len(mine) + len(theirs), -1, dtype=np.int64)
    for label in shared:
        left = own_I[mine[own_I] == label], other_J[theirs[other_J] == label]
        count = min(len(left[0]), len(left[1]))
        numbers = (halves.image_I, second.image_J)
        for side, (among, number, first) in enumerate(
            zip(left, numbers, (0, len(mine)), strict=True)
        ):
            stream = keyed_seed(seed, "label", "matched", side)
            order = np.lexsort((among, hash64(stream, number[among])))
            set_X[first + among[order[:count]]] = side
    return set_X


def label_numbers(halves: Halves, second: Second) -> I64:
    """A number for the label of every image of both stores, int64 [I + J]: within equal ones
    `match_images` drew the sides.
    """
    label_X = np.concatenate(_matched_by(halves, second))
    return np.unique(label_X, return_inverse=True)[1].astype(np.int64)


def _matched_by(halves: Halves, second: Second) -> tuple[Strings, Strings]:
    """Labels of both stores' images; all '' where no picture of the second store has one."""
    mine, theirs = (np.array(one.labels, dtype=str) for one in (halves, second))
    return (mine, theirs) if (theirs != "").any() else (np.full(len(mine), "", dtype=str), theirs)


def labels_of_both(halves: Halves, second: Second, set_X: I64) -> Sequence[str]:
    """The label of every image of both stores; '' for those of the second that are not looked at.

    The classes at hand stay those of the run's store, and so do the superclasses above them.
    """
    looked_J = set_X[len(halves.image_I) :] == UNSEEN
    theirs = [label if use else "" for label, use in zip(second.labels, looked_J, strict=True)]
    return [*halves.labels, *theirs]
