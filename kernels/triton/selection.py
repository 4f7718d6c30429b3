"""The k largest numbers of every row, exactly, on Triton: the second half of topk_encode.

Rows are searched block by block: the maximum of each block of G numbers is known, and only the k
blocks with the largest maxima are looked at. That is exact: a number outside of them has k blocks
before it, each with a number that is larger, or as large with a lower index. Equal maxima: the
lower block first.

Shapes: C rows, N numbers of a row, K largest ones, M blocks of G numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from isae.kernels.triton.largest import _bound, _keys, _range, _write
from isae.kernels.triton.settings import power_of_two

DIRECT = 1024
"""Up to so many numbers, rows are searched without blocks."""
MOST_GROUP = 128
"""Numbers of a block: at most as many as the narrowest tile of the product has."""
SELECT_ITEMS = 2048
"""Numbers that one program of the selection holds: several short rows, or a piece of a long one."""
SORT_ITEMS = 4096
"""Comparisons that one program of the selection makes at once when it orders its k values."""
MAX_REGISTERS = 128
"""A thread; given, since the compiler by itself would rather spill than go beyond 64."""
MAXIMA_ITEMS = 4096
"""Numbers of which one program takes block maxima."""


@triton.jit
def _select_kernel(
    pre_ptr,  # [C, N], rows `stride` apart
    maxima_ptr,  # float32 [C, M]; not read if GROUP == 1
    chosen_ptr,  # scratch: int32 [C, K]; not used if GROUP == 1
    values_ptr,  # out: float32 [C, K]
    indices_ptr,  # out: int64 [C, K]
    rows,
    n,
    stride,
    blocks,
    k,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PIECE_M: tl.constexpr,
    HOLD_M: tl.constexpr,
    PIECE: tl.constexpr,
    HOLD: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SLICE: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    there = row < rows
    row = row.to(tl.int64)
    pre = pre_ptr + row * stride
    chosen = chosen_ptr + row * k
    values = values_ptr + row * k
    indices = indices_ptr + row * k
    total = n
    if GROUP > 1:
        total = k * GROUP
        maxima = maxima_ptr + row * blocks
        count = tl.where(there, blocks, 0)
        held_m, block = 0, 0
        if HOLD_M:
            held_m, block = _keys(maxima, chosen, 0, count, blocks, 1, PIECE_M)
        low, high = _range(held_m, maxima, chosen, count, blocks, blocks, PIECE_M, HOLD_M)
        low = _bound(
            held_m, low, high, maxima, chosen, count, blocks, blocks, k, 1, PIECE_M, HOLD_M
        )  # fmt: skip
        _write(
            held_m, block, low, maxima, chosen, values, chosen, count, blocks, blocks, k,
            1, PIECE_M, HOLD_M, False,
        )  # fmt: skip
        # Other threads of this program wrote the chosen blocks that are read next.
        tl.debug_barrier()
    count = tl.where(there, total, 0)
    held, place = 0, 0
    if HOLD:
        held, place = _keys(pre, chosen, 0, count, n, GROUP, PIECE)
    if GROUP == 1:
        low, high = _range(held, pre, chosen, count, total, n, PIECE, HOLD)
    low = _bound(held, low, high, pre, chosen, count, total, n, k, GROUP, PIECE, HOLD)
    _write(
        held, place, low, pre, chosen, values, indices, count, total, n, k,
        GROUP, PIECE, HOLD, True,
    )  # fmt: skip
    tl.debug_barrier()
    _sort_rows(values, indices, tl.where(there, k, 0), k, ROWS, BLOCK_K, SLICE)


@triton.jit
def _sort_rows(
    values_ptr,  # [ROWS, 1]
    indices_ptr,  # [ROWS, 1]
    count,  # [ROWS, 1]
    k,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SLICE: tl.constexpr,
):
    """Order each row's k values, which lie by rising index, by falling value; then ReLU."""
    slot = tl.arange(0, BLOCK_K)[None, :]
    inside = slot < count
    value = tl.load(values_ptr + slot, mask=inside, other=0.0)
    index = tl.load(indices_ptr + slot, mask=inside, other=0)
    rank = tl.zeros([ROWS, BLOCK_K], tl.int32)
    for start in range(0, k, SLICE):
        other_slot = start + tl.arange(0, SLICE)[None, :]
        known = other_slot < count
        other = tl.load(values_ptr + other_slot, mask=known, other=-float("inf"))
        first = other_slot[:, None, :] < slot[:, :, None]
        before = (other[:, None, :] > value[:, :, None]) | (
            (other[:, None, :] == value[:, :, None]) & first
        )
        rank += tl.sum((before & known[:, None, :]).to(tl.int32), axis=2)
    tl.debug_barrier()
    tl.store(values_ptr + rank, tl.where(value > 0, value, 0.0), mask=inside)
    tl.store(indices_ptr + rank, index, mask=inside)


