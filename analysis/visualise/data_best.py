"""The data's largest activation of what pictures drive, over a store's rows.

The linear functions are cheap (rows x objectives), so they are taken on every row, those of
held-out images too; a feature's code is its pre-activation where TopK keeps it, so its largest code
is found among its rows of largest pre-activation, of which CANDIDATES are encoded. Where TopK keeps
none of those, it may keep the feature on rows of a smaller one: then all rows are encoded.

Legend: P objectives, B rows of a batch, C channels, M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from isae.analysis.activity import read_activity, row_batches
from isae.analysis.arrays import F64
from isae.analysis.inputs import RunInputs
from isae.analysis.visualise.config import is_coded
from isae.analysis.visualise.targets import Drives
from isae.progress import QUIET, Reporter

CANDIDATES = 16
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class DataBest:
    """drive_P: largest value of each linear function; code_P: largest TopK code of the feature
    (of neurons and branches: drive_P again); rows: how many rows were read.
    """

    drive_P: F64
    code_P: F64
    rows: int


def data_best(
    inputs: RunInputs,
    drives: Drives,
    spans: list[tuple[int, int]],
    *,
    reporter: Reporter = QUIET,
) -> DataBest:
    """Read the rows of `spans` once, or twice for features that no candidate has."""
    value_PM, x_PMC = _candidates(inputs, drives, spans, reporter)
    drive_P = value_PM[:, 0].double().cpu().numpy()
    coded = [p for p, one in enumerate(drives.objectives) if is_coded(one.kind)]
    code_P = drive_P.copy()
    if coded:
        units = torch.tensor([drives.objectives[p].unit for p in coded], device=x_PMC.device)
        code_P[coded] = _largest_codes(inputs, x_PMC[coded], units)
        lost = [p for p in coded if code_P[p] <= 0 < drive_P[p]]
        if lost:
            activity = read_activity(
                inputs.sae, inputs.store, inputs.layer, spans, keep=1, device=x_PMC.device,
                reporter=reporter,
            )  # fmt: skip
            code_P[lost] = activity.max_n[[drives.objectives[p].unit for p in lost]]
    return DataBest(drive_P, code_P, sum(stop - start for start, stop in spans))


def _largest_codes(inputs: RunInputs, x_PMC: torch.Tensor, unit_P: torch.Tensor) -> F64:
    """The largest code of each function's feature on its own candidates -> [P]."""
    found = []
    unit_E = unit_P.repeat_interleave(x_PMC.shape[1])
    with torch.inference_mode():
        for first in range(0, len(unit_E), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            value_EK, index_EK = inputs.sae.encode(x_PMC.flatten(0, 1)[some])
            mine_EK = index_EK == unit_E[some, None]
            found.append(torch.where(mine_EK, value_EK, 0.0).amax(dim=1))
    code_PM = torch.cat(found).reshape(x_PMC.shape[:2])
    code_P: F64 = code_PM.amax(dim=1).double().cpu().numpy()
    return code_P


def _candidates(
    inputs: RunInputs, drives: Drives, spans: list[tuple[int, int]], reporter: Reporter
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each function's largest values, falling, and their rows -> [P, M], [P, M, C]."""
    device, count = drives.weight_PC.device, len(drives.objectives)
    total = sum(stop - start for start, stop in spans)
    keep = min(CANDIDATES, total)
    value_PM = torch.full((count, keep), -np.inf, device=device)
    x_PMC = torch.zeros((count, keep, inputs.stored.channels), device=device)
    label = f"{inputs.layer}: the data's largest"
    with torch.inference_mode(), reporter.task(total, label, "rows") as meter:
        for x, _ in row_batches(inputs.store, inputs.layer, spans, _ROWS_AT_ONCE):
            x_BC = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)
            value_PB = torch.addmm(drives.bias_P[:, None], drives.weight_PC, x_BC.T)
            for p in torch.nonzero(value_PB.amax(dim=1) > value_PM[:, -1]).flatten().tolist():
                new_M, row_M = value_PB[p].topk(min(keep, len(x_BC)))
                value_PM[p], order_M = torch.cat([value_PM[p], new_M]).topk(keep)
                x_PMC[p] = torch.cat([x_PMC[p], x_BC[row_M]])[order_M]
            meter.advance(len(x_BC))
    return value_PM, x_PMC
