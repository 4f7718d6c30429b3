"""Which stimuli of a set are a family's blocks of angles, its looks, and its straight controls.

A family of stimuli with angles theta_a, a = 0 .. A-1, over a period is a table of blocks (all other
factors fixed) x angles. Blocks of one polarity and fill are a look: a unit is judged on its
strongest one, since a dark figure on one side of an edge and a light one on the other make the same
edge, so that an edge detector's directions cancel in a mean over polarities.

Turned by 180 degrees a grating of phase p is one of phase -p, so the two phases of such a pair make
one block, whose answer at an angle is the mean of theirs: it has the period, each alone has not.

Shape legend: S stimuli, B blocks, A angles, U units, K looks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.tuning.stimuli import FACTORS, PERIODS, Stimulus, StimulusSet
from isae.errors import DataError

REPORTED = ("radius", "width", "fill", "polarity", "colour", "frequency", "phase", "opening")
"""Factors whose part in a unit's answers is told; the others follow from them."""

FACTORS_OF_BLOCKS = tuple(name for name in FACTORS if name not in ("family", "orientation"))
OF_LOOKS = ("polarity", "fill")


@dataclass(frozen=True)
class AngleDesign:
    """A family's blocks x angles.

    period in degrees; angles_A in degrees, evenly spaced from 0; index_BA: int64, numbers of
    stimuli; partner_BA: stimuli that each is averaged with (itself, but for pairs of phases);
    levels: {factor: its value in each block [B]}, those of REPORTED that vary; radius_B in pixels
    (NaN: no radius); look_B: number of each block's look in looks ('dark stroke', ..., or '' where
    there is one); ground_K: number of the blank stimulus with the look's ground, or -1;
    straight_BA: number of the line or edge with the arc's look and tangent, -1 where there is none.
    """

    family: str
    period: float
    angles_A: F64
    index_BA: I64
    partner_BA: I64
    levels: dict[str, npt.NDArray[np.generic]]
    radius_B: F64
    look_B: I64
    looks: tuple[str, ...]
    ground_K: I64
    straight_BA: I64

    def of_look(self, look: int) -> AngleDesign:
        """The blocks of one look alone."""
        mine_B = self.look_B == look
        levels = {name: values_B[mine_B] for name, values_B in self.levels.items()}
        return replace(
            self,
            index_BA=self.index_BA[mine_B],
            partner_BA=self.partner_BA[mine_B],
            levels={name: one for name, one in levels.items() if len(level_masks(one)) > 1},
            radius_B=self.radius_B[mine_B],
            look_B=self.look_B[mine_B],
            straight_BA=self.straight_BA[mine_B],
        )


def angle_design(stimuli: StimulusSet, family: str) -> AngleDesign | None:
    """The design of a family with an angle; None where the set has no stimuli of it.

    Raises DataError unless each block has each angle once, evenly spaced over the period.
    """
    chosen = np.flatnonzero(stimuli.column("family") == family)
    if not len(chosen):
        return None
    period = float(PERIODS[family])
    keys: dict[tuple[str, ...], list[int]] = {}
    for number in chosen.tolist():
        keys.setdefault(_key(stimuli.stimuli[number]), []).append(number)
    orientation = stimuli.column("orientation")
    angles_A = np.unique(orientation[chosen])
    even = np.arange(len(angles_A)) * period / len(angles_A)
    blocks = {
        key: sorted(block, key=lambda number: orientation[number]) for key, block in keys.items()
    }
    full = all(np.array_equal(orientation[block], angles_A) for block in blocks.values())
    if not (full and np.allclose(angles_A, even)):
        raise DataError(
            f"expected every block of '{family}' to have the same evenly spaced angles over "
            f"{period:g} degrees, found others; make the set with make_stimuli"
        )
    index_BA, partner_BA = _paired(blocks, stimuli)
    values = {name: stimuli.column(name)[index_BA[:, 0]] for name in REPORTED}
    levels = {name: one for name, one in values.items() if len(level_masks(one)) > 1}
    look_B, looks = _looks(levels, len(index_BA))
    ground_K = np.array([_ground(stimuli, index_BA[look_B == k][0, 0]) for k in range(len(looks))])
    return AngleDesign(
        family, period, angles_A, index_BA, partner_BA, levels,
        values["radius"].astype(np.float64), look_B, looks, ground_K,
        _straight(stimuli, family, index_BA, angles_A),
    )  # fmt: skip


