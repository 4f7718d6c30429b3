"""Is a tuning the unit's own, or the frame's? A second read with the border on the other side.

Where padding reaches every cell, the picture's border is nearer on one side of the cell that is
read than on the other, and what lies beyond is zero: both have a direction. So the same stimuli, of
the plan's first colour, are shown once more about the cell that lies opposite in the picture: the
unit is the same, its surroundings are mirrored (through the picture's middle). A preferred angle
that turns or vanishes may be the frame's.

Shape legend: S stimuli, T of them shown again, U units of a chunk, N units, M harmonics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from isae.analysis.arrays import F64, I64
from isae.analysis.tuning.design import angle_design, positive_blocks
from isae.analysis.tuning.effective_field import ReadCell
from isae.analysis.tuning.findings import SecondRead
from isae.analysis.tuning.gather import apart
from isae.analysis.tuning.radial import HARMONICS, measure_curves
from isae.analysis.tuning.stimuli import PERIODS, StimulusSet
from isae.inception import LayerInfo


def mirror_cell(info: LayerInfo, at: ReadCell) -> ReadCell | None:
    """The cell whose middle is nearest to the mirror image of at's; None if that is at's own."""
    middles = [sum(info.window(cell, at.size)) / 2 for cell in range(at.cells)]
    cell = int(np.abs(np.array(middles) - (at.size - at.centre)).argmin())
    if cell == at.cell:
        return None
    return replace(at, cell=cell, window=info.window(cell, at.size))


def shown_again(stimuli: StimulusSet, colour: str, centre: float) -> tuple[StimulusSet, I64]:
    """(stimuli with an angle of one colour about (centre, centre), their numbers [T])."""
    chosen_T = np.flatnonzero(
        np.isin(stimuli.column("family"), [*PERIODS]) & (stimuli.column("colour") == colour)
    )
    rows = tuple(stimuli.stimuli[number] for number in chosen_T.tolist())
    return replace(stimuli, stimuli=rows, centre=(centre, centre)), chosen_T


def second_reads(
    here: Iterable[tuple[int, F64]],
    there: Iterable[tuple[int, F64]],
    again: StimulusSet,
    chosen_T: I64,
) -> dict[str, SecondRead]:
    """Compare answers here (all S stimuli) and there (T shown again), family by family.

    Each unit by the look with the largest mean answer here, among the stimuli shown twice.
    """
    designs = {family: angle_design(again, family) for family in PERIODS}
    pieces: dict[str, list[tuple[F64, F64]]] = {}
    for (_, here_SU), (_, there_TU) in zip(here, there, strict=True):
        for family, design in designs.items():
            if design is None:
                continue
            reads = [positive_blocks(one, design) for one in (here_SU[chosen_T], there_TU)]
            looks = [np.flatnonzero(design.look_B == k) for k in range(len(design.looks))]
            curves_2KAU = [np.stack([read[mine].mean(axis=0) for mine in looks]) for read in reads]
            look_U = curves_2KAU[0].mean(axis=1).argmax(axis=0)
            units = np.arange(len(look_U))
            first, second = (
                measure_curves(curve[look_U, :, units].T, design.period) for curve in curves_2KAU
            )
            answers_U = np.isfinite(first.selectivity_2U[0])
            selectivity_2U = np.nan_to_num(second.selectivity_2U)
            pairs = ((first.vector_U, second.vector_U), (first.axis_U, second.axis_U))
            off = [
                apart(a, b, design.period / m) for (a, b), m in zip(pairs, HARMONICS, strict=True)
            ]
            pieces.setdefault(family, []).append(
                (np.where(answers_U, selectivity_2U, np.nan).T, np.stack(off, axis=1))
            )
    return {
        family: SecondRead(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        for family, parts in pieces.items()
    }
