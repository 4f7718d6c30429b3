"""The k largest numbers of rows, exactly, on Triton: the parts of the selection's kernel.

The k largest of some numbers are found by a bound that exactly k of them reach, by bisection over
32-bit integers that order as the floats do. Where equal numbers leave no such bound, the bisection
ends at the k-th largest itself, and what equals it is taken from the left, so ties go to the lowest
index. Short rows stay in registers while the bound is sought (HOLD); long ones are read again,
piece by piece, from the cache. NaN counts as +infinity, so that it is selected and seen.

A program takes ROWS rows. Common arguments: held, the keys of rows that are held; row_ptr
[ROWS, 1], where each row begins; chosen_ptr int32 [ROWS, 1], where its chosen blocks of GROUP
numbers are listed; count [ROWS, 1], the slots of each row, and total, the most of them; n, the
row's length.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
