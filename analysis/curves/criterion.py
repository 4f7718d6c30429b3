"""One criterion of a curve detector, for neurons, features and controls alike.

Answers are taken as max(r, 0). With r_lka the answer in look l to the arc of radius k and direction
a, s_la to the straight stimulus of that tangent, and m_ka the mean of r over looks:

    curve           c_a = mean over looks and radii (arXiv 2406.03662: average over curvature)
    direction       arg(sum_a c_a exp(i a));  selectivity |h_1| / sum_a c_a with harmonics h_1, h_2
    at the direction  the drawn angle nearest to it; there the best radius k* has the largest m_ka

The parts, each a column; a curve detector holds all of them:

    directed        selectivity >= min_selectivity, |h_1| >= min_period |h_2|, and the curve's peak
                    within max_turn of its direction: tuned with period 360, to one direction
    over_straight   contrast of m at k* with the mean of s over looks, (m - s) / (m + s), is at
                    least min_contrast
    over_reversed   the same with m at k* in the opposite direction
    over_corner     the best arc in strokes over the best corner (opening) that points the same way:
                    contrast at least min_corner_contrast
    over_circle     the best arc in strokes (at most half a turn) over the best whole circle that
                    touches the same point: contrast at least min_circle_contrast; a detector of
                    circles or blobs beside the point has a direction, too, and fails here
    invariant       for fill, polarity and colour: at least two levels are answered (their own
                    curve's peak at least level_share of the strongest level's), and each answered
                    level's direction is within max_turn of the unit's
    strong          the largest answer over looks at (k*, direction) is at least min_peak times the
                    unit's own 99th percentile of positive values on real rows
    significant     q <= alpha (Benjamini-Hochberg over the units of the kind) against looks that
                    are turned at random: one curve for each fill (stroke or disc), polarity and
                    colour, meaned over widths and radii, whose near-duplicates thus move together;
                    p of |sum of their first harmonics|, a proven bound on the chance
                    (isae.analysis.tuning.null). Answers in random order are a special case of it.

Shape legend: S stimuli, U units of a chunk, N units, L looks, R radii, A directions, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.stimuli import CurveStimuli
from isae.analysis.multiple import benjamini_hochberg
from isae.analysis.tuning.null import turning_pvalues
from isae.analysis.tuning.radial import measure_curves, phases

PARTS = (
    "directed",
    "over_straight",
    "over_reversed",
    "over_corner",
    "over_circle",
    "invariant",
    "strong",
    "significant",
)


@dataclass(frozen=True)
class CurveUnits:
    """All units of one kind, measured and judged.

    kind: its name; curve_NA: mean answer per direction; columns: {name: float64 [N]}, NaN where not
    defined; parts: {name of PARTS: bool [N]}; tests: units that answered to some arc.
    """

    kind: str
    curve_NA: F64
    columns: dict[str, F64]
    parts: dict[str, Bools]
    tests: int

    @property
    def detector_N(self) -> Bools:
        """Whether all parts hold."""
        held_N: Bools = np.logical_and.reduce([self.parts[name] for name in PARTS], axis=0)
        return held_N

    @property
    def direction_N(self) -> F64:
        """Preferred direction in degrees; NaN for units without one."""
        return self.columns["direction"]

    def detected(self) -> F64:
        """Preferred directions of the curve detectors, in the order of the units."""
        return self.direction_N[self.detector_N]


def measure_units(
    kind: str,
    chunks: Iterable[tuple[int, F64]],
    scale_N: F64,
    stimuli: CurveStimuli,
    config: CurvesConfig,
) -> CurveUnits:
    """Measure and judge every unit of `chunks`: (first unit, answers float64 [S, U]), in order.

    scale_N: each unit's own 99th percentile of positive values on real rows; NaN where it never
    was positive (such units are not strong).
    """
    gathered: dict[str, list[F64]] = {}
    for first, answers_SU in chunks:
        scale_U = scale_N[first : first + answers_SU.shape[1]]
        for name, values in measure_chunk(answers_SU, scale_U, stimuli, config).items():
            gathered.setdefault(name, []).append(values)
    columns = {name: np.concatenate(parts) for name, parts in gathered.items()}
    curve_NA = columns.pop("curve")
    columns["q"] = benjamini_hochberg(columns["p"])
    parts = judge(columns, list(stimuli.levels), config)
    return CurveUnits(kind, curve_NA, columns, parts, int(np.isfinite(columns["p"]).sum()))


def judge(columns: dict[str, F64], factors: list[str], config: CurvesConfig) -> dict[str, Bools]:
    """Which parts of the criterion hold -> {part: bool [N]}; NaN holds nothing."""
    least = config.min_contrast
    varied = [
        (columns[f"{name}_answered"] >= 2) & (columns[f"{name}_turn"] <= config.max_turn)
        for name in factors
    ]
    one_sided = columns["selectivity"] >= config.min_period * columns["selectivity_2"]
    return {
        "directed": (columns["selectivity"] >= config.min_selectivity)
        & one_sided
        & (columns["peak_turn"] <= config.max_turn),
        "over_straight": columns["straight_contrast"] >= least,
        "over_reversed": columns["reversed_contrast"] >= least,
        "over_corner": columns["corner_contrast"] >= config.min_corner_contrast,
        "over_circle": columns["circle_contrast"] >= config.min_circle_contrast,
        "invariant": np.logical_and.reduce(varied)
        if varied
        else np.ones(len(columns["q"]), dtype=np.bool_),
        "strong": columns["peak_share"] >= config.min_peak,
        "significant": columns["q"] <= config.alpha,
    }


def measure_chunk(
    answers_SU: F64, scale_U: F64, stimuli: CurveStimuli, config: CurvesConfig
) -> dict[str, F64]:
    """The columns of some units; 'curve' is [U, A], all others [U]."""
    positive_SU = np.maximum(answers_SU, 0.0)
    arc_LRAU = positive_SU[stimuli.arc_LRA]
    looks_LAU = arc_LRAU.mean(axis=1)
    curve_AU = looks_LAU.mean(axis=0)
    found = measure_curves(curve_AU, 360)
    p_U = direction_pvalues(looks_LAU, stimuli.part_L)
    columns = {
        "curve": curve_AU.T,
        "direction": found.vector_U,
        "peak": found.peak_U,
        "peak_turn": turn_between(found.peak_U, found.vector_U),
        "half_width": found.half_width_U,
        "selectivity": found.selectivity_2U[0],
        "selectivity_2": found.selectivity_2U[1],
        "p": p_U,
    }
    columns |= _compared(positive_SU, arc_LRAU, found.vector_U, stimuli)
    with np.errstate(invalid="ignore", divide="ignore"):
        columns["peak_share"] = np.where(scale_U > 0, columns["best_answer"] / scale_U, np.nan)
    for name, values_L in stimuli.levels.items():
        answered_U, turn_U = level_turns(looks_LAU, values_L, found.vector_U, config.level_share)
        columns[f"{name}_answered"], columns[f"{name}_turn"] = answered_U, turn_U
    return columns


def _compared(
    positive_SU: F64, arc_LRAU: F64, direction_U: F64, stimuli: CurveStimuli
) -> dict[str, F64]:
    """The best arc at the direction, and what it is compared with."""
    directions, units = arc_LRAU.shape[2:]
    every_U = np.arange(units)
    defined_U = np.isfinite(direction_U)
    at_U = np.rint(np.where(defined_U, direction_U, 0) * directions / 360).astype(int) % directions
    back_U = (at_U + directions // 2) % directions
    here_LRU = arc_LRAU[:, :, at_U, every_U]
    best_U = here_LRU.mean(axis=0).argmax(axis=0)
    arc_U = here_LRU.mean(axis=0)[best_U, every_U]
    reversed_U = arc_LRAU[:, best_U, back_U, every_U].mean(axis=0)
    straight_U = positive_SU[stimuli.straight_LA[:, at_U], every_U].mean(axis=0)
    corner_U = positive_SU[stimuli.corner_KOA[:, :, at_U], every_U].mean(axis=0).max(axis=0)
    circle_U = positive_SU[stimuli.circle_KQA[:, :, at_U], every_U].mean(axis=0).max(axis=0)
    stroke_U = here_LRU[stimuli.stroke_K].mean(axis=0).max(axis=0)
    found = {
        "radius": stimuli.radii_R[best_U],
        "best_answer": here_LRU[:, best_U, every_U].max(axis=0),
        "straight_contrast": contrast(arc_U, straight_U),
        "reversed_contrast": contrast(arc_U, reversed_U),
        "corner_contrast": contrast(stroke_U, corner_U),
        "circle_contrast": contrast(stroke_U, circle_U),
    }
    return {name: np.where(defined_U, values, np.nan) for name, values in found.items()}


def level_turns(
    looks_LAU: F64,
    values_L: npt.NDArray[np.str_],
    direction_U: F64,
    share: float,
) -> tuple[F64, F64]:
    """(levels of a factor that are answered [U], the largest turn of their directions [U]).

    A level without a direction of its own (a flat curve) turns by 180 degrees. NaN turn where no
    level is answered or the unit has no direction.
    """
    curve_VAU = np.stack([looks_LAU[values_L == one].mean(axis=0) for one in np.unique(values_L)])
    peak_VU = curve_VAU.max(axis=1)
    answered_VU = (peak_VU >= share * peak_VU.max(axis=0)) & (peak_VU > 0)
    turns = [
        np.nan_to_num(turn_between(measure_curves(one, 360).vector_U, direction_U), nan=180.0)
        for one in curve_VAU
    ]
    turn_U = np.where(answered_VU, np.stack(turns), -1.0).max(axis=0)
    undefined_U = (turn_U < 0) | ~np.isfinite(direction_U)
    return answered_VU.sum(axis=0).astype(np.float64), np.where(undefined_U, np.nan, turn_U)


def direction_pvalues(looks_LAU: F64, part_L: I64) -> F64:
    """P-value of the first harmonic against parts turned at random -> [U]; NaN for silent units.

    part_L: the part, from 0, that each look belongs to. A unit that answers to all directions
    alike has p = 1.
    """
    count = looks_LAU.shape[1]
    z_LU = np.tensordot(phases(count, (1,))[0], looks_LAU, (0, 1))
    z_PU = np.stack([z_LU[part_L == part].sum(axis=0) for part in np.unique(part_L)])
    # What rounding leaves of a flat curve is no direction.
    z_PU[np.abs(z_PU) <= 1e-9 * looks_LAU.sum(axis=(0, 1))] = 0
    silent_U = looks_LAU.max(axis=(0, 1)) <= 0
    return np.where(silent_U, np.nan, turning_pvalues(z_PU, count))


def contrast(a: F64, b: F64) -> F64:
    """(a - b) / (a + b) of values >= 0; NaN where both are 0."""
    total = a + b
    found: F64 = np.full(np.shape(total), np.nan)
    np.divide(a - b, total, out=found, where=total > 0)
    return found


def turn_between(a: npt.ArrayLike, b: npt.ArrayLike) -> F64:
    """Degrees between directions, 0 to 180."""
    found: F64 = np.abs((np.asarray(a, np.float64) - np.asarray(b, np.float64) + 180) % 360 - 180)
    return found
