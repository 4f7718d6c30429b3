"""The whole weight update on Triton: one pass over the parameters (see isae.kernels.latent_update).

One program takes a few latents, one after the other: sums their rows for both matrices, adds what
AuxK brings, projects, does Adam, renormalises, and writes the float32 masters, their moments and
the low-precision copies. Hot latents are split as in sparse_outer. The encoder's share of b_dec's
gradient, W_enc^T g_b, falls out of the same pass as one partial sum a program.

Shapes: B rows, D channels, N latents, K active latents, P pairs, Q stretches, A rows of AuxK,
S programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from isae.kernels.triton.adam_update import _adam, _unit, _without_part_along
from isae.kernels.triton.sparse_outer import (
    SPLIT,
    _sum_pairs,
    _sum_stretches,
    pair_blocks,
    stretches_of,
    sum_stretches,
)

LATENTS = 8
"""Latents of one program: one partial sum for b_dec each."""


@triton.jit
def _sum_numbers(
    pairs_ptr, first, last, coefficients_ptr, BLOCK_P: tl.constexpr, STEP: tl.constexpr
):
    """Sum of coefficients over pairs [first, last), a scalar."""
    acc = tl.zeros([STEP], tl.float32)
    for start in range(first, last, STEP):
        place = start + tl.arange(0, STEP)
        pair = tl.load(pairs_ptr + place, mask=place < last, other=0)
        acc += tl.load(coefficients_ptr + pair, mask=place < last, other=0.0)
    return tl.sum(acc, axis=0)


@triton.jit
def _clipped(g, limit):
    """G shortened to length `limit`, if that is > 0 and g is longer."""
    norm = tl.sqrt(tl.sum(g * g, axis=0))
    return tl.where((limit > 0) & (norm > limit), g * (limit / tl.where(norm > 0, norm, 1.0)), g)


@triton.jit
def _update_row(
    w_ptr,
    m_ptr,
    v_ptr,
    low_ptr,
    place,
    inside,
    w,
    g,
    numbers_ptr,
    SPHERE: tl.constexpr,
    LOW: tl.constexpr,
):
    """Adam on one row of a matrix; on the unit sphere with SPHERE; the copy with LOW."""
    if SPHERE:
        g = _without_part_along(g, w)
    g = _clipped(g, tl.load(numbers_ptr + 6))
    m = tl.load(m_ptr + place, mask=inside, other=0.0)
    v = tl.load(v_ptr + place, mask=inside, other=0.0)
    w, m, v = _adam(w, g, m, v, numbers_ptr)
    if SPHERE:
        w = _unit(w)
    tl.store(w_ptr + place, w, mask=inside)
    tl.store(m_ptr + place, m, mask=inside)
    tl.store(v_ptr + place, v, mask=inside)
    if LOW:
        tl.store(low_ptr + place, w, mask=inside)


@triton.jit
def _latent_update_kernel(
    offsets_ptr,  # int64 [N + 1]
    pairs_ptr,  # int64 [P]
    first_ptr,  # int32 [N + 1]
    values_ptr,  # [B, K]
    g_values_ptr,  # [B, K]
    x_ptr,  # [B, D]
    r_ptr,  # [B, D]
    enc_buffer_ptr,  # float32 [Q, D]
    dec_buffer_ptr,  # float32 [Q, D]
    aux_row_ptr,  # int32 [N], -1 without
    aux_enc_ptr,  # float32 [A, D]
    aux_dec_ptr,  # float32 [A, D]
    aux_b_ptr,  # float32 [A]
    enc_ptr,  # in and out: float32 [N, D]; equal to dec when tied
    enc_m_ptr,
    enc_v_ptr,
    enc_low_ptr,
    dec_ptr,  # in and out: float32 [N, D]
    dec_m_ptr,
    dec_v_ptr,
    dec_low_ptr,
    b_ptr,  # in and out: float32 [N]
    b_m_ptr,
    b_v_ptr,
    through_ptr,  # out: float32 [S, D], sum over the program's latents of g_b W_enc
    numbers_ptr,  # float32 [7]: see adam_update, then the limit of a row's gradient
    n,
    k,
    units_d,
    UNIT: tl.constexpr,
    SPLIT: tl.constexpr,
    TIED: tl.constexpr,
    SPHERE: tl.constexpr,
    LOW: tl.constexpr,
    AUX: tl.constexpr,
    LATENTS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = units_d * UNIT
    channel = tl.arange(0, BLOCK_D)
    scale = tl.load(numbers_ptr)
    through = tl.zeros([BLOCK_D], tl.float32)
    for i in range(LATENTS):
        latent = tl.program_id(0).to(tl.int64) * LATENTS + i
        known = latent < n
        inside = channel < tl.where(known, d, 0)
        place = latent * d + channel
        stretch = tl.load(first_ptr + latent, mask=known, other=0)
        last_stretch = tl.load(first_ptr + latent + 1, mask=known, other=0)
        start = tl.load(offsets_ptr + latent, mask=known, other=0)
        last = tl.load(offsets_ptr + latent + 1, mask=known, other=0)
        first = start + (last_stretch - stretch).to(tl.int64) * SPLIT
        g_enc = _sum_stretches(enc_buffer_ptr, stretch, last_stretch, d, channel, BLOCK_D)
        g_enc += _sum_pairs(
            pairs_ptr, first, last, g_values_ptr, x_ptr, k, d, channel, BLOCK_P, BLOCK_D
        )
        g_dec = _sum_stretches(dec_buffer_ptr, stretch, last_stretch, d, channel, BLOCK_D)
        g_dec += _sum_pairs(
            pairs_ptr, first, last, values_ptr, r_ptr, k, d, channel, BLOCK_P, BLOCK_D
        )
        g_b = _sum_numbers(pairs_ptr, start, last, g_values_ptr, BLOCK_P, 128)
        if AUX:
            aux = tl.load(aux_row_ptr + latent, mask=known, other=-1).to(tl.int64)
            has = channel < tl.where(aux >= 0, d, 0)
            g_enc += tl.load(aux_enc_ptr + aux * d + channel, mask=has, other=0.0)
            g_dec += tl.load(aux_dec_ptr + aux * d + channel, mask=has, other=0.0)
            g_b += tl.load(aux_b_ptr + aux, mask=aux >= 0, other=0.0)
        w_enc = tl.load(enc_ptr + place, mask=inside, other=0.0)
        through += g_b * w_enc
        if TIED:
            g = scale * (g_enc + g_dec)
            _update_row(
                dec_ptr,
                dec_m_ptr,
                dec_v_ptr,
                dec_low_ptr,
                place,
                inside,
                w_enc,
                g,
                numbers_ptr,
                SPHERE,
                LOW,
            )
        else:
            w_dec = tl.load(dec_ptr + place, mask=inside, other=0.0)
            _update_row(
                enc_ptr,
                enc_m_ptr,
                enc_v_ptr,
                enc_low_ptr,
                place,
                inside,
                w_enc,
                scale * g_enc,
                numbers_ptr,
                False,
                LOW,
            )
            _update_row(
                dec_ptr,
                dec_m_ptr,
                dec_v_ptr,
                dec_low_ptr,
                place,
                inside,
                w_dec,
                scale * g_dec,
                numbers_ptr,
                SPHERE,
                LOW,
            )
        b = tl.load(b_ptr + latent, mask=known, other=0.0)
        b_m = tl.load(b_m_ptr + latent, mask=known, other=0.0)
        b_v = tl.load(b_v_ptr + latent, mask=known, other=0.0)
        b, b_m, b_v = _adam(b, scale * g_b, b_m, b_v, numbers_ptr)
        tl.store(b_ptr + latent, b, mask=known)
        tl.store(b_m_ptr + latent, b_m, mask=known)
        tl.store(b_v_ptr + latent, b_v, mask=known)
    tl.store(through_ptr + tl.program_id(0).to(tl.int64) * d + channel, through, mask=channel < d)


def latent_update_triton(
    groups: tuple[torch.Tensor, torch.Tensor],
    batch: dict[str, torch.Tensor],
    parameters: tuple[Any, Any, Any],
    aux: tuple[torch.Tensor, ...] | None,
    numbers: torch.Tensor,
    unit: bool,
) -> torch.Tensor:
    """Update all parameters in place -> W_enc^T g_b of the old encoder, float32 [D] (no checks).

    groups: offsets, pairs. batch: values, g_values, x, r. parameters: those of the encoder (the
    decoder's when tied), the decoder and b_enc. aux: row by latent, enc, dec, b.
    """
    offsets_N1, pairs_P = groups
    enc, dec, bias = parameters
    (n, d), k = dec.value.shape, batch["values"].shape[1]
    stretches = stretches_of(offsets_N1, pairs_P.shape[0])
    head = (offsets_N1, pairs_P, stretches.first_N1)
    blocks = pair_blocks(d)
    programs = triton.cdiv(n, LATENTS)
    through_SD = torch.empty(programs, d, dtype=torch.float32, device=offsets_N1.device)
    _latent_update_kernel[(programs,)](
        *head,
        *(batch[name] for name in ("values", "g_values", "x", "r")),
        sum_stretches(*groups, stretches, batch["g_values"], batch["x"]),
        sum_stretches(*groups, stretches, batch["values"], batch["r"]),
        *([stretches.first_N1] * 4 if aux is None else aux),
        *_pointers(enc),
        *_pointers(dec),
        *_pointers(bias)[:3],
        through_SD,
        numbers,
        n,
        k,
        SPLIT=SPLIT,
        TIED=enc is dec,
        SPHERE=unit,
        LOW=dec.low is not None,
        AUX=aux is not None,
        LATENTS=LATENTS,
        **blocks,
    )
    return through_SD.sum(0)


def _pointers(parameter: Any) -> list[torch.Tensor]:
    low = parameter.value if parameter.low is None else parameter.low
    return [parameter.value, parameter.first, parameter.second, low]
