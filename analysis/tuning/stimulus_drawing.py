"""From a stimulus's factors to pixels: each pixel has the share of the figure that covers it.

A straight edge with outward normal (nx, ny) at the signed distance d (inside > 0) from the middle
of a unit square covers, with a = max(|nx|, |ny|), b = the smaller, m = (a + b) / 2,

    1/2 + d / a                     for |d| <= (a - b) / 2,
    1 - (m - d)^2 / (2 a b)         for (a - b) / 2 <= d <= m,  mirrored for d < 0,

of it, exactly. A stroke is the difference of two edges; ends and edges are multiplied. A round edge
counts as straight within a pixel, moved by its curvature / 24 (the mean sag); small circles and
corners are drawn on pixels of a half, a quarter or an eighth and averaged. So a stroke has the same
ink at every angle, to better than 1 %. Gratings have the exact mean of their wave over each pixel.

Only a square about the point is drawn, the rest of the picture is ground.
"""

from __future__ import annotations

import math

import numpy as np

from isae.analysis.arrays import F64, U8
from isae.analysis.tuning.stimuli import Stimulus
from isae.images import shapes

_MARGIN = 2
_ROUND_ENOUGH = 8.0
"""A circle of this radius, in the pixels it is drawn on, counts as locally straight."""

_FINEST = 8


def draw(one: Stimulus, size: int, centre: tuple[float, float], field: float) -> U8:
    """Pixels uint8 [size, size, 3] of one stimulus about `centre` (x, y), in pixels."""
    ground, figure, middle = colours_of(one)
    picture = np.empty((size, size, 3), dtype=np.uint8)
    picture[:] = np.rint(middle if one.family in ("grating", "gabor") else ground)
    left, top, side = _window(one, size, centre, field)
    first_y, first_x = max(top, 0), max(left, 0)
    last_y, last_x = min(top + side, size), min(left + side, size)
    fine = _fineness(one)
    u = _middles(first_x, last_x, fine) - centre[0]
    v = centre[1] - _middles(first_y, last_y, fine)
    part = _part(one, u[None, :], v[:, None], 1 / fine)
    if fine > 1:
        part = part.reshape(last_y - first_y, fine, last_x - first_x, fine).mean(axis=(1, 3))
    tile = picture[first_y:last_y, first_x:last_x]
    for channel in range(3):
        low, high = ground[channel], figure[channel]
        tile[..., channel] = (part * (high - low) + (low + 0.5)).astype(np.uint8)
    return picture


def colours_of(one: Stimulus) -> tuple[F64, F64, F64]:
    """RGB of the ground, of the figure, and of their middle, float64 [3] each, 0 to 255.

    Of gratings and Gabors: the two ends of the wave and the ground between them.
    """
    hue = 0.0 if math.isnan(one.hue) else one.hue
    if one.family in ("grating", "gabor"):
        if one.saturation == 0:
            ends = shapes.hsl_to_rgb(0, 0, [0.1, 0.9])
        else:
            ends = shapes.hsl_to_rgb([(hue + 180) % 360, hue], one.saturation, one.lightness)
    else:
        light = {0: 0.5, -1: 0.9, 1: 0.1}[one.polarity]
        figure = shapes.hsl_to_rgb(hue, one.saturation, one.lightness)
        ends = np.concatenate([shapes.hsl_to_rgb(0, 0, light), figure])
    low, high = ends.astype(np.float64)
    return low, high, (low + high) / 2


def straight_coverage(d: F64, nx: F64 | float, ny: F64 | float, pixel: float) -> F64:
    """Part of each square pixel [..] that lies inside a straight edge; see the module's head."""
    covered = (d > 0).astype(np.float64)
    near = np.nonzero(np.abs(d) < 0.75 * pixel)
    nx, ny = (np.abs(np.broadcast_to(one, d.shape)[near]) for one in (nx, ny))
    a, b = np.maximum(nx, ny), np.minimum(nx, ny)
    far = np.abs(d[near]) / pixel
    corner = np.maximum((a + b) / 2 - far, 0.0) ** 2 / np.maximum(2 * a * b, 1e-300)
    half = np.where(far <= (a - b) / 2, 0.5 - far / np.maximum(a, 1e-300), np.minimum(corner, 0.5))
    covered[near] = np.where(d[near] > 0, 1 - half, half)
    return covered


def _middles(first: int, last: int, fine: int) -> F64:
    return np.asarray(first + (np.arange((last - first) * fine) + 0.5) / fine)


def _fineness(one: Stimulus) -> int:
    """Subpixels a side: 1 where round edges are large and strokes long beside their ends."""
    if one.family == "arc":
        inner = one.radius
        if one.fill == "stroke":
            inner = min(one.radius - one.width / 2, one.length / 4)
    elif one.family in ("patch", "dots"):
        inner = one.width / 2
    elif one.family == "line":
        inner = one.length / 4
    elif one.family == "corner":
        inner = min(one.width, one.length / 4)
    else:
        return 1
    fine = 1
    while fine < _FINEST and inner * fine < _ROUND_ENOUGH:
        fine *= 2
    return fine


