"""Directions that are no features, read like features: relu(w . x - threshold).

The threshold of each is set so that it is on for exactly as many real rows as the feature whose
place it takes. What passes the criterion of a curve detector among them passes without a
dictionary having been learnt.

    encoder    the SAE's own rows of W_enc, read this way in place of TopK: what the reading does
    mixture    each feature's positive decoder weights dealt to other neurons at random: as many
               neurons with the same weights, among neurons that are on at all
    pair       two curve neurons that are neighbours in direction, each over its own scale, weighted
               t and 1 - t with t uniform: what an angle between two detectors costs
    pca        principal components of the rows, each with both signs
    nmf        rows of a non-negative factorisation of the rows (multiplicative updates of Lee and
               Seung 2001, squared error)
    rotated    the SAE's rows of W_enc times one random rotation of the layer's space

Shape legend: R rows, C channels, U directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.curves.criterion import CurveUnits
from isae.randomness import keyed_rng

KINDS = ("encoder", "mixture", "pair", "pca", "nmf", "rotated")
NMF_ROWS, NMF_PARTS, NMF_STEPS = 4096, 256, 60
_CHUNK = 512


@dataclass(frozen=True)
class Readout:
    """relu(w . x - threshold): direction_UC float32; threshold_U; scale_U: the quantile that was
    asked for of its positive values on the real rows.
    """

    direction_UC: F32
    threshold_U: F64
    scale_U: F64

    def chunks(self, x_SC: F32, width: int = 1024) -> Iterator[tuple[int, F64]]:
        """(first, answers float64 [S, U]) to activations of stimuli, `width` units a time."""
        for first in range(0, len(self.direction_UC), width):
            part = slice(first, first + width)
            answers_SU = (x_SC @ self.direction_UC[part].T).astype(np.float64)
            yield first, np.maximum(answers_SU - self.threshold_U[part], 0.0)


def read_out(direction_UC: F32, fires_U: I64, x_RC: F32, quantile: float) -> Readout:
    """Thresholds with which each direction is on for `fires_U` of the rows (equal values apart).

    fires_U: from 1 to R - 1 (others are brought there). The threshold lies midway between the last
    value that is on and the first that is off.
    """
    rows = len(x_RC)
    fires_U = np.clip(fires_U, 1, rows - 1)
    threshold_U, scale_U = np.empty(len(fires_U)), np.empty(len(fires_U))
    order = np.argsort(fires_U, kind="stable")
    for first in range(0, len(order), _CHUNK):
        chosen = order[first : first + _CHUNK]
        value_UR = direction_UC[chosen] @ x_RC.T
        most = int(fires_U[chosen].max()) + 1
        top_UR = np.partition(value_UR, rows - most, axis=1)[:, rows - most :].astype(np.float64)
        top_UR.sort(axis=1)
        every, last = np.arange(len(chosen)), most - fires_U[chosen]
        threshold = (top_UR[every, last] + top_UR[every, last - 1]) / 2
        at = quantile * (fires_U[chosen] - 1)
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, fires_U[chosen] - 1)
        value = top_UR[every, last + low] * (1 - (at - low)) + top_UR[every, last + high] * (
            at - low
        )
        threshold_U[chosen], scale_U[chosen] = threshold, value - threshold
    return Readout(np.ascontiguousarray(direction_UC, np.float32), threshold_U, scale_U)


def control_directions(
    kind: str,
    encoder_UC: F32,
    decoder_UC: F32,
    x_RC: F32,
    neurons: CurveUnits,
    scale_C: F64,
    seed: int,
) -> F32 | None:
    """Directions of one of KINDS -> float32 [any, C], or None where there are none.

    encoder_UC, decoder_UC: rows of the features whose places are taken; neurons, scale_C: the
    measured neurons and their scales, for 'pair'. As many as features, but for 'pca' and 'nmf'.
    """
    rng = keyed_rng(seed, "curve controls", kind)
    if kind == "encoder":
        return encoder_UC
    if kind == "mixture":
        return _mixtures(decoder_UC, x_RC.max(axis=0) > 0, rng)
    if kind == "pair":
        return _pairs(neurons, scale_C, len(decoder_UC), rng)
    if kind == "pca":
        return _principal(x_RC)
    if kind == "nmf":
        return factorise(x_RC[:NMF_ROWS], NMF_PARTS, NMF_STEPS, rng)
    q, r = np.linalg.qr(rng.standard_normal((x_RC.shape[1],) * 2))
    rotation_CC = (q * np.sign(np.diag(r))).astype(np.float32)
    return encoder_UC @ rotation_CC


def match_fires(fires_U: I64, count: int, seed: int, kind: str) -> I64:
    """The features' numbers of rows, as they are or drawn anew where counts differ -> [count]."""
    if count == len(fires_U):
        return fires_U
    return keyed_rng(seed, "curve controls", kind, "fires").choice(fires_U, count)


