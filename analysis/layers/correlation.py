"""Pearson correlation of all pairs of features of two layers on the very same places.

With activations a_p of a feature of the one layer and b_p of one of the other at the N paired
places p, silent places counted as 0,

    r = (sum_p a_p b_p / N - mean(a) mean(b)) / (sd(a) sd(b)),   mean(a) = sum_p a_p / N,
    sd(a)^2 = sum_p a_p^2 / N - mean(a)^2.

Only the K best partners of each feature are kept. One feature's N2 sums are held at a time
(in each parallel part), so the N1 x N2 matrix is never in memory, and sums are float64: the same
bits whatever the threads, and r of (i, j) the same bits from both sides.

Cost of all pairs: sum over places of K1 K2 products (K active entries a place), and for each
feature a look through min(N2, 4 products) sums, or N2 where it meets fewer than K others with r >=
0; twice, once from each side. Linear in places (images), and in features with the active entries of
a place. Memory beside the codes, in each part at work: 8 N2 bytes, and 8 for each place of the
feature at hand; 8 bytes a place, 12 bytes a kept partner.

Places of one image are not independent: intervals resample images (`score`).

Legend: N, O features of the first and of the second layer, K kept partners, P places, I images,
X pairs of features, T resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isae.analysis import code_loops, correlation_loops
from isae.analysis.arrays import F64, I32, I64, Bools
from isae.analysis.codes import Codes
from isae.analysis.layers.agreement import central
from isae.errors import DataError
from isae.randomness import keyed_rng

NO_IMAGE = -1
_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Moments:
    """Of each feature over the paired places: mean, standard deviation, images it is active on.

    count: paired places. float64 [N], float64 [N], int64 [N].
    """

    count: int
    mean_N: F64
    deviation_N: F64
    images_N: I64


@dataclass(frozen=True)
class Tops:
    """The best partners of each feature, best first: r_NK float64 (-2: none), feature_NK (-1)."""

    r_NK: F64
    feature_NK: I32


@dataclass(frozen=True)
class Scores:
    """Correlations of given pairs on given images, with intervals over resampled images.

    r_X, low_X, high_X (2.5 and 97.5 %): float64, NaN where a feature is silent or constant;
    shuffled_X: mean r with images exchanged: what place and class alone give; mean_T: in each draw
    of images, the mean of the pairs that have an r (NaN: none has).
    """

    r_X: F64
    low_X: F64
    high_X: F64
    shuffled_X: F64
    mean_T: F64


def identity(images: int, chosen_I: Bools) -> I64:
    """Every chosen image paired with itself, the others with none -> int64 [I]."""
    return np.where(chosen_I, np.arange(images), NO_IMAGE)


def inverse(image_I: I64) -> I64:
    """The pairing of images seen from the other layer: a permutation of some images, turned."""
    turned = np.full(len(image_I), NO_IMAGE, dtype=np.int64)
    paired = np.flatnonzero(image_I >= 0)
    turned[image_I[paired]] = paired
    return turned


def feature_moments(codes: Codes, other_P: I64) -> Moments:
    """Moments of every feature over the places that have a partner. Time: one pass over codes."""
    count, columns = int((other_P >= 0).sum()), codes.columns
    sum_N, square_N = np.zeros(codes.features), np.zeros(codes.features)
    images_N = np.zeros(codes.features, dtype=np.int64)
    code_loops.moments(
        columns.first_M, columns.place_T, columns.value_T, other_P, codes.image_P,
        sum_N, square_N, images_N,
    )  # fmt: skip
    mean_N = sum_N / max(count, 1)
    variance_N = square_N / max(count, 1) - mean_N**2
    # A constant feature has a variance of a few roundings, not of 0.
    real_N = variance_N > 1e-12 * square_N / max(count, 1)
    deviation_N = np.sqrt(np.where(real_N, variance_N, 0.0))
    return Moments(count, mean_N, deviation_N, images_N)


def top_correlations(
    one: Codes,
    two: Codes,
    image_I: I64,
    keep: int,
    wanted_N: Bools,
    wanted_O: Bools,
    *,
    same_layer: bool = False,
) -> Tops:
    """The `keep` best partners in `two` of every wanted feature of `one`.

    image_I: the image of `two` whose places each image of `one` is paired with, or -1 (`identity`,
    or a permutation). wanted_N, wanted_O: features that take part, bool [N], [O]; those without
    variance on the paired places do not. same_layer: the two are one layer, and a feature is not
    its own partner. Raises DataError with fewer than two paired places. See the module's docstring
    for formula and cost.
    """
    other_P, back_P = one.partners(two, image_I), two.partners(one, inverse(image_I))
    mine, theirs = feature_moments(one, other_P), feature_moments(two, back_P)
    if mine.count < 2:
        raise DataError(
            f"expected at least 2 places that both layers have, found {mine.count}; read more "
            "images, or build the store with --positions all"
        )
    r_NK = np.full((one.features, keep), -2.0)
    feature_NK = np.full((one.features, keep), -1, dtype=np.int32)
    columns = one.columns
    correlation_loops.top_correlations(
        columns.first_M, columns.place_T, columns.value_T, other_P,
        two.start_Q, two.feature_E, two.value_E,
        mine.count, mine.mean_N, mine.deviation_N, theirs.mean_N, theirs.deviation_N,
        wanted_N & (mine.deviation_N > 0), wanted_O & (theirs.deviation_N > 0), same_layer,
        r_NK, feature_NK,
    )  # fmt: skip
    return Tops(r_NK, feature_NK)


def score(
    one: Codes,
    two: Codes,
    image_I: I64,
    shuffled: list[I64],
    first_X: I64,
    second_X: I64,
    *,
    resamples: int,
    seed: int,
) -> Scores:
    """Correlations of given pairs of features with intervals over resampled images.

    image_I: pairing of the images to score on; shuffled: pairings with images exchanged; first_X,
    second_X: features of `one` and `two`. Images are drawn with replacement `resamples` times, the
    same draws for all pairs; a draw's r comes from the sums over its images' places. Memory: 40
    bytes a pair and image in blocks of 64 MB; time: X I T products in matrix form, and a pass over
    each pair's entries.
    """
    draws_TI = _draws(image_I, resamples, seed)
    whole_1I = (image_I >= 0).astype(np.float64)[None]
    r_X, shuffled_X = np.full(len(first_X), np.nan), np.zeros(len(first_X))
    low_X, high_X = r_X.copy(), r_X.copy()
    sum_T, number_T = np.zeros(resamples), np.zeros(resamples)
    block = max(1, _BLOCK_BYTES // (40 * max(one.images, 1)))
    for start in range(0, len(first_X), block):
        part = slice(start, start + block)
        sums = _image_sums(one, two, image_I, first_X[part], second_X[part])
        r_X[part] = _correlations(whole_1I, *sums)[0]
        drawn_TX = _correlations(draws_TI, *sums)
        low_X[part], high_X[part] = central(drawn_TX)
        sum_T += np.nansum(drawn_TX, axis=1)
        number_T += np.isfinite(drawn_TX).sum(axis=1)
        for pairing in shuffled:
            sums = _image_sums(one, two, pairing, first_X[part], second_X[part])
            paired_1I = (pairing >= 0).astype(np.float64)[None]
            shuffled_X[part] += _correlations(paired_1I, *sums)[0] / len(shuffled)
    if not shuffled:
        shuffled_X[:] = np.nan
    mean_T = np.where(number_T > 0, sum_T / np.maximum(number_T, 1), np.nan)
    return Scores(r_X, low_X, high_X, shuffled_X, mean_T)


def _draws(image_I: I64, resamples: int, seed: int) -> F64:
    """How often each image is drawn -> float64 [T, I], 0 for images without a partner."""
    paired = np.flatnonzero(image_I >= 0)
    draws_TI = np.zeros((resamples, len(image_I)))
    if len(paired):
        rng = keyed_rng(seed, "layers", "images drawn")
        even = np.full(len(paired), 1 / len(paired))
        draws_TI[:, paired] = rng.multinomial(len(paired), even, size=resamples)
    return draws_TI


def _image_sums(
    one: Codes, two: Codes, image_I: I64, first_X: I64, second_X: I64
) -> tuple[F64, F64, F64, F64, F64, F64]:
    """By image of `one`: places [I]; sums of a, a^2, b, b^2 and a b over its places [X, I]."""
    other_P = one.partners(two, image_I)
    back_P = two.partners(one, inverse(image_I))
    places_I = np.bincount(one.image_P[other_P >= 0], minlength=one.images).astype(np.float64)
    shape = (len(first_X), one.images)
    a_XI, aa_XI, b_XI, bb_XI, ab_XI = (np.zeros(shape) for _ in range(5))
    mine, theirs = one.columns, two.columns
    code_loops.sums_by_image(
        mine.first_M, mine.place_T, mine.value_T, other_P, one.image_P, first_X, a_XI, aa_XI
    )
    # The image of a place of `two` is the image of `one` that it is paired with.
    image_P = inverse(image_I)[two.image_P].astype(np.int32)
    code_loops.sums_by_image(
        theirs.first_M, theirs.place_T, theirs.value_T, back_P, image_P, second_X, b_XI, bb_XI
    )
    code_loops.products_by_image(
        mine.first_M, mine.place_T, mine.value_T, other_P, one.image_P,
        theirs.first_M, theirs.place_T, theirs.value_T, two.places, first_X, second_X, ab_XI,
    )  # fmt: skip
    return places_I, a_XI, aa_XI, b_XI, bb_XI, ab_XI


def _correlations(
    weight_TI: F64, places_I: F64, a_XI: F64, aa_XI: F64, b_XI: F64, bb_XI: F64, ab_XI: F64
) -> F64:
    """Correlation of each pair with each image counted as often as its weight says -> [T, X]."""
    count_T1 = np.maximum(weight_TI @ places_I, 1.0)[:, None]
    a_TX, b_TX = weight_TI @ a_XI.T / count_T1, weight_TI @ b_XI.T / count_T1
    aa_TX, bb_TX = weight_TI @ aa_XI.T / count_T1, weight_TI @ bb_XI.T / count_T1
    product_TX = (aa_TX - a_TX**2) * (bb_TX - b_TX**2)
    real_TX = product_TX > 1e-12 * aa_TX * bb_TX
    above_TX = weight_TI @ ab_XI.T / count_T1 - a_TX * b_TX
    r_TX: F64 = np.full(above_TX.shape, np.nan)
    np.divide(above_TX, np.sqrt(np.where(real_TX, product_TX, 1.0)), out=r_TX, where=real_TX)
    return r_TX
