"""Which places of the store stand for a feature: its strongest, its range, random ones, any.

All are chosen from the places of whole images, so that a heat map has no holes. The strongest
places flatter a feature; the other groups say what it does otherwise:

    range     positive values in falling order are cut into bins of equal counts, one drawn of each
    random    drawn from all its positive places
    anywhere  drawn from all places: mostly what it does not fire on

The groups are drawn apart, so that a place may stand in more than one of them. Draws of a feature
depend on the seed and its number alone.

Legend: P places, E a feature's positive places, S columns of a sheet.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from isae.analysis.arrays import F32, I32, I64, Bools
from isae.analysis.visualise.patch_config import PatchesConfig
from isae.randomness import hash64, keyed_rng, keyed_seed
from isae.store import Store
from isae.store.images_table import HOLDOUT, TRAIN


def choose_images(store: Store, layer: str, max_rows: int, seed: int) -> I64:
    """Images whose places of a layer are read, drawn by the seed -> rising numbers int64 [I].

    All of them, or of each split the share max_rows / rows of the layer, at least one.
    """
    split = np.array(store.images.column("split").to_pylist(), dtype=object)
    stream, rows = keyed_seed(seed, "patches", "images"), store.layer(layer).rows
    chosen = []
    for name in (TRAIN, HOLDOUT):
        image = np.flatnonzero(split == name)
        order = np.lexsort((image, hash64(stream, image)))
        count = max(min(len(image) * max_rows // max(rows, 1), len(image)), 1)
        chosen.append(image[order[:count]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def choose_places(
    feature: int, place_E: I32, value_E: F32, image_P: I32, held_out_P: Bools, config: PatchesConfig
) -> I64:
    """The place in each column of a feature's row -> int64 [S], -1 where a column stays empty.

    place_E: its positive places, rising; value_E: its values there; image_P, held_out_P: of each
    place the image, and whether that is held out. A column stays empty where no image is left, or
    where there are fewer positive values than bins. Of equal values that of the lower place counts
    as the larger.
    """
    place_E = place_E[np.argsort(-value_E, kind="stable")].astype(np.int64)
    held_out_E, count = held_out_P[place_E], len(place_E)
    places: list[int] = []
    for held_out, wanted in ((False, config.top), (True, config.top_held_out)):
        of_split = place_E[held_out_E == held_out]
        places += _filled(_one_an_image(of_split, image_P, wanted), wanted)
    rng = keyed_rng(config.seed, "patches", feature)
    bins = max(config.ranges, 1)
    ends = [-(-number * count // bins) for number in range(config.ranges + 1)]
    for start, stop in pairwise(ends):
        places.append(int(place_E[rng.integers(start, stop)]) if stop > start else -1)
    some = rng.choice(count, min(config.random, count), replace=False)
    places += _filled(place_E[some].tolist(), config.random)
    every = len(image_P)
    some = rng.choice(every, min(config.anywhere, every), replace=False)
    return np.array(places + _filled(some.tolist(), config.anywhere), dtype=np.int64)


def _one_an_image(place_E: I64, image_P: I32, count: int) -> list[int]:
    """The first `count` places that lie in different images."""
    found: dict[int, int] = {}
    for place in place_E:
        if len(found) == count:
            break
        found.setdefault(int(image_P[place]), int(place))
    return list(found.values())


def _filled(places: list[int], count: int) -> list[int]:
    """The places and behind them -1, `count` in all."""
    return places + [-1] * (count - len(places))
