"""What padding causes: the same places with the picture continued by its mirror image.

A feature that fires near the border may like what lies there (sky at the top), or may answer to the
zeros around the picture. So pictures are shown twice: as they are, and continued on all sides by
their mirror images (edges repeated), wide enough that the padding moves out of the effective field
and by a multiple of the layer's stride, so that every cell has a twin with the very same window. Of
a feature's activity at the cells whose effective field reaches over the picture

    kept = sum over such places where it is active of min(twin, 2 x value) / sum of values,

and a picture speaks for padding if less than half is kept in it. Mirrored content disturbs a
feature too, whatever padding gave it, in deep layers most features in most pictures; so p is the
sign test over pictures against what is usual in the layer: the chance of at least so many in m
throws of a coin,

    coin = max(1/2, pictures that speak for padding / pictures, summed over the tested features).

The two are still not told apart in one feature: so this is only half of what makes an edge
artefact, which must be strongest at a side, too. Legend: N features, G cells, B pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import binom

from isae.analysis.activity import Encoder
from isae.analysis.arrays import F64, I64, U8
from isae.analysis.patches import PatchGeometry
from isae.inception import LayerInfo, Network
from isae.progress import QUIET, Reporter

_BATCH = 8
_WIDEST = 96


@dataclass(frozen=True)
class Mirrored:
    """kept_N: float64, the part of a feature's activity there that stays (NaN: it has none);
    images_N: int64, pictures in which it is active there; lost_N: those that keep less than half.
    """

    kept_N: F64
    images_N: I64
    lost_N: I64

    def coin(self, least: int) -> float:
        """The share of pictures that keep less than half, over features active in at least `least`
        pictures together; at least 1/2.
        """
        tested_N = self.images_N >= least
        usual = self.lost_N[tested_N].sum() / max(int(self.images_N[tested_N].sum()), 1)
        return max(0.5, float(usual))

    def p(self, least: int) -> F64:
        """The p of the sign test, float64 [N]; NaN for features active in fewer than `least`."""
        p_N = binom.sf(self.lost_N - 1, np.maximum(self.images_N, 1), self.coin(least))
        return np.where(self.images_N >= least, p_N, np.nan)

    def describe(self, least: int, alpha: float) -> dict[str, float | int | None]:
        """What is usual in the layer, for summary.json: an edge artefact must stand out from it."""
        tested_N = self.images_N >= least
        kept = self.kept_N[tested_N]
        return {
            "features_tested": int(tested_N.sum()),
            "coin": self.coin(least),
            "median_kept": float(np.median(kept)) if len(kept) else None,
            "features_that_keep_less_than_half": int((kept < 0.5).sum()),
            "features_at_p_of_alpha": int((self.p(least)[tested_N] <= alpha).sum()),
        }


def margin(info: LayerInfo, size: int, field: int) -> int | None:
    """Pixels to add on each side: half of the effective field `field` or more, at most 96 or
    `size`; None where no such number keeps the cells in step with those of the plain picture.
    """
    cells = info.grid(size)
    for added in range(info.stride, min(_WIDEST, size) + 1, info.stride):
        shift = added // info.stride
        wide = size + 2 * added
        in_step = info.grid(wide) >= cells + shift and all(
            info.window(cell + shift, wide)[0] == info.window(cell, size)[0] + added
            for cell in range(cells)
        )
        wide_enough = added >= field / 2 or added + info.stride > min(_WIDEST, size)
        if in_step and wide_enough:
            return added
    return None


def reached_cells(geometry: PatchGeometry, field: int) -> I64:
    """Cells (y * W + x) whose effective field, `field` pixels a side, reaches over the picture."""
    centre_G = geometry.centre_G
    over_G = (centre_G - field / 2 < 0) | (centre_G + field / 2 > geometry.size)
    return np.flatnonzero(over_G[:, None] | over_G[None, :])


def mirrored_border(
    network: Network,
    sae: Encoder,
    layer: str,
    pictures_BHW3: U8,
    added: int,
    stride: int,
    reached: I64,
    *,
    reporter: Reporter = QUIET,
) -> Mirrored:
    """Measure what of each feature's activity stays. added: see `margin`; reached: cells."""
    sums_2N = np.zeros((2, sae.n))
    images_N, lost_N = np.zeros(sae.n, dtype=np.int64), np.zeros(sae.n, dtype=np.int64)
    total = len(pictures_BHW3)
    with torch.inference_mode(), reporter.task(total, f"{layer}: padding", "pictures") as meter:
        for first in range(0, total, _BATCH):
            batch = pictures_BHW3[first : first + _BATCH]
            wide = np.pad(batch, ((0, 0), (added, added), (added, added), (0, 0)), "symmetric")
            plain, twins = (_map(network, layer, one) for one in (batch, wide))
            shift, cells = added // stride, plain.shape[1]
            twins = twins[:, shift : shift + cells, shift : shift + cells]
            for one, twin in zip(plain, twins, strict=True):
                value_GN, twin_GN = (
                    _dense(sae, rows.reshape(cells * cells, -1)[reached]) for rows in (one, twin)
                )
                twin_GN = np.where(value_GN > 0, np.minimum(twin_GN, 2 * value_GN), 0.0)
                value_N, twin_N = value_GN.sum(axis=0), twin_GN.sum(axis=0)
                sums_2N += value_N, twin_N
                images_N += value_N > 0
                lost_N += twin_N < value_N / 2
            meter.advance(len(batch))
    kept_N = np.full(sae.n, np.nan)
    np.divide(sums_2N[1], sums_2N[0], out=kept_N, where=sums_2N[0] > 0)
    return Mirrored(kept_N, images_N, lost_N)


def _map(network: Network, layer: str, pictures: U8) -> Any:
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    found = network.activations(pixels.to(network.device), [layer])[layer]
    return found.permute(0, 2, 3, 1)


def _dense(sae: Encoder, rows_GC: torch.Tensor) -> F64:
    """The codes of rows, as float64 [G, N]."""
    value_GK, index_GK = (one.cpu().numpy() for one in sae.encode(rows_GC.contiguous()))
    dense_GN = np.zeros((len(value_GK), sae.n))
    np.put_along_axis(dense_GN, index_GK.astype(np.int64), value_GK.astype(np.float64), axis=1)
    return np.maximum(dense_GN, 0.0)


def no_padding_test(features: int) -> Mirrored:
    """What stands for a test that was not made."""
    none: Sequence[int] = [0] * features
    return Mirrored(np.full(features, np.nan), np.array(none), np.array(none))
