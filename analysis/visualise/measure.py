"""What a saved picture really does: no transformation, the pixels of its file, the real encoder.

The network sees the file's pixels at the picture's own side (which is the store's, unless another
was asked for) through the network's preprocessing; the layer's row goes through the encoder's TopK.

Legend: B pictures, C channels, P objectives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from isae.analysis.arrays import F64, U8, Bools
from isae.analysis.inputs import RunInputs
from isae.analysis.visualise.ascent import Ascent
from isae.analysis.visualise.config import ALL_CELLS, NEURON, is_coded
from isae.analysis.visualise.targets import Drives, Picture

_AT_ONCE = 64


@dataclass(frozen=True)
class Reached:
    """drive_B: value of each picture's linear function; code_B: the feature's TopK code, 0 where it
    is not kept, NaN for neurons; kept_B: whether TopK keeps it with a value above 0 (neurons: on).
    """

    drive_B: F64
    code_B: F64
    kept_B: Bools

    def activation(self, picture: Picture, place: int) -> float:
        """The activation that is compared with the data's: code or linear function."""
        coded = is_coded(picture.objective.kind)
        return float((self.code_B if coded else self.drive_B)[place])


def measure(
    ascent: Ascent, inputs: RunInputs, pictures: list[Picture], drives: Drives, pixels_BHW3: U8
) -> Reached:
    """Show pixels uint8 [B, H, W, 3] and read the driven cell; of all cells, the one driven most.

    Raises DataError for activations that are not finite.
    """
    place = {one: number for number, one in enumerate(drives.objectives)}
    chosen = torch.tensor([place[one.objective] for one in pictures], device=drives.bias_P.device)
    drive, code = [], []
    with torch.inference_mode():
        for first in range(0, len(pictures), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            pixels = torch.from_numpy(np.ascontiguousarray(pixels_BHW3[some])).permute(0, 3, 1, 2)
            maps = ascent.network.activations(pixels, [ascent.layer])[ascent.layer]
            value_B, row_BC = _read(maps, drives, chosen[some], ascent)
            found_BK, index_BK = inputs.sae.encode(row_BC)
            units = torch.tensor([one.objective.unit for one in pictures[some]])
            mine_BK = index_BK == units.to(index_BK.device)[:, None]
            drive.append(value_B.double().cpu().numpy())
            code.append(torch.where(mine_BK, found_BK, 0.0).sum(dim=1).double().cpu().numpy())
    drive_B, code_B = np.concatenate(drive), np.concatenate(code)
    neuron_B = np.array([one.objective.kind == NEURON for one in pictures])
    kept_B = np.where(neuron_B, drive_B > 0, code_B > 0)
    return Reached(drive_B, np.where(neuron_B, np.nan, code_B), kept_B)


def _read(
    maps_BCHW: torch.Tensor, drives: Drives, chosen_B: torch.Tensor, ascent: Ascent
) -> tuple[torch.Tensor, torch.Tensor]:
    """(value of each picture's own function [B], the row [B, C] that it is taken of)."""
    weight_BC, bias_B = drives.weight_PC[chosen_B], drives.bias_P[chosen_B]
    if ascent.config.cells != ALL_CELLS:
        row_BC = maps_BCHW[:, :, ascent.cell, ascent.cell]
        return (row_BC * weight_BC).sum(dim=1) + bias_B, row_BC
    x_BCG = maps_BCHW.flatten(2)
    value_BG = torch.einsum("bcg,bc->bg", x_BCG, weight_BC) + bias_B[:, None]
    value_B, cell_B = value_BG.max(dim=1)
    return value_B, x_BCG[torch.arange(len(x_BCG)), :, cell_B]
