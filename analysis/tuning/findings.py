"""The tuning of all features, or of all neurons, family by family, gathered over chunks of units.

Shape legend: N units (features or neurons), A angles, F families, B blocks, U units of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.multiple import benjamini_hochberg
from isae.analysis.tuning.null import Audit, Shuffles, tuning_pvalues
from isae.analysis.tuning.radial import (
    HARMONICS,
    AngleDesign,
    CurveMeasures,
    angle_design,
    fourier_modes,
    invariance,
    measure_curves,
    positive_blocks,
    radius_curves,
    variance_shares,
)
from isae.analysis.tuning.stimuli import PERIODS, StimulusSet


@dataclass(frozen=True)
class FamilyTuning:
    """One family's findings on all units.

    curve_NA: mean answer per angle; selectivity_NM per harmonic; angles and widths in degrees (NaN
    where undefined, see tuning.py); p_N and p_rotated_N against the two nulls; variance and
    invariance: {factor: [N]}; radii_L and radius_NL (arcs): the radius curve at the peak angle.
    """

    design: AngleDesign
    curve_NA: F64
    selectivity_NM: F64
    vector_N: F64
    axis_N: F64
    peak_N: F64
    half_width_N: F64
    p_N: F64
    p_rotated_N: F64
    variance: dict[str, F64]
    invariance: dict[str, F64]
    radii_L: F64
    radius_NL: F64

    @property
    def best_radius_N(self) -> F64:
        """The radius of the largest mean answer at the peak angle; NaN for silent units."""
        best_N = self.radii_L[self.radius_NL.argmax(axis=1)]
        return np.where(self.radius_NL.max(axis=1) > 0, best_N, np.nan)


@dataclass(frozen=True)
class TuningFindings:
    """All families' findings on all units of one kind ('feature' or 'neuron').

    fired_N: stimuli of the whole set that the unit answers to; max_N: its largest answer, at
    stimulus best_N (-1: silent); q and q_rotated: {family: [N]}, corrected over all units and
    families of this kind; tuned: {family: bool [N]}; tests: how many; audits: {family: counts}.
    """

    kind: str
    fired_N: I64
    max_N: F64
    best_N: I64
    families: dict[str, FamilyTuning]
    q: dict[str, F64]
    q_rotated: dict[str, F64]
    tuned: dict[str, Bools]
    tests: int
    audits: dict[str, dict[str, object]]

    def modes(self, family: str, *, tuned: bool = False) -> F64 | None:
        """Fourier modes 1 to 4 of the population (or its tuned part): shares of its variance."""
        curve_NA = self.families[family].curve_NA
        return fourier_modes((curve_NA[self.tuned[family]] if tuned else curve_NA).T)


@dataclass
class _Gathered:
    """Pieces of a family's columns, chunk by chunk."""

    design: AngleDesign
    shuffles: Shuffles
    audit: Audit = field(default_factory=Audit.empty)
    columns: dict[str, list[F64]] = field(default_factory=dict)
    radii_L: F64 = field(default_factory=lambda: np.zeros(1))

    def add(self, responses_SU: F64) -> None:
        positive_BAU = positive_blocks(responses_SU, self.design)
        curve_AU = positive_BAU.mean(axis=0)
        measured: CurveMeasures = measure_curves(curve_AU, self.design.period)
        p_U, rotated_U = tuning_pvalues(positive_BAU, self.shuffles, self.audit)
        self.radii_L, radius_LU = radius_curves(positive_BAU, self.design)
        found = {
            "curve": curve_AU.T,
            "selectivity": measured.selectivity_2U.T,
            "vector": measured.vector_U,
            "axis": measured.axis_U,
            "peak": measured.peak_U,
            "half_width": measured.half_width_U,
            "p": p_U,
            "p_rotated": rotated_U,
            "radius": radius_LU.T,
        }
        shares = variance_shares(positive_BAU, self.design)
        found |= {f"variance {name}": share for name, share in shares.items()}
        for name in self.design.levels:
            found[f"invariance {name}"] = invariance(positive_BAU, self.design, name)
        for name, values in found.items():
            self.columns.setdefault(name, []).append(values)

    def whole(self) -> FamilyTuning:
        c = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        named = {
            kind: {name.split()[1]: c[name] for name in c if name.startswith(f"{kind} ")}
            for kind in ("variance", "invariance")
        }
        return FamilyTuning(
            self.design, c["curve"], c["selectivity"], c["vector"], c["axis"], c["peak"],
            c["half_width"], c["p"], c["p_rotated"], named["variance"], named["invariance"],
            self.radii_L, c["radius"],
        )  # fmt: skip


def find_tuning(
    kind: str,
    chunks: Iterable[tuple[int, F64]],
    stimuli: StimulusSet,
    *,
    alpha: float = 0.05,
    min_selectivity: float = 0.1,
    shuffles: int = 100,
    seed: int = 0,
) -> TuningFindings:
    """Tuning of every unit of `chunks`: (first unit, answers float64 [S, U]), in order.

    A unit is tuned to a family if q <= alpha against shuffled orientations (Benjamini-Hochberg over
    all units and families) and its selectivity by either harmonic is at least `min_selectivity`.
    """
    gathered: dict[str, _Gathered] = {}
    for family in PERIODS:
        design = angle_design(stimuli, family)
        if design is not None:
            gathered[family] = _Gathered(design, Shuffles.make(design, shuffles, seed))
    fired, largest, best = [], [], []
    for _, responses_SU in chunks:
        fired.append((responses_SU > 0).sum(axis=0))
        largest.append(np.maximum(responses_SU.max(axis=0), 0.0))
        best.append(np.where(largest[-1] > 0, responses_SU.argmax(axis=0), -1))
        for one in gathered.values():
            one.add(responses_SU)
    families = {family: one.whole() for family, one in gathered.items()}
    q, tests = _corrected({name: one.p_N for name, one in families.items()})
    q_rotated, _ = _corrected({name: one.p_rotated_N for name, one in families.items()})
    tuned = {
        name: (q[name] <= alpha) & (one.selectivity_NM >= min_selectivity).any(axis=1)
        for name, one in families.items()
    }
    return TuningFindings(
        kind, np.concatenate(fired).astype(np.int64), np.concatenate(largest),
        np.concatenate(best).astype(np.int64), families, q, q_rotated, tuned, tests,
        {family: one.audit.report() for family, one in gathered.items()},
    )  # fmt: skip


def _corrected(p: dict[str, F64]) -> tuple[dict[str, F64], int]:
    """Benjamini-Hochberg over all units and families at once, and the number of tests."""
    if not p:
        return {}, 0
    together = np.stack(list(p.values()))
    q = benjamini_hochberg(together)
    return dict(zip(p, q, strict=True)), int(np.isfinite(together).sum())


def harmonic_names() -> tuple[str, ...]:
    """Column names of the selectivities."""
    return tuple(f"selectivity_{harmonic}" for harmonic in HARMONICS)
