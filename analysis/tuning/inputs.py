"""Pictures to measure an effective field on."""

from __future__ import annotations

from typing import Any

import numpy as np

from isae.analysis.arrays import U8
from isae.analysis.patches import Cropper, find_pictures
from isae.analysis.tuning.effective_field import noise_pictures
from isae.progress import Reporter
from isae.randomness import hash64
from isae.store import Store


def field_pictures(
    store: Store, images: str | None, size: int, count: int, seed: int, reporter: Reporter
) -> tuple[U8, dict[str, Any]]:
    """Pictures uint8 [N, size, size, 3] and what they are.

    `count` of the store's pictures, held-out ones if there are any, drawn by the seed; noise with
    the amplitudes of photos where the store's pictures are gone.
    """
    source = find_pictures(
        store.manifest["images"], int(store.manifest["seed"]), images, reporter, "effective field"
    )
    if source is not None:
        split = np.array(store.images.column("split").to_pylist())
        for name in ("holdout", "train"):
            among = np.flatnonzero(split == name)
            among = among[np.argsort(hash64(seed, among), kind="stable")[:count]]
            boxes = np.tile([0, 0, size, size], (len(among), 1))
            cut = Cropper(source, size).cut(among.tolist(), boxes)
            pixels = [one for one in cut if one is not None]
            if pixels:
                used = [int(i) for i, one in zip(among, cut, strict=True) if one is not None]
                about = {"kind": "pictures of the store", "split": name, "images": used}
                return np.stack(pixels), about
    noise = {"kind": "noise, amplitude 1/f", "split": None, "images": count, "seed": seed}
    return noise_pictures(count, size, seed), noise
