"""From a row's place (image, y, x) to the piece of the picture that it saw.

A cell (y, x) of a layer's map sees a window of input pixels; `LayerInfo.window` gives it through
the real strides and paddings. TensorFlow's SAME padding puts the odd pixel at the bottom right, so
a window's centre is not (cell + 0.5) * stride: at 112 pixels the cells of mixed4a are centred at
16 y + 15.5, half a stride further down and right than one would guess, and those of the last row
at the picture's very edge.

Theoretical fields of deep layers exceed the picture (mixed4a: over 170 pixels for an input of
112), while most of the weight lies near the centre. A patch is therefore a square of side
min(receptive field, half the picture's side), moved back inside the picture where it would stick
out; the centre of the field is given beside it, and marked in the contact sheets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from isae.analysis.activity import TopRows
from isae.analysis.arrays import F64, I64, U8
from isae.errors import ImageError, IsaeError
from isae.images import BadImage, ImageSource, open_source, resize_crop
from isae.inception import LayerInfo
from isae.progress import Reporter
from isae.randomness import hash64
from isae.store import Store


@dataclass(frozen=True)
class PatchGeometry:
    """Boxes of every cell along one axis of a square input of `size` pixels.

    side: side of a patch in pixels; start_G: int64 [cells], first pixel of the patch of each cell,
    0 <= start <= size - side; centre_G: float64 [cells], centre of the receptive field in pixels
    (pixel i spans [i, i + 1]), clipped to the picture.
    """

    size: int
    side: int
    start_G: I64
    centre_G: F64

    def boxes(self, y: npt.ArrayLike, x: npt.ArrayLike) -> I64:
        """(left, top, right, bottom) of cells, in pixels of the resized picture -> int64 [..., 4].

        right and bottom are exclusive.
        """
        left, top = self.start_G[np.asarray(x)], self.start_G[np.asarray(y)]
        return np.stack([left, top, left + self.side, top + self.side], axis=-1)


def patch_geometry(info: LayerInfo, size: int, side: int | None = None) -> PatchGeometry:
    """The patches of a layer's cells for a square input of `size` pixels.

    side: side of a patch; by default min(theoretical receptive field, half of `size`).
    """
    cells = info.grid(size)
    side = min(info.receptive_field, max(size // 2, 1)) if side is None else min(side, size)
    windows_G2 = np.array([info.window(cell, size) for cell in range(cells)])
    centre_G = windows_G2.mean(axis=1)
    start_G = np.clip(np.round(centre_G - side / 2), 0, size - side).astype(np.int64)
    return PatchGeometry(size, side, start_G, np.clip(centre_G, 0.0, float(size)))


def patch_table(top: TopRows, images: pa.Table, geometry: PatchGeometry) -> pa.Table:
    """One row per feature and rank: where its strongest places are, without pixels.

    Columns: feature, rank (0 the strongest), value, image, name, label, split, y, x, and the patch
    in the resized picture: left, top, right, bottom, centre_x, centre_y.
    """
    feature, rank = np.nonzero(top.value_nN > 0)
    position = top.position_nN3[feature, rank].astype(np.int64)
    image, y, x = position[:, 0], position[:, 1], position[:, 2]
    boxes = geometry.boxes(y, x)
    described = images.select(["name", "label", "split"]).take(pa.array(image))
    columns: dict[str, Any] = {
        "feature": pa.array(feature, pa.int32()),
        "rank": pa.array(rank, pa.int16()),
        "value": top.value_nN[feature, rank],
        "image": image,
        **{name: described.column(name) for name in described.column_names},
        "y": pa.array(y, pa.int16()),
        "x": pa.array(x, pa.int16()),
    }
    for number, name in enumerate(("left", "top", "right", "bottom")):
        columns[name] = pa.array(boxes[:, number], pa.int32())
    columns["centre_x"], columns["centre_y"] = geometry.centre_G[x], geometry.centre_G[y]
    return pa.table(columns)


def find_pictures(
    recorded: dict[str, Any],
    seed: int,
    override: str | None,
    reporter: Reporter,
    use: str = "contact sheets",
    option: str = "--images",
) -> ImageSource | None:
    """The image source a store was built from, or None with a warning if it is gone or changed.

    recorded: the manifest's "images" entry (spec, limit, fingerprint); seed: the store's;
    override: another place of the same pictures; use: what lacks them, for the warning, and option:
    which option names that place.
    """
    spec = override or str(recorded["spec"])
    try:
        source = open_source(spec, seed=seed, limit=recorded.get("limit"))
        fingerprint = source.fingerprint()
    except (IsaeError, OSError) as error:
        reporter.warn(f"no pictures in the {use}: {error}; give {option} SRC")
        return None
    if fingerprint != recorded["fingerprint"]:
        reporter.warn(
            f"no pictures in the {use}: '{spec}' does not hold the pictures that the "
            f"store was built from (fingerprint {fingerprint[:12]} instead of "
            f"{recorded['fingerprint'][:12]}); give their place with {option} SRC"
        )
        return None
    return source


class Cropper:
    """Cuts patches out of pictures, each picture decoded once and then forgotten."""

    def __init__(self, source: ImageSource, size: int) -> None:
        self.source, self.size = source, size

    def cut(self, images: Sequence[int], boxes: I64) -> list[U8 | None]:
        """Patches uint8 [side, side, 3] of (image, box) pairs; None where a picture is unreadable.

        images: [P]; boxes: [P, 4] (left, top, right, bottom).
        """
        patches: list[U8 | None] = [None] * len(images)
        order = np.argsort(images, kind="stable")
        held, pixels = -1, None
        for place in order:
            if images[place] != held:
                held, pixels = int(images[place]), self._load(int(images[place]))
            if pixels is not None:
                left, top, right, bottom = boxes[place]
                patches[place] = np.array(pixels[top:bottom, left:right])
        return patches

    def _load(self, image: int) -> U8 | None:
        try:
            return resize_crop(self.source.load(image), self.size)
        except (BadImage, ImageError):
            return None


def draw_pictures(
    store: Store, source: ImageSource, split: str, count: int, size: int, seed: int
) -> tuple[U8, list[int]]:
    """Up to `count` of a store's readable pictures of a split, drawn by the seed.

    -> (uint8 [P, size, size, 3] RGB, their numbers in the store).
    """
    among = np.flatnonzero(np.array(store.images.column("split").to_pylist()) == split)
    return read_pictures(source, draw_among(among, count, seed), size)


def draw_among(images: I64, count: int, seed: int) -> I64:
    """Up to `count` of the numbers of images given, drawn by the seed."""
    return images[np.argsort(hash64(seed, images), kind="stable")[:count]]


def read_pictures(source: ImageSource, images: I64, size: int) -> tuple[U8, list[int]]:
    """The readable ones of some pictures -> (uint8 [P, size, size, 3] RGB, their numbers)."""
    boxes = np.tile([0, 0, size, size], (len(images), 1))
    cut = Cropper(source, size).cut(images.tolist(), boxes)
    pixels = [one for one in cut if one is not None]
    used = [int(i) for i, one in zip(images, cut, strict=True) if one is not None]
    return np.stack(pixels) if pixels else np.empty((0, size, size, 3), dtype=np.uint8), used
