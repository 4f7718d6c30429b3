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

from isae.compiled import SUMS, compiled, prange
from isae.kernels.cpu.int8_tile import PANEL, TILE_ROWS, aligned
from isae.kernels.cpu.selection import BLOCK

Array = npt.NDArray[Any]

SMALLEST = 1e-30
"""Steps of rounding below this have no reciprocal that could be trusted."""
SIZE_BITS = np.int32(0x7FFFFFFF)
"""All bits of a float32 but its sign."""
FLOOR = 1e-17
"""Added to norms: squares of numbers below 1e-19 are lost in float32."""


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


def pack(w_ND: Array, b_N: Array, slack: np.float32) -> Packed:
    """Weights float32 [N, D] and biases [N] -> Packed."""
    n, d = w_ND.shape
    panels, quads = -(-n // PANEL), -(-d // 4)
    weights = aligned((panels, quads, 4 * PANEL), np.int8)
    numbers_5N = np.zeros((5, panels * PANEL), np.float32)
    numbers_5N[2] = -np.inf
    numbers_5N[2, :n] = b_N
    _pack_panels(w_ND, slack, weights.view(np.int32), numbers_5N)
    return Packed(weights, numbers_5N, numbers_5N[3:5].reshape(2, -1, BLOCK).max(2))


def round_rows(x_BD: Array, slack: np.float32) -> Rounded:
    """Rows float32 [B, D] -> Rounded."""
    rows, d = x_BD.shape
    padded = -(-rows // TILE_ROWS) * TILE_ROWS
    rounded_BD = np.zeros((padded, -(-d // 4) * 4), np.uint8)
    numbers_B4 = np.zeros((padded, 4), np.float32)
    _round_all(x_BD, slack, rounded_BD, numbers_B4)
    return Rounded(rounded_BD, numbers_B4)


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


@compiled(parallel=True)
def _pack_panels(
    w_ND: Array,
    slack: Any,
    words: Array,
    numbers_5N: Array,
) -> None:
    n = w_ND.shape[0]
    quads = words.shape[1]
    one = np.float32(1)
    for panel in prange(words.shape[0]):
        q_D = np.zeros(4 * quads, np.int8)
        q_words = q_D.view(np.int32)
        words[panel] = 0
        for place in range(min(PANEL, n - panel * PANEL)):
            latent = panel * PANEL + place
            step = _largest_size(w_ND[latent]) / np.float32(127)
            inverse = np.float32(0)
            if step > SMALLEST:
                inverse = np.float32(1) / step
            total, error, square = _round_weights(w_ND[latent], step, inverse, q_D)
            for quad in range(quads):
                words[panel, quad, place] = q_words[quad]
            norm = np.sqrt(square) * (one + slack) + np.float32(FLOOR)
            numbers_5N[0, latent], numbers_5N[1, latent] = step, step * np.float32(total)
            numbers_5N[3, latent] = (
                np.sqrt(error) * (one + slack) + np.float32(FLOOR) + slack * norm
            )
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


@compiled(parallel=True)
def _round_all(
    x_BD: Array,
    slack: Any,
    rounded_BD: Array,
    numbers_B4: Array,
) -> None:
    d = x_BD.shape[1]
    one = np.float32(1)
    for r in prange(x_BD.shape[0]):
        low, high = _range(x_BD[r])
        step = high / np.float32(255) - low / np.float32(255)
        inverse = np.float32(0)
        if step > SMALLEST:
            inverse = one / step
        error, square = _round_row(x_BD[r], low, step, inverse, rounded_BD[r, :d])
        error = np.sqrt(error) * (one + slack) + np.float32(FLOOR)
        norm = np.sqrt(square) * (one + slack) + np.float32(FLOOR)
        numbers_B4[r, 0], numbers_B4[r, 1], numbers_B4[r, 2] = step, low, norm + error
        shift = abs(low) * np.sqrt(np.float32(d))
        numbers_B4[r, 3] = error + slack * (norm + error + shift + shift)
