"""The weight update of a training step in one pass over the parameters, compiled.

What `isae.kernels.latent_update` defines: a loop turn owns one latent, sums its rows into buffers
that stay in the first cache, and takes them straight through projection, clipping, Adam and
renormalising. No gradient matrix exists. The bits do not depend on the number of threads.

Shapes: B rows, D channels, N latents, K active latents, Q latents with gradients from AuxK,
P parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import SUMS, compiled, prange
from isae.kernels.adam_update import TINY, adam_row, products
from isae.kernels.cpu.bfloat16 import array_of, narrow_row
from isae.kernels.cpu.instructions import take
from isae.kernels.cpu.scattered_rows import (
    TOGETHER,
    add_rows,
    list_rows,
    prefetch_row,
    row_address,
)
from isae.kernels.cpu.selection import add
from isae.kernels.sparse_outer import PARTS, PIECE, LatentGroups, part_bound, take_pairs

Array = npt.NDArray[Any]
Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def latent_update_cpu(
    groups: LatentGroups,
    batch: tuple[torch.Tensor, ...],
    parameters: list[Three],
    copies: list[torch.Tensor | None],
    tied: bool,
    aux: tuple[torch.Tensor, ...] | None,
    numbers: torch.Tensor,
    unit: bool,
) -> torch.Tensor:
    """Update in place -> W_enc^T g_b [D] of the encoder before (no checks).

    batch: values [B, K], g_values [B, K], x [B, D], r [B, D], contiguous, x and r maybe in
    bfloat16; parameters: value and moments of W_enc (of W_dec again where tied), W_dec, b_enc;
    copies: of W_enc and W_dec in bfloat16, to be written anew, or None; aux: row of each latent or
    -1 [N], then gradients; numbers: scale, step size, 1/root of bias, betas, eps, clip.
    """
    values_BK, g_values_BK, x_BD, r_BD = batch
    value_ND = parameters[1][0]
    n, d = value_ND.shape
    if aux is None:
        none_QD = value_ND[:0]
        aux = (torch.from_numpy(np.full(n, -1, np.int32)), none_QD, none_QD, none_QD[:, 0])
    through_PD = np.zeros((PARTS, d))  # by NumPy: torch's threads would spin beside the loop
    _update_parts(
        groups.offsets_N1.numpy(),
        groups.pairs_P.numpy(),
        values_BK.view(-1).numpy(),
        g_values_BK.view(-1).numpy(),
        array_of(x_BD),
        array_of(r_BD),
        values_BK.shape[1],
        _arrays(parameters[0]),
        _arrays(parameters[1]),
        _arrays(parameters[2]),
        (_bits(copies[0]), _bits(copies[1])),
        tied,
        (aux[0].numpy(), aux[1].numpy(), aux[2].numpy(), aux[3].numpy()),
        numbers.numpy(),
        unit,
        np.zeros(1, np.int64),
        torch.get_num_threads(),
        through_PD,
    )
    return torch.from_numpy(through_PD.sum(0)).to(value_ND.dtype)


def _bits(copy_ND: torch.Tensor | None) -> Array:
    return np.empty((0, 0), np.uint16) if copy_ND is None else array_of(copy_ND)


def _arrays(three: Three) -> tuple[Array, Array, Array]:
    value, first, second = three
    return value.numpy(), first.numpy(), second.numpy()


@compiled(fastmath=SUMS)
def _sum_numbers(pairs_G: Array, coefficients: Array) -> float:
    total = coefficients.dtype.type(0)
    for j in range(pairs_G.shape[0]):
        total += coefficients[pairs_G[j]]
    return total  # type: ignore[no-any-return]


@compiled()
def _add_scaled(out_D: Array, factor: float, other_D: Array) -> None:
    for c in range(out_D.shape[0]):
        out_D[c] += factor * np.float64(other_D[c])


@compiled()
def _scale(out_D: Array, factor: float) -> None:
    for c in range(out_D.shape[0]):
        out_D[c] *= factor


@compiled(fastmath=SUMS)
def _square_left(g_D: Array, w_D: Array, scale: float, along: float) -> float:
    total = g_D.dtype.type(0)
    for c in range(g_D.shape[0]):
        left = scale * g_D[c] - along * w_D[c]
        total += left * left
    return total  # type: ignore[no-any-return]


@compiled()
def _update_row(
    row: tuple[Array, Array, Array],
    g_D: Array,
    numbers: Array,
    unit: bool,
    copy_ND: Array,
    n: int,
) -> None:
    w_D, m_D, v_D = row
    one, zero = w_D.dtype.type(1), w_D.dtype.type(0)
    along, shorter, clip = zero, one, numbers[6]
    square = products(w_D, w_D) if unit else zero
    if square > 0:
        along = numbers[0] * products(g_D, w_D) / square
    if clip > 0:
        length = np.sqrt(_square_left(g_D, w_D, numbers[0], along))
        shorter = clip / max(length, clip)
    adam_row(w_D, g_D, m_D, v_D, along, shorter, numbers, w_D.dtype.type(TINY))
    if unit:
        square = products(w_D, w_D)
        if square > 0:
            _scale(w_D, one / np.sqrt(square))
    if copy_ND.shape[0]:
        narrow_row(w_D, copy_ND[n])


@compiled()
def _sum_latent(
    start: int,
    stop: int,
    pairs_P: Array,
    k: int,
    batch: tuple[Array, Array, Array, Array],
    room: tuple[Array, Array, Array],
    g_enc_D: Array,
    g_dec_D: Array,
) -> None:
    # Room: addresses, of which the last are what is read next; rows and factors of a piece.
    g_values, values, x_BD, r_BD = batch
    at, rows, factors = room
    for first in range(start, stop, PIECE):
        count = min(PIECE, stop - first)
        take_pairs(pairs_P, first, count, k, g_values, rows, factors)
        end = list_rows(x_BD, rows, count, at, 0)
        at[list_rows(r_BD, rows, count, at, end) :][:TOGETHER] = at[-TOGETHER:]
        add_rows(factors, at, end, g_enc_D, x_BD.itemsize)
        take_pairs(pairs_P, first, count, k, values, rows, factors)
        add_rows(factors, at[end:], end, g_dec_D, r_BD.itemsize)


@compiled(parallel=True)
def _update_parts(
    offsets_N1: Array,
    pairs_P: Array,
    values: Array,
    g_values: Array,
    x_BD: Array,
    r_BD: Array,
    k: int,
    enc: tuple[Array, Array, Array],
    dec: tuple[Array, Array, Array],
    bias: tuple[Array, Array, Array],
    copies: tuple[Array, Array],
    tied: bool,
    aux: tuple[Array, Array, Array, Array],
    numbers: Array,
    unit: bool,
    counter: Array,
    workers: int,
    through_PD: Array,
) -> None:
    parts, d = through_PD.shape
    zero = enc[0].dtype.type(0)
    # Parts are taken, not dealt out: a thread that is held up leaves more to the others.
    for _ in prange(workers):
        g_enc_D, g_dec_D = np.empty(d, enc[0].dtype), np.empty(d, enc[0].dtype)
        g_b = np.empty(1, enc[0].dtype)
        at = np.empty(2 * PIECE + 2 * TOGETHER, np.int64)
        room = at, np.empty(PIECE, np.int64), np.empty(PIECE, enc[0].dtype)
        batch = g_values, values, x_BD, r_BD
        part = take(counter.ctypes.data)
        while part < parts:
            for n in range(
                part_bound(offsets_N1, part, parts), part_bound(offsets_N1, part + 1, parts)
            ):
                g_enc_D[:], g_dec_D[:] = zero, zero
                start, stop = offsets_N1[n], offsets_N1[n + 1]
                # While one thing is computed, what is read after it is on its way.
                for i in range(3):
                    at[i - TOGETHER] = row_address(enc[i], n)
                at[-1] = row_address(dec[0], n)
                _sum_latent(start, stop, pairs_P, k, batch, room, g_enc_D, g_dec_D)
                prefetch_row(dec[1], n)
                prefetch_row(dec[2], n)
                g_b[0] = _sum_numbers(pairs_P[start:stop], g_values)
                q = aux[0][n]
                if q >= 0:
                    add(g_enc_D, aux[1][q])
                    add(g_dec_D, aux[2][q])
                    g_b[0] += aux[3][q]
                if g_b[0] != 0:
                    _add_scaled(through_PD[part], np.float64(g_b[0]), enc[0][n])
                if tied:
                    add(g_dec_D, g_enc_D)
                else:
                    _update_row(
                        (enc[0][n], enc[1][n], enc[2][n]), g_enc_D, numbers, False, copies[0], n
                    )
                for pair in pairs_P[stop : stop + TOGETHER]:
                    prefetch_row(x_BD, pair // k)
                _update_row((dec[0][n], dec[1][n], dec[2][n]), g_dec_D, numbers, unit, copies[1], n)
                adam_row(
                    bias[0][n : n + 1],
                    g_b,
                    bias[1][n : n + 1],
                    bias[2][n : n + 1],
                    zero,
                    enc[0].dtype.type(1),
                    numbers,
                    enc[0].dtype.type(TINY),
                )
            part = take(counter.ctypes.data)
