"""TopK encoding on Triton: a GEMM that also keeps block maxima, and an exact selection.

Rows are taken in chunks. For a chunk, `_pre_and_maxima_kernel` writes x W^T + b and the maximum of
each block of G latents; `_select_kernel` then looks at the K blocks with the largest maxima only.
That is exact: an active latent outside of them would have k blocks before it, each with a latent
that is larger, or as large with a lower index. Equal maxima: the lower block first.

The k largest of a row are found by their k-th: bit by bit, the largest 32-bit number that at least
k of the row's numbers reach, floats taken as integers of the same order. What equals it is taken
from the left, so ties go to the lowest index. NaN counts as +infinity, so that it is selected and
seen.

Shapes: B rows, C rows of a chunk, D channels, N latents, K active latents, M blocks of G latents.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from isae.errors import KernelError
from isae.kernels.triton.settings import ENCODE_TILES, Tile, architecture, power_of_two, precision

CHUNK_SHARE = 3 / 64
"""Rows of a chunk as a part of all rows: with the outputs it stays below 1/16 of float32 [B, N]."""
CHUNK_BYTES = 2 << 30
"""Pre-activations of a chunk at most; every chunk reads all of W once."""
DIRECT = 1024
"""Up to so many latents, rows are searched without blocks."""
MOST_K = 4096
"""Active latents: no more than there are blocks."""
MOST_BLOCKS = 8192
"""Block maxima that one program holds."""
MOST_LATENTS = MOST_BLOCKS * 128
"""Latents: a block is at most as wide as the narrowest tile."""
SELECT_ITEMS = 2048
"""Numbers that one program of the selection holds: it takes several rows where they are short."""
SORT_ITEMS = 8192
"""Comparisons that one program of the selection makes at once when it orders its k values."""


@triton.jit
def _pre_and_maxima_kernel(
    x_ptr,  # [C, D], rows stride_x apart
    w_ptr,  # [N, D], rows stride_w apart
    b_ptr,  # [N]
    pre_ptr,  # out: float32 [C, padded]
    maxima_ptr,  # out: float32 [C, M]
    rows,
    n,
    d,
    padded,
    blocks,
    stride_x,
    stride_w,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
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
    # Inside a tile 32 bits are enough, and half the registers; the brackets keep it so.
    pre_ptr += (tile_c * BLOCK_C).to(tl.int64) * padded + tile_n * BLOCK_N
    place = pre_ptr + (tl.arange(0, BLOCK_C)[:, None] * padded + tl.arange(0, BLOCK_N)[None, :])
    tl.store(place, acc, mask=(row[:, None] < rows) & (latent[None, :] < padded))
    if GROUP > 1:
        maxima = tl.max(tl.reshape(acc, [BLOCK_C, BLOCK_N // GROUP, GROUP]), axis=2)
        block = tile_n * (BLOCK_N // GROUP) + tl.arange(0, BLOCK_N // GROUP)
        place = maxima_ptr + row.to(tl.int64)[:, None] * blocks + block[None, :]
        tl.store(place, maxima, mask=(row[:, None] < rows) & (block[None, :] < blocks))


@triton.jit
def _ordered(value):
    """32 bits that order as the floats do; 0 is below all of them."""
    bits = value.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF) ^ -0x80000000).to(tl.uint32, bitcast=True)


@triton.jit
def _value(key):
    """The float of an ordered number."""
    bits = (key ^ 0x80000000).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _largest(keys, k):
    """Which of the keys [ROWS, M] are the k largest of their row, the first ones among equals."""
    threshold = tl.zeros_like(tl.sum(keys, axis=1, keep_dims=True))
    bit = tl.full([1, 1], 0x80000000, tl.uint32)
    for _ in range(32):
        higher = threshold | bit
        reached = tl.sum((keys >= higher).to(tl.int32), axis=1, keep_dims=True)
        threshold = tl.where(reached >= k, higher, threshold)
        bit = bit >> 1
    above = keys > threshold
    equal = keys == threshold
    left = k - tl.sum(above.to(tl.int32), axis=1, keep_dims=True)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), axis=1) <= left))


@triton.jit
def _select_kernel(
    pre_ptr,  # float32 [C, padded]
    maxima_ptr,  # float32 [C, M]; `pre` itself without blocks
    values_ptr,  # out: float32 [C, K]
    indices_ptr,  # out: int64 [C, K]; holds the chosen blocks in between
    rows,
    padded,
    blocks,
    k,
    ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    SLICE: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    out = row.to(tl.int64) * k
    block = tl.arange(0, BLOCK_M)[None, :]
    inside = (row < rows) & (block < blocks)
    maxima = tl.load(maxima_ptr + row.to(tl.int64) * blocks + block, mask=inside, other=0.0)
    kept = inside & _largest(tl.where(inside, _ordered(maxima), 0), k)
    place = tl.cumsum(kept.to(tl.int32), axis=1) - 1
    tl.store(indices_ptr + out + place, block.to(tl.int64), mask=kept)
    if GROUP == 1:
        tl.store(values_ptr + out + place, maxima, mask=kept)
    else:
        # Other threads of this program wrote what is read next; nobody may write before all read.
        tl.debug_barrier()
        slot = tl.arange(0, BLOCK_K * GROUP)[None, :]
        known = (row < rows) & (slot // GROUP < k)
        chosen = tl.load(indices_ptr + out + slot // GROUP, mask=known, other=0).to(tl.int32)
        latent = chosen * GROUP + slot % GROUP
        pre = tl.load(pre_ptr + row.to(tl.int64) * padded + latent, mask=known, other=0.0)
        key = tl.where(known, _ordered(pre), 0)
        tl.debug_barrier()
        kept = known & _largest(key, k)
        place = tl.cumsum(kept.to(tl.int32), axis=1) - 1
        tl.store(indices_ptr + out + place, latent.to(tl.int64), mask=kept)
        # From the key: keeping the numbers themselves as well would need more registers.
        tl.store(values_ptr + out + place, _value(key), mask=kept)
    tl.debug_barrier()
    _sort_rows(values_ptr, indices_ptr, row, rows, out, k, ROWS, BLOCK_K, SLICE)


@triton.jit
def _sort_rows(
    values_ptr,
    indices_ptr,
    row,
    rows,
    out,
    k,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SLICE: tl.constexpr,
):
    """Order each row's k values, which lie by rising index, by falling value; then ReLU."""
    slot = tl.arange(0, BLOCK_K)[None, :]
    inside = (row < rows) & (slot < k)
    value = tl.load(values_ptr + out + slot, mask=inside, other=0.0)
    index = tl.load(indices_ptr + out + slot, mask=inside, other=0)
    rank = tl.zeros([ROWS, BLOCK_K], tl.int32)
    for start in range(0, k, SLICE):
        other_slot = start + tl.arange(0, SLICE)[None, :]
        known = (row < rows) & (other_slot < k)
        other = tl.load(values_ptr + out + other_slot, mask=known, other=-float("inf"))
        first = other_slot[:, None, :] < slot[:, :, None]
        before = (other[:, None, :] > value[:, :, None]) | (
            (other[:, None, :] == value[:, :, None]) & first
        )
        rank += tl.sum((before & known[:, None, :]).to(tl.int32), axis=2)
    tl.debug_barrier()
    tl.store(values_ptr + out + rank, tl.where(value > 0, value, 0.0), mask=inside)
    tl.store(indices_ptr + out + rank, index, mask=inside)


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
    tile = ENCODE_TILES[architecture(device), kind]
    group = group_size(n, k)
    padded = -(-n // group) * group
    chunk = chunk_rows(rows, padded, tile)
    pre_CN = torch.empty(chunk, padded, dtype=torch.float32, device=device)
    maxima_CM = pre_CN if group == 1 else pre_CN.new_empty(chunk, padded // group)
    for start in range(0, rows, chunk):
        x_CD = x_BD[start : start + chunk]
        _launch_product(x_CD, W_ND, b_N, pre_CN, maxima_CM, tile, group, kind)
        _launch_selection(
            pre_CN,
            maxima_CM,
            values_BK[start : start + chunk],
            indices_BK[start : start + chunk],
            group,
        )
    return values_BK, indices_BK


def topk_triton(pre_BN: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of given finite pre-activations [B, N], as `encode_triton` takes them."""
    rows, n = pre_BN.shape
    _check_size(n, k)
    group = group_size(n, k)
    pre_BN = torch.nn.functional.pad(pre_BN.float() + 0.0, (0, -n % group), value=-torch.inf)
    maxima_BM = pre_BN if group == 1 else pre_BN.view(rows, -1, group).amax(2)
    values_BK = torch.empty(rows, k, dtype=torch.float32, device=pre_BN.device)
    indices_BK = torch.empty(rows, k, dtype=torch.int64, device=pre_BN.device)
    _launch_selection(pre_BN, maxima_BM, values_BK, indices_BK, group)
    return values_BK, indices_BK


def _check_size(n: int, k: int) -> None:
    if n > MOST_LATENTS or k > MOST_K:
        raise KernelError(
            f"expected at most {MOST_LATENTS:,} latents and k of at most {MOST_K:,} for kernel "
            f"'triton', found {n:,} and {k:,}; use kernel 'reference'"
        )


def group_size(n: int, k: int) -> int:
    """Latents per block G: near the root of n / k, so that maxima and candidates are about as many.

    1 where blocks would not pay.
    """
    if n <= max(DIRECT, 4 * k):
        return 1
    balanced = power_of_two(round((n / k) ** 0.5))
    return max(4, min(32, balanced), power_of_two(-(-n // MOST_BLOCKS)))


def chunk_rows(rows: int, padded: int, tile: Tile) -> int:
    """Rows of a chunk: whole tiles, a small part of all rows, bounded in bytes."""
    wanted = min(int(rows * CHUNK_SHARE), CHUNK_BYTES // (4 * padded))
    return max(1, min(rows, max(1, wanted // tile.block_c) * tile.block_c))


def _rows_dense(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.stride(-1) == 1 else matrix.contiguous()


def _launch_product(
    x_CD: torch.Tensor,
    W_ND: torch.Tensor,
    b_N: torch.Tensor,
    pre_CN: torch.Tensor,
    maxima_CM: torch.Tensor,
    tile: Tile,
    group: int,
    kind: str,
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
        x_CD.shape[1],
        pre_CN.shape[1],
        maxima_CM.shape[1],
        x_CD.stride(0),
        W_ND.stride(0),
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


def _launch_selection(
    pre_CN: torch.Tensor,
    maxima_CM: torch.Tensor,
    values_CK: torch.Tensor,
    indices_CK: torch.Tensor,
    group: int,
) -> None:
    rows, k = values_CK.shape
    blocks = maxima_CM.shape[1]
    block_m, block_k = power_of_two(blocks, 16), power_of_two(k, 16)
    items = max(block_m, block_k * group)
    per_program = max(1, SELECT_ITEMS // items)
    _select_kernel[(triton.cdiv(rows, per_program),)](
        pre_CN,
        maxima_CM,
        values_CK,
        indices_CK,
        rows,
        pre_CN.shape[1],
        blocks,
        k,
        ROWS=per_program,
        BLOCK_M=block_m,
        BLOCK_K=block_k,
        GROUP=group,
        SLICE=max(1, min(block_k, SORT_ITEMS // (per_program * block_k))),
        num_warps=min(8, max(4, items * per_program // 256)),
    )