def _window(
    one: Stimulus, size: int, centre: tuple[float, float], field: float
) -> tuple[int, int, int]:
    """left, top and side of the square to draw; a disc or an edge may need the whole picture."""
    half = field / 2 + _MARGIN
    if one.family == "arc" and one.fill == "disc":
        half = 2 * one.radius + _MARGIN
    side = 2 * math.ceil(half)
    if side >= size or one.family == "edge":
        return 0, 0, size
    return math.floor(centre[0] - side / 2), math.floor(centre[1] - side / 2), side


def _part(one: Stimulus, u: F64, v: F64, pixel: float) -> F64:
    """Part of the way from the ground's colour to the figure's, [H, W] in [0, 1]."""
    if one.family == "arc":
        return _arc(one, u, v, pixel)
    if one.family == "line":
        return _bar(u, v, one.orientation, one.length / 2, one.width, pixel)
    if one.family == "edge":
        c, s = _direction(one.orientation)
        return straight_coverage(-(u * c + v * s), c, s, pixel)
    if one.family == "corner":
        return _corner(one, u, v, pixel)
    if one.family in ("grating", "gabor"):
        return _wave(one, u, v, pixel)
    if one.family == "blank":
        return np.zeros((len(v), u.shape[1]))
    if math.isnan(one.frequency):
        return _disc(u, v, one.width / 2, pixel)
    period = 1 / one.frequency
    u_near, v_near = u - period * np.rint(u / period), v - period * np.rint(v / period)
    return _disc(u_near, v_near, one.width / 2, pixel) * _disc(u, v, one.length / 2, pixel)


def _direction(degrees: float) -> tuple[float, float]:
    angle = math.radians(degrees)
    return math.cos(angle), math.sin(angle)


def _disc(u: F64, v: F64, radius: float, pixel: float) -> F64:
    """Coverage of a disc about the origin."""
    sag = pixel * pixel / (24 * max(radius, pixel))
    away = np.sqrt(u * u + v * v)
    # |u| / radius is the normal where it matters: at the rim.
    rim = max(radius, pixel / 2)
    return straight_coverage(radius - sag - away, u / rim, v / rim, pixel)


def _arc(one: Stimulus, u: F64, v: F64, pixel: float) -> F64:
    c, s = _direction(one.orientation)
    u, v = u + one.radius * c, v + one.radius * s
    if one.fill == "disc":
        return _disc(u, v, one.radius, pixel)
    ring = _disc(u, v, one.radius + one.width / 2, pixel)
    ring = np.clip(ring - _disc(u, v, one.radius - one.width / 2, pixel), 0.0, 1.0)
    drawn = np.nonzero(ring > 0)
    limit = one.length / 2 / one.radius
    along, across = (u * c + v * s)[drawn], (v * c - u * s)[drawn]
    away = np.hypot(along, across)
    inside = away * np.sin(limit - np.abs(np.arctan2(across, along)))
    # The normal of the end's line, on the side of the circle where the pixel lies.
    side = np.where(across >= 0, 1.0, -1.0)
    n_along, n_across = -math.sin(limit), math.cos(limit) * side
    ends = straight_coverage(inside, n_along * c - n_across * s, n_along * s + n_across * c, pixel)
    ring[drawn] *= ends
    return ring


def _bar(u: F64, v: F64, degrees: float, half: float, width: float, pixel: float) -> F64:
    """Coverage of a straight stroke about the origin, `half` its half length."""
    c, s = _direction(degrees)
    along, across = u * c + v * s, v * c - u * s
    edges = straight_coverage(width / 2 - across, -s, c, pixel)
    edges = edges - straight_coverage(-width / 2 - across, -s, c, pixel)
    ends = straight_coverage(half - along, c, s, pixel)
    ends = ends - straight_coverage(-half - along, c, s, pixel)
    return edges * ends


def _corner(one: Stimulus, u: F64, v: F64, pixel: float) -> F64:
    part = _disc(u, v, one.width / 2, pixel)
    for arm in (one.orientation - one.opening / 2, one.orientation + one.opening / 2):
        c, s = _direction(arm)
        middle_u, middle_v = u - one.length / 2 * c, v - one.length / 2 * s
        bar = _bar(middle_u, middle_v, arm, one.length / 2, one.width, pixel)
        part = np.maximum(part, bar)
    return part


def _wave(one: Stimulus, u: F64, v: F64, pixel: float) -> F64:
    c, s = _direction(one.orientation)
    across = v * c - u * s
    wave = np.cos(2 * np.pi * one.frequency * across + math.radians(one.phase))
    # The mean of a wave over a square is its value at the middle times two sincs.
    wave = wave * np.sinc(one.frequency * s * pixel) * np.sinc(one.frequency * c * pixel)
    if one.family == "gabor":
        sigma = one.length / 6
        envelope = np.exp((u * u + v * v) * (-0.5 / sigma**2))
    else:
        envelope = _disc(u, v, one.length / 2, pixel)
    part: F64 = 0.5 + 0.5 * wave * envelope
    return part
