"""Weight gradients of sparse codes: per latent, a weighted sum of the rows where it is active.

    G[n] = sum over pairs (row b, slot k) with indices[b, k] = n of coefficients[b, k] y[b]

The pairs are sorted by latent once (`group_by_latent`, a stable counting sort) and serve every
matrix. One loop turn owns one latent and adds its rows in rising order: no atomics, and the same
bits whatever the number of threads.

Shapes: B rows, D channels, N latents, K active latents, P pairs (at most B*K).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import compiled, prange
from isae.errors import KernelError
from isae.kernels.checks import check_indices, check_tensor
from isae.kernels.cpu.scattered_rows import TOGETHER, add_rows, list_rows
from isae.kernels.dispatch import choose_kernel

Array = npt.NDArray[Any]
PARTS = 64
"""Ranges of latents with about equal work, so that a few hot latents do not idle a thread."""
MOST_INT32 = 2**31 - 1
PIECE = 64
"""Pairs whose rows are listed at once; a multiple of TOGETHER."""


@dataclass(frozen=True)
class LatentGroups:
    """Pairs of (row, slot) with a non-zero value, grouped by latent, rows rising in each group.

    offsets_N1: int64 [N + 1], the group of latent n is [offsets[n], offsets[n + 1]).
    pairs_P: int64 [P], flat positions b * K + k into [B, K] arrays; on 'triton' all B*K pairs, the
    inactive ones after offsets[N].
    """

    indices_BK: torch.Tensor
    offsets_N1: torch.Tensor
    pairs_P: torch.Tensor

    @property
    def n(self) -> int:
        """The number of latents."""
        return self.offsets_N1.shape[0] - 1

    @property
    def counts_N(self) -> torch.Tensor:
        """In how many pairs each latent is active, int64 [N]."""
        return self.offsets_N1.diff()


def group_by_latent(
    values_BK: torch.Tensor,
    indices_BK: torch.Tensor,
    n: int,
    *,
    kernel: str = "auto",
    trusted: bool = False,
) -> LatentGroups:
    """Sort the pairs whose value is not 0 by latent, stably -> LatentGroups.

    indices int64 in [0, n); `trusted`: known to be so. Raises KernelError for what does not fit.
    """
    chosen = choose_kernel(kernel, values_BK.device)
    check_tensor("values", values_BK, (None, None), kernel=chosen)
    rows, k = values_BK.shape
    if not trusted:
        check_indices("indices", indices_BK, (rows, k), n, values_BK.device)
    if chosen == "triton":
        # Sorts what it need not, but nothing has to wait to learn how many pairs are active.
        latents_P = torch.where(values_BK != 0, indices_BK, n).to(torch.int32).reshape(-1)
        latents_P, order_P = torch.sort(latents_P, stable=True)
        bounds = torch.arange(n + 1, dtype=torch.int32, device=values_BK.device)
        return LatentGroups(indices_BK, torch.searchsorted(latents_P, bounds), order_P)
    if chosen == "cpu":
        offsets_N1 = torch.empty(n + 1, dtype=torch.int64)
        pairs_P1 = torch.empty(rows * k + 1, dtype=torch.int64)
        values, indices = values_BK.detach().contiguous(), indices_BK.contiguous()
        place_N = np.zeros(n, np.int32 if rows * k <= MOST_INT32 else np.int64)
        sorted_to = place_N, offsets_N1.numpy(), pairs_P1.numpy()
        _counting_sort(values.view(-1).numpy(), indices.view(-1).numpy(), *sorted_to)
        return LatentGroups(indices, offsets_N1, pairs_P1[: int(offsets_N1[-1])])
    active_P = values_BK.reshape(-1).nonzero()[:, 0]
    latents_P, order_P = torch.sort(indices_BK.reshape(-1)[active_P], stable=True)
    counts_N = torch.bincount(latents_P, minlength=n)
    offsets_N1 = torch.cat([counts_N.new_zeros(1), counts_N.cumsum(0)])
    return LatentGroups(indices_BK, offsets_N1, active_P[order_P])


def sparse_outer(
    groups: LatentGroups,
    coefficients_BK: torch.Tensor,
    y_BD: torch.Tensor,
    *,
    out_ND: torch.Tensor | None = None,
    accumulate: bool = False,
    kernel: str = "auto",
) -> torch.Tensor:
    """G[n] (+)= sum of coefficients * y[row] over the pairs of latent n -> [N, D].

    `out_ND` (contiguous) is overwritten, or added to with `accumulate`; None makes a new one.
    float32 or float64. Pairs that are not in `groups` count as 0. Not differentiable.
    Raises KernelError for shapes, dtypes or devices that do not fit.
    """
    chosen = choose_kernel(kernel, y_BD.device)
    check_tensor("y", y_BD, (None, None), kernel=chosen)
    shape = (y_BD.shape[0], groups.indices_BK.shape[1])
    check_tensor("coefficients", coefficients_BK, shape, like=y_BD, kernel=chosen)
    if groups.indices_BK.shape[0] != y_BD.shape[0]:
        raise KernelError(
            f"groups: expected {y_BD.shape[0]} rows as in y, found {groups.indices_BK.shape[0]}"
        )
    if out_ND is None:
        dtype = torch.float32 if chosen == "triton" else y_BD.dtype
        out_ND, accumulate = y_BD.new_empty(groups.n, y_BD.shape[1], dtype=dtype), False
    check_tensor("out", out_ND, (groups.n, y_BD.shape[1]), like=y_BD, kernel=chosen)
    if not out_ND.is_contiguous():
        raise KernelError("out: expected a contiguous tensor, found a strided one; make it so")
    if chosen == "triton":
        from isae.kernels.triton.sparse_outer import sparse_outer_triton

        order = (groups.offsets_N1, groups.pairs_P)
        sparse_outer_triton(*order, coefficients_BK.detach(), y_BD.detach(), out_ND, accumulate)
        return out_ND
    if chosen == "cpu":
        _outer_parts(
            groups.offsets_N1.numpy(),
            groups.pairs_P.numpy(),
            coefficients_BK.detach().contiguous().view(-1).numpy(),
            y_BD.detach().contiguous().numpy(),
            coefficients_BK.shape[1],
            accumulate,
            PARTS,
            out_ND.numpy(),
        )
        return out_ND
    kept_BK = torch.zeros_like(coefficients_BK, memory_format=torch.contiguous_format)
    pairs_P = groups.pairs_P[: int(groups.offsets_N1[-1])]
    kept_BK.view(-1)[pairs_P] = coefficients_BK.detach().reshape(-1)[pairs_P]
    z_BN = y_BD.new_zeros(y_BD.shape[0], groups.n).scatter_add(1, groups.indices_BK, kept_BK)
    total_ND = z_BN.T @ y_BD.detach()
    return out_ND.add_(total_ND) if accumulate else out_ND.copy_(total_ND)


@compiled()
def _counting_sort(
    values_P: Array, indices_P: Array, place_N: Array, offsets_N1: Array, pairs_P1: Array
) -> None:
    # Without branches: what is not active goes behind the last pair.
    pairs, n = values_P.shape[0], place_N.shape[0]
    for p in range(pairs):
        place_N[indices_P[p]] += values_P[p] != 0
    offsets_N1[0] = 0
    for latent in range(n):
        offsets_N1[latent + 1] = offsets_N1[latent] + place_N[latent]
        place_N[latent] = offsets_N1[latent]
    for p in range(pairs):
        latent = indices_P[p]
        active = values_P[p] != 0
        pairs_P1[place_N[latent] if active else pairs] = p
        place_N[latent] += active


@compiled()
def part_bound(offsets_N1: Array, part: int, parts: int) -> int:
    """The first latent of a part; parts have about equal work."""
    # The work of latents [0, n) is their pairs plus one write of the row each.
    n = offsets_N1.shape[0] - 1
    target = (offsets_N1[n] + n) * part // parts
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if offsets_N1[middle] + middle < target:
            low = middle + 1
        else:
            high = middle
    return low


@compiled()
def take_pairs(
    pairs_P: Array, first: int, count: int, k: int, coefficients: Array, rows: Array, factors: Array
) -> None:
    """Rows and coefficients of some pairs, at most PIECE; the other factors become 0."""
    for j in range(count):
        pair = pairs_P[first + j]
        rows[j], factors[j] = pair // k, coefficients[pair]
    factors[count:] = 0


@compiled(parallel=True)
def _outer_parts(
    offsets_N1: Array,
    pairs_P: Array,
    coefficients: Array,
    y_BD: Array,
    k: int,
    accumulate: bool,
    parts: int,
    out_ND: Array,
) -> None:
    for part in prange(parts):
        at, rows = np.empty(PIECE + TOGETHER, np.int64), np.empty(PIECE, np.int64)
        factors = np.empty(PIECE, y_BD.dtype)
        for latent in range(
            part_bound(offsets_N1, part, parts), part_bound(offsets_N1, part + 1, parts)
        ):
            if not accumulate:
                out_ND[latent] = 0
            stop = offsets_N1[latent + 1]
            for first in range(offsets_N1[latent], stop, PIECE):
                count = min(PIECE, stop - first)
                take_pairs(pairs_P, first, count, k, coefficients, rows, factors)
                end = list_rows(y_BD, rows, count, at, 0)
                at[end : end + TOGETHER] = at[0]
                add_rows(factors, at, end, out_ND[latent], y_BD.itemsize)
