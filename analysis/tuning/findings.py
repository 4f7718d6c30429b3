"""The tuning of all features, or of all neurons, family by family, and what is doubtful about it.

A harmonic of a curve has a period of 360 degrees ('direction'), 180 ('axis') or 90 ('cross'); a
unit is counted with the larger one that it passes, and has a preferred direction (axis) only if it
passes that harmonic: some blocks agree on it beyond chance (null.py), corrected over all units,
families and harmonics, and its selectivity by that harmonic is at least a minimum. What passes may
still be

    faint        its largest answer to the family is below a part of the 99 % quantile of its own
                 positive values on held-out rows of the store, or it has no such value
    lost to k    codes alone: without the competition of stronger features (the pre-activation
                 wherever it reaches the unit's own least code) its tuning would vanish or turn
    suppressed   the bare ground is answered as strongly as the best figure
    framed       padded layers alone: read where the picture's border lies on the other side, the
                 tuning vanishes or turns, so it may be the border's

and headline counts leave those out.

Shape legend: N units (features or neurons), F families, M harmonics, S stimuli, U units of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.multiple import benjamini_hochberg
from isae.analysis.tuning.design import angle_design
from isae.analysis.tuning.gather import FamilyTuning as FamilyTuning
from isae.analysis.tuning.gather import Gathered
from isae.analysis.tuning.radial import HARMONICS, fourier_modes
from isae.analysis.tuning.stimuli import PERIODS, StimulusSet

PERIOD_NAMES = {360: "direction", 180: "axis", 90: "cross"}
NEAR = 8
"""Angles within a period over this are near each other."""

NO_FIGURE = 1.05
"""A best figure below this times the answer to its bare ground is no figure's answer."""


@dataclass(frozen=True)
class SecondRead:
    """A family read a second time elsewhere: selectivity_NM, and by how many degrees the angle of
    each harmonic is off; NaN where the unit does not answer to the stimuli that were shown again.
    """

    selectivity_NM: F64
    off_NM: F64


