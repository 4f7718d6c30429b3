"""Pictures to measure an effective field on."""

from __future__ import annotations

from typing import Any

from isae.analysis.arrays import U8
from isae.analysis.patches import draw_pictures, find_pictures
from isae.analysis.tuning.effective_field import noise_pictures
from isae.images import ImageSource
from isae.progress import Reporter
from isae.store import Store


def field_pictures(
    store: Store, images: str | None, size: int, count: int, seed: int, reporter: Reporter
) -> tuple[U8, dict[str, Any]]:
    """`pictures_of` the store's pictures, where they are now."""
    source = find_pictures(
        store.manifest["images"], int(store.manifest["seed"]), images, reporter, "effective field"
    )
    return pictures_of(store, source, size, count, seed)


def pictures_of(
    store: Store, source: ImageSource | None, size: int, count: int, seed: int
) -> tuple[U8, dict[str, Any]]:
    """Pictures uint8 [N, size, size, 3] and what they are.

    `count` of the store's pictures, held-out ones if there are any, drawn by the seed; noise with
    the amplitudes of photos where the store's pictures are gone (source None) or unreadable.
    """
    if source is not None:
        for split in ("holdout", "train"):
            pixels, used = draw_pictures(store, source, split, count, size, seed)
            if used:
                return pixels, {"kind": "pictures of the store", "split": split, "images": used}
    noise = {"kind": "noise, amplitude 1/f", "split": None, "images": count, "seed": seed}
    return noise_pictures(count, size, seed), noise
