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

from collections.abc import Sequence

import numpy as np

from isae.analysis.arrays import F32, I32, I64, U64, Bools
from isae.analysis.visualise.patch_config import PatchesConfig
from isae.randomness import hash64, keyed_seed
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


def draw_keys(features: int, config: PatchesConfig) -> U64:
    """Random numbers of every feature, uniform over 64 bits -> uint64 [N, draws of a feature]."""
    draws = config.ranges + config.random + config.anywhere
    stream = keyed_seed(config.seed, "patches", "places")
    feature, draw = np.divmod(np.arange(features * draws), max(draws, 1))
    return hash64(stream, feature, draw).reshape(features, draws)


def fall(place_E: I32, value_E: F32) -> tuple[I64, F32]:
    """Places and their values, all above 0, by falling value; of equal ones the lower place first.

    One sort of integers: the bits of positive float32 numbers rise with them.
    """
    above_E = (~value_E.view(np.uint32)).astype(np.uint64) << np.uint64(32)
    key_E = np.sort(above_E | place_E.astype(np.uint64))
    falling_E = (~(key_E >> np.uint64(32)).astype(np.uint32)).view(np.float32)
    return (key_E & np.uint64(0xFFFFFFFF)).astype(np.int64), falling_E


def choose_places(
    place_E: I64, image_P: I32, held_out_P: Bools, keys: Sequence[int], config: PatchesConfig
) -> I64:
    """The place in each column of a feature's row -> int64 [S], -1 where a column stays empty.

    place_E: the places where its value is above 0, by falling value; image_P, held_out_P: of each
    place the image, and whether that is held out; keys: the feature's of `draw_keys`. A column
    stays empty where no image is left, or where there are fewer positive values than bins.
    """
    held_out_E, count = held_out_P[place_E], len(place_E)
    places: list[int] = []
    for held_out, wanted in ((False, config.top), (True, config.top_held_out)):
        of_split = place_E[held_out_E == held_out]
        places += _filled(_one_an_image(of_split, image_P, wanted), wanted)
    bins = config.ranges
    for number, key in enumerate(keys[:bins]):
        start, stop = -(-number * count // bins), -(-(number + 1) * count // bins)
        places.append(int(place_E[start + _below(stop - start, key)]) if stop > start else -1)
    some = _distinct(count, keys[bins : bins + config.random])
    places += _filled(place_E[some].tolist(), config.random)
    some = _distinct(len(image_P), keys[bins + config.random :])
    return np.array(places + _filled(some, config.anywhere), dtype=np.int64)


def _below(count: int, key: int) -> int:
    """A number in [0, count) from 64 random bits."""
    return key * count >> 64


def _distinct(count: int, keys: Sequence[int]) -> list[int]:
    """Different numbers in [0, count), one a key as long as there are any: all sets alike."""
    drawn: list[int] = []
    for key in keys[:count]:
        number = _below(count - len(drawn), key)
        for earlier in sorted(drawn):
            number += number >= earlier
        drawn.append(number)
    return drawn


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
