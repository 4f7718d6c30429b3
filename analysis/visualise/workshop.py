"""Making pictures batch by batch, each batch on disk before the next begins."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from isae.analysis.activity import rows_to_read
from isae.analysis.arrays import F64, U8
from isae.analysis.inputs import RunInputs
from isae.analysis.visualise.ascent import Ascent, pack
from isae.analysis.visualise.config import NEURON, is_coded
from isae.analysis.visualise.data_best import DataBest, data_best
from isae.analysis.visualise.measure import measure
from isae.analysis.visualise.records import PICTURES, Record, save_picture, write_records
from isae.analysis.visualise.targets import (
    Drives,
    Picture,
    branch_of_channel,
    drives_of,
    main_branches,
)
from isae.progress import QUIET, Reporter


@dataclass(frozen=True)
class Workshop:
    """What pictures are made with and where they go. settings: the settings' id of each kind."""

    inputs: RunInputs
    ascent: Ascent
    settings: Mapping[str, str]
    folder: Path
    reporter: Reporter = QUIET

    def make(self, pictures: Sequence[Picture], kept: Sequence[Record]) -> list[Record]:
        """Make pictures and write them with their records beside those of `kept` -> the new ones.

        Raises DataError when a gradient or an activation is not finite.
        """
        if not pictures:
            return []
        config, inputs = self.ascent.config, self.inputs
        drives = drives_of(inputs, list(dict.fromkeys(one.objective for one in pictures)))
        spans = rows_to_read(inputs.stored.rows, inputs.stored.train_rows, config.rows)
        best = data_best(inputs, drives, spans, reporter=self.reporter)
        scale_P = self._scale(drives, best)
        made: list[Record] = []
        steps, label = len(pictures) * config.steps, f"{inputs.layer}: {len(pictures)} pictures"
        with self.reporter.task(steps, label, "steps") as meter:
            for batch in pack(pictures, config.batch_size):
                began = time.monotonic()
                ends, starts = self.ascent.run(batch, drives, scale_P, meter.advance)
                seconds = (time.monotonic() - began) / len(batch)
                made += self._keep(batch, drives, best, ends, starts, seconds)
                write_records([*kept, *made], self.folder)
                meter.note(f"{sum(one.above for one in made)} of {len(made)} above the data")
        return made

    def _scale(self, drives: Drives, best: DataBest) -> torch.Tensor:
        """What objectives are divided by: the data's largest, or the weights' length."""
        length_P = drives.weight_PC.norm(dim=1).double().cpu().numpy()
        scale_P: F64 = np.where(best.drive_P > 0, best.drive_P, np.maximum(length_P, 1e-12))
        return torch.tensor(scale_P, dtype=torch.float32, device=drives.bias_P.device)

    def _keep(
        self,
        batch: list[Picture],
        drives: Drives,
        best: DataBest,
        ends: U8,
        starts: U8,
        seconds: float,
    ) -> list[Record]:
        """Save a batch's pictures and say what each does."""  # fmt: skip
        names = [f"{PICTURES}/{one.stem}.png" for one in batch]
        saved = [
            save_picture(pixels, self.folder / name)
            for pixels, name in zip(ends, names, strict=True)
        ]
        shown = np.stack([pixels for pixels, _ in saved])
        end = measure(self.ascent, self.inputs, batch, drives, shown)
        start = measure(self.ascent, self.inputs, batch, drives, starts)
        branches = _branches(self.inputs, batch)
        place_of = {one: number for number, one in enumerate(drives.objectives)}
        records = []
        for i, picture in enumerate(batch):
            one, p = picture.objective, place_of[picture.objective]
            data = float((best.code_P if is_coded(one.kind) else best.drive_P)[p])
            reached = end.activation(picture, i)
            records.append(
                Record(
                    unit=one.unit, kind=one.kind, branch=branches[i], number=picture.number,
                    file=names[i], reached=reached, best=data, start=start.activation(picture, i),
                    above=reached > data, drive=float(end.drive_B[i]),
                    best_drive=float(best.drive_P[p]), code=float(end.code_B[i]),
                    kept=bool(end.kept_B[i]), best_rows=best.rows, steps=self.ascent.config.steps,
                    size=self.ascent.space.size, seconds=seconds,
                    settings=self.settings[one.kind], sha256=saved[i][1],
                )
            )  # fmt: skip
        return records


def _branches(inputs: RunInputs, batch: list[Picture]) -> list[str]:
    """The branch that each picture's row of the table names."""
    objectives = [one.objective for one in batch]
    features = [one.unit for one in objectives if one.kind != NEURON]
    main = dict(zip(features, main_branches(inputs, features), strict=True))
    return [
        branch_of_channel(inputs, one.unit) if one.kind == NEURON else one.branch or main[one.unit]
        for one in objectives
    ]