def positive_blocks(responses_SU: F64, design: AngleDesign) -> F64:
    """max(r, 0) of a family's stimuli, averaged over pairs of phases -> float64 [B, A, U]."""
    positive_BAU: F64 = np.maximum(responses_SU[design.index_BA], 0.0)
    paired_B = np.flatnonzero((design.partner_BA != design.index_BA).any(axis=1))
    if len(paired_B):
        partner_PAU = np.maximum(responses_SU[design.partner_BA[paired_B]], 0.0)
        positive_BAU[paired_B] = (positive_BAU[paired_B] + partner_PAU) / 2
    return positive_BAU


def level_masks(values_B: npt.NDArray[np.generic]) -> list[Bools]:
    """Which blocks have each different value, in rising order; NaN and '' are no values."""
    different = [one for one in np.unique(values_B).tolist() if one == one and one != ""]
    return [values_B == one for one in different]


def _key(one: Stimulus, **changed: object) -> tuple[str, ...]:
    # NaN is not equal to itself, but its text is.
    return tuple(repr(changed.get(name, getattr(one, name))) for name in FACTORS_OF_BLOCKS)


def _paired(blocks: dict[tuple[str, ...], list[int]], stimuli: StimulusSet) -> tuple[I64, I64]:
    """Blocks [B, A] and their partners: a block of phase p and that of -p become one."""
    kept, partners = [], []
    taken: set[tuple[str, ...]] = set()
    for key, block in blocks.items():
        if key in taken:
            continue
        one = stimuli.stimuli[block[0]]
        other = key if np.isnan(one.phase) else _key(one, phase=(360 - one.phase) % 360)
        taken.add(other)
        kept.append(block)
        partners.append(blocks.get(other, block))
    return np.array(kept, dtype=np.int64), np.array(partners, dtype=np.int64)


def _looks(levels: dict[str, npt.NDArray[np.generic]], blocks: int) -> tuple[I64, tuple[str, ...]]:
    """The number of each block's look, and the looks' names."""
    names_B = [""] * blocks
    for factor in OF_LOOKS:
        for block, value in enumerate(levels.get(factor, [])):
            word = {-1: "dark", 1: "light"}.get(value, value) if factor == "polarity" else value
            names_B[block] = f"{names_B[block]} {word}".strip()
    looks = tuple(dict.fromkeys(names_B))
    return np.array([looks.index(name) for name in names_B], dtype=np.int64), looks


def _ground(stimuli: StimulusSet, number: int) -> int:
    polarity = stimuli.stimuli[number].polarity
    for place, one in enumerate(stimuli.stimuli):
        if one.family == "blank" and one.polarity == polarity:
            return place
    return -1


def _straight(stimuli: StimulusSet, family: str, index_BA: I64, angles_A: F64) -> I64:
    """Lines for strokes (along the tangent), edges for discs; all -1 for other families."""
    straight_BA = np.full(index_BA.shape, -1, dtype=np.int64)
    if family != "arc":
        return straight_BA
    known: dict[tuple[object, ...], int] = {}
    for number, one in enumerate(stimuli.stimuli):
        if one.family in ("line", "edge"):
            width = one.width if one.family == "line" else 0.0
            key = (one.family, one.polarity, one.colour, width, round(one.orientation, 6))
            known[key] = number
    for block, first in enumerate(index_BA[:, 0].tolist()):
        one = stimuli.stimuli[first]
        stroke = one.fill == "stroke"
        for place, angle in enumerate(angles_A.tolist()):
            at = (angle + 90) % 180 if stroke else angle
            key = (
                "line" if stroke else "edge", one.polarity, one.colour,
                one.width if stroke else 0.0, round(at, 6),
            )  # fmt: skip
            straight_BA[block, place] = known.get(key, -1)
    return straight_BA
