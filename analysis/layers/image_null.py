"""A null for best-of-n matches that keeps place and class: images exchanged within their class.

Two features may correlate because both like the middle of a picture, or both like dogs. So the
second layer's maps are exchanged among images of the same class, each map kept whole and every
place kept: what remains of a correlation is place and class. In each of S shuffles the *largest* r
of every feature over all partners is taken, so a p-value speaks of the best of n.

    H0 of feature i: given class and place, its maps say nothing of the other layer's maps.

Permutations are drawn from all, those that leave images in place among them: under H0 the true
pairing is then a draw like any other. Were every image made to move, the null's mean would fall as
the observed r rises (by 1 / (n - 1) of it in a class of n), and p-values would be too small: 8 % of
them below 0.05 for classes of 14. The price is power in small classes, where images often stay.

A few shuffles of each feature cannot resolve tails that n tests need, so they are pooled. With mean
m and standard deviation s of a feature's S largest r, s^2 drawn towards its stratum's median v with
the weight of PRIOR shuffles, s^2 <- (PRIOR v + (S - 1) s^2) / (PRIOR + S - 1),

    t = (r - m) / (s sqrt(1 + 1/S)).

The same t of each shuffle against the other S - 1 of its feature makes the pool of a stratum:
features that are active on similarly many images (at least STRATUM of them). Since S - 1 shuffles
give wider tails than S, the pool errs to the safe side. p is the share of the pool at or above t,
(1 + n) / (1 + all); beyond its 98 % quantile u it is, where that is larger, the share above u times
a generalised Pareto tail fitted to the excesses by probability-weighted moments (Hosking and Wallis
1987), its shape held between 0.1 and 0.9: neither an end point nor an exponential fall is ever
believed. Beyond the pool's largest value the Pareto tail stands alone. (Maxima may have two humps,
where a rare feature meets another on one image: there no smooth tail may undercut the pool.)

A class of one image has nobody to exchange with; such images take part neither in the test nor in
its null (an image without a label is such a class). Where they are more than half of the images, or
all images are of one class, classes are not kept, and the summary says so. With places drawn at
random, images share few places: such layers are not compared by place
(`isae.analysis.layers.pairs`). Known limit: what images of one class share beyond their label (a
background, a viewpoint) is broken too, and counts as a match.

Time: S times the correlation of all pairs, in both directions. Memory: 8 S bytes a feature.
Legend: N features, S shuffles, I images, X tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.layers.correlation import NO_IMAGE
from isae.errors import DataError

STRATUM = 256
PRIOR = 10.0
LEAST_SHUFFLES = 5
_TAIL_SHARE, _LEAST_TAIL = 0.02, 20
_LIGHTEST, _HEAVIEST = 0.1, 0.9


def exchangeable(class_I: I64, chosen_I: Bools) -> tuple[I64, Bools, bool]:
    """(classes, images that have another one to exchange with, whether classes are kept).

    class_I: number of each image's class; chosen_I: images to exchange. Where more than half of
    the chosen images are alone in their class, or all are of one, all count as one class.
    """

    def paired(classes_I: I64) -> Bools:
        counts = np.bincount(classes_I[chosen_I], minlength=int(classes_I.max(initial=0)) + 1)
        return np.asarray(chosen_I & (counts[classes_I] >= 2))

    paired_I = paired(class_I)
    several = len(np.unique(class_I[paired_I])) > 1
    if several and 2 * int(paired_I.sum()) > int(chosen_I.sum()):
        return class_I, paired_I, True
    one_class_I = np.zeros_like(class_I)
    return one_class_I, paired(one_class_I), False


def shuffle_images(class_I: I64, chosen_I: Bools, rng: np.random.Generator) -> I64:
    """Each chosen image's new partner: a random permutation of its class; images may stay.

    -> int64 [I], -1 for images that were not chosen.
    """
    image = np.flatnonzero(chosen_I)
    partner_I = np.full(len(class_I), NO_IMAGE, dtype=np.int64)
    place = image[np.argsort(class_I[image], kind="stable")]
    partner_I[place] = image[np.lexsort((rng.random(len(image)), class_I[image]))]
    return partner_I


def move_images(class_I: I64, chosen_I: Bools, rng: np.random.Generator) -> I64:
    """As `shuffle_images`, but a random cycle through each class, so that no image stays.

    For describing what place and class alone give, not for a null (see the module's docstring).
    """
    image = np.flatnonzero(chosen_I)
    partner_I = np.full(len(class_I), NO_IMAGE, dtype=np.int64)
    if not len(image):
        return partner_I
    order = image[np.lexsort((rng.random(len(image)), class_I[image]))]
    begins = np.flatnonzero(np.diff(class_I[order], prepend=-1))
    following = np.roll(order, -1)
    following[np.append(begins[1:], len(order)) - 1] = order[begins]
    partner_I[order] = following
    return partner_I


@dataclass(frozen=True)
class _Tail:
    """A pool of t in rising order, and the Pareto tail beyond `bound`."""

    pool: F64
    bound: float
    above: int
    scale: float
    shape: float

    def p(self, t_X: F64) -> F64:
        count = len(self.pool)
        p_X = (1.0 + count - np.searchsorted(self.pool, t_X, side="left")) / (1.0 + count)
        beyond_X = t_X > self.bound
        excess_X = (t_X[beyond_X] - self.bound) / self.scale
        survival_X = np.exp(-np.log1p(self.shape * excess_X) / self.shape)
        smooth_X = (1.0 + self.above) / (1.0 + count) * survival_X
        within_X = t_X[beyond_X] <= self.pool[-1]
        p_X[beyond_X] = np.where(within_X, np.maximum(smooth_X, p_X[beyond_X]), smooth_X)
        return np.asarray(p_X, dtype=np.float64)


@dataclass(frozen=True)
class MaxNull:
    """The null of each feature's largest r. stratum_N: -1 for features that are not tested."""

    mean_N: F64
    scale_N: F64
    stratum_N: I64
    tails: tuple[_Tail, ...]

    def p(self, feature_X: npt.ArrayLike, r_X: F64) -> F64:
        """P(largest r of the feature >= r_X) under the null -> float64 [X], NaN: not tested."""
        feature = np.asarray(feature_X, dtype=np.int64)
        p_X = np.full(len(feature), np.nan)
        for number, tail in enumerate(self.tails):
            mine = np.flatnonzero(self.stratum_N[feature] == number)
            chosen = feature[mine]
            p_X[mine] = tail.p((r_X[mine] - self.mean_N[chosen]) / self.scale_N[chosen])
        return p_X


def fit_max_null(largest_SN: F64, images_N: I64, tested_N: Bools) -> MaxNull:
    """The null of every tested feature from its largest r in each of S shuffles.

    largest_SN: float64 [S, N], finite and > -2 where tested; images_N: images that each feature is
    active on; tested_N: bool [N]. Raises DataError for fewer than 5 shuffles.
    """
    shuffles, features = largest_SN.shape
    if shuffles < LEAST_SHUFFLES:
        raise DataError(
            f"expected at least {LEAST_SHUFFLES} shuffles, found {shuffles}; raise --shuffles"
        )
    stratum_N = _strata(images_N, tested_N)
    mean_N, scale_N = np.zeros(features), np.ones(features)
    tails = []
    for number in range(int(stratum_N.max(initial=-1)) + 1):
        mine = np.flatnonzero(stratum_N == number)
        largest_SM = largest_SN[:, mine]
        mean_M, variance_M = largest_SM.mean(axis=0), largest_SM.var(axis=0, ddof=1)
        prior = max(float(np.median(variance_M)), 1e-12)
        mean_N[mine] = mean_M
        scale_N[mine] = _scale(variance_M, prior, shuffles)
        # Each shuffle against the others of its feature: their mean and variance in closed form.
        apart_SM = largest_SM - mean_M
        others_SM = mean_M - apart_SM / (shuffles - 1)
        spread_SM = (shuffles - 1) * variance_M - shuffles / (shuffles - 1) * apart_SM**2
        rest_SM = np.maximum(spread_SM, 0.0) / (shuffles - 2)
        pool = (largest_SM - others_SM) / _scale(rest_SM, prior, shuffles - 1)
        tails.append(_fit_tail(np.sort(pool.ravel())))
    return MaxNull(mean_N, scale_N, stratum_N, tuple(tails))


def _scale(variance: F64, prior: float, shuffles: int) -> F64:
    drawn = (PRIOR * prior + (shuffles - 1) * variance) / (PRIOR + shuffles - 1)
    return np.asarray(np.sqrt(drawn * (1 + 1 / shuffles)), dtype=np.float64)


def _strata(images_N: I64, tested_N: Bools) -> I64:
    """Tested features dealt by rising activity into strata of at least STRATUM -> [N], -1: none."""
    tested = np.flatnonzero(tested_N)
    order = tested[np.argsort(images_N[tested], kind="stable")]
    stratum_N = np.full(len(images_N), -1, dtype=np.int64)
    groups = max(len(order) // STRATUM, 1)
    stratum_N[order] = np.arange(len(order)) * groups // max(len(order), 1)
    return stratum_N


def _fit_tail(pool: F64) -> _Tail:
    above = max(_LEAST_TAIL, round(_TAIL_SHARE * len(pool)))
    if above >= len(pool):
        return _Tail(pool, np.inf, 0, 1.0, _LIGHTEST)
    bound = float(pool[-above - 1])
    excess = pool[-above:] - bound
    mean = float(excess.mean())
    if mean <= 0:
        return _Tail(pool, np.inf, 0, 1.0, _LIGHTEST)
    # The second probability-weighted moment, mean of excess x (1 - its rank).
    weighted = float((excess * (1 - (np.arange(above) + 0.65) / above)).mean())
    ratio = mean / max(weighted, 1e-12 * mean)  # 4 for an exponential tail, larger for heavier ones
    shape = min(max((ratio - 4) / (ratio - 2), _LIGHTEST), _HEAVIEST) if ratio > 4 else _LIGHTEST
    # The scale that keeps the mean excess, scale / (1 - shape).
    return _Tail(pool, bound, above, mean * (1 - shape), shape)