def _mixtures(decoder_UC: F32, live_C: Bools, rng: np.random.Generator) -> F32:
    weights = np.maximum(decoder_UC[:, live_C], 0.0)
    mixed_UC = np.zeros_like(decoder_UC)
    mixed_UC[:, live_C] = rng.permuted(weights, axis=1)
    return mixed_UC


def _pairs(neurons: CurveUnits, scale_C: F64, count: int, rng: np.random.Generator) -> F32 | None:
    chosen = np.flatnonzero(neurons.detector_N)
    if len(chosen) < 2:
        return None
    ring = chosen[np.argsort(neurons.direction_N[chosen], kind="stable")]
    left = rng.integers(0, len(ring), count)
    part = rng.random(count)
    pair_UC = np.zeros((count, len(scale_C)), dtype=np.float32)
    one, two = ring[left], ring[(left + 1) % len(ring)]
    pair_UC[np.arange(count), one] = part / scale_C[one]
    pair_UC[np.arange(count), two] += (1 - part) / scale_C[two]
    return pair_UC


def _principal(x_RC: F32) -> F32:
    centred_RC = x_RC - x_RC.mean(axis=0)
    covariance_CC = (centred_RC.T @ centred_RC).astype(np.float64) / len(x_RC)
    value_C, vector_CC = np.linalg.eigh(covariance_CC)
    # Directions without variance are read by rounding alone.
    kept_UC = vector_CC.T[value_C > 1e-9 * value_C[-1]][::-1]
    return np.concatenate([kept_UC, -kept_UC]).astype(np.float32)


def factorise(x_RC: F32, parts: int, steps: int, rng: np.random.Generator) -> F32:
    """Non-negative parts whose sums approximate rows x >= 0 -> float32 [P, C], rows of length 1.

    P = min(parts, C, R). Rows that vanish are left out.
    """
    tiny = np.float32(1e-9)
    x_RC = np.maximum(x_RC, 0)
    count = min(parts, *x_RC.shape)
    scale = np.sqrt(x_RC.mean() / count)
    weight_RP = (rng.random((len(x_RC), count)) * scale).astype(np.float32) + tiny
    part_PC = (rng.random((count, x_RC.shape[1])) * scale).astype(np.float32) + tiny
    for _ in range(steps):
        weight_RP *= (x_RC @ part_PC.T) / (weight_RP @ (part_PC @ part_PC.T) + tiny)
        part_PC *= (weight_RP.T @ x_RC) / ((weight_RP.T @ weight_RP) @ part_PC + tiny)
        # Numbers below float32's normal ones would make every later product 100 times as slow.
        np.maximum(weight_RP, tiny, out=weight_RP)
        np.maximum(part_PC, tiny, out=part_PC)
    length_P = np.linalg.norm(part_PC, axis=1)
    kept = length_P > 1e-6 * length_P.max(initial=0.0)
    found: F32 = part_PC[kept] / length_P[kept, None]
    return found
