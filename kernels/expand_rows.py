"""Rows kept without their zeros, and any of them brought back, bit for bit.

A row is kept as one bit a channel (1: not zero) and its other values in order of channel. An
activation map after ReLU is mostly zeros, so about twice as many 16-bit rows fit into a memory.
Zero means all bits zero: -0.0 is kept as a value, and so is every NaN.

Shapes: R rows kept, B rows asked for, D channels, W bytes of D bits, P values that are not zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import compiled, prange
from isae.errors import KernelError
from isae.kernels.checks import check_indices
from isae.kernels.dispatch import choose_kernel

Array = npt.NDArray[Any]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers that stand for values of so many bytes."""


class PackedRows(NamedTuple):
    """Rows [R, D] without their zeros, all on one device."""

    packed_P: torch.Tensor
    """The values that are not zero, row after row, in the rows' dtype (there may be spare room)."""
    bitmap_RW: torch.Tensor
    """uint8; channel c of a row is bit c % 8 of byte c // 8."""
    offsets_R: torch.Tensor
    """int64: where in packed_P each row starts."""
    channels: int

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(t.nbytes for t in (self.packed_P, self.bitmap_RW, self.offsets_R))


def pack_rows(x_RD: torch.Tensor, *, kernel: str = "auto") -> PackedRows:
    """Leave out the zeros of rows of 16, 32 or 64 bits a value, on their own device.

    `kernel`: as in `expand_rows`; there is no kernel of Triton's, 'triton' takes torch's operations
    as 'reference' does. Raises KernelError for other shapes and dtypes.
    """
    chosen = choose_kernel(kernel, x_RD.device)
    if x_RD.ndim != 2 or x_RD.dtype.is_complex or x_RD.element_size() not in BITS:
        raise KernelError(
            f"x: expected a matrix of 16, 32 or 64 bits a value, found {x_RD.dtype} "
            f"{list(x_RD.shape)}; convert it"
        )
    rows, channels = x_RD.shape
    width = -(-channels // 8)
    bits_RD = x_RD.contiguous().view(BITS[x_RD.element_size()])
    if chosen == "cpu":
        bitmap_RW = torch.empty(rows, width, dtype=torch.uint8)
        offsets_R = torch.empty(rows, dtype=torch.int64)
        room_P = torch.empty(rows * channels, dtype=bits_RD.dtype)
        count = _pack(*(t.numpy() for t in (bits_RD, bitmap_RW, offsets_R, room_P)))
        return PackedRows(room_P[:count].clone().view(x_RD.dtype), bitmap_RW, offsets_R, channels)
    mask_RD = bits_RD != 0
    bits_RW8 = torch.nn.functional.pad(mask_RD, (0, 8 * width - channels)).view(rows, width, 8)
    powers_8 = 1 << torch.arange(8, dtype=torch.uint8, device=x_RD.device)
    bitmap_RW = (bits_RW8 * powers_8).sum(2, dtype=torch.uint8)
    counts_R = mask_RD.sum(1)
    return PackedRows(x_RD[mask_RD], bitmap_RW, counts_R.cumsum(0) - counts_R, channels)


def expand_rows(
    kept: PackedRows, rows_B: torch.Tensor, *, kernel: str = "auto", trusted: bool = False
) -> torch.Tensor:
    """Rows `rows_B` (int64 in [0, R), any order, repeated or not) of packed rows -> [B, D].

    Bit for bit the rows that were packed. `kernel`: auto | triton | cpu | reference. `trusted`:
    `kept` came from `pack_rows` and the row numbers are known to be in range, which saves a look at
    them. Raises KernelError for shapes, dtypes, devices or row numbers that do not fit.
    """
    chosen = choose_kernel(kernel, kept.packed_P.device)
    if not trusted:
        _check(kept)
        device = kept.packed_P.device
        check_indices("rows", rows_B, tuple(rows_B.shape[:1]), len(kept.bitmap_RW), device)
    bits = kept.packed_P.view(BITS[kept.packed_P.element_size()])
    if chosen == "triton":
        from isae.kernels.triton.expand_rows import expand_triton

        out_BD = expand_triton(bits, kept.bitmap_RW, kept.offsets_R, rows_B, kept.channels)
    elif chosen == "cpu":
        out_BD = torch.empty(len(rows_B), kept.channels, dtype=bits.dtype)
        operands = (bits, kept.bitmap_RW, kept.offsets_R, rows_B, out_BD)
        _expand(*(tensor.contiguous().numpy() for tensor in operands))
    else:
        out_BD = _expand_reference(bits, kept.bitmap_RW, kept.offsets_R, rows_B, kept.channels)
    return out_BD.view(kept.packed_P.dtype)


def _expand_reference(
    bits_P: torch.Tensor,
    bitmap_RW: torch.Tensor,
    offsets_R: torch.Tensor,
    rows_B: torch.Tensor,
    channels: int,
) -> torch.Tensor:
    """The definition: the n-th bit that is 1 stands for value n of the row."""
    shifts_8 = torch.arange(8, dtype=torch.uint8, device=bits_P.device)
    bytes_BW = bitmap_RW[rows_B]
    mask_BD = ((bytes_BW[:, :, None] >> shifts_8) & 1).flatten(1)[:, :channels].bool()
    place_BD = offsets_R[rows_B][:, None] + mask_BD.cumsum(1) - 1
    out_BD = bits_P.new_zeros(len(rows_B), channels)
    out_BD[mask_BD] = bits_P[place_BD[mask_BD]]
    return out_BD


def _check(kept: PackedRows) -> None:
    packed_P, bitmap_RW, offsets_R, channels = kept
    if packed_P.ndim != 1 or packed_P.element_size() not in BITS:
        raise KernelError(
            f"packed: expected one axis of values of 16, 32 or 64 bits, found {packed_P.dtype} "
            f"{list(packed_P.shape)}; take them from pack_rows"
        )
    shape = (len(offsets_R), -(-channels // 8))
    if bitmap_RW.dtype != torch.uint8 or bitmap_RW.shape != shape:
        raise KernelError(
            f"bitmap: expected uint8 {list(shape)}, found {bitmap_RW.dtype} "
            f"{list(bitmap_RW.shape)}; take it from pack_rows"
        )
    check_indices("offsets", offsets_R, shape[:1], len(packed_P) + 1, packed_P.device)
    if bitmap_RW.device != packed_P.device:
        raise KernelError(
            f"bitmap: expected device {packed_P.device}, found {bitmap_RW.device}; move it"
        )


# Both loops are without branches, which a processor could not guess.


@compiled(nogil=True)
def _pack(bits_RD: Array, bitmap_RW: Array, offsets_R: Array, packed_P: Array) -> int:
    """Every value is written to the next place, which moves on only behind one that is not zero."""
    place: Any = 0
    channels = bits_RD.shape[1]
    for r in range(bits_RD.shape[0]):
        offsets_R[r] = place
        for word in range(bitmap_RW.shape[1]):
            byte: Any = 0
            for c in range(8 * word, min(8 * word + 8, channels)):
                value = bits_RD[r, c]
                packed_P[place] = value
                bit = np.int64(value != 0)
                byte |= bit << (c - 8 * word)
                place += bit
            bitmap_RW[r, word] = byte
    return int(place)


@compiled(parallel=True)
def _expand(
    bits_P: Array, bitmap_RW: Array, offsets_R: Array, rows_B: Array, out_BD: Array
) -> None:
    """A zero is any value, masked. Unsigned places need no look at their sign."""
    channels, count, one = out_BD.shape[1], np.uint64(bits_P.shape[0]), np.uint64(1)
    for b in prange(rows_B.shape[0]):
        row = rows_B[b]
        bitmap_W, out_D = bitmap_RW[row], out_BD[b]
        place: Any = np.uint64(offsets_R[row])
        for word in range(bitmap_W.shape[0]):
            byte, first = np.uint64(bitmap_W[word]), np.uint64(8 * word)
            if 8 * word + 8 <= channels and place + np.uint64(8) <= count:
                for j in range(8):
                    bit = (byte >> np.uint64(j)) & one
                    out_D[first + np.uint64(j)] = bits_P[place] & -np.int64(bit)
                    place += bit
            else:
                for j in range(min(8, channels - 8 * word)):
                    bit = (byte >> np.uint64(j)) & one
                    value = bits_P[place] if bit and place < count else 0
                    out_D[first + np.uint64(j)] = value
                    place += bit
