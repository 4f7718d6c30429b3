"""The images on which each feature is strongest, with its strongest place in each.

One place an image: positions of one image are not independent, so the image is the unit. Beside
the strongest images a sample of all images on which the feature is active shows how much its top
flatters it.

Legend: H = 2 halves, N features, K images kept, I images, G cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.codes import Codes
from isae.analysis.label import loops
from isae.randomness import hash64, keyed_rng, keyed_seed


@dataclass(frozen=True)
class Strongest:
    """image_HNK: int64 numbers of images among those read, -1 for none; cell_HNK: int64, y * W + x,
    0 where there is no image; images_HN: int64, on how many images of a half a feature is active.
    """

    image_HNK: I64
    cell_HNK: I64
    images_HN: I64

    def tested(self, least: int) -> Bools:
        """Whether a feature is active on at least so many images of both halves, bool [N]."""
        return np.asarray((self.images_HN >= least).all(axis=0))

    def pooled(self, cells: int, tested_N: Bools) -> F64:
        """How often the strongest place lies at each cell, over tested features -> [H, G]."""
        counts_HG = np.zeros((2, cells))
        for half in (0, 1):
            held = (self.image_HNK[half] >= 0) & tested_N[:, None]
            counts_HG[half] = np.bincount(self.cell_HNK[half][held], minlength=cells)
        return np.asarray(counts_HG / np.maximum(counts_HG.sum(axis=1, keepdims=True), 1))


def strongest_images(codes: Codes, half_I: I64, keep: int) -> Strongest:
    """The `keep` strongest images of each feature in each half, strongest first."""
    return _collect(codes, half_I, keep, None)


def sampled_images(codes: Codes, half_I: I64, keep: int, seed: int) -> Strongest:
    """As many images drawn by the seed among all on which the feature is active."""
    keys_I = hash64(keyed_seed(seed, "label", "sampled"), np.arange(len(half_I)))
    return _collect(codes, half_I, keep, (keys_I >> np.uint64(12)).astype(np.float64))


def _collect(codes: Codes, half_I: I64, keep: int, key_I: F64 | None) -> Strongest:
    columns = codes.columns
    key_HNK = np.full((2, codes.features, keep), -1.0)
    place_HNK = np.full((2, codes.features, keep), -1, dtype=np.int32)
    images_HN = np.zeros((2, codes.features), dtype=np.int64)
    loops.strongest_images(
        columns.first_M, columns.place_T, columns.value_T, codes.image_P, half_I,
        np.zeros(1) if key_I is None else key_I, key_I is None, key_HNK, place_HNK, images_HN,
    )  # fmt: skip
    held_HNK = place_HNK >= 0
    place_HNK = np.maximum(place_HNK, 0)
    return Strongest(
        np.where(held_HNK, codes.image_P[place_HNK], -1).astype(np.int64),
        np.where(held_HNK, codes.cell_P[place_HNK], 0).astype(np.int64),
        images_HN,
    )


def exchange_images(strongest: Strongest, half_I: I64, seed: int, draw: int) -> Strongest:
    """Every image replaced by another of its half, the same for all features; cells stay."""
    other_I = np.arange(len(half_I))
    for half in (0, 1):
        mine = np.flatnonzero(half_I == half)
        other_I[mine] = keyed_rng(seed, "label", "exchange", draw, half).permutation(mine)
    held_HNK = strongest.image_HNK >= 0
    image_HNK = np.where(held_HNK, other_I[np.maximum(strongest.image_HNK, 0)], -1)
    return replace(strongest, image_HNK=image_HNK)


def exchange_places(strongest: Strongest, tested_N: Bools, seed: int, draw: int) -> Strongest:
    """The places of each half's strongest images dealt anew among the tested features."""
    cell_HNK = strongest.cell_HNK.copy()
    for half in (0, 1):
        held = (strongest.image_HNK[half] >= 0) & tested_N[:, None]
        rng = keyed_rng(seed, "label", "places", draw, half)
        cell_HNK[half][held] = rng.permutation(strongest.cell_HNK[half][held])
    return replace(strongest, cell_HNK=cell_HNK)
