"""A neuron's large activations taken apart into features, on held-out rows.

With x_c the activation of neuron c, z_i the code of feature i and rows of x_c above the quantile
`large` of its held-out values, the part of feature i is

    sum z_i W_dec[i, c] / sum x_c,

summed over those rows, so that large activations weigh more and single small ones cannot blow a
quotient up. The parts of all features, of the decoder's bias and of the residual sum to 1.
Intervals: images drawn with replacement (positions of one image are not independent); the rows'
threshold and the choice of the top features stay.

A neuron *splits* if two of its features, each with a part of at least `split_share`, are curve
detectors (or, in the laxer count, directed and significant) whose directions differ by more than
`max_turn`. Null: what a feature is tuned to has nothing to do with which neuron it explains, given
how often it is on: (tuned or not, direction) are dealt anew among features of about equal firing
rate. p of a neuron is the share of draws in which it splits, (1 + n) / (1 + draws), corrected by
Benjamini-Hochberg over neurons with two features that explain enough; the number of splits has a p
of its own.

Shape legend: R rows, C channels, T features kept of each neuron, N features, X draws, J images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.criterion import turn_between
from isae.analysis.curves.rows import RealRows
from isae.analysis.multiple import benjamini_hochberg
from isae.randomness import keyed_rng

KEPT = 10
MOST = 0.8
_STRATUM = 200


@dataclass(frozen=True)
class NeuronParts:
    """threshold_C; rows_C and images_C: of large activations; feature_CT: by falling part, -1 where
    there are none; part_CT with low_CT and high_CT (95 % over images); bias_C, residual_C;
    features_C: how many hold 80 % of all positive parts, 0 for neurons without large activations.
    """

    threshold_C: F64
    rows_C: I64
    images_C: I64
    feature_CT: I64
    part_CT: F64
    low_CT: F64
    high_CT: F64
    bias_C: F64
    residual_C: F64
    features_C: I64


def explain_neurons(
    rows: RealRows, decoder_NC: F32, bias_C: F32, config: CurvesConfig
) -> NeuronParts:
    """What each feature explains of every neuron's large activations."""
    channels = rows.x_RC.shape[1]
    kept = min(KEPT, rows.n)
    image_J, image_R = np.unique(rows.image_R, return_inverse=True)
    rng = keyed_rng(config.seed, "splits", "images")
    even = np.full(len(image_J), 1 / len(image_J))
    weight_XJ = rng.multinomial(len(image_J), even, config.resamples).astype(np.float64)
    decoder_CN = np.ascontiguousarray(decoder_NC.T)
    threshold_C = np.quantile(rows.x_RC, config.large, axis=0).astype(np.float64)
    found = _nothing(threshold_C, kept)
    for c in range(channels):
        large_R = np.flatnonzero(rows.x_RC[:, c] > max(float(threshold_C[c]), 0.0))
        if len(large_R):
            _explain(found, c, rows, large_R, decoder_CN[c], float(bias_C[c]), image_R, weight_XJ)
    return found


def _nothing(threshold_C: F64, kept: int) -> NeuronParts:
    """Parts of neurons without large activations."""
    count = len(threshold_C)

    def unknown(*shape: int) -> F64:
        return np.full(shape, np.nan)

    return NeuronParts(
        threshold_C=threshold_C,
        rows_C=np.zeros(count, dtype=np.int64),
        images_C=np.zeros(count, dtype=np.int64),
        feature_CT=np.full((count, kept), -1, dtype=np.int64),
        part_CT=unknown(count, kept),
        low_CT=unknown(count, kept),
        high_CT=unknown(count, kept),
        bias_C=unknown(count),
        residual_C=unknown(count),
        features_C=np.zeros(count, dtype=np.int64),
    )


