"""How far gains move had other images been drawn: images of a label weigh more and less.

Both sides have a given number of images of every label (`isae.analysis.label.unseen_images`), so
another sample would have as many. In each draw half of a label's images on a side, taken at random,
weigh 1 + SHIFT and the others 1 - SHIFT (of an odd number one weighs 1, and the shift is larger by
sqrt(n / (n - 1)), so that a mean over images spreads alike). The strongest images of a feature are
counted until their weights add up to the length of its list. No label gains weight, no image is
counted in another's stead, so gains keep their size; and means over images spread SHIFT times as
far as between samples:

    error = standard deviation over draws / SHIFT, interval = value -+ 1.96 error.

These are half-samples with Fay's factor (Judkins 1990, "Fay's method for variance estimation").
Images taken with replacement will not do: lists then hold some images twice and the gain of a name
that is nearly always true falls in every draw. Features of a layer look at the same images, so all
features of a draw have the same weights. The chance of a name is that of the draw; for positions,
too, which are compared with all features' places.

Legend: S = 2 sides, D draws, N features, K images of a list, X images of both stores, A names, G
cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.label import loops
from isae.analysis.label.names import CELL, IMAGE, POSITION, Names
from isae.analysis.label.strongest import Strongest
from isae.randomness import keyed_rng

DRAWS = 200
SHIFT = 0.75


def image_weights(set_X: I64, label_X: I64, side: int, seed: int) -> F64:
    """How much each image of a side weighs in each draw, float64 [D, X]; 0 off the side.

    label_X: number of each image's label. Labels of one image are drawn together.
    """
    mine = np.flatnonzero(set_X == side)
    rng = keyed_rng(seed, "label", "weights", side)
    weight_DX = np.zeros((DRAWS, len(set_X)))
    weight_DX[:, mine] = 1.0
    _, group_M, count = np.unique(label_X[mine], return_inverse=True, return_counts=True)
    group_M = np.where(count[group_M] == 1, -1, group_M)
    for group in np.unique(group_M).tolist():
        at = mine[group_M == group]
        half = len(at) // 2
        if half:
            sign_DM = np.tile(np.sign(np.arange(len(at)) - (len(at) - 1) / 2), (DRAWS, 1))
            size = SHIFT * math.sqrt(len(at) / (2 * half))
            # Signs of an even number are half + and half -; of an odd one the middle is 0.
            weight_DX[:, at] += size * rng.permuted(sign_DM, axis=1)
    return weight_DX


def interval(value: float, value_D: F64) -> tuple[float, float]:
    """The 95 % interval of a value whose draws are given."""
    reach = NormalDist().inv_cdf(0.975) * float(value_D.std(ddof=1)) / SHIFT
    return value - reach, value + reach


@dataclass(frozen=True)
class Draws:
    """What gains of draws need. longer: longer lists than those scored, since weights may be small;
    top: how many of them are scored; tested_N: whose places positions are compared with;
    weight_SDX: see `image_weights`.
    """

    longer: Strongest
    top: int
    tested_N: Bools
    weight_SDX: tuple[F64, F64]
    cells: int

    def gains(self, names: Names, name_N: I64, side: int) -> F64:
        """The gain of each feature's name in each draw, float64 [D, N]; NaN without one."""
        image_NK, cell_NK = self.longer.image_HNK[side], self.longer.cell_HNK[side]
        weight_DX = self.weight_SDX[side]
        gain_DN = np.full((len(weight_DX), len(name_N)), np.nan)
        length_N = np.minimum(self.top, names.limit_HA[side][np.maximum(name_N, 0)])
        loops.weighted_gains(
            names.rows(image_NK, cell_NK, self.cells), cell_NK, image_NK, names.has_RA,
            self._chance(names, side), name_N, length_N.astype(np.int64), weight_DX, gain_DN,
        )  # fmt: skip
        return gain_DN

    def _chance(self, names: Names, side: int) -> F64:
        """The chance of every name at every cell in each draw, float64 [D, G or 1, A]."""
        fixed_GA, weight_DX = names.chance_HGA[side], self.weight_SDX[side]
        if names.kind == POSITION:
            return (self._places(side) @ names.has_RA.astype(np.float64))[:, None]
        if names.at == CELL:
            return np.repeat(fixed_GA[None], len(weight_DX), axis=0)
        places, mine = 1 if names.at == IMAGE else self.cells, np.flatnonzero(weight_DX.any(axis=0))
        weight_DI = np.ascontiguousarray(weight_DX[:, mine])
        known_IG = names.known_R.reshape(-1, places)[mine].astype(np.float64)
        has_IGA = names.has_RA.reshape(-1, places, len(names.texts))[mine] * known_IG[:, :, None]
        found_DGA = (weight_DI @ has_IGA.reshape(len(mine), -1)).reshape(len(weight_DX), places, -1)
        total_DG1 = (weight_DI @ known_IG)[:, :, None]
        share_DGA = np.where(
            total_DG1 > 0, found_DGA / np.maximum(total_DG1, 1e-9), fixed_GA[:places]
        )
        # The chance of a cell of few known places is that of all cells: it has no law of its own.
        few_G1 = known_IG.sum(axis=0)[:, None] < 8
        return np.where(few_G1, fixed_GA[:places], share_DGA)

    def _places(self, side: int) -> F64:
        """Share of the tested features' strongest places at each cell in each draw, [D, G]."""
        weight_DX = self.weight_SDX[side]
        place_DG = np.zeros((len(weight_DX), self.cells))
        loops.weighted_places(
            self.longer.cell_HNK[side], self.longer.image_HNK[side], self.tested_N, self.top,
            weight_DX, place_DG,
        )  # fmt: skip
        return np.asarray(place_DG / np.maximum(place_DG.sum(axis=1, keepdims=True), 1e-9))
