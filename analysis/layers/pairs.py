"""Two layers compared in one measure: best partners, matches, their p-values and scores.

Measures: 'place' for layers of one grid; 'max' and 'mean' over the finer cells of each coarser
one's window for layers of different grids; 'image' for profiles, the maximum over an image's
places. ('weights', by virtual weights: `isae.analysis.layers.virtual_pairs`.)

Matches are selected on some images, and scored on others that had no part in the choice. The null
of the best match is of the selection images (`isae.analysis.layers.image_null`). `r_shuffled` of a
match pairs each scoring image with another image of its class, whichever was read: held-out images
alone are too few a class to be exchanged among themselves.

Images whose stored places differ (a store of some positions an image) share few of them when they
are exchanged, and the images that stay share all: that null would be of the true pairs. So a
measure by place needs images that share at least 90 % of their places; else only profiles are
compared.

Families of tests, each corrected by Benjamini and Hochberg over all pairs of layers and measures:

- nearest: one test for every tested feature of both layers, its best partner;
- mutual, one_to_one: one test for every tested feature of the smaller layer. The p of a match is
  the larger of its two features' p; a feature without a match counts with p = 1. Either is at least
  the p of the feature's best partner, so the family is valid.

A pair without true matches among pairs full of them would borrow their lenient threshold. So q is
the larger of two, corrected over all pairs and measures and over the pair and measure alone.

Legend: N, O features of the two layers, X matches, I images, S shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.codes import MAX, MEAN, Codes, Room, pool_codes
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.correlation import (
    NO_IMAGE,
    Scores,
    Tops,
    feature_moments,
    identity,
    inverse,
    score,
    top_correlations,
)
from isae.analysis.layers.image_null import (
    MaxNull,
    exchangeable,
    fit_max_null,
    move_images,
    shuffle_images,
)
from isae.analysis.layers.matching import METHODS, MUTUAL, Matches, mutual_nearest, one_to_one
from isae.analysis.multiple import benjamini_hochberg
from isae.randomness import keyed_rng

PLACE, IMAGE = "place", "image"
SCORE_SHUFFLES = 4
"""Times that the scoring images are exchanged for `r_shuffled`, a mean and not a test."""
LEAST_SHARED = 0.9
"""Part of the places that exchanged images must share for a comparison by place."""


@dataclass(frozen=True)
class Split:
    """Images of the codes: which select matches, which score them, and their class [I]."""

    select_I: Bools
    score_I: Bools
    class_I: I64


@dataclass(frozen=True)
class Nearest:
    """Best partner of each feature of one layer: tested_N; best_N (-1), r_N and p_N (NaN)."""

    tested_N: Bools
    best_N: I64
    r_N: F64
    p_N: F64


@dataclass(frozen=True)
class Comparison:
    """What two layers share in one measure. Per method of METHODS: matches, their p, scores.

    places: paired places of the selection images; null_places: those of the first shuffle;
    classes_kept: whether images were exchanged within classes; images: selection images used.
    """

    layers: tuple[str, str]
    measure: str
    nearest: tuple[Nearest, Nearest]
    matches: dict[str, Matches]
    p: dict[str, F64]
    scores: dict[str, Scores]
    places: int
    null_places: int
    images: int
    classes_kept: bool


def measures(
    one: Codes,
    two: Codes,
    windows: tuple[I64, I64] | None,
    profiles: tuple[Codes, Codes],
    room: Room | None = None,
) -> dict[str, tuple[Codes, Codes]]:
    """The codes to compare in each measure, both on the grid of the later layer, `two`.

    windows: of its rows and columns in the grid of `one` (`isae.analysis.layers.windows`), None for
    layers of one grid; profiles: both layers' codes pooled over whole images; room: for pooled
    codes.
    """
    if windows is None:
        return {PLACE: (one, two), IMAGE: profiles}
    pooled = {how: (pool_codes(one, two.grid, windows, how, room), two) for how in (MAX, MEAN)}
    return {**pooled, IMAGE: profiles}


def shared_places(one: Codes, two: Codes, split: Split, seed: int) -> float:
    """The part of the paired places that is left when the selection images are exchanged."""
    classes_I, chosen_I, _ = exchangeable(split.class_I, split.select_I)
    rng = keyed_rng(seed, "layers", "shared places")
    whole = int((one.partners(two, identity(one.images, chosen_I)) >= 0).sum())
    moved_I = move_images(classes_I, chosen_I, rng)
    return float((one.partners(two, moved_I) >= 0).sum() / max(whole, 1))


def compare(
    layers: tuple[str, str],
    measure: str,
    one: Codes,
    two: Codes,
    split: Split,
    config: LayersConfig,
) -> Comparison:
    """Match the features of two layers' codes on one grid -> Comparison.

    Time: 2 (S + 1) correlations of all pairs (`isae.analysis.layers.correlation`). Raises
    DataError where the layers share fewer than two places, in truth or in a shuffle.
    """
    classes_I, chosen_I, kept = exchangeable(split.class_I, split.select_I)
    together_I = identity(one.images, chosen_I)
    other_P = one.partners(two, together_I)
    mine = feature_moments(one, other_P)
    theirs = feature_moments(two, two.partners(one, together_I))
    tested_N = (mine.images_N >= config.least_images) & (mine.deviation_N > 0)
    tested_O = (theirs.images_N >= config.least_images) & (theirs.deviation_N > 0)
    forth = top_correlations(one, two, together_I, config.candidates, tested_N, tested_O)
    back = top_correlations(two, one, together_I, config.candidates, tested_O, tested_N)
    rng = keyed_rng(config.seed, "layers", "images exchanged", *layers, measure)
    shuffles = [shuffle_images(classes_I, chosen_I, rng) for _ in range(config.shuffles)]
    largest = _largest(one, two, shuffles, tested_N, tested_O)
    nulls = (
        fit_max_null(largest[0], mine.images_N, tested_N),
        fit_max_null(largest[1], theirs.images_N, tested_O),
    )
    matches = {
        name: match(forth, back)
        for name, match in zip(METHODS, (mutual_nearest, one_to_one), strict=True)
    }
    scores = score_matches(one, two, split, matches, rng, config)
    return Comparison(
        layers=layers,
        measure=measure,
        nearest=(nearest_of(forth, tested_N, nulls[0]), nearest_of(back, tested_O, nulls[1])),
        matches=matches,
        p={name: match_p(found, nulls) for name, found in matches.items()},
        scores=scores,
        places=mine.count,
        null_places=int((one.partners(two, shuffles[0]) >= 0).sum()),
        images=int(chosen_I.sum()),
        classes_kept=kept,
    )


def score_matches(
    one: Codes,
    two: Codes,
    split: Split,
    matches: dict[str, Matches],
    rng: np.random.Generator,
    config: LayersConfig,
) -> dict[str, Scores]:
    """Scores of each method's matches on the scoring images that have another one of their class.

    Whether classes count is decided by the selection images, as in the null.
    """
    classes_I, _, _ = exchangeable(split.class_I, split.select_I)
    read_I = split.select_I | split.score_I
    mates_I = np.bincount(classes_I[read_I], minlength=int(classes_I.max(initial=0)) + 1)
    paired_I = read_I & (mates_I[classes_I] >= 2)
    scored_I = split.score_I & paired_I
    moved = [
        np.where(scored_I, move_images(classes_I, paired_I, rng), NO_IMAGE)
        for _ in range(SCORE_SHUFFLES if scored_I.any() else 0)
    ]
    image_I = identity(one.images, scored_I)
    return {
        name: score(
            one, two, image_I, moved, found.first_X, found.second_X,
            resamples=config.resamples, seed=config.seed,
        )
        for name, found in matches.items()
    }  # fmt: skip


def _largest(
    one: Codes, two: Codes, shuffles: list[I64], tested_N: Bools, tested_O: Bools
) -> tuple[F64, F64]:
    """Each feature's largest r in each shuffle -> float64 [S, N], [S, O]."""
    forth_SN = np.zeros((len(shuffles), one.features))
    back_SO = np.zeros((len(shuffles), two.features))
    for s, image_I in enumerate(shuffles):
        forth = top_correlations(one, two, image_I, 1, tested_N, tested_O)
        back = top_correlations(two, one, inverse(image_I), 1, tested_O, tested_N)
        # A feature that is silent on the places that images share has no r: 0, as for chance.
        forth_SN[s] = np.where(forth.feature_NK[:, 0] >= 0, forth.r_NK[:, 0], 0.0)
        back_SO[s] = np.where(back.feature_NK[:, 0] >= 0, back.r_NK[:, 0], 0.0)
    return forth_SN, back_SO


