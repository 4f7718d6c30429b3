"""TopK encoding on Triton: a GEMM that also keeps block maxima, and an exact selection.

Rows are taken in chunks. For a chunk, `_pre_and_maxima_kernel` writes x W^T + b and the maximum of
each block of G latents; the kernel of isae.kernels.triton.selection then looks at the K blocks with
the largest maxima only.

Shapes: B rows, C rows of a chunk, D channels, N latents, K active latents, M blocks of G latents.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from isae.errors import KernelError
from isae.kernels.triton.selection import block_maxima, group_size, launch_selection
from isae.kernels.triton.settings import (
    ENCODE_TILES,
    UNALIGNED_TILES,
    Tile,
    architecture,
    common_unit,
    precision,
)

CHUNK_SHARE = 3 / 64
"""Rows of a chunk as a part of all rows: with the outputs it stays below 1/16 of float32 [B, N]."""
CHUNK_BYTES = 2 << 30
"""Pre-activations of a chunk at most; every chunk reads all of W once."""
MOST_K = 4096
"""Active latents: putting k values in order takes k^2 comparisons."""
MOST_LATENTS = 1 << 22
"""Latents: one tile of rows has to fit into `CHUNK_BYTES`."""


@triton.jit
def _pre_and_maxima_kernel(
    x_ptr,  # [C, D], rows stride_x apart
    w_ptr,  # [N, D], rows stride_w apart
    b_ptr,  # [N]
    pre_ptr,  # out: float32 [C, padded]
    maxima_ptr,  # out: float32 [C, M]
    rows,
    n,
    units_d,
    padded,
    blocks,
    units_x,
    units_w,
    UNIT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    # Rows of d and of the strides are whole units: the compiler sees how wide it may read.
    d, stride_x, stride_w = units_d * UNIT, units_x * UNIT, units_w * UNIT
    # Neighbouring programs share a tile of W, the larger operand.
    tiles_c = tl.cdiv(rows, BLOCK_C)
    tile_c, tile_n = tl.program_id(0) % tiles_c, tl.program_id(0) // tiles_c
    row = tile_c * BLOCK_C + tl.arange(0, BLOCK_C)
    latent = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    x_row = x_ptr + row.to(tl.int64)[:, None] * stride_x
    w_row = w_ptr + latent.to(tl.int64)[:, None] * stride_w
    acc = tl.zeros([BLOCK_C, BLOCK_N], tl.float32)
    for start in range(0, d, BLOCK_D):
        channel = start + tl.arange(0, BLOCK_D)
        inside = channel[None, :] < d
        x = tl.load(x_row + channel[None, :], mask=(row[:, None] < rows) & inside, other=0.0)
        w = tl.load(w_row + channel[None, :], mask=(latent[:, None] < n) & inside, other=0.0)
        if UPCAST:
            x, w = x.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(x, tl.trans(w), acc, input_precision=PRECISION)
    # + 0.0 makes -0 to +0, which must not differ in order.
    acc += tl.load(b_ptr + latent, mask=latent < n, other=0.0).to(tl.float32)[None, :] + 0.0
    acc = tl.where(acc != acc, float("inf"), acc)
    acc = tl.where(latent[None, :] < n, acc, -float("inf"))
    if GROUP > 1:
        maxima = tl.max(tl.reshape(acc, [BLOCK_C, BLOCK_N // GROUP, GROUP]), axis=2)
        block = tile_n * (BLOCK_N // GROUP) + tl.arange(0, BLOCK_N // GROUP)
        place = maxima_ptr + row.to(tl.int64)[:, None] * blocks + block[None, :]
        tl.store(place, maxima, mask=(row[:, None] < rows) & (block[None, :] < blocks))
    # Inside a tile 32 bits are enough, and half the registers; the brackets keep it so.
    pre_ptr += (tile_c * BLOCK_C).to(tl.int64) * padded + tile_n * BLOCK_N
    place = pre_ptr + (tl.arange(0, BLOCK_C)[:, None] * padded + tl.arange(0, BLOCK_N)[None, :])
    tl.store(place, acc, mask=(row[:, None] < rows) & (latent[None, :] < padded))


def encode_triton(
    x_BD: torch.Tensor, W_ND: torch.Tensor, b_N: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values float32 [B, K] and indices int64 [B, K] (no checks, no gradients)."""
    _check_size(W_ND.shape[0], k)
    x_BD, W_ND, b_N = _rows_dense(x_BD), _rows_dense(W_ND), b_N.contiguous()
    rows, n = x_BD.shape[0], W_ND.shape[0]
    device = x_BD.device
    values_BK = torch.empty(rows, k, dtype=torch.float32, device=device)
    indices_BK = torch.empty(rows, k, dtype=torch.int64, device=device)
    kind = precision(x_BD.dtype)
    unit = common_unit(x_BD.shape[1], x_BD.stride(0), W_ND.stride(0))
    tiles = UNALIGNED_TILES if unit == 1 else ENCODE_TILES
    tile = tiles[architecture(device), kind]
    group = group_size(n, k)
    padded = -(-n // group) * group
    chunk = chunk_rows(rows, padded, tile)
    pre_CN = torch.empty(chunk, padded, dtype=torch.float32, device=device)
    maxima_CM = pre_CN if group == 1 else pre_CN.new_empty(chunk, padded // group)
    for start in range(0, rows, chunk):
        x_CD = x_BD[start : start + chunk]
        _launch_product(x_CD, W_ND, b_N, pre_CN, maxima_CM, tile, group, kind, unit)
        launch_selection(
            pre_CN,
            maxima_CM,
            values_BK[start : start + chunk],
            indices_BK[start : start + chunk],
            n,
            group,
        )
    return values_BK, indices_BK


def topk_triton(pre_BN: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of given finite pre-activations [B, N], as `encode_triton` takes them."""
    rows, n = pre_BN.shape
    _check_size(n, k)
    pre_BN = _rows_dense(pre_BN)
    group = group_size(n, k)
    values_BK = torch.empty(rows, k, dtype=torch.float32, device=pre_BN.device)
    indices_BK = torch.empty(rows, k, dtype=torch.int64, device=pre_BN.device)
    if rows:
        maxima_BM = pre_BN if group == 1 else block_maxima(pre_BN, group)
        launch_selection(pre_BN, maxima_BM, values_BK, indices_BK, n, group)
    return values_BK, indices_BK


def _check_size(n: int, k: int) -> None:
    if n > MOST_LATENTS or k > MOST_K:
        raise KernelError(
            f"expected at most {MOST_LATENTS:,} latents and k of at most {MOST_K:,} for kernel "
            f"'triton', found {n:,} and {k:,}; use kernel 'reference'"
        )


def chunk_rows(rows: int, padded: int, tile: Tile) -> int:
    """Rows of a chunk: whole tiles, a small part of all rows, bounded in bytes."""
    wanted = min(int(rows * CHUNK_SHARE), CHUNK_BYTES // (4 * padded))
    return max(1, min(rows, max(1, wanted // tile.block_c) * tile.block_c))


def _rows_dense(matrix: torch.Tensor) -> torch.Tensor:
    """Numbers of a row beside each other, the first one where 16 bytes may be read at once."""
    if matrix.stride(-1) == 1 and matrix.data_ptr() % 16 == 0:
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


def _launch_product(
    x_CD: torch.Tensor,
    W_ND: torch.Tensor,
    b_N: torch.Tensor,
    pre_CN: torch.Tensor,
    maxima_CM: torch.Tensor,
    tile: Tile,
    group: int,
    kind: str,
    unit: int,
) -> None:
    rows, n = x_CD.shape[0], W_ND.shape[0]
    programs = triton.cdiv(rows, tile.block_c) * triton.cdiv(pre_CN.shape[1], tile.block_n)
    _pre_and_maxima_kernel[(programs,)](
        x_CD,
        W_ND,
        b_N,
        pre_CN,
        maxima_CM,
        rows,
        n,
        x_CD.shape[1] // unit,
        pre_CN.shape[1],
        maxima_CM.shape[1],
        x_CD.stride(0) // unit,
        W_ND.stride(0) // unit,
        UNIT=unit,
        BLOCK_C=tile.block_c,
        BLOCK_N=tile.block_n,
        BLOCK_D=tile.block_d,
        GROUP=group,
        PRECISION="tf32" if kind == "half" else kind,
        # The interpreter multiplies bfloat16 as if it were integers.
        UPCAST=x_CD.device.type == "cpu",
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
