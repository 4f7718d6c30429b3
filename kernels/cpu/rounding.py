"""Rows and weights in 8 bits, with what their rounding may have changed.

    x = step q + low + e_x, q in 0..255;    w = scale p + e_w, p in -127..127

so that for every row and latent, by Cauchy-Schwarz, in exact arithmetic

    |x w - (step q + low) scale p| <= ||step q + low|| ||e_w|| + ||e_x|| ||w||

`slack` widens the norms by what float32 may lose: in them, in the bounds made of them, and in a
float32 dot product of x and w.

Shapes: B rows, D channels, N latents.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from isae.compiled import SUMS, compiled, prange
from isae.kernels.cpu.bfloat16 import HALF, widen_row
from isae.kernels.cpu.instructions import take
from isae.kernels.cpu.int8_tile import PANEL, TILE_ROWS, aligned
from isae.kernels.cpu.selection import BLOCK

Array = npt.NDArray[Any]

SMALLEST = 1e-30
"""Steps of rounding below this have no reciprocal that could be trusted."""
SIZE_BITS = np.int32(0x7FFFFFFF)
"""All bits of a float32 but its sign."""
FLOOR = 1e-17
"""Added to norms: squares of numbers below 1e-19 are lost in float32."""
TAKEN = 64
"""Rows that a thread takes at once."""


class Packed(NamedTuple):
    """Weights in 8 bits, latents padded to whole panels; padding has a bias of -infinity."""

    weights: Array
    """int8 [panels, D / 4, 256], see `int8_tile`."""
    numbers_5N: Array
    """float32: scale, scale sum p, bias, ||e_w|| with slack, ||w||."""
    largest_2M: Array
    """The largest ||e_w|| and ||w|| of each block."""

    @property
    def largest(self) -> float:
        """The largest ||w||."""
        return float(self.numbers_5N[4].max())


class Rounded(NamedTuple):
    """Rows in 8 bits, padded to whole tiles."""

    rows: Array
    """uint8 [B, D]."""
    numbers_B4: Array
    """float32: step, low, ||step q + low||, ||e_x|| with slack."""

    @property
    def largest(self) -> float:
        """The largest of the norms."""
        return float(self.numbers_B4[:, 2:].max())


def slack_of(d: int) -> np.float32:
    """The share of ||x|| ||w|| that float32 may lose in a dot product of D terms and in bounds."""
    return np.float32((d + 16) * 2.0**-23)


def pack_and_round(w_ND: Array, b_N: Array, x_BD: Array) -> tuple[Packed, Rounded]:
    """Weights [N, D], float32 or the bits of bfloat16, with their biases [N], and rows float32
    [B, D], in 8 bits.
    """
    (n, d), rows = w_ND.shape, x_BD.shape[0]
    slack = slack_of(d)
    panels, quads = -(-n // PANEL), -(-d // 4)
    weights = aligned((panels, quads, 4 * PANEL), np.int8)
    numbers_5N = np.zeros((5, panels * PANEL), np.float32)
    numbers_5N[2] = -np.inf
    numbers_5N[2, :n] = b_N
    padded = -(-rows // TILE_ROWS) * TILE_ROWS
    rounded_BD = np.zeros((padded, 4 * quads), np.uint8)
    numbers_B4 = np.zeros((padded, 4), np.float32)
    # One loop for both, of parts that are taken: threads that sleep take a while to wake.
    counter, workers = np.zeros(1, np.int64), torch.get_num_threads()
    packed, rounded = (weights.view(np.int32), numbers_5N), (rounded_BD, numbers_B4)
    both = (x_BD[:0], w_ND) if w_ND.itemsize == HALF else (w_ND, np.empty((0, 0), np.uint16))
    _round_parts(both, *packed, x_BD, *rounded, slack, counter, workers)
    largest_2M = numbers_5N[3:5].reshape(2, -1, BLOCK).max(2)
    return Packed(weights, numbers_5N, largest_2M), Rounded(rounded_BD, numbers_B4)


@compiled()
def _largest_size(w_D: Array) -> Any:
    # As integers, whose order among floats without a sign is the same: compilers make vector
    # instructions of an integer maximum, and not of one that has to mind NaN.
    largest = np.zeros(1, np.int32)
    top, words = np.int32(0), w_D.view(np.int32)
    for c in range(words.shape[0]):
        top = max(top, words[c] & SIZE_BITS)
    largest[0] = top
    return largest.view(np.float32)[0]


@compiled(fastmath=SUMS)
def _round_weights(w_D: Array, step: Any, inverse: Any, q_D: Array) -> tuple[Any, Any, Any]:
    total, error, square = np.int32(0), w_D.dtype.type(0), w_D.dtype.type(0)
    for c in range(w_D.shape[0]):
        rounded = np.rint(w_D[c] * inverse)
        rest = w_D[c] - step * rounded
        error += rest * rest
        square += w_D[c] * w_D[c]
        q_D[c] = np.int8(rounded)
        total += np.int32(rounded)
    return total, error, square


@compiled()
def _pack_panel(
    weights: tuple[Array, Array], slack: Any, panel: int, words: Array, numbers_5N: Array
) -> None:
    # Of the weights as float32 and as the bits of bfloat16 one has no rows.
    n, quads, one = max(len(weights[0]), len(weights[1])), words.shape[1], np.float32(1)
    w_D = np.empty(weights[1].shape[1], np.float32)
    q_D = np.zeros(4 * quads, np.int8)
    q_words = q_D.view(np.int32)
    words[panel] = 0
    for place in range(min(PANEL, n - panel * PANEL)):
        latent = panel * PANEL + place
        if len(weights[0]):
            w_D = weights[0][latent]
        else:
            widen_row(weights[1][latent], w_D)
        step = _largest_size(w_D) / np.float32(127)
        inverse = np.float32(0)
        if step > SMALLEST:
            inverse = one / step
        total, error, square = _round_weights(w_D, step, inverse, q_D)
        for quad in range(quads):
            words[panel, quad, place] = q_words[quad]
        norm = np.sqrt(square) * (one + slack) + np.float32(FLOOR)
        numbers_5N[0, latent], numbers_5N[1, latent] = step, step * np.float32(total)
        numbers_5N[3, latent] = np.sqrt(error) * (one + slack) + np.float32(FLOOR) + slack * norm
        numbers_5N[4, latent] = norm


@compiled()
def _range(x_D: Array) -> tuple[Any, Any]:
    # As integers again; all bits but the sign turned over in negative ones makes them rise alike.
    words = x_D.view(np.int32)
    first = words[0] ^ ((words[0] >> np.int32(31)) & SIZE_BITS)
    low, high = first, first
    for c in range(words.shape[0]):
        word = words[c] ^ ((words[c] >> np.int32(31)) & SIZE_BITS)
        low, high = min(low, word), max(high, word)
    ends = np.empty(2, np.int32)
    ends[0] = low ^ ((low >> np.int32(31)) & SIZE_BITS)
    ends[1] = high ^ ((high >> np.int32(31)) & SIZE_BITS)
    return ends.view(np.float32)[0], ends.view(np.float32)[1]


@compiled(fastmath=SUMS)
def _round_row(x_D: Array, low: Any, step: Any, inverse: Any, q_D: Array) -> tuple[Any, Any]:
    error, square = x_D.dtype.type(0), x_D.dtype.type(0)
    for c in range(x_D.shape[0]):
        # Where a row hardly varies the step itself is rounded, and more than 255 of them may fit.
        rounded = min(np.rint((x_D[c] - low) * inverse), np.float32(255))
        rest = x_D[c] - (step * rounded + low)
        error += rest * rest
        square += x_D[c] * x_D[c]
        q_D[c] = np.uint8(rounded)
    return error, square


@compiled()
def _round_whole_row(x_D: Array, slack: Any, q_D: Array, numbers_4: Array) -> None:
    one = np.float32(1)
    low, high = _range(x_D)
    step = high / np.float32(255) - low / np.float32(255)
    inverse = np.float32(0)
    if step > SMALLEST:
        inverse = one / step
    error, square = _round_row(x_D, low, step, inverse, q_D)
    error = np.sqrt(error) * (one + slack) + np.float32(FLOOR)
    norm = np.sqrt(square) * (one + slack) + np.float32(FLOOR)
    numbers_4[0], numbers_4[1], numbers_4[2] = step, low, norm + error
    shift = abs(low) * np.sqrt(np.float32(x_D.shape[0]))
    numbers_4[3] = error + slack * (norm + error + shift + shift)


@compiled(parallel=True)
def _round_parts(
    weights: tuple[Array, Array],
    words: Array,
    numbers_5N: Array,
    x_BD: Array,
    rounded_BD: Array,
    numbers_B4: Array,
    slack: Any,
    counter: Array,
    workers: int,
) -> None:
    panels, (rows, d) = words.shape[0], x_BD.shape
    parts = panels + (rows + TAKEN - 1) // TAKEN
    for _ in prange(workers):
        part = take(counter.ctypes.data)
        while part < parts:
            if part < panels:
                _pack_panel(weights, slack, part, words, numbers_5N)
            else:
                first = (part - panels) * TAKEN
                for r in range(first, min(first + TAKEN, rows)):
                    _round_whole_row(x_BD[r], slack, rounded_BD[r, :d], numbers_B4[r])
            part = take(counter.ctypes.data)
