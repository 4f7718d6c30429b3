"""From a stimulus's factors to pixels, with the drawing code of the procedural pictures.

A label map of SUPERSAMPLE x SUPERSAMPLE subpixels a pixel is coloured and averaged, so an edge
pixel has the share of the figure that covers it, to 1 / 16. Only a square about the point is
drawn, the rest of the picture is ground.
"""

from __future__ import annotations

import math

import numpy as np

from isae.analysis.arrays import U8
from isae.analysis.tuning.stimuli import Stimulus
from isae.images import shapes

SUPERSAMPLE = 4
LEVELS = 255
"""Of gratings; odd, so that the middle one is the ground."""

_MARGIN = 2


def draw(one: Stimulus, size: int, centre: tuple[float, float], field: float) -> U8:
    """Pixels uint8 [size, size, 3] of one stimulus about `centre` (x, y), in pixels."""
    left, top, side = _window(one, size, centre, field)
    u, v = shapes.offsets(side * SUPERSAMPLE, (centre[0] - left) / side, (centre[1] - top) / side)
    labels = _labels(one, u, v, side)
    palette, ground = palette_of(one)
    tile = shapes.flatten(labels, palette, SUPERSAMPLE)
    picture = np.empty((size, size, 3), dtype=np.uint8)
    picture[:] = palette[ground]
    first_y, first_x = max(top, 0), max(left, 0)
    last_y, last_x = min(top + side, size), min(left + side, size)
    picture[first_y:last_y, first_x:last_x] = tile[
        first_y - top : last_y - top, first_x - left : last_x - left
    ]
    return picture


def palette_of(one: Stimulus) -> tuple[U8, int]:
    """The colours of the labels, uint8 [K, 3], and which of them is the ground."""
    hue = 0.0 if math.isnan(one.hue) else one.hue
    if one.family in ("grating", "gabor"):
        if one.saturation == 0:
            ends = shapes.hsl_to_rgb(0, 0, [0.1, 0.9])
        else:
            ends = shapes.hsl_to_rgb([(hue + 180) % 360, hue], one.saturation, one.lightness)
        part = np.linspace(0, 1, LEVELS)[:, None]
        return np.rint(ends[:1] * (1 - part) + ends[1:] * part).astype(np.uint8), LEVELS // 2
    figure = shapes.hsl_to_rgb(hue, one.saturation, one.lightness)
    light = {0: 0.5, -1: 0.9, 1: 0.1}[one.polarity]
    return np.concatenate([shapes.hsl_to_rgb(0, 0, light), figure]), 0


def _window(
    one: Stimulus, size: int, centre: tuple[float, float], field: float
) -> tuple[int, int, int]:
    """left, top and side of the square to draw; a disc may need the whole picture."""
    half = field / 2 + _MARGIN
    if one.family == "arc" and one.fill == "disc":
        half = 2 * one.radius + _MARGIN
    side = 2 * math.ceil(half)
    if side >= size:
        return 0, 0, size
    return math.floor(centre[0] - side / 2), math.floor(centre[1] - side / 2), side


def _labels(one: Stimulus, u: shapes.F32, v: shapes.F32, side: int) -> shapes.Labels:
    width, length = one.width / side, one.length / side
    if one.family == "arc":
        mask = _arc(one, u, v, side)
    elif one.family == "line":
        mask = shapes.bar(u, v, one.orientation, length, width)
    elif one.family == "corner":
        mask = shapes.corner(u, v, one.orientation, one.opening, length, width)
    elif one.family in ("grating", "gabor"):
        return _wave(one, u, v, side)
    elif math.isnan(one.frequency):
        mask = shapes.disc(u, v, width / 2)
    else:
        frequency = one.frequency * side
        mask = shapes.dots(u, v, 0.0, frequency, one.width * one.frequency)
        mask = mask & shapes.disc(u, v, length / 2)
    return mask.astype(np.uint8)


def _arc(one: Stimulus, u: shapes.F32, v: shapes.F32, side: int) -> shapes.Mask:
    radius = one.radius / side
    if one.fill == "stroke":
        return shapes.arc(
            u, v, one.orientation, 1 / radius, one.length / side, one.width / side
        )  # fmt: skip
    angle = math.radians(one.orientation)
    away_u, away_v = radius * math.cos(angle), radius * math.sin(angle)
    return shapes.disc(u + np.float32(away_u), v + np.float32(away_v), radius)


def _wave(one: Stimulus, u: shapes.F32, v: shapes.F32, side: int) -> shapes.Labels:
    frequency = one.frequency * side
    if one.family == "gabor":
        sigma = one.length / 6 / side
        return shapes.gabor(u, v, one.orientation, frequency, one.phase, sigma, LEVELS)
    levels = shapes.wave(u, v, one.orientation, frequency, one.phase, LEVELS)
    inside = shapes.disc(u, v, one.length / 2 / side)
    return np.where(inside, levels, np.uint8(LEVELS // 2))
