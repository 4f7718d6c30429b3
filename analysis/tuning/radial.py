"""Radial tuning of units: curves over orientation, preferences, widths, invariances.

Responses are taken as max(r, 0). A family of stimuli with angles theta_a, a = 0 .. A-1, over a
period P is a table of blocks (all other factors fixed) x angles. For each unit

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
from isae.analysis.tuning.stimuli import FACTORS, PERIODS, StimulusSet
from isae.errors import DataError

HARMONICS = (1, 2)
FLAT = 1e-18
"""Variance over squared mean below which answers differ by rounding alone."""

MODES = (1, 2, 3, 4)
REPORTED = ("radius", "width", "fill", "polarity", "colour", "frequency", "phase", "opening")
"""Factors whose part in a unit's answers is told; the others follow from them."""

FACTORS_OF_BLOCKS = tuple(name for name in FACTORS if name not in ("family", "orientation"))


@dataclass(frozen=True)
class AngleDesign:
    """Which stimuli of a set are a family's blocks x angles.

    period in degrees; angles_A in degrees, evenly spaced from 0; index_BA: int64, numbers of
    stimuli; levels: {factor: its value in each block [B]}, those of REPORTED that vary.
    """

    family: str
    period: float
    angles_A: F64
    index_BA: I64
    levels: dict[str, npt.NDArray[np.generic]]


def angle_design(stimuli: StimulusSet, family: str) -> AngleDesign | None:
    """The design of a family with an angle; None where the set has no stimuli of it.

    Raises DataError unless each block has each angle once, evenly spaced over the period.
    """
    chosen = np.flatnonzero(stimuli.column("family") == family)
    if not len(chosen):
        return None
    period = float(PERIODS[family])
    keys: dict[tuple[object, ...], list[int]] = {}
    for number in chosen.tolist():
        one = stimuli.stimuli[number]
        # NaN is not equal to itself, but its text is.
        key = tuple(repr(getattr(one, name)) for name in FACTORS_OF_BLOCKS)
        keys.setdefault(key, []).append(number)
    orientation = stimuli.column("orientation")
    angles_A = np.unique(orientation[chosen])
    even = np.arange(len(angles_A)) * period / len(angles_A)
    blocks = [sorted(block, key=lambda number: orientation[number]) for block in keys.values()]
    full = all(np.array_equal(orientation[block], angles_A) for block in blocks)
    if not (full and np.allclose(angles_A, even)):
        raise DataError(
            f"expected every block of '{family}' to have the same evenly spaced angles over "
            f"{period:g} degrees, found others; make the set with make_stimuli"
        )
    index_BA = np.array(blocks, dtype=np.int64)
    values = {name: stimuli.column(name)[index_BA[:, 0]] for name in REPORTED}
    levels = {name: one for name, one in values.items() if len(_level_masks(one)) > 1}
    return AngleDesign(family, period, angles_A, index_BA, levels)


def positive_blocks(responses_SU: F64, design: AngleDesign) -> F64:
    """max(r, 0) of a family's stimuli -> float64 [B, A, U]."""
    positive_BAU: F64 = np.maximum(responses_SU[design.index_BA], 0.0)
    return positive_BAU


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
    shaped_U = high_U - low_U > 1e-9 * np.maximum(high_U, 1e-300)
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
        masks = _level_masks(values_B)
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
    masks = _level_masks(design.levels[factor])
    curve_LAU = np.stack([positive_BAU[mask].mean(axis=0) for mask in masks])
    mean_U = curve_LAU.mean(axis=(0, 1))
    total_U = ((curve_LAU - mean_U) ** 2).sum(axis=(0, 1))
    shared_U = len(masks) * ((curve_LAU.mean(axis=0) - mean_U) ** 2).sum(axis=0)
    return _part(shared_U, total_U, total_U > FLAT * curve_LAU[..., 0].size * mean_U**2)


def radius_curves(positive_BAU: F64, design: AngleDesign) -> tuple[F64, F64]:
    """Mean answer to arcs of each radius at each unit's peak angle -> (radii [L], float64 [L, U]).

    The peak is that of the curve over all radii; radii in pixels, rising.
    """
    radius_B = np.asarray(design.levels.get("radius", np.zeros(len(positive_BAU))), np.float64)
    radii_L = np.unique(radius_B)
    peak_U = positive_BAU.mean(axis=0).argmax(axis=0)
    at_BU = np.take_along_axis(positive_BAU, peak_U[None, None, :], axis=1)[:, 0]
    return radii_L, np.stack([at_BU[radius_B == radius].mean(axis=0) for radius in radii_L])


def fourier_modes(curve_AU: F64, modes: tuple[int, ...] = MODES) -> F64 | None:
    """Share of each Fourier mode in the population's variance over angles -> float64 [modes].

    Power of mode m: sum over the units of |sum_a c_a exp(2 pi i m a / A)|^2, twice that below A/2
    (its mirror image); divided by the power of all modes but 0. None where all curves are flat.
    """
    count = len(curve_AU)
    power = (np.abs(np.fft.rfft(curve_AU, axis=0)) ** 2).sum(axis=1)
    power[1 : (count + 1) // 2] *= 2
    total = power[1:].sum()
    if not total > FLAT * power[0]:
        return None
    held: F64 = np.array([power[mode] if mode < len(power) else 0.0 for mode in modes]) / total
    return held


def _part(square_U: F64, total_U: F64, where_U: Bools) -> F64:
    part_U: F64 = np.full(len(total_U), np.nan)
    np.divide(square_U, total_U, out=part_U, where=where_U)
    return part_U


def _level_masks(values_B: npt.NDArray[np.generic]) -> list[Bools]:
    """Which blocks have each different value, in rising order; NaN and '' are no values."""
    different = [one for one in np.unique(values_B).tolist() if one == one and one != ""]
    return [values_B == one for one in different]
