"""Is a unit tuned to an angle at all, and do its blocks agree on which? Two nulls, far tails.

Statistic of harmonic m = 1, 2, with r_ba the answer of block b at angle a, z_bm = sum_a r_ba
exp(2 pi i m a / A) and Z_m = sum_b z_bm:

    shuffled orientations   within each block every order of the A answers is equally likely;
        t = |Z|^2 / V,  V = A / (A - 1) sum_b sum_a (r_ba - mean_a r_ba)^2 = E |Z|^2, exactly
    rotated blocks          each block's curve is turned by a random step, so that blocks keep
        their smoothness and lose their agreement;  t = |Z|^2 / sum_b |z_bm|^2

Rotated: with j < A / gcd(m, A), E t^j <= j! (the moments of Z are at most those of a complex
normal number: (j! / prod k_b!)^2 <= j! * j! / prod k_b!), so by Markov's inequality

    p = min over j of j! / t^j  >=  P(T >= t)

holds for any number of blocks and any curves, without a floor from a number of draws. Within
sqrt(2 pi t) of exp(-t), the limit for many blocks. Shuffled: the same formula; there the bound on
the moments is not a theorem, so `audit` counts it on shuffles of this run, which share the draws of
angles among units. The p of a unit and family is the smaller of the two harmonics', times 2.

Stimuli of neighbouring angles are alike: smoothness alone makes a unit of one block 'tuned' against
shuffled orientations, and that is meant (it has an angle there); against rotated blocks it is not.
Pixels favour the axes, so a unit can have a tiny true preference: judge the selectivity, too.

Shape legend: B blocks, A angles, U units, D draws, M harmonics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isae.analysis.arrays import F64, I64
from isae.analysis.tuning.radial import FLAT, HARMONICS, AngleDesign, phases
from isae.randomness import keyed_rng

AUDIT_LEVELS = (0.05, 0.01, 0.001, 0.0001)


def tail_bound(t: npt.ArrayLike, most: int) -> F64:
    """min(1, min over j <= most of j! / t^j): at least P(T >= t) where E T^j <= j!; NaN stays."""
    t = np.asarray(t, dtype=np.float64)
    best = np.zeros_like(t)
    with np.errstate(divide="ignore"):
        log_t = np.log(t)
    for j in range(1, most + 1):
        best = np.minimum(best, math.lgamma(j + 1) - j * log_t)
    p: F64 = np.where(np.isnan(t), np.nan, np.exp(best))
    return p


def moments_held(count: int, harmonic: int) -> int:
    """Up to which j the moments of a harmonic over `count` angles are bounded: A/gcd(m, A) - 1."""
    return count // math.gcd(harmonic, count) - 1


@dataclass(frozen=True)
class Shuffles:
    """Draws of the shuffled null, the same for all units.

    weight_DM2S: float64, real and imaginary part of the phases that each draw deals to the S = B A
    stimuli, block by block.
    """

    weight_DM2S: F64

    @staticmethod
    def make(design: AngleDesign, draws: int, seed: int) -> Shuffles:
        """`draws` shuffles of each block's angles, from a seed and the family's name."""
        rng = keyed_rng(seed, "shuffled orientations", design.family)
        blocks, count = design.index_BA.shape
        order_DBA: I64 = np.argsort(rng.random((draws, blocks, count)), axis=2)
        weight_DMS = phases(count, HARMONICS)[:, order_DBA.reshape(draws, -1)].swapaxes(0, 1)
        return Shuffles(np.stack([weight_DMS.real, weight_DMS.imag], axis=2))

    def squares(self, answers_SU: F64) -> F64:
        """|Z|^2 of shuffled answers -> float64 [D, M, U]."""
        draws, harmonics = self.weight_DM2S.shape[:2]
        flat = self.weight_DM2S.reshape(-1, len(answers_SU)) @ answers_SU
        square_DMU: F64 = (flat.reshape(draws, harmonics, 2, -1) ** 2).sum(axis=2)
        return square_DMU


@dataclass
class Audit:
    """How often shuffled answers reach p <= each of AUDIT_LEVELS: `trials`, `below`."""

    trials: int
    below: list[int]

    @staticmethod
    def empty() -> Audit:
        """Nothing counted yet."""
        return Audit(0, [0] * len(AUDIT_LEVELS))

    def add(self, p: F64) -> None:
        """Count the p-values of shuffled answers; NaN are no trials."""
        p = p[np.isfinite(p)]
        self.trials += len(p)
        self.below = [
            count + int((p <= level).sum())
            for count, level in zip(self.below, AUDIT_LEVELS, strict=True)
        ]

    def report(self) -> dict[str, object]:
        """The counts, and the share found over the share allowed at each level."""
        ratios = [
            count / self.trials / level if self.trials else None
            for count, level in zip(self.below, AUDIT_LEVELS, strict=True)
        ]
        held = all(ratio is None or ratio <= 1 for ratio in ratios)
        return {
            "shuffled_answers": self.trials,
            "levels": list(AUDIT_LEVELS),
            "at_or_below": self.below,
            "found_over_allowed": ratios,
            "held": held,
        }


def tuning_pvalues(
    positive_BAU: F64, shuffles: Shuffles | None = None, audit: Audit | None = None
) -> tuple[F64, F64]:
    """(p against shuffled orientations, p against rotated blocks), each float64 [U].

    positive_BAU: answers >= 0 of a family's stimuli. A unit that answers to nothing is not tested
    (NaN); one that answers to all angles alike has p = 1. With `shuffles` the shuffled null is
    drawn as well, and its p-values are counted in `audit`.
    """
    count = positive_BAU.shape[1]
    limits = [moments_held(count, harmonic) for harmonic in HARMONICS]
    phase_MA = phases(count, HARMONICS)
    spread_BU = ((positive_BAU - positive_BAU.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    expected_U = spread_BU.sum(axis=0) * count / (count - 1)
    answers_U = positive_BAU.max(axis=(0, 1)) > 0
    square_U = (positive_BAU**2).sum(axis=(0, 1))
    flat_U = expected_U <= FLAT * square_U
    z_MBU = np.stack([np.tensordot(phase, positive_BAU, (0, 1)) for phase in phase_MA])
    z_squared_MU = np.abs(z_MBU.sum(axis=1)) ** 2
    shuffled = _both(_ratio(z_squared_MU, expected_U, flat_U), limits)
    steps_MU = (np.abs(z_MBU) ** 2).sum(axis=1)
    without_MU = flat_U | (steps_MU <= FLAT * square_U)
    rotated = _both(_ratio(z_squared_MU, steps_MU, without_MU), limits)
    if shuffles is not None and audit is not None:
        tested = answers_U & ~flat_U
        answers_SU = positive_BAU.reshape(-1, len(tested))[:, tested]
        square_DMU = shuffles.squares(answers_SU)
        audit.add(_both((square_DMU / expected_U[tested]).swapaxes(0, 1), limits))
    silent_U = ~answers_U
    return np.where(silent_U, np.nan, shuffled), np.where(silent_U, np.nan, rotated)


def _ratio(square_MU: F64, expected: F64, none: npt.NDArray[np.bool_]) -> F64:
    """Of the same shape; 0 where `none`: nothing that could be tuned."""
    t_MU = np.zeros_like(square_MU)
    shape = square_MU.shape
    where = ~np.broadcast_to(none, shape)
    np.divide(square_MU, np.broadcast_to(expected, shape), out=t_MU, where=where)
    return t_MU


def _both(t_MU: F64, limits: list[int]) -> F64:
    """The smaller p of the harmonics, times their number, at most 1; the first axis goes."""
    p_MU = np.stack([tail_bound(t, most) for t, most in zip(t_MU, limits, strict=True)])
    best: F64 = np.minimum(len(limits) * p_MU.min(axis=0), 1.0)
    return best
