"""The k largest numbers of every row, exactly, on Triton: the second half of topk_encode.

Rows are searched block by block: the maximum of each block of G numbers is known, and only the k
blocks with the largest maxima are looked at. That is exact: a number outside of them has k blocks
before it, each with a number that is larger, or as large with a lower index. Equal maxima: the
lower block first.

The k largest of some numbers are found by a bound that exactly k of them reach, by bisection over
32-bit integers that order as the floats do. Where equal numbers leave no such bound, the bisection
ends at the k-th largest itself, and what equals it is taken from the left, so ties go to the lowest
index. Short rows stay in registers while the bound is sought; long ones are read again, piece by
piece, from the cache. NaN counts as +infinity, so that it is selected and seen.

Shapes: C rows, N numbers of a row, K largest ones, M blocks of G numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

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
def _ordered(number):
    """32 bits that order as the floats do; 0 is below all of them."""
    # + 0.0 makes -0 to +0, which must not differ in order.
    number = tl.where(number != number, float("inf"), number + 0.0)
    bits = number.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF) ^ -0x80000000).to(tl.uint32, bitcast=True)


@triton.jit
def _number(key):
    """The float of an ordered number."""
    bits = (key ^ 0x80000000).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _keys(
    row_ptr,  # [ROWS, 1]
    chosen_ptr,  # int32 [ROWS, 1]: blocks, K of them
    start,
    count,  # [ROWS, 1]
    n,
    GROUP: tl.constexpr,
    PIECE: tl.constexpr,
):
    """The numbers of slots from `start` on as ordered integers, 0 where there are none, and their
    places in the row. Slots count through the row, or through its chosen blocks if GROUP > 1.
    """
    slot = start + tl.arange(0, PIECE)[None, :]
    inside = slot < count
    place = slot
    if GROUP > 1:
        place = tl.load(chosen_ptr + slot // GROUP, mask=inside, other=0) * GROUP + slot % GROUP
        inside = inside & (place < n)
    number = tl.load(row_ptr + place, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, _ordered(number), 0), place


@triton.jit
def _range(held, row_ptr, chosen_ptr, count, total, n, PIECE: tl.constexpr, HOLD: tl.constexpr):
    """A key that all numbers of a row reach, and one that none does, [ROWS, 1] each."""
    if HOLD:
        largest = held
        smallest = tl.where(held > 0, held, 0xFFFFFFFF)
    else:
        largest, _ = _keys(row_ptr, chosen_ptr, 0, count, n, 1, PIECE)
        smallest = tl.where(largest > 0, largest, 0xFFFFFFFF)
        for start in range(PIECE, total, PIECE):
            key, _ = _keys(row_ptr, chosen_ptr, start, count, n, 1, PIECE)
            largest = tl.maximum(largest, key)
            smallest = tl.minimum(smallest, tl.where(key > 0, key, 0xFFFFFFFF))
    high = tl.max(largest, axis=1, keep_dims=True)
    return tl.minimum(tl.min(smallest, axis=1, keep_dims=True), high), high + 1


@triton.jit
def _reaching(
    held, bound, row_ptr, chosen_ptr, count, total, n,
    GROUP: tl.constexpr, PIECE: tl.constexpr, HOLD: tl.constexpr,
):  # fmt: skip
    """How many numbers of a row reach the bound, [ROWS, 1]."""
    if HOLD:
        reached = (held >= bound).to(tl.int32)
    else:
        key, _ = _keys(row_ptr, chosen_ptr, 0, count, n, GROUP, PIECE)
        reached = (key >= bound).to(tl.int32)
        for start in range(PIECE, total, PIECE):
            key, _ = _keys(row_ptr, chosen_ptr, start, count, n, GROUP, PIECE)
            reached += (key >= bound).to(tl.int32)
    return tl.sum(reached, axis=1, keep_dims=True)


@triton.jit
def _keep(
    key, place, bound, left, above_before, equal_before, values_ptr, indices_ptr,
    VALUES: tl.constexpr,
):  # fmt: skip
    """Write what is above the bound, and of what equals it the first `left`, by rising index.

    above_before, equal_before: how many of either the pieces before had; returned for the next.
    """
    above = key > bound
    equal = (key == bound) & (key > 0)
    # Both counts in one number: a piece has far fewer than 2^15.
    both = (above.to(tl.int32) << 16) + equal.to(tl.int32)
    so_far = tl.cumsum(both, axis=1)
    equals = equal_before + (so_far & 0xFFFF)
    kept = above | (equal & (equals <= left))
    slot = above_before + (so_far >> 16) + tl.minimum(equals, left) - 1
    tl.store(indices_ptr + slot, place.to(indices_ptr.dtype.element_ty), mask=kept)
    if VALUES:
        # From the key: keeping the numbers themselves as well would need more registers.
        tl.store(values_ptr + slot, _number(key), mask=kept)
    added = tl.sum(both, axis=1, keep_dims=True)
    return above_before + (added >> 16), equal_before + (added & 0xFFFF)


@triton.jit
def _bound(
    held, low, high, row_ptr, chosen_ptr, count, total, n, k,
    GROUP: tl.constexpr, PIECE: tl.constexpr, HOLD: tl.constexpr,
):  # fmt: skip
    """A key that exactly k numbers of a row reach; without one, the k-th largest's, [ROWS, 1].

    low, high: keys that at least k and that fewer than k reach.
    """
    while tl.max(tl.max(high - low, axis=1), axis=0) > 1:
        middle = low + ((high - low) >> 1)
        reached = _reaching(
            held, middle, row_ptr, chosen_ptr, count, total, n, GROUP, PIECE, HOLD
        )  # fmt: skip
        low = tl.where(reached >= k, middle, low)
        # Where exactly k reach it, the search of this row is over.
        high = tl.where(reached == k, middle + 1, tl.where(reached > k, high, middle))
    return low


@triton.jit
def _write(
    held, held_place, bound, row_ptr, chosen_ptr, values_ptr, indices_ptr, count, total, n, k,
    GROUP: tl.constexpr, PIECE: tl.constexpr, HOLD: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """The places of the k largest, given their bound, by rising place; with VALUES themselves."""
    above = _reaching(
        held, bound + 1, row_ptr, chosen_ptr, count, total, n, GROUP, PIECE, HOLD
    )  # fmt: skip
    left = k - above
    if HOLD:
        none = above * 0
        _keep(held, held_place, bound, left, none, none, values_ptr, indices_ptr, VALUES)
    else:
        above_before = above * 0
        equal_before = above * 0
        for start in range(0, total, PIECE):
            key, place = _keys(row_ptr, chosen_ptr, start, count, n, GROUP, PIECE)
            above_before, equal_before = _keep(
                key, place, bound, left, above_before, equal_before, values_ptr, indices_ptr, VALUES
            )  # fmt: skip


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
