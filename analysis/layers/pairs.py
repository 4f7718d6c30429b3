"""Two layers compared in one measure: best partners, matches, their p-values and scores.

Measures: 'place' for layers of one grid; 'max' and 'mean' over the finer cells beneath each coarser
one for layers of different grids; 'image' for profiles, the maximum over an image's places.

Matches are selected on some images, and scored on others that had no part in the choice. The null
of the best match is of the selection images (`isae.analysis.layers.image_null`).

Families of tests, each corrected by Benjamini and Hochberg over all pairs of layers and measures:

- nearest: one test for every tested feature of both layers, its best partner;
- mutual, one_to_one: one test for every tested feature of the smaller layer. The p of a match is
  the larger of its two features' p; a feature without a match counts with p = 1. Either is at least
  the p of the feature's best partner, so the family is valid.

Legend: N, O features of the two layers, X matches, I images, S shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.layers.codes import MAX, MEAN, Codes, pool_codes
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.correlation import (
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
    classes_kept_scoring: bool


def measures(
    one: Codes, two: Codes, strides: tuple[int, int], profiles: tuple[Codes, Codes]
) -> dict[str, tuple[Codes, Codes]]:
    """The codes to compare in each measure, both on the coarser grid of the two.

    strides: pixels a cell of each layer; profiles: both layers' codes pooled over whole images.
    """
    if strides[0] == strides[1]:
        return {PLACE: (one, two), IMAGE: profiles}
    coarse, ratio = (two, strides[1] // strides[0]) if strides[0] < strides[1] else (
        one, strides[0] // strides[1],
    )  # fmt: skip
    pooled = {}
    for how in (MAX, MEAN):
        if coarse is two:
            pooled[how] = (pool_codes(one, two.grid, ratio, how), two)
        else:
            pooled[how] = (one, pool_codes(two, one.grid, ratio, how))
    return {**pooled, IMAGE: profiles}


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
    scores, scoring_kept = _score(one, two, split, matches, rng, config)
    return Comparison(
        layers=layers,
        measure=measure,
        nearest=(_nearest(forth, tested_N, nulls[0]), _nearest(back, tested_O, nulls[1])),
        matches=matches,
        p={name: _match_p(found, nulls) for name, found in matches.items()},
        scores=scores,
        places=mine.count,
        null_places=int((one.partners(two, shuffles[0]) >= 0).sum()),
        images=int(chosen_I.sum()),
        classes_kept=kept,
        classes_kept_scoring=scoring_kept,
    )


def _score(
    one: Codes,
    two: Codes,
    split: Split,
    matches: dict[str, Matches],
    rng: np.random.Generator,
    config: LayersConfig,
) -> tuple[dict[str, Scores], bool]:
    """Scores of each method's matches on the scoring images, and whether classes were kept."""
    class_I, moved_I, kept = exchangeable(split.class_I, split.score_I)
    times = SCORE_SHUFFLES if moved_I.any() else 0
    moved = [move_images(class_I, moved_I, rng) for _ in range(times)]
    image_I = identity(one.images, split.score_I)
    scores = {
        name: score(
            one, two, image_I, moved, found.first_X, found.second_X,
            resamples=config.resamples, seed=config.seed,
        )
        for name, found in matches.items()
    }  # fmt: skip
    return scores, kept


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


def _nearest(tops: Tops, tested_N: Bools, null: MaxNull) -> Nearest:
    best_N = tops.feature_NK[:, 0].astype(np.int64)
    found = np.flatnonzero(best_N >= 0)
    r_N, p_N = np.full(len(best_N), np.nan), np.full(len(best_N), np.nan)
    r_N[found] = tops.r_NK[found, 0]
    p_N[tested_N] = 1.0
    p_N[found] = null.p(found, r_N[found])
    return Nearest(tested_N, best_N, r_N, p_N)


def _match_p(matches: Matches, nulls: tuple[MaxNull, MaxNull]) -> F64:
    """The larger p of the two features of each match -> float64 [X]."""
    p_X = np.maximum(
        nulls[0].p(matches.first_X, matches.r_X), nulls[1].p(matches.second_X, matches.r_X)
    )
    return np.asarray(p_X, dtype=np.float64)


def nearest_q(comparisons: list[Comparison]) -> list[tuple[F64, F64]]:
    """The q of every feature's best partner, one family over all comparisons -> per comparison."""
    values = [side.p_N for one in comparisons for side in one.nearest]
    q = _together(values)
    return [(q[2 * number], q[2 * number + 1]) for number in range(len(comparisons))]


def match_q(comparisons: list[Comparison], method: str = MUTUAL) -> list[F64]:
    """The q of every match of a method, one family over all comparisons -> per comparison [X]."""
    values = [one.p[method] for one in comparisons]
    alone = [
        np.ones(max(family(one) - len(p_X), 0))
        for one, p_X in zip(comparisons, values, strict=True)
    ]
    return _together([*values, *alone])[: len(values)]


def family(comparison: Comparison) -> int:
    """Tests of one comparison in a family of matches: tested features of the smaller layer."""
    return int(min(side.tested_N.sum() for side in comparison.nearest))


def _together(values: list[F64]) -> list[F64]:
    if not values:
        return []
    q = benjamini_hochberg(np.concatenate(values))
    return np.split(q, np.cumsum([len(one) for one in values])[:-1])
