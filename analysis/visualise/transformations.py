"""What a picture goes through before the network sees it: moved, turned, scaled, filled up.

Each step of each picture draws one affine map: a turn, a scale and a shift. The picture is read at
the mapped places, bilinearly; places beyond its edges show the empty picture's colour, as padding
would. So only what survives small changes can grow, which keeps noise that fits one exact place
out of the picture.

Draws come from each picture's own stream of random numbers, whatever else is in the batch.
Source: Olah, Mordvintsev and Schubert 2017, "Feature visualization" (transformation robustness).

Legend: B pictures, S steps, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from isae.analysis.arrays import F64
from isae.analysis.visualise.config import VisualiseConfig
from isae.randomness import keyed_rng


def draw_maps(config: VisualiseConfig, size: int, *key: int | str) -> F64:
    """Affine maps of every step, from places shown to places read -> float64 [S, 2, 3].

    In torch's units, in which the picture spans [-1, 1].
    """
    draws_S4 = keyed_rng(*key).uniform(-1, 1, (config.steps, 4))
    angle_S = np.deg2rad(config.rotation * draws_S4[:, 0])
    scale_S = np.exp(config.scale * draws_S4[:, 1])
    cos_S, sin_S = scale_S * np.cos(angle_S), scale_S * np.sin(angle_S)
    shift_S2 = draws_S4[:, 2:] * config.jitter * 2 / size
    rows = [[cos_S, -sin_S, shift_S2[:, 0]], [sin_S, cos_S, shift_S2[:, 1]]]
    return np.moveaxis(np.array(rows), 2, 0)


def show(pictures_B3HW: torch.Tensor, maps_B23: torch.Tensor, fill_3: torch.Tensor) -> torch.Tensor:
    """The pictures read through their maps, `fill_3` beyond their edges, differentiable."""
    fill = fill_3[:, None, None]
    grid = F.affine_grid(maps_B23, list(pictures_B3HW.shape), align_corners=False)
    shown = F.grid_sample(
        pictures_B3HW - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return shown + fill