def nearest_of(tops: Tops, tested_N: Bools, null: MaxNull) -> Nearest:
    """Best partners of a layer's features with their p, 1 for a feature without a partner."""
    best_N = tops.feature_NK[:, 0].astype(np.int64)
    found = np.flatnonzero(best_N >= 0)
    r_N, p_N = np.full(len(best_N), np.nan), np.full(len(best_N), np.nan)
    r_N[found] = tops.r_NK[found, 0]
    p_N[tested_N] = 1.0
    p_N[found] = null.p(found, r_N[found])
    return Nearest(tested_N, best_N, r_N, p_N)


def match_p(matches: Matches, nulls: tuple[MaxNull, MaxNull]) -> F64:
    """The larger p of the two features of each match -> float64 [X]."""
    p_X = np.maximum(
        nulls[0].p(matches.first_X, matches.r_X), nulls[1].p(matches.second_X, matches.r_X)
    )
    return np.asarray(p_X, dtype=np.float64)


def nearest_q(comparisons: list[Comparison]) -> list[tuple[F64, F64]]:
    """The q of every feature's best partner, one family over all comparisons -> per comparison."""
    values = [np.concatenate([side.p_N for side in one.nearest]) for one in comparisons]
    ends = [len(one.nearest[0].p_N) for one in comparisons]
    return [(q[:end], q[end:]) for q, end in zip(_together(values), ends, strict=True)]


def match_q(comparisons: list[Comparison], method: str = MUTUAL) -> list[F64]:
    """The q of every match of a method, one family over all comparisons -> per comparison [X]."""
    values = [
        np.concatenate([one.p[method], np.ones(max(family(one) - len(one.p[method]), 0))])
        for one in comparisons
    ]
    return [q[: len(one.p[method])] for q, one in zip(_together(values), comparisons, strict=True)]


def family(comparison: Comparison) -> int:
    """Tests of one comparison in a family of matches: tested features of the smaller layer."""
    return int(min(side.tested_N.sum() for side in comparison.nearest))


def _together(values: list[F64]) -> list[F64]:
    """The larger of the q over all comparisons and of the q in each alone."""
    if not values:
        return []
    q = benjamini_hochberg(np.concatenate(values))
    parts = np.split(q, np.cumsum([len(one) for one in values])[:-1])
    return [np.maximum(part, benjamini_hochberg(p)) for part, p in zip(parts, values, strict=True)]
