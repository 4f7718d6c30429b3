"""Real rows of a layer with their codes: how often units are on, and how large they get.

Shape legend: R rows, C channels, K active per row, N units, E entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from isae.analysis.activity import Encoder, Rows, row_batches
from isae.analysis.arrays import F32, F64, I64
from isae.errors import DataError
from isae.progress import QUIET, Reporter

_BATCH = 8192


@dataclass(frozen=True)
class RealRows:
    """x_RC: float32 activations; value_RK, index_RK: codes; image_R: the image of each row."""

    x_RC: F32
    value_RK: F32
    index_RK: I64
    image_R: I64
    n: int

    def __len__(self) -> int:
        return len(self.x_RC)

    def entries(self) -> tuple[I64, F64]:
        """(feature, value) of every code above 0."""
        on = self.value_RK > 0
        return self.index_RK[on], self.value_RK[on].astype(np.float64)


def read_rows(
    sae: Encoder,
    store: Rows,
    layer: str,
    span: tuple[int, int],
    *,
    device: torch.device | str = "cpu",
    reporter: Reporter = QUIET,
) -> RealRows:
    """Rows [start, stop) of a layer and their codes; memory: all of them.

    Raises DataError where an activation or a code is not finite, and for an empty span.
    """
    if span[1] <= span[0]:
        raise DataError(f"expected rows of '{layer}' in {span}, found none; build a larger store")
    pieces: list[tuple[F32, F32, I64, I64]] = []
    with (
        torch.inference_mode(),
        reporter.task(span[1] - span[0], f"{layer}: real rows", "rows") as meter,
    ):
        for x_BC, place_B3 in row_batches(store, layer, [span], _BATCH):
            x = torch.from_numpy(np.ascontiguousarray(x_BC, dtype=np.float32))
            value_BK, index_BK = (part.cpu().numpy() for part in sae.encode(x.to(device)))
            image_B = place_B3[:, 0].astype(np.int64)
            value_BK = value_BK.astype(np.float32)
            pieces.append((x.numpy(), value_BK, index_BK.astype(np.int64), image_B))
            meter.advance(len(x_BC))
    x_RC, value_RK, index_RK, image_R = (
        np.concatenate([one[number] for one in pieces]) for number in range(4)
    )
    if not np.isfinite(value_RK).all():
        raise DataError(
            f"expected finite codes, found NaN or infinity on rows of '{layer}'; the store or the "
            "SAE is damaged: run isae-store verify and check the training"
        )
    return RealRows(x_RC, value_RK, index_RK, image_R, sae.n)


def feature_scale(rows: RealRows, quantile: float) -> tuple[I64, F64]:
    """(rows on which each feature is on [N], the quantile of its values there [N])."""
    feature_E, value_E = rows.entries()
    fires_N = np.bincount(feature_E, minlength=rows.n)
    return fires_N, grouped_quantile(feature_E, value_E, rows.n, quantile)


def neuron_scale(rows: RealRows, quantile: float) -> tuple[I64, F64]:
    """(rows on which each neuron is above 0 [C], the quantile of its values there [C])."""
    row_E, channel_E = np.nonzero(rows.x_RC > 0)
    value_E = rows.x_RC[row_E, channel_E].astype(np.float64)
    channels = rows.x_RC.shape[1]
    fires_C = np.bincount(channel_E, minlength=channels)
    return fires_C, grouped_quantile(channel_E, value_E, channels, quantile)


def grouped_quantile(group_E: I64, value_E: F64, groups: int, quantile: float) -> F64:
    """The quantile of each group's values, linear between them -> [groups]; NaN for empty ones."""
    order = np.lexsort((value_E, group_E))
    value_E = value_E[order]
    size_G = np.bincount(group_E, minlength=groups)
    first_G = np.cumsum(size_G) - size_G
    found = np.full(groups, np.nan)
    some = size_G > 0
    at = quantile * (size_G[some] - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, size_G[some] - 1)
    begin = first_G[some]
    found[some] = value_E[begin + low] * (1 - (at - low)) + value_E[begin + high] * (at - low)
    return found