def _explain(
    found: NeuronParts,
    c: int,
    rows: RealRows,
    large_R: I64,
    weight_N: F32,
    bias: float,
    image_R: I64,
    weight_XJ: F64,
) -> None:
    """Fill in the entries of neuron c."""
    index_RK = rows.index_RK[large_R]
    given_RK = rows.value_RK[large_R].astype(np.float64) * weight_N[index_RK]
    x_R = rows.x_RC[large_R, c].astype(np.float64)
    total = x_R.sum()
    part_N = np.bincount(index_RK.ravel(), given_RK.ravel(), minlength=rows.n) / total
    found.bias_C[c] = bias * len(large_R) / total
    found.residual_C[c] = 1 - part_N.sum() - found.bias_C[c]
    positive = np.sort(part_N[part_N > 0])[::-1]
    if len(positive):
        held = np.cumsum(positive) < MOST * positive.sum() * (1 - 1e-12)
        found.features_C[c] = int(held.sum()) + 1
    kept = found.feature_CT.shape[1]
    top_T = np.argpartition(-part_N, kept - 1)[:kept]
    top_T = top_T[np.lexsort((top_T, -part_N[top_T]))]
    top_T = top_T[part_N[top_T] > 0]
    image_I, image = np.unique(image_R[large_R], return_inverse=True)
    found.rows_C[c], found.images_C[c] = len(large_R), len(image_I)
    by_TI = np.zeros((len(top_T), len(image_I)))
    for place, i in enumerate(top_T):
        given_R = np.where(index_RK == i, given_RK, 0).sum(axis=1)
        by_TI[place] = np.bincount(image, given_R, len(image_I))
    drawn_XI = weight_XJ[:, image_I]
    sums_X = drawn_XI @ np.bincount(image, x_R, len(image_I))
    some_X = sums_X > 0
    part_XT = (drawn_XI[some_X] @ by_TI.T) / sums_X[some_X, None]
    count = len(top_T)
    found.feature_CT[c, :count], found.part_CT[c, :count] = top_T, part_N[top_T]
    if count and len(part_XT):
        low, high = np.quantile(part_XT, [0.025, 0.975], axis=0)
        found.low_CT[c, :count], found.high_CT[c, :count] = low, high


@dataclass(frozen=True)
class Splits:
    """splits_C: neurons that split; turn_C: the widest turn between two of their features, NaN
    below two; p_C and q_C, NaN where not tested; expected and count_p: of the number of splits.
    """

    splits_C: Bools
    turn_C: F64
    p_C: F64
    q_C: F64
    expected: float
    count_p: float

    @property
    def tests(self) -> int:
        """Neurons with two features that explain enough."""
        return int(np.isfinite(self.p_C).sum())


def find_splits(
    parts: NeuronParts,
    tuned_N: Bools,
    direction_N: F64,
    fires_N: I64,
    config: CurvesConfig,
    stream: str,
) -> Splits:
    """Which neurons split into features of different directions, against the null."""
    enough_CT = (parts.feature_CT >= 0) & (parts.part_CT >= config.split_share)
    tested = np.flatnonzero(enough_CT.sum(axis=1) >= 2)
    feature_CT, enough_CT = parts.feature_CT[tested], enough_CT[tested]
    label_N = np.where(tuned_N, direction_N, np.nan)

    def widest(labels_N: F64) -> F64:
        label_CT = np.where(enough_CT, labels_N[feature_CT], np.nan)
        turn_CTT = turn_between(label_CT[:, :, None], label_CT[:, None, :])
        widest_C: F64 = np.nan_to_num(turn_CTT, nan=-1.0).max(axis=(1, 2), initial=-1.0)
        return widest_C

    turn = widest(label_N)
    observed = turn > config.max_turn
    rng = keyed_rng(config.seed, "splits", stream)
    strata = _strata(fires_N)
    counts_X = np.zeros(config.draws, dtype=np.int64)
    often = np.zeros(len(tested), dtype=np.int64)
    for draw in range(config.draws if len(tested) else 0):
        dealt_N = label_N.copy()
        for stratum in strata:
            dealt_N[stratum] = label_N[rng.permutation(stratum)]
        split = widest(dealt_N) > config.max_turn
        counts_X[draw], often = split.sum(), often + split
    channels = len(parts.rows_C)
    splits_C = np.zeros(channels, dtype=np.bool_)
    splits_C[tested] = observed
    turn_C, p_C = np.full(channels, np.nan), np.full(channels, np.nan)
    label_CT = np.where(enough_CT, label_N[feature_CT], np.nan)
    turn_C[tested] = np.where(np.isfinite(label_CT).sum(axis=1) >= 2, turn, np.nan)
    p_C[tested] = np.where(observed, (1 + often) / (1 + config.draws), 1.0)
    return Splits(
        splits_C, turn_C, p_C, benjamini_hochberg(p_C), float(counts_X.mean()),
        float((1 + (counts_X >= observed.sum()).sum()) / (1 + config.draws)),
    )  # fmt: skip


def _strata(fires_N: I64) -> list[I64]:
    """Features that are on at all, in groups of about _STRATUM by how often."""
    live = np.flatnonzero(fires_N > 0)
    order = live[np.argsort(fires_N[live], kind="stable")]
    return np.array_split(order, max(len(order) // _STRATUM, 1))