@dataclass(frozen=True)
class TuningFindings:
    """All families' findings on all units of one kind ('feature' or 'neuron').

    fired_N: stimuli of the whole set that the unit answers to; max_N: its largest answer, at
    stimulus best_N (the first of equals; -1: silent); blank_N: its largest answer to a bare ground
    (NaN: none shown); scale_N: the 99 % quantile of its positive values on rows of the store (NaN:
    none, or not measured at all: measured); q and q_agree: {family: [N, M]}, corrected over all
    units, families and harmonics of this kind; passed: {family: bool [N, M]}; tests: how many;
    again: {family: SecondRead}.
    """

    kind: str
    fired_N: I64
    max_N: F64
    best_N: I64
    blank_N: F64
    scale_N: F64
    measured: bool
    families: dict[str, FamilyTuning]
    q: dict[str, F64]
    q_agree: dict[str, F64]
    passed: dict[str, Bools]
    tests: int
    alpha: float
    min_selectivity: float
    faint: float
    again: dict[str, SecondRead]

    @property
    def tuned(self) -> dict[str, Bools]:
        """{family: bool [N]}: some harmonic is passed, doubtful or not."""
        return {name: np.any(one, axis=1) for name, one in self.passed.items()}

    def harmonic(self, family: str) -> I64:
        """The harmonic that a unit counts with: the larger one that it passes; 0: none -> [N]."""
        selectivity_NM = np.where(
            self.passed[family], self.families[family].selectivity_NM, -np.inf
        )
        # Of one angle alone all harmonics are 1, to rounding: the first counts.
        selectivity_NM = selectivity_NM - 1e-6 * np.arange(len(HARMONICS))
        chosen_N = np.array(HARMONICS)[selectivity_NM.argmax(axis=1)]
        return np.where(self.passed[family].any(axis=1), chosen_N, 0).astype(np.int64)

    def kinds(self, family: str) -> dict[str, Bools]:
        """{'direction' or 'axis' or 'cross': the units that count as such, bool [N]}."""
        harmonic_N = self.harmonic(family)
        period = PERIODS[family]
        return {PERIOD_NAMES[period // m]: harmonic_N == m for m in HARMONICS}

    def vector(self, family: str) -> F64:
        """The preferred angle by harmonic 1, NaN unless it is passed -> [N]."""
        return np.where(self.passed[family][:, 0], self.families[family].vector_N, np.nan)

    def axis(self, family: str) -> F64:
        """The preferred angle by harmonic 2, NaN unless it is passed -> [N]."""
        return np.where(self.passed[family][:, 1], self.families[family].axis_N, np.nan)

    def agreeing(self, family: str) -> Bools:
        """Tuned units whose levels agree over every factor that can be tested -> [N]."""
        return np.asarray(self._own(family, self.q_agree[family]) <= self.alpha)

    def untestable(self, family: str) -> Bools:
        """Tuned units for which no factor has levels enough -> [N]."""
        tuned_N = self.passed[family].any(axis=1)
        return np.asarray(tuned_N & np.isnan(self._own(family, self.q_agree[family])))

    def doubts(self, family: str) -> dict[str, Bools]:
        """{doubt: tuned units that have it}; see the module's head."""
        one, tuned_N = self.families[family], self.tuned[family]
        near_M = PERIODS[family] / np.array(HARMONICS) / NEAR
        ground_N = np.nan_to_num(one.ground_N)
        lost_NM = (one.uncontested_NM < self.min_selectivity) | (one.off_NM > near_M)
        found = {
            "faint": ~(one.peak_answer_N >= self.faint * self.scale_N)
            if self.measured
            else np.zeros(len(tuned_N), dtype=np.bool_),
            "lost_to_k": self._own(family, lost_NM.astype(np.float64)) > 0,
            "suppressed": one.peak_answer_N <= NO_FIGURE * ground_N,
        }
        if family in self.again:
            read = self.again[family]
            framed_NM = (read.selectivity_NM < self.min_selectivity / 2) | (read.off_NM > near_M)
            found["framed"] = self._own(family, framed_NM.astype(np.float64)) > 0
        return {name: np.asarray(tuned_N & doubt_N) for name, doubt_N in found.items()}

    def clear(self, family: str) -> Bools:
        """Tuned units without any doubt -> [N]."""
        doubted_N = np.any([*self.doubts(family).values()], axis=0)
        return np.asarray(self.passed[family].any(axis=1) & ~doubted_N)

    def modes(
        self, family: str, units_N: Bools | None = None, *, look: str = "", alike: bool = True
    ) -> F64 | None:
        """Fourier modes 1 to 4 of the population (or some units, or one look of all): shares."""
        one = self.families[family]
        number = one.look_number(look) if look else None
        if look and number is None:
            return None
        curve_NA = one.curve_NA if number is None else one.look_curves_NKA[:, number]
        chosen_NA = curve_NA if units_N is None else curve_NA[units_N]
        return fourier_modes(chosen_NA.T.astype(np.float64), alike=alike)

    def _own(self, family: str, values_NM: F64) -> F64:
        """The value of each unit's own harmonic; NaN where it has none -> [N]."""
        harmonic_N = self.harmonic(family)
        own_N = values_NM[np.arange(len(harmonic_N)), np.maximum(harmonic_N, 1) - 1]
        return np.where(harmonic_N > 0, own_N, np.nan)


def find_tuning(
    kind: str,
    chunks: Iterable[tuple[Any, ...]],
    stimuli: StimulusSet,
    *,
    alpha: float = 0.05,
    min_selectivity: float = 0.1,
    scale_N: F64 | None = None,
    faint: float = 0.1,
    again: dict[str, SecondRead] | None = None,
) -> TuningFindings:
    """Tuning of every unit of `chunks`, in order.

    chunks: (first unit, answers float64 [S, U]) or (first unit, answers, pre-activations [S, U]),
    the last where answers compete for k. A unit passes a harmonic if q <= alpha
    (Benjamini-Hochberg over all units, families and harmonics; p = 1 below min_selectivity).
    scale_N: what a strong answer of each unit is (see TuningFindings); again: second reads.
    """
    gathered: dict[str, Gathered] = {}
    for family in PERIODS:
        design = angle_design(stimuli, family)
        if design is not None:
            gathered[family] = Gathered(design, min_selectivity)
    blank_S = stimuli.column("family") == "blank"
    fired, largest, best, blank = [], [], [], []
    for _, responses_SU, *raw in chunks:
        fired.append((responses_SU > 0).sum(axis=0))
        largest.append(np.maximum(responses_SU.max(axis=0), 0.0))
        best.append(np.where(largest[-1] > 0, responses_SU.argmax(axis=0), -1))
        blank.append(responses_SU[blank_S].max(axis=0, initial=0.0))
        for one in gathered.values():
            one.add(responses_SU, raw[0] if raw else None)
    families = {family: one.whole() for family, one in gathered.items()}
    q, tests = _corrected({name: one.p_NM for name, one in families.items()})
    q_agree, _ = _corrected({name: one.p_agree_NM for name, one in families.items()})
    count = sum(len(part) for part in fired)
    blank_N = np.concatenate(blank) if blank_S.any() else np.full(count, np.nan)
    return TuningFindings(
        kind, np.concatenate(fired).astype(np.int64), np.concatenate(largest),
        np.concatenate(best).astype(np.int64), blank_N,
        np.full(count, np.nan) if scale_N is None else scale_N, scale_N is not None,
        families, q, q_agree, {name: one <= alpha for name, one in q.items()}, tests,
        alpha, min_selectivity, faint, again or {},
    )  # fmt: skip


def _corrected(p: dict[str, F64]) -> tuple[dict[str, F64], int]:
    """Benjamini-Hochberg over all units, families and harmonics, and the number of tests."""
    if not p:
        return {}, 0
    together = np.stack(list(p.values()))
    q = benjamini_hochberg(together)
    return dict(zip(p, q, strict=True)), int(np.isfinite(together).sum())


def harmonic_names() -> tuple[str, ...]:
    """Column names of the selectivities."""
    return tuple(f"selectivity_{harmonic}" for harmonic in HARMONICS)
