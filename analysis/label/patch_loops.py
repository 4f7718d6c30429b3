"""The compiled loops over pixels: colours, gradients and curvature summed over patches.

Legend: B pictures, S pixels a side, C = 10 sums, G cells.
"""

from __future__ import annotations

import numpy as np

from isae.analysis.arrays import F32, I64, U8
from isae.compiled import compiled

SUMS = ("red", "green", "blue", "xx", "yy", "xy", "coarse", "bend_x", "bend_y", "length")
"""Means over a patch: the three colours (0..1); the structure tensor of the blurred lightness; the
squared gradient of the coarse lightness; the curvature vector of level lines (per pixel) weighted
by the gradient's length; that length."""


@compiled()
def blur(source_SS: F32, target_SS: F32, spare_SS: F32, reach: int) -> None:
    """Three box means of 2 reach + 1 pixels along both axes; edges are repeated.

    `source_SS` may be `target_SS`.
    """
    side = source_SS.shape[0]
    target_SS[:] = source_SS
    for _ in range(3):
        for y in range(side):
            total = np.float32(0.0)
            for d in range(-reach, reach + 1):
                total += target_SS[y, min(max(d, 0), side - 1)]
            for x in range(side):
                spare_SS[y, x] = total / np.float32(2 * reach + 1)
                total += target_SS[y, min(x + reach + 1, side - 1)]
                total -= target_SS[y, max(x - reach, 0)]
        for x in range(side):
            total = np.float32(0.0)
            for d in range(-reach, reach + 1):
                total += spare_SS[min(max(d, 0), side - 1), x]
            for y in range(side):
                target_SS[y, x] = total / np.float32(2 * reach + 1)
                total += spare_SS[min(y + reach + 1, side - 1), x]
                total -= spare_SS[max(y - reach, 0), x]


@compiled()
def gradient(image_SS: F32, x_SS: F32, y_SS: F32) -> None:
    """Half the difference of neighbours along both axes; edges are repeated."""
    side = image_SS.shape[0]
    for y in range(side):
        up, down = max(y - 1, 0), min(y + 1, side - 1)
        for x in range(side):
            left, right = max(x - 1, 0), min(x + 1, side - 1)
            x_SS[y, x] = (image_SS[y, right] - image_SS[y, left]) / np.float32(2.0)
            y_SS[y, x] = (image_SS[down, x] - image_SS[up, x]) / np.float32(2.0)


@compiled()
def lightness(pixels_SS3: U8, value_CSS: F32, light_SS: F32) -> None:
    """The colours in 0..1 into the first three values, and their lightness (Rec. 601)."""
    side = pixels_SS3.shape[0]
    for y in range(side):
        for x in range(side):
            for c in range(3):
                value_CSS[c, y, x] = pixels_SS3[y, x, c] / np.float32(255.0)
            light_SS[y, x] = (
                np.float32(0.299) * value_CSS[0, y, x]
                + np.float32(0.587) * value_CSS[1, y, x]
                + np.float32(0.114) * value_CSS[2, y, x]
            )


@compiled()
def unit_part(x_SS: F32, y_SS: F32, y: int, x: int, along_y: int) -> np.float32:
    """One coordinate of the unit normal; near 0 where there is no gradient."""
    length = np.sqrt(x_SS[y, x] * x_SS[y, x] + y_SS[y, x] * y_SS[y, x])
    part = y_SS[y, x] if along_y == 1 else x_SS[y, x]
    return np.float32(part / (length + np.float32(1e-4)))


@compiled()
def edge_values(x_SS: F32, y_SS: F32, value_CSS: F32) -> None:
    """Structure tensor, curvature vector and length of a gradient: values 3, 4, 5 and 7, 8, 9."""
    side = x_SS.shape[0]
    for y in range(side):
        for x in range(side):
            value_CSS[3, y, x] = x_SS[y, x] * x_SS[y, x]
            value_CSS[4, y, x] = y_SS[y, x] * y_SS[y, x]
            value_CSS[5, y, x] = x_SS[y, x] * y_SS[y, x]
            bend = np.float32(0.0)
            if 0 < y < side - 1 and 0 < x < side - 1:
                # The divergence of unit normals is the curvature of the level line.
                bend += unit_part(x_SS, y_SS, y, x + 1, 0) - unit_part(x_SS, y_SS, y, x - 1, 0)
                bend += unit_part(x_SS, y_SS, y + 1, x, 1) - unit_part(x_SS, y_SS, y - 1, x, 1)
                bend /= np.float32(2.0)
            value_CSS[7, y, x] = bend * x_SS[y, x]
            value_CSS[8, y, x] = bend * y_SS[y, x]
            value_CSS[9, y, x] = np.sqrt(value_CSS[3, y, x] + value_CSS[4, y, x])


@compiled()
def pixel_values(pixels_SS3: U8, fine: int, coarse: int, value_CSS: F32) -> None:
    """What SUMS adds up, at every pixel of one picture."""
    side = pixels_SS3.shape[0]
    light_SS = np.empty((side, side), np.float32)
    blurred_SS = np.empty((side, side), np.float32)
    spare_SS = np.empty((side, side), np.float32)
    x_SS = np.empty((side, side), np.float32)
    y_SS = np.empty((side, side), np.float32)
    lightness(pixels_SS3, value_CSS, light_SS)
    blur(light_SS, blurred_SS, spare_SS, coarse)
    gradient(blurred_SS, x_SS, y_SS)
    for y in range(side):
        for x in range(side):
            value_CSS[6, y, x] = x_SS[y, x] * x_SS[y, x] + y_SS[y, x] * y_SS[y, x]
    blur(light_SS, blurred_SS, spare_SS, fine)
    gradient(blurred_SS, x_SS, y_SS)
    edge_values(x_SS, y_SS, value_CSS)


@compiled()
def patch_means(pixels_BSS3: U8, box_G4: I64, fine: int, coarse: int, mean_BGC: F32) -> None:
    """Means of SUMS over the box (left, top, right, bottom) of every cell of every picture."""
    side = pixels_BSS3.shape[1]
    for b in range(len(pixels_BSS3)):
        value_CSS = np.empty((10, side, side), np.float32)
        pixel_values(pixels_BSS3[b], fine, coarse, value_CSS)
        total_SS = np.zeros((side + 1, side + 1), np.float64)
        for c in range(10):
            for y in range(side):
                row = 0.0
                for x in range(side):
                    row += np.float64(value_CSS[c, y, x])
                    total_SS[y + 1, x + 1] = total_SS[y, x + 1] + row
            for g in range(len(box_G4)):
                left, top, right, bottom = box_G4[g]
                held = total_SS[bottom, right] - total_SS[top, right]
                held += total_SS[top, left] - total_SS[bottom, left]
                mean_BGC[b, g, c] = held / ((right - left) * (bottom - top))
