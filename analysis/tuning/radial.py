"""Radial tuning of units: curves over orientation, preferences, widths, invariances.

Responses are taken as max(r, 0). Over the blocks (all factors but the angle fixed) of one look (one
polarity and fill; see design.py), with angles theta_a, a = 0 .. A-1, over a period P, each unit has

    curve            c_a = mean of r over the blocks (as arXiv 2406.03662: average over curvature)
    harmonic         h_m = sum_a c_a exp(2 pi i m a / A),   m = 1, 2
    selectivity      |h_m| / sum_a c_a                      in [0, 1]; 1: one angle only (m = 1)
    vector angle     arg(h_1) P / (2 pi)                    mean direction, in [0, P)
    peak             theta of the largest c_a, the first of equals
    half-width       mean distance from the peak, to both sides, to where the curve, linear between
                     angles, first falls to (max + min) / 2; degrees
    axis             arg(h_2) P / (4 pi), in [0, P / 2): of units with two opposite peaks

Shape legend: S stimuli, B blocks, A angles, U units, L levels of a factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.tuning.design import AngleDesign as AngleDesign
from isae.analysis.tuning.design import angle_design as angle_design
from isae.analysis.tuning.design import level_masks
from isae.analysis.tuning.design import positive_blocks as positive_blocks

HARMONICS = (1, 2)
FLAT = 1e-12
"""Variance over squared mean below which answers, of 24 bits, differ by rounding alone."""

SHAPED = 1e-5
"""Range over maximum below which a curve counts as flat."""

MODES = (1, 2, 3, 4)


@dataclass(frozen=True)
class CurveMeasures:
    """What the module's head defines, [U] each (selectivity_2U per harmonic); degrees.

    NaN where the unit never answers; vector angle, axis, peak and half-width also where its curve
    is flat.
    """

    selectivity_2U: F64
    vector_U: F64
    axis_U: F64
    peak_U: F64
    half_width_U: F64


def measure_curves(curve_AU: F64, period: float) -> CurveMeasures:
    """Preferences and widths of curves float64 [A, U] >= 0, evenly spaced over `period` degrees."""
    count = len(curve_AU)
    total_U = curve_AU.sum(axis=0)
    high_U, low_U = curve_AU.max(axis=0), curve_AU.min(axis=0)
    # Flat to rounding counts as flat: a peak of the last bit is no preference.
    shaped_U = high_U - low_U > SHAPED * np.maximum(high_U, 1e-300)
    harmonic_2U = phases(count, HARMONICS) @ curve_AU
    with np.errstate(invalid="ignore", divide="ignore"):
        selectivity_2U = np.where(total_U > 0, np.abs(harmonic_2U) / total_U, np.nan)
    turn_2U = np.angle(harmonic_2U) / (2 * np.pi) / np.array(HARMONICS)[:, None] * period
    peak_U = curve_AU.argmax(axis=0) * period / count
    # The remainder of a tiny negative angle may round up to the whole period.
    vector_U = turn_2U[0] % period % period
    axis_U = turn_2U[1] % (period / 2) % (period / 2)
    width_U = half_widths(curve_AU, period)
    vector_U, axis_U, peak_U, width_U = (
        np.where(shaped_U, one, np.nan) for one in (vector_U, axis_U, peak_U, width_U)
    )
    return CurveMeasures(selectivity_2U, vector_U, axis_U, peak_U, width_U)


def phases(count: int, modes: tuple[int, ...]) -> npt.NDArray[np.complex128]:
    """exp(2 pi i m a / A) -> complex128 [modes, A]."""
    turn = np.outer(modes, np.arange(count)) % count / count
    found: npt.NDArray[np.complex128] = np.exp(2j * np.pi * turn)
    return found


def half_widths(curve_AU: F64, period: float) -> F64:
    """Half-width at half height in degrees [U], as in the module's head; NaN for flat curves."""
    count, units = curve_AU.shape
    peak_U, every_U = curve_AU.argmax(axis=0), np.arange(units)
    level_U = (curve_AU.max(axis=0) + curve_AU.min(axis=0)) / 2
    sides = np.full((2, units), np.nan)
    for side, step in enumerate((1, -1)):
        before_U = curve_AU[peak_U, every_U]
        for far in range(1, count):
            after_U = curve_AU[(peak_U + step * far) % count, every_U]
            crossed = np.isnan(sides[side]) & (after_U <= level_U) & (before_U > level_U)
            fall_U = np.where(crossed, before_U - after_U, 1.0)
            sides[side] = np.where(crossed, far - 1 + (before_U - level_U) / fall_U, sides[side])
            before_U = after_U
    width_U: F64 = sides.mean(axis=0) * period / count
    return width_U


