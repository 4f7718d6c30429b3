"""One family's tuning of a chunk of units: curves of their strongest look, tests, invariances.

Shape legend: S stimuli, B blocks, A angles, K looks, M harmonics, U units of a chunk, V of them in
one look, N all units, L radii (the last one infinite: straight).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.tuning.design import OF_LOOKS, AngleDesign, level_masks, positive_blocks
from isae.analysis.tuning.null import (
    ANSWERING,
    RESOLUTION,
    smallest_pvalues,
    turning_pvalues,
    turns,
)
from isae.analysis.tuning.radial import (
    HARMONICS,
    invariance,
    measure_curves,
    phases,
    radius_curves,
    variance_shares,
)

OWN_THRESHOLD = 0.1
"""Quantile of a unit's positive codes that stands for the least code it can have."""


@dataclass(frozen=True)
class FamilyTuning:
    """One family's findings on all units; all but variance, invariance, polarity and fill of the
    unit's strongest look: the one with the largest mean answer.

    look_N: its number in design.looks, -1 for units that never answer; look_curves_NKA: mean answer
    per angle in every look, curve_NA in the strongest; selectivity_NM per harmonic; angles and
    widths in degrees (NaN where undefined, see radial.py); p_NM: do some blocks agree on an angle;
    p_agree_NM: do all levels of every factor that can be tested (NaN: none can); factors:
    {factor: p [N, M]}; variance and invariance: {factor: [N]}; radii_L and radius_NL (arcs): the
    radius curve at the peak angle; peak_answer_N: largest answer to the family; ground_N: answer to
    the look's bare ground (NaN: not shown); uncontested_NM: selectivity of the codes as they would
    be without competition for k, off_NM: by how many degrees its angle is off (NaN: not measured).
    """

    design: AngleDesign
    look_N: I64
    look_curves_NKA: F32
    curve_NA: F64
    selectivity_NM: F64
    vector_N: F64
    axis_N: F64
    peak_N: F64
    half_width_N: F64
    p_NM: F64
    p_agree_NM: F64
    factors: dict[str, F64]
    variance: dict[str, F64]
    invariance: dict[str, F64]
    radii_L: F64
    radius_NL: F64
    peak_answer_N: F64
    ground_N: F64
    uncontested_NM: F64
    off_NM: F64

    @property
    def best_radius_N(self) -> F64:
        """The radius of the largest mean answer at the peak angle (infinite: straight ones answer
        at least as much); NaN for silent units.
        """
        straight_first_NL = np.nan_to_num(self.radius_NL[:, ::-1], nan=-1.0)
        best_N = self.radii_L[::-1][straight_first_NL.argmax(axis=1)]
        return np.where(straight_first_NL.max(axis=1) > 0, best_N, np.nan)

    def look_number(self, name: str) -> int | None:
        """The number of a look, e.g. 'dark stroke'; None where the family has none of that name."""
        return self.design.looks.index(name) if name in self.design.looks else None


