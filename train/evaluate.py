"""How well an SAE reconstructs rows: FVU, L0, latents that never fire.

    FVU = sum ||x - x_hat||^2 / sum ||x - mean||^2

over all evaluated rows, mean over the same rows, sums in float64. It does not depend on the unit
of x. L0 is the mean number of values > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from isae.errors import DataError
from isae.kernels import column_sums, decode_residual
from isae.train.sae import SAE
from isae.train.source import Rows, scaled

PIECE = 8192


@dataclass(frozen=True)
class Quality:
    """What `evaluate` measured."""

    rows: int
    fvu: float
    l0: float
    silent: float
    """Fraction of latents that fired on none of the rows."""


def evaluate(sae: SAE, rows: Rows, start: int, stop: int, *, scale: float = 1.0) -> Quality:
    """Measure `sae` on scale * rows [start, stop).

    A run keeps the weights with the lowest held-out FVU of its evaluations, all on the same rows.
    The held-out FVU that it reports is that minimum, so it is a little lower than the FVU of the
    same weights on rows that had no part in the choice.

    Raises DataError for an empty range or activations that are not finite.
    """
    if start >= stop:
        raise DataError(f"expected rows to evaluate, found the empty range {start} to {stop}")
    device = sae.W_dec_ND.device
    squares, active = 0.0, 0
    sums_2D = torch.zeros(2, sae.d, dtype=torch.float64, device=device)
    fired_N = torch.zeros(sae.n, dtype=torch.bool, device=device)
    for first in range(start, stop, PIECE):
        last = min(first + PIECE, stop)
        x_BD = scaled(rows[slice(first, last)], scale, device)
        sums_2D += torch.stack(column_sums(x_BD, kernel=sae.kernel))
        if not bool(torch.isfinite(sums_2D).all()):
            raise DataError(
                f"expected finite activations, found NaN or infinity in rows {first} to {last - 1}"
            )
        values_BK, indices_BK = sae.encode(x_BD)
        parts = decode_residual(
            values_BK,
            indices_BK,
            sae.W_dec_ND.detach(),
            sae.b_dec_D.detach(),
            x_BD,
            x_BD.new_ones(len(x_BD)),
            kernel=sae.kernel,
        )
        squares += float(parts.squares_B.sum())
        active += int((values_BK > 0).sum())
        fired_N[indices_BK[values_BK > 0]] = True
    count = stop - start
    variance = float((sums_2D[1] - sums_2D[0].square() / count).sum())
    silent = 1 - float(fired_N.double().mean())
    return Quality(count, squares / max(variance, 1e-30), active / count, silent)
