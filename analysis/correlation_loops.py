"""The compiled loops that correlate every feature of one layer with all of another.

Codes are given as in `isae.analysis.code_loops`. A feature's products with the other layer's
features are summed in float64 over places in rising order, one feature at a time, so that threads
do not change a bit of them. Then the sums are looked through: all of them, or, for a feature with
few products, those alone that it met. Either way keeps the same partners, since features that never
meet have r < 0, and costs at most FEW times the products, whatever the number of features; but
where fewer partners with r of at least 0 were met than are to be kept, all features are looked
through.
"""

from __future__ import annotations

import numpy as np

from isae.analysis.arrays import F32, F64, I32, I64, Bools
from isae.analysis.code_loops import PARTS, insert
from isae.compiled import compiled, prange
from isae.kernels.cpu.instructions import prefetch

FEW = 4
"""All sums are looked through where there are fewer of them than so many a product."""
AHEAD = 8
"""Places whose codes are asked for before they are needed; 8 to 32 cost the same, 4 more."""
_LINE = 16
"""Entries of 4 bytes in a cache line of 64."""

Mine = tuple[int, float, float, float]
"""Of the feature at hand: its number, or -1 where it is of another layer than its partners; places,
mean, deviation."""
Theirs = tuple[F64, F64, Bools]
"""Mean, deviation, and whether it takes part, of each possible partner [O]."""


@compiled()
def _look(dot: float, j: int, mine: Mine, theirs: Theirs, r_K: F64, feature_K: I32) -> None:
    own, count, mean, deviation = mine
    other_mean_O, other_deviation_O, wanted_O = theirs
    if wanted_O[j] and j != own:
        r = (dot / count - mean * other_mean_O[j]) / (deviation * other_deviation_O[j])
        if r >= r_K[-1]:
            insert(r_K, feature_K, r, j)


@compiled()
def _look_at_met(
    other_T: I64,
    start_Q: I64,
    feature_E: I32,
    dot_O: F64,
    mine: Mine,
    theirs: Theirs,
    r_K: F64,
    feature_K: I32,
) -> None:
    """Look through the sums above 0, found by their entries, and leave -1 in their place."""
    for q in other_T:
        if q >= 0:
            for e in range(start_Q[q], start_Q[q + 1]):
                j = feature_E[e]
                if dot_O[j] > 0.0:
                    _look(dot_O[j], j, mine, theirs, r_K, feature_K)
                    dot_O[j] = -1.0
    if not r_K[-1] >= 0.0:  # so few were met that others, below 0, come next
        for j in range(len(dot_O)):
            if dot_O[j] == 0.0:
                _look(0.0, j, mine, theirs, r_K, feature_K)


@compiled()
def _clear_met(other_T: I64, start_Q: I64, feature_E: I32, dot_O: F64) -> None:
    for q in other_T:
        if q >= 0:
            for e in range(start_Q[q], start_Q[q + 1]):
                dot_O[feature_E[e]] = 0.0


@compiled()
def _ask_for_codes(features_at: int, values_at: int, begin: int, end: int) -> None:
    # Places of one feature lie far apart: without this, layers of more codes than the processor's
    # cache holds cost three times as much a product. Addresses: arrays would be counted on entry.
    for e in range(begin, end, _LINE):
        prefetch(features_at + 4 * e)
        prefetch(values_at + 4 * e)
    # Entries seldom begin where a cache line does.
    prefetch(features_at + 4 * (end - 1))
    prefetch(values_at + 4 * (end - 1))


@compiled()
def _add_products(
    other_T: I64, value_T: F32, start_Q: I64, feature_E: I32, value_E: F32, dot_O: F64
) -> int:
    """Add a feature's products with all that is active where it is -> their number."""
    features_at, values_at, products = feature_E.ctypes.data, value_E.ctypes.data, 0
    for t in range(len(other_T)):
        if t + AHEAD < len(other_T) and other_T[t + AHEAD] >= 0:
            q = other_T[t + AHEAD]
            _ask_for_codes(features_at, values_at, start_Q[q], start_Q[q + 1])
        q = other_T[t]
        if q >= 0:
            value = np.float64(value_T[t])
            products += start_Q[q + 1] - start_Q[q]
            for e in range(start_Q[q], start_Q[q + 1]):
                dot_O[feature_E[e]] += value * np.float64(value_E[e])
    return products


@compiled(parallel=True)
def top_correlations(
    first_M: I64,
    place_T: I32,
    value_T: F32,
    other_P: I64,
    start_Q: I64,
    feature_E: I32,
    value_E: F32,
    count: int,
    mean_N: F64,
    deviation_N: F64,
    other_mean_O: F64,
    other_deviation_O: F64,
    wanted_N: Bools,
    wanted_O: Bools,
    same_layer: bool,
    r_NK: F64,
    feature_NK: I32,
) -> None:
    """The K largest correlations of each wanted feature with the other layer's wanted ones.

    `r_NK` comes filled with -2, `feature_NK` with -1. Equal correlations: the lower feature first.
    With `same_layer` a feature is not compared with itself.
    """
    theirs = other_mean_O, other_deviation_O, wanted_O
    for part in prange(PARTS):
        dot_O = np.zeros(len(other_mean_O), np.float64)
        for i in range(part, len(wanted_N), PARTS):
            if not wanted_N[i]:
                continue
            mine = i if same_layer else -1, np.float64(count), mean_N[i], deviation_N[i]
            other_T = other_P[place_T[first_M[i] : first_M[i + 1]]]
            values = value_T[first_M[i] : first_M[i + 1]]
            products = _add_products(other_T, values, start_Q, feature_E, value_E, dot_O)
            if FEW * products < len(dot_O):
                _look_at_met(
                    other_T, start_Q, feature_E, dot_O, mine, theirs, r_NK[i], feature_NK[i]
                )
                _clear_met(other_T, start_Q, feature_E, dot_O)
                continue
            for j in range(len(dot_O)):
                _look(dot_O[j], j, mine, theirs, r_NK[i], feature_NK[i])
            dot_O[:] = 0.0