@triton.jit
def _block_maxima_kernel(
    pre_ptr,  # [C, N], rows `stride` apart
    maxima_ptr,  # out: float32 [C, M]
    n,
    stride,
    blocks,
    GROUP: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    pieces = tl.cdiv(blocks, BLOCKS)
    row = (tl.program_id(0) // pieces).to(tl.int64)
    block = tl.program_id(0) % pieces * BLOCKS + tl.arange(0, BLOCKS)
    place = block[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    pre = tl.load(pre_ptr + row * stride + place, mask=place < n, other=-float("inf"))
    pre = pre.to(tl.float32)
    pre = tl.where(pre != pre, float("inf"), pre)
    tl.store(maxima_ptr + row * blocks + block, tl.max(pre, axis=1), mask=block < blocks)


def group_size(n: int, k: int) -> int:
    """Numbers per block G: near the root of n / k, so that maxima and candidates are as many.

    1 where blocks would not pay.
    """
    if n <= max(DIRECT, 4 * k):
        return 1
    return max(4, min(MOST_GROUP, power_of_two(round((n / k) ** 0.5))))


def block_maxima(pre_CN: torch.Tensor, group: int) -> torch.Tensor:
    """The maximum of every block of `group` numbers, float32 [C, M]."""
    rows, n = pre_CN.shape
    blocks = triton.cdiv(n, group)
    maxima_CM = torch.empty(rows, blocks, dtype=torch.float32, device=pre_CN.device)
    taken = min(power_of_two(blocks), max(1, MAXIMA_ITEMS // group))
    _block_maxima_kernel[(rows * triton.cdiv(blocks, taken),)](
        pre_CN, maxima_CM, n, pre_CN.stride(0), blocks, GROUP=group, BLOCKS=taken, num_warps=4
    )
    return maxima_CM


def launch_selection(
    pre_CN: torch.Tensor,
    maxima_CM: torch.Tensor,
    values_CK: torch.Tensor,
    indices_CK: torch.Tensor,
    n: int,
    group: int,
) -> None:
    """Write the k largest of the first n numbers of every row, through ReLU, and their indices."""
    rows, k = values_CK.shape
    blocks = maxima_CM.shape[1]
    block_k = power_of_two(k, 16)
    candidates = power_of_two(n, 16) if group == 1 else block_k * group
    items = candidates if group == 1 else max(power_of_two(blocks, 16), candidates)
    per_program = max(1, SELECT_ITEMS // items)
    chosen_CK = indices_CK if group == 1 else indices_CK.new_empty(rows, k, dtype=torch.int32)
    _select_kernel[(triton.cdiv(rows, per_program),)](
        pre_CN,
        maxima_CM,
        chosen_CK,
        values_CK,
        indices_CK,
        rows,
        n,
        pre_CN.stride(0),
        blocks,
        k,
        ROWS=per_program,
        GROUP=group,
        **_pieces("_M", power_of_two(blocks, 16)),
        **_pieces("", candidates),
        BLOCK_K=block_k,
        SLICE=max(1, min(block_k, SORT_ITEMS // (per_program * block_k))),
        num_warps=min(8, max(4, items * per_program // 256)),
        maxnreg=MAX_REGISTERS,
    )


def _pieces(name: str, items: int) -> dict[str, Any]:
    return {f"PIECE{name}": min(items, SELECT_ITEMS), f"HOLD{name}": items <= SELECT_ITEMS}
