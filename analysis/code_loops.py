"""The compiled loops over sparse codes: turning, pooling, moments, sums by image.

Codes are given by place (places P, their entries E: `start_Q` [P + 1], `feature_E`, `value_E`) and
by feature (`first_M` [N + 1], `place_T`, `value_T`, places rising). `other_P` is the place of the
other layer that each place is paired with, -1 for none. All sums are float64 and run over places in
rising order, one feature at a time, so that neither threads nor blocks change a bit of them.
"""

from __future__ import annotations

import numpy as np

from isae.analysis.arrays import F32, F64, I32, I64
from isae.compiled import compiled, prange

PARTS = 32
"""Features are dealt to so many parallel parts: fixed, though a feature's sums are its own."""


@compiled()
def count_features(start_Q: I64, feature_E: I32, value_E: F32, count_N: I64) -> None:
    """Add the number of entries above 0 of each feature to `count_N`."""
    for e in range(start_Q[-1]):
        if value_E[e] > 0.0:
            count_N[feature_E[e]] += 1


@compiled()
def turn(
    start_Q: I64, feature_E: I32, value_E: F32, free_N: I64, place_T: I32, value_T: F32
) -> None:
    """Sort entries above 0 by feature; `free_N`: each feature's first free slot, used up here."""
    for p in range(len(start_Q) - 1):
        for e in range(start_Q[p], start_Q[p + 1]):
            if value_E[e] > 0.0:
                slot = free_N[feature_E[e]]
                free_N[feature_E[e]] += 1
                place_T[slot] = p
                value_T[slot] = value_E[e]


@compiled()
def pool(
    place_P: I64,
    group_H: I64,
    start_Q: I64,
    feature_E: I32,
    value_E: F32,
    by_max: bool,
    pooled_N: F64,
    pooled_start_H: I64,
    pooled_feature_F: I32,
    pooled_value_F: F32,
) -> int:
    """Maximum or mean of each feature over groups of places -> the number of entries written.

    Group g is `place_P[group_H[g] : group_H[g + 1]]`; the mean counts places where a feature is
    silent as 0. `pooled_N` is zeros [N], and zeros afterwards.
    """
    written = 0
    touched_N = np.empty(len(pooled_N), np.int32)
    for g in range(len(group_H) - 1):
        touched = 0
        for s in range(group_H[g], group_H[g + 1]):
            p = place_P[s]
            for e in range(start_Q[p], start_Q[p + 1]):
                value = np.float64(value_E[e])
                if value > 0.0:
                    feature = feature_E[e]
                    if pooled_N[feature] == 0.0:
                        touched_N[touched] = feature
                        touched += 1
                    if not by_max:
                        pooled_N[feature] += value
                    elif value > pooled_N[feature]:
                        pooled_N[feature] = value
        touched_N[:touched].sort()
        size = 1.0 if by_max else np.float64(group_H[g + 1] - group_H[g])
        for t in range(touched):
            pooled_feature_F[written] = touched_N[t]
            pooled_value_F[written] = pooled_N[touched_N[t]] / size
            pooled_N[touched_N[t]] = 0.0
            written += 1
        pooled_start_H[g + 1] = written
    return written


@compiled()
def moments(
    first_M: I64,
    place_T: I32,
    value_T: F32,
    other_P: I64,
    image_P: I32,
    sum_N: F64,
    square_N: F64,
    images_N: I64,
) -> None:
    """Sum, sum of squares and number of images with activity, over the paired places."""
    for i in range(len(first_M) - 1):
        last = -1
        for t in range(first_M[i], first_M[i + 1]):
            p = place_T[t]
            if other_P[p] >= 0:
                value = np.float64(value_T[t])
                sum_N[i] += value
                square_N[i] += value * value
                if image_P[p] != last:
                    last = image_P[p]
                    images_N[i] += 1


@compiled()
def insert(r_K: F64, feature_K: I32, r: float, feature: int) -> None:
    """Put a correlation among the K largest, the lower feature first of equal ones; never NaN."""
    k = len(r_K)
    while k > 0 and (r > r_K[k - 1] or (r == r_K[k - 1] and feature < feature_K[k - 1])):
        k -= 1
        if k + 1 < len(r_K):
            r_K[k + 1] = r_K[k]
            feature_K[k + 1] = feature_K[k]
        r_K[k] = r
        feature_K[k] = feature


@compiled(parallel=True)
def sums_by_image(
    first_M: I64,
    place_T: I32,
    value_T: F32,
    other_P: I64,
    image_P: I32,
    feature_X: I64,
    sum_XI: F64,
    square_XI: F64,
) -> None:
    """Add each listed feature's sum and sum of squares over each image's paired places."""
    for x in prange(len(feature_X)):
        for t in range(first_M[feature_X[x]], first_M[feature_X[x] + 1]):
            p = place_T[t]
            if other_P[p] >= 0:
                value = np.float64(value_T[t])
                sum_XI[x, image_P[p]] += value
                square_XI[x, image_P[p]] += value * value


@compiled(parallel=True)
def products_by_image(
    first_M: I64,
    place_T: I32,
    value_T: F32,
    other_P: I64,
    image_P: I32,
    other_first_M: I64,
    other_place_T: I32,
    other_value_T: F32,
    other_places: int,
    feature_X: I64,
    other_X: I64,
    dot_XI: F64,
) -> None:
    """Add the product of each listed pair of features over each image's paired places.

    The other layer's codes come by feature too: one is laid out over its `other_places` places, so
    that a product costs one look instead of a search among a place's entries.
    """
    for part in prange(PARTS):
        laid_Q = np.zeros(other_places, np.float32)
        for x in range(part, len(feature_X), PARTS):
            begin, end = other_first_M[other_X[x]], other_first_M[other_X[x] + 1]
            for t in range(begin, end):
                laid_Q[other_place_T[t]] = other_value_T[t]
            for t in range(first_M[feature_X[x]], first_M[feature_X[x] + 1]):
                q = other_P[place_T[t]]
                if q >= 0 and laid_Q[q] != 0.0:
                    product = np.float64(value_T[t]) * np.float64(laid_Q[q])
                    dot_XI[x, image_P[place_T[t]]] += product
            for t in range(begin, end):
                laid_Q[other_place_T[t]] = 0.0
