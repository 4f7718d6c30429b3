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
    rows: RealRows | None = None
    start = 0
    with (
        torch.inference_mode(),
        reporter.task(span[1] - span[0], f"{layer}: real rows", "rows") as meter,
    ):
        for x_BC, place_B3 in row_batches(store, layer, [span], _BATCH):
            x = torch.from_numpy(np.ascontiguousarray(x_BC, dtype=np.float32))
            value_BK, index_BK = (part.cpu().numpy() for part in sae.encode(x.to(device)))
            if rows is None:
                rows = _room(span[1] - span[0], x_BC.shape[1], value_BK.shape[1], sae.n)
            here = slice(start, start + len(x_BC))
            rows.x_RC[here], rows.image_R[here] = x.numpy(), place_B3[:, 0]
            rows.value_RK[here], rows.index_RK[here] = value_BK, index_BK
            start += len(x_BC)
            meter.advance(len(x_BC))
    if rows is None or start < len(rows):
        raise DataError(f"expected rows {span} of '{layer}', found {start}; build the store again")
    if not np.isfinite(rows.value_RK).all():
        raise DataError(
            f"expected finite codes, found NaN or infinity on rows of '{layer}'; the store or the "
            "SAE is damaged: run isae-store verify and check the training"
        )
    return rows


def _room(rows: int, channels: int, k: int, n: int) -> RealRows:
    return RealRows(
        x_RC=np.empty((rows, channels), np.float32),
        value_RK=np.empty((rows, k), np.float32),
        index_RK=np.empty((rows, k), np.int64),
        image_R=np.empty(rows, np.int64),
        n=n,
    )


def feature_scale(rows: RealRows, quantile: float) -> tuple[I64, F64]:
    """(rows on which each feature is on [N], the quantile of its values there [N])."""
    feature_E, value_E = rows.entries()
    fires_N = np.bincount(feature_E, minlength=rows.n)
    return fires_N, grouped_quantile(feature_E, value_E, rows.n, quantile)


def neuron_scale(rows: RealRows, quantile: float) -> tuple[I64, F64]:
    """(rows on which each neuron is above 0 [C], the quantile of its values there [C])."""
    found = [_column_scale(x_R, quantile) for x_R in rows.x_RC.T]
    fires_C, scale_C = (np.array(one) for one in zip(*found, strict=True))
    return fires_C, scale_C


def _column_scale(x_R: F32, quantile: float) -> tuple[int, float]:
    # A channel at a time: the numbers above 0 of all channels would take 16 times their memory.
    value_E = x_R[x_R > 0].astype(np.float64)
    one_group = np.zeros(len(value_E), np.int64)
    return len(value_E), float(grouped_quantile(one_group, value_E, 1, quantile)[0])


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