def variance_shares(positive_BAU: F64, design: AngleDesign) -> dict[str, F64]:
    """Part of the variance over a family's stimuli that each factor's means explain -> [U] each.

    eta^2 of factor f: sum over its levels of n_l (mean_l - mean)^2, over the total sum of squares
    of the family; 'orientation' and the factors that vary. Main effects only. Stimuli to which a
    factor does not apply (a disc has no width) are left out of that factor's sum and its mean.
    Where levels have unequal numbers of stimuli the factors overlap. NaN where the unit's answer
    does not vary.
    """
    blocks, count, _ = positive_BAU.shape
    mean_U = positive_BAU.mean(axis=(0, 1))
    total_U = ((positive_BAU - mean_U) ** 2).sum(axis=(0, 1))
    varies_U = total_U > FLAT * blocks * count * mean_U**2
    sums = {"orientation": blocks * ((positive_BAU.mean(axis=0) - mean_U) ** 2).sum(axis=0)}
    block_BU = positive_BAU.mean(axis=1)
    for name, values_B in design.levels.items():
        masks = level_masks(values_B)
        middle_U = block_BU[np.any(masks, axis=0)].mean(axis=0)
        squares = [mask.sum() * (block_BU[mask].mean(axis=0) - middle_U) ** 2 for mask in masks]
        sums[name] = count * np.sum(squares, axis=0)
    return {name: _part(squares_U, total_U, varies_U) for name, squares_U in sums.items()}


def invariance(positive_BAU: F64, design: AngleDesign, factor: str) -> F64:
    """How far a unit's curve is the same at every level of a factor -> [U] in [0, 1].

    With c_la the mean curve at level l: the sum of squares of orientation over those of
    orientation, level and their interaction, A-way by L-way without replicates. 1: the same curve
    at each level; 1 / L or less: one level only. NaN where the factor does not vary or no curve
    does.
    """
    if factor not in design.levels:
        return np.full(positive_BAU.shape[2], np.nan)
    masks = level_masks(design.levels[factor])
    curve_LAU = np.stack([positive_BAU[mask].mean(axis=0) for mask in masks])
    mean_U = curve_LAU.mean(axis=(0, 1))
    total_U = ((curve_LAU - mean_U) ** 2).sum(axis=(0, 1))
    shared_U = len(masks) * ((curve_LAU.mean(axis=0) - mean_U) ** 2).sum(axis=0)
    cells = curve_LAU.shape[0] * curve_LAU.shape[1]
    return _part(shared_U, total_U, total_U > FLAT * cells * mean_U**2)


def radius_curves(
    positive_BAU: F64, responses_SU: F64, design: AngleDesign, peak_U: I64, radii_L: F64
) -> F64:
    """Mean answer at each unit's peak to arcs of each radius -> float64 [L, U]; NaN: none shown.

    design: arcs of one look; peak_U: number of each unit's angle; radii_L in pixels; the last one
    infinite: the lines or edges of the same look and tangent.
    """
    units = np.arange(len(peak_U))
    at_BU = positive_BAU[:, peak_U, units]
    straight_B = np.flatnonzero((design.straight_BA >= 0).all(axis=1))
    straight_CU = np.maximum(responses_SU[design.straight_BA[straight_B][:, peak_U], units], 0.0)
    groups = [at_BU[design.radius_B == radius] for radius in radii_L[:-1]]
    found = [one.mean(axis=0) if len(one) else _unknown(units) for one in (*groups, straight_CU)]
    return np.stack(found)


def _unknown(units: I64) -> F64:
    return np.full(len(units), np.nan)


def fourier_modes(
    curve_AU: F64, modes: tuple[int, ...] = MODES, *, alike: bool = False
) -> F64 | None:
    """Share of each Fourier mode in the population's variance over angles -> float64 [modes].

    Power of mode m: sum over the units of |sum_a c_a exp(2 pi i m a / A)|^2, twice that below A/2
    (its mirror image); divided by the power of all modes but 0. alike: every unit's power over its
    own variance first, so that all weigh alike; otherwise a strong unit weighs by its square. None
    where all curves are flat.
    """
    count = len(curve_AU)
    power_MU = np.abs(np.fft.rfft(curve_AU, axis=0)) ** 2
    power_MU[1 : (count + 1) // 2] *= 2
    varies_U = power_MU[1:].sum(axis=0) > FLAT * power_MU[0]
    if not varies_U.any():
        return None
    power_MU = power_MU[1:, varies_U]
    power_M = (power_MU / power_MU.sum(axis=0) if alike else power_MU).sum(axis=1)
    held = [power_M[mode - 1] if mode <= len(power_M) else 0.0 for mode in modes]
    found: F64 = np.array(held) / power_M.sum()
    return found


def _part(square_U: F64, total_U: F64, where_U: Bools) -> F64:
    part_U: F64 = np.full(len(total_U), np.nan)
    np.divide(square_U, total_U, out=part_U, where=where_U)
    return part_U