@dataclass
class Gathered:
    """Pieces of a family's columns, chunk by chunk."""

    design: AngleDesign
    min_selectivity: float
    columns: dict[str, list[F64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = [self.design.of_look(number) for number in range(len(self.design.looks))]
        radii_L = np.unique(self.design.radius_B[np.isfinite(self.design.radius_B)])
        self.radii_L = np.append(radii_L, np.inf)
        self.factors = sorted({name for part in self.parts for name in part.levels})

    def add(self, responses_SU: F64, raw_SU: F64 | None) -> None:
        """Measure a chunk: answers [S, U], and pre-activations [S, U] where codes compete."""
        positive_BAU = positive_blocks(responses_SU, self.design)
        mean_KU = np.stack([positive_BAU[self.design.look_B == k].mean(axis=(0, 1))
                            for k in range(len(self.parts))])  # fmt: skip
        look_U = np.where(mean_KU.max(axis=0) > 0, mean_KU.argmax(axis=0), -1)
        found = self._whole_family(responses_SU, positive_BAU, look_U)
        for number, part in enumerate(self.parts):
            mine_U = np.flatnonzero(look_U == number)
            blocks_BAV = positive_BAU[self.design.look_B == number][:, :, mine_U]
            answers_SV = responses_SU[:, mine_U]
            raw_SV = None if raw_SU is None else raw_SU[:, mine_U]
            for name, values in self._look(part, blocks_BAV, answers_SV, raw_SV).items():
                found.setdefault(name, np.full((len(look_U), *values.shape[1:]), np.nan))
                found[name][mine_U] = values
        for name, values in found.items():
            self.columns.setdefault(name, []).append(values)

    def _whole_family(self, responses_SU: F64, positive_BAU: F64, look_U: I64) -> dict[str, F64]:
        """What is told of all looks together."""
        curve_KAU = np.stack(
            [
                positive_BAU[self.design.look_B == k].mean(axis=0)
                for k in range(len(self.design.looks))
            ]
        )
        ground_KU = np.full((len(self.design.looks), len(look_U)), np.nan)
        shown_K = np.flatnonzero(self.design.ground_K >= 0)
        ground_KU[shown_K] = np.maximum(responses_SU[self.design.ground_K[shown_K]], 0.0)
        found = {
            "look": look_U.astype(np.float64),
            "look_curves": curve_KAU.transpose(2, 0, 1),
            "peak_answer": responses_SU[self.design.index_BA].max(axis=(0, 1)).clip(0.0),
            "ground": ground_KU[look_U, np.arange(len(look_U))],
        }
        shares = variance_shares(positive_BAU, self.design)
        found |= {f"variance {name}": share for name, share in shares.items()}
        for name in set(OF_LOOKS) & set(self.design.levels):
            found[f"invariance {name}"] = invariance(positive_BAU, self.design, name)
        return found

    def _look(
        self, part: AngleDesign, positive_BAV: F64, answers_SV: F64, raw_SV: F64 | None
    ) -> dict[str, F64]:
        """What is told of units whose strongest look this is."""
        curve_AV = positive_BAV.mean(axis=0)
        measured = measure_curves(curve_AV, part.period)
        shaped_V = np.isfinite(measured.peak_U)
        selective_VM = (measured.selectivity_2U >= self.min_selectivity).T & shaped_V[:, None]
        found = {
            "curve": curve_AV.T,
            "selectivity": measured.selectivity_2U.T,
            "vector": measured.vector_U,
            "axis": measured.axis_U,
            "peak": measured.peak_U,
            "half_width": measured.half_width_U,
        }
        found |= _tests(part, positive_BAV, shaped_V, selective_VM, self.factors)
        for name in set(self.factors) - set(OF_LOOKS):
            found[f"invariance {name}"] = invariance(positive_BAV, part, name)
        found["radius"] = np.full((len(shaped_V), len(self.radii_L)), np.nan)
        if part.family == "arc":
            peak_V = curve_AV.argmax(axis=0)
            found["radius"] = radius_curves(positive_BAV, answers_SV, part, peak_V, self.radii_L).T
        found["uncontested"], found["off"] = _uncontested(part, answers_SV, raw_SV, selective_VM)
        return found

    def whole(self) -> FamilyTuning:
        """The family's findings on all units that were added."""
        c = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        named = {
            kind: {name.split()[1]: c[name] for name in c if name.startswith(f"{kind} ")}
            for kind in ("variance", "invariance", "factor")
        }
        look_N = c["look"].astype(np.int64)
        silent_N = look_N < 0
        # Silent units were in no look: their curves are 0, not unknown.
        c["curve"][silent_N] = 0.0
        return FamilyTuning(
            self.design, look_N, c["look_curves"].astype(np.float32), c["curve"],
            c["selectivity"], c["vector"], c["axis"], c["peak"], c["half_width"],
            c["p"], c["p_agree"], named["factor"], named["variance"], named["invariance"],
            self.radii_L, c["radius"], c["peak_answer"], c["ground"], c["uncontested"], c["off"],
        )  # fmt: skip


def _tests(
    part: AngleDesign,
    positive_BAV: F64,
    shaped_V: Bools,
    selective_VM: Bools,
    factors: list[str],
) -> dict[str, F64]:
    """Chances of blocks and of every factor's levels, per harmonic.

    p = 1 where a unit answers but is not selective (raising a p keeps it valid), so that what is
    called tuned after the correction is what the correction was made for; NaN where its curve is
    flat to rounding.
    """
    _, count, units = positive_BAV.shape
    phase_MA = phases(count, HARMONICS)
    p_VM = np.where(shaped_V[:, None], np.ones((units, len(HARMONICS))), np.nan)
    tests = {"p": p_VM, "p_agree": np.full(p_VM.shape, np.nan)}
    tests |= {f"factor {name}": np.full(p_VM.shape, np.nan) for name in factors}
    masks = {name: level_masks(values_B) for name, values_B in part.levels.items()}
    level_means = {
        name: np.stack([positive_BAV[mask].mean(axis=(0, 1)) for mask in one])
        for name, one in masks.items()
    }
    for m, harmonic in enumerate(HARMONICS):
        candidates = np.flatnonzero(selective_VM[:, m])
        z_BV = np.tensordot(phase_MA[m], positive_BAV, (0, 1))
        steps = turns(count, harmonic)
        p_VM[candidates, m] = turning_pvalues(z_BV[:, candidates], steps)
        for name, one in masks.items():
            mean_LV = level_means[name]
            answers_LV = mean_LV >= ANSWERING * np.maximum(mean_LV.max(axis=0), 1e-300)
            testable_V = smallest_pvalues(answers_LV.sum(axis=0), steps) <= RESOLUTION
            testable_V &= shaped_V
            z_LV = np.where(answers_LV, np.stack([z_BV[mask].sum(axis=0) for mask in one]), 0)
            chosen = candidates[testable_V[candidates]]
            tests[f"factor {name}"][testable_V, m] = 1.0
            tests[f"factor {name}"][chosen, m] = turning_pvalues(z_LV[:, chosen], steps)
    each = [tests[f"factor {name}"] for name in factors]
    if each:
        worst_VM = np.fmax.reduce(each)
        # Agreement of levels is no more certain than that of the blocks they are made of.
        tests["p_agree"] = np.where(np.isnan(worst_VM), np.nan, np.fmax(worst_VM, p_VM))
    return tests


def _uncontested(
    part: AngleDesign, answers_SV: F64, raw_SV: F64 | None, selective_VM: Bools
) -> tuple[F64, F64]:
    """Selectivity without competition for k, and how far its angle is off -> [V, M] each.

    A unit's own threshold is the OWN_THRESHOLD quantile of its positive codes on the family; its
    pre-activation counts wherever it reaches that, also where k others were stronger.
    """
    shape = selective_VM.shape
    selectivity_VM, off_VM = np.full(shape, np.nan), np.full(shape, np.nan)
    chosen = np.flatnonzero(selective_VM.any(axis=1))
    if raw_SV is None or not len(chosen):
        return selectivity_VM, off_VM
    stimuli = np.unique(np.concatenate([part.index_BA.ravel(), part.partner_BA.ravel()]))
    codes_TV = np.sort(np.where(answers_SV[stimuli][:, chosen] > 0,
                                answers_SV[stimuli][:, chosen], np.inf), axis=0)  # fmt: skip
    place_V = (np.isfinite(codes_TV).sum(axis=0) * OWN_THRESHOLD).astype(np.int64)
    least_V = codes_TV[place_V, np.arange(len(chosen))] * (1 - 1e-6)
    raw_SC = raw_SV[:, chosen]
    free_SC = np.where(raw_SC >= least_V, raw_SC, 0.0)
    free = measure_curves(positive_blocks(free_SC, part).mean(axis=0), part.period)
    with_k = measure_curves(positive_blocks(answers_SV[:, chosen], part).mean(axis=0), part.period)
    selectivity_VM[chosen] = np.nan_to_num(free.selectivity_2U.T)
    pairs = ((free.vector_U, with_k.vector_U), (free.axis_U, with_k.axis_U))
    for m, (one, other) in enumerate(pairs):
        off_VM[chosen, m] = apart(one, other, part.period / HARMONICS[m])
    return selectivity_VM, off_VM


def apart(a: F64, b: F64, period: float) -> F64:
    """The distance of angles on a circle of `period` degrees; NaN where either is."""
    distance: F64 = np.abs((a - b + period / 2) % period - period / 2)
    return distance
