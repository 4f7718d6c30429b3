"""Where a feature's decoder row lies among the network's branches: energy shares and scores.

A layer's channels are the concatenated outputs of its branches (1x1 | 3x3 | 5x5 | pool), so a
decoder row d_i falls into one piece per branch. Three measures of how much is in each piece:

    decoder share   ||d_i[b]||^2 / ||d_i||^2
    spread share    the same of d_i * sigma, sigma_c the standard deviation of channel c
    r score         ||relu(d_i[b])|| / ||relu(d_i)||        (arXiv 2504.11489)

Shares of one feature sum to 1; squared r scores do. A score is the root of an energy share, so an
evenly spread row gives sqrt(m / C), not m / C.

Shape legend: N features, C channels, B branches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isae.analysis.arrays import F64, I64
from isae.errors import DataError

Branches = Mapping[str, tuple[int, int]]

BASES = ("decoder", "spread")
"""decoder: rows of W_dec; spread: rows times the channels' standard deviation."""


def energies(W_dec_NC: F64, std_C: F64) -> dict[str, F64]:
    """Squared entries of the decoder rows in both bases -> {basis: float64 [N, C]}.

    std_C: [C] standard deviation of each channel over the training images' rows, in the units of
    the activations. Raises DataError when the shapes differ or a number is not finite.
    """
    W_dec_NC = np.asarray(W_dec_NC, dtype=np.float64)
    std_C = np.asarray(std_C, dtype=np.float64)
    if W_dec_NC.ndim != 2 or std_C.shape != W_dec_NC.shape[1:]:
        raise DataError(
            f"expected decoder rows [N, C] and C standard deviations, found shapes "
            f"{W_dec_NC.shape} and {std_C.shape}; the run and the store are of different layers"
        )
    if not (np.isfinite(W_dec_NC).all() and np.isfinite(std_C).all()):
        raise DataError(
            "expected finite decoder rows and channel statistics, found NaN or infinity; "
            "the training diverged or the store is damaged: check both"
        )
    return {"decoder": W_dec_NC**2, "spread": (W_dec_NC * std_C) ** 2}


def branch_sums(values_NC: F64, branches: Branches) -> F64:
    """Sums over each branch's channels -> [N, B]."""
    return np.stack([values_NC[:, a:z].sum(axis=1) for a, z in branches.values()], axis=1)


def branch_shares(energy_NC: F64, branches: Branches) -> F64:
    """Share of each branch in a feature's energy -> float64 [N, B]; NaN for rows of energy 0."""
    sums_NB = branch_sums(energy_NC, branches)
    total_N1 = energy_NC.sum(axis=1, keepdims=True)
    shares_NB: F64 = np.full_like(sums_NB, np.nan)
    np.divide(sums_NB, total_N1, out=shares_NB, where=total_N1 > 0)
    return shares_NB


def branch_scores(W_dec_NC: F64, branches: Branches) -> F64:
    """r_i of arXiv 2504.11489, ||relu(d_i[b])|| / ||relu(d_i)|| -> float64 [N, B].

    NaN for rows without a positive entry (0/0). In that paper 8,128 features were scored for the
    5x5 branch of mixed4c: median 0.369, 1,759 above 0.5, 324 above 0.9.
    """
    positive_NC = np.maximum(np.asarray(W_dec_NC, dtype=np.float64), 0.0) ** 2
    scores_NB: F64 = np.sqrt(branch_shares(positive_NC, branches))
    return scores_NB


def dominant(shares_NB: F64) -> I64:
    """Number of the branch with the largest share -> int64 [N]; the first of equals; -1: NaN."""
    filled_NB = np.where(np.isfinite(shares_NB), shares_NB, -1.0)
    return np.where(filled_NB.max(axis=1) >= 0, filled_NB.argmax(axis=1), -1).astype(np.int64)


def channel_counts(branches: Branches) -> I64:
    """Channels of each branch -> int64 [B]."""
    return np.array([stop - start for start, stop in branches.values()], dtype=np.int64)


def check_branches(layer: str, branches: Branches, channels: int) -> None:
    """Raise DataError unless the branches are at least two and tile the layer's channels."""
    if len(branches) < 2:
        raise DataError(
            f"expected a layer with branches (mixed3a to mixed5b), found '{layer}', which has "
            f"none; analyse a run of a branched layer"
        )
    position = 0
    for name, (start, stop) in branches.items():
        if start != position or stop <= start:
            raise DataError(
                f"expected the branches of '{layer}' to follow each other, found '{name}' at "
                f"{start}..{stop} after {position}; rebuild the store"
            )
        position = stop
    if position != channels:
        raise DataError(
            f"expected the branches of '{layer}' to cover its {channels} channels, found "
            f"{position}; rebuild the store"
        )
