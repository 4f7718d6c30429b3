"""Cosines between the rows of two dictionaries: the best partners of each, in bounded memory.

The partners are found by `isae.kernels.topk_encode`, which never holds the matrix of all cosines;
their cosines are then computed again in float64. Time: one product [N, C] x [C, M].

Legend: N, M rows of two dictionaries, C channels, K kept partners, S parts of random dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from isae.analysis.arrays import F32, F64, I64
from isae.analysis.layers.correlation import Tops
from isae.errors import DataError
from isae.kernels import topk_encode

_ROWS = 2048


def unit_rows(W_NC: torch.Tensor) -> F32:
    """Rows divided by their lengths -> float32 [N, C]; rows of zeros stay zero.

    Raises DataError for numbers that are not finite.
    """
    rows_NC = W_NC.detach().cpu().double().numpy()
    if not np.isfinite(rows_NC).all():
        raise DataError(
            "expected finite dictionary rows, found NaN or infinity; the training diverged: check "
            "how the run ended"
        )
    length_N1 = np.linalg.norm(rows_NC, axis=1, keepdims=True)
    return np.asarray(rows_NC / np.where(length_N1 > 0, length_N1, 1.0), dtype=np.float32)


def top_cosines(one_NC: F32, two_MC: F32, keep: int, *, same: bool = False) -> Tops:
    """The `keep` rows of `two` of largest cosine with each row of `one`, best first.

    Unit rows. same: the two are one dictionary, and a row is not its own partner. Fewer than
    `keep` where `two` has fewer (r -2, feature -1).
    """
    rows, others = len(one_NC), len(two_MC)
    r_NK = np.full((rows, keep), -2.0)
    feature_NK = np.full((rows, keep), -1, dtype=np.int32)
    taken = min(keep + same, others)
    if taken <= same:
        return Tops(r_NK, feature_NK)
    weights, bias = torch.from_numpy(two_MC), torch.zeros(others)
    for start in range(0, rows, _ROWS):
        part_BC = one_NC[start : start + _ROWS]
        with torch.inference_mode():
            _, found = topk_encode(torch.from_numpy(part_BC), weights, bias, taken)
        partner_BK = found.numpy()
        r_BK = _pair_cosines(part_BC, two_MC, partner_BK)
        if same:
            own_B = np.arange(start, start + len(part_BC))
            r_BK[partner_BK == own_B[:, None]] = -2.0
        order_BK = np.lexsort((partner_BK, -r_BK), axis=1)[:, :keep]
        stop, width = start + len(part_BC), min(keep, taken - same)
        order_BK = order_BK[:, :width]
        r_NK[start:stop, :width] = np.take_along_axis(r_BK, order_BK, axis=1)
        feature_NK[start:stop, :width] = np.take_along_axis(partner_BK, order_BK, axis=1)
    return Tops(r_NK, feature_NK)


def _pair_cosines(part_BC: F32, two_MC: F32, partner_BK: I64) -> F64:
    """Cosines of each row with its partners in float64 -> [B, K]."""
    r_BK = np.empty(partner_BK.shape)
    for k in range(partner_BK.shape[1]):
        r_BK[:, k] = row_cosines(part_BC, two_MC[partner_BK[:, k]])
    return r_BK


def row_cosines(one_XC: F32, two_XC: F32) -> F64:
    """Cosine of each row with the row beside it -> float64 [X]; 0 for rows of zeros."""
    one, two = one_XC.astype(np.float64), two_XC.astype(np.float64)
    lengths_X = np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1))
    product_X = (one * two).sum(axis=1)
    cosine_X: F64 = np.clip(product_X / np.where(lengths_X > 0, lengths_X, 1.0), -1.0, 1.0)
    return cosine_X


def largest_cosines(one_NC: F32, parts: Iterable[F32]) -> F64:
    """Largest cosine of each row with the rows of each part -> float64 [S, N]."""
    rows = torch.from_numpy(one_NC)
    largest = []
    for part_MC in parts:
        columns_CM = torch.from_numpy(part_MC).T
        chunks = [
            (rows[start : start + _ROWS] @ columns_CM).amax(dim=1)
            for start in range(0, len(rows), _ROWS)
        ]
        largest.append(torch.cat(chunks).double().numpy())
    return np.stack(largest)
