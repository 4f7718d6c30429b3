"""Drawing into a label map: an integer grid whose numbers a palette turns into colours later.

Grids are [R, R] with R subpixels a side. Coordinates u (right) and v (up) are measured from the
centre of a thing in fractions of the picture's side; angles are degrees counter-clockwise from the
right, as seen. Later drawings lie over earlier ones.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

POLYGONS = {"triangle": 3, "square": 4, "star": 5}
"""Corners (points, for the star); the shape looks the same after 360 / corners degrees."""

STAR_INNER = 0.45
"""Radius of the star's inner corners over the radius of its points."""


def offsets(resolution: int, x: float, y: float) -> tuple[F32, F32]:
    """Offsets u [1, R] and v [R, 1] of subpixel centres from (x, y) (from left and top)."""
    at = (np.arange(resolution, dtype=np.float32) + np.float32(0.5)) / np.float32(resolution)
    return (at - np.float32(x))[None, :], (np.float32(y) - at)[:, None]


def rotated(u: F32, v: F32, degrees: float) -> tuple[F32, F32]:
    """Coordinates along and across (90 degrees counter-clockwise of) a direction, [R, R]."""
    angle = np.deg2rad(degrees)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return u * c + v * s, v * c - u * s


def disc(u: F32, v: F32, radius: float) -> Mask:
    """Points within `radius` of the centre, [R, R]."""
    return u * u + v * v <= np.float32(radius * radius)


def polygon(u: F32, v: F32, kind: str, radius: float, degrees: float) -> Mask:
    """A regular polygon or star with its corners (points) at `radius`, one of them at `degrees`."""
    corners = POLYGONS[kind]
    if kind == "star":
        angles = np.deg2rad(degrees + 180 / corners * np.arange(2 * corners))
        radii = radius * np.where(np.arange(2 * corners) % 2, STAR_INNER, 1.0)
        return _inside(u, v, radii * np.cos(angles), radii * np.sin(angles))
    apothem = np.float32(radius * np.cos(np.pi / corners))
    inside = np.ones((v.shape[0], u.shape[1]), dtype=np.bool_)
    for normal in np.deg2rad(degrees + 180 / corners + 360 / corners * np.arange(corners)):
        inside &= u * np.float32(np.cos(normal)) + v * np.float32(np.sin(normal)) <= apothem
    return inside


def _inside(u: F32, v: F32, corner_u: npt.ArrayLike, corner_v: npt.ArrayLike) -> Mask:
    """Even-odd rule: a ray to the right crosses the outline an odd number of times."""
    u_E, v_E = np.asarray(corner_u, np.float32), np.asarray(corner_v, np.float32)
    inside = np.zeros((v.shape[0], u.shape[1]), dtype=np.bool_)
    for u0, v0, u1, v1 in zip(u_E, v_E, np.roll(u_E, -1), np.roll(v_E, -1), strict=True):
        if v0 == v1:
            continue
        spans = (v0 <= v) != (v1 <= v)
        inside ^= spans & (u < u0 + (v - v0) * ((u1 - u0) / (v1 - v0)))
    return inside


def arc(u: F32, v: F32, degrees: float, curvature: float, length: float, thickness: float) -> Mask:
    """A stroke along a circle, its midpoint at the centre; `degrees` points away from the circle.

    `curvature` is one over the circle's radius, `length` runs along the stroke; ends are cut off
    straight. An arc at 90 degrees is an arch, at 270 a bowl.
    """
    radius = 1 / curvature
    along, across = rotated(u, v, degrees)
    along = along + np.float32(radius)
    half = np.float32(thickness / 2)
    square = along * along + across * across
    near = (square >= (radius - half) ** 2) & (square <= (radius + half) ** 2)
    limit = min(length / 2 / radius, np.pi)
    return near & (np.abs(np.arctan2(across, along)) <= np.float32(limit))


def bar(u: F32, v: F32, degrees: float, length: float, thickness: float) -> Mask:
    """A straight stroke along `degrees`, its middle at the centre; ends are cut off straight."""
    along, across = rotated(u, v, degrees)
    near = np.abs(across) <= np.float32(thickness / 2)
    return near & (np.abs(along) <= np.float32(length / 2))


def corner(u: F32, v: F32, degrees: float, opening: float, length: float, thickness: float) -> Mask:
    """Two strokes that meet at the centre, `opening` degrees apart; `degrees` halves the opening.

    Each is `length` long from the centre; the corner itself is round.
    """
    mask = disc(u, v, thickness / 2)
    for arm in (degrees - opening / 2, degrees + opening / 2):
        along, across = rotated(u, v, arm)
        near = np.abs(across) <= np.float32(thickness / 2)
        mask = mask | (near & (along >= 0) & (along <= np.float32(length)))
    return mask


def gabor(
    u: F32, v: F32, degrees: float, frequency: float, phase: float, sigma: float, levels: int
) -> Labels:
    """A grating as in `wave` under a round Gaussian of standard deviation `sigma`, as levels.

    Level = (1 + exp(-r^2 / (2 sigma^2)) cos(2 pi frequency a + phase)) / 2 of levels - 1, rounded;
    far out it is the middle level.
    """
    _, across = rotated(u, v, degrees)
    turn = np.float32(2 * np.pi * frequency) * across + np.float32(np.deg2rad(phase))
    envelope = np.exp((u * u + v * v) * np.float32(-0.5 / sigma**2))
    level: Labels = (
        (np.cos(turn) * envelope + 1) * np.float32((levels - 1) / 2) + np.float32(0.5)
    ).astype(np.uint8)
    return level


def wave(u: F32, v: F32, degrees: float, frequency: float, phase: float, levels: int) -> Labels:
    """A grating as levels 0 .. levels-1: (1 + cos(2 pi frequency a + phase)) / 2, stripes along
    `degrees`, a being the distance across them; `frequency` in cycles a side, `phase` in degrees.
    """
    _, across = rotated(u, v, degrees)
    turn = np.float32(2 * np.pi * frequency) * across + np.float32(np.deg2rad(phase))
    level: Labels = ((np.cos(turn) + 1) * np.float32((levels - 1) / 2) + np.float32(0.5)).astype(
        np.uint8
    )
    return level


def checker(u: F32, v: F32, degrees: float, frequency: float) -> Mask:
    """Squares of side 1 / (2 frequency) in two colours, sides along `degrees`, [R, R]."""
    along, across = rotated(u, v, degrees)
    pace = np.float32(2 * frequency)
    cells = np.floor(along * pace).astype(np.int32) + np.floor(across * pace).astype(np.int32)
    odd: Mask = (cells & 1).astype(np.bool_)
    return odd


def dots(u: F32, v: F32, degrees: float, frequency: float, fill: float) -> Mask:
    """Dots on a square lattice of pitch 1 / frequency; their diameter is `fill` pitches, [R, R]."""
    along, across = rotated(u, v, degrees)
    along, across = along * np.float32(frequency), across * np.float32(frequency)
    along, across = along - np.rint(along), across - np.rint(across)
    return along * along + across * across <= np.float32(fill * fill / 4)


def paint_discs(
    labels: Labels, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], radii: npt.ArrayLike
) -> None:
    """Paint disc j with label j + 1 over those before it; centres and radii in whole subpixels."""
    for j, (cx, cy, r) in enumerate(
        zip(x.tolist(), y.tolist(), np.asarray(radii).tolist(), strict=True)
    ):
        top, left = max(cy - r, 0), max(cx - r, 0)
        target = labels[top : cy + r + 1, left : cx + r + 1]
        height, width = target.shape
        stamp = _stamp(r)[top - cy + r :, left - cx + r :][:height, :width]
        np.copyto(target, np.uint8(j + 1), where=stamp)


@cache
def _stamp(radius: int) -> Mask:
    at = np.arange(-radius, radius + 1)
    mask: Mask = at[:, None] ** 2 + at[None, :] ** 2 <= (radius + 0.5) ** 2
    return mask


def flatten(labels: Labels, palette: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Colours of a label map [R, R], averaged over factor x factor -> uint8 [R/f, R/f, 3]."""
    side = labels.shape[0] // factor
    total = np.zeros((side, side, 3), dtype=np.uint16)
    wide = palette.astype(np.uint16)
    for dy in range(factor):
        for dx in range(factor):
            total += wide.take(labels[dy::factor, dx::factor], axis=0)
    area = factor * factor
    mean: Labels = ((total + area // 2) // area).astype(np.uint8)
    return mean


def hsl_to_rgb(hue: npt.ArrayLike, saturation: npt.ArrayLike, lightness: npt.ArrayLike) -> Labels:
    """Hue in degrees, saturation and lightness in [0, 1], each [K] -> RGB uint8 [K, 3]."""
    h, s, li = np.broadcast_arrays(*map(np.atleast_1d, (hue, saturation, lightness)))
    k = (np.array([0, 8, 4]) + np.asarray(h)[:, None] / 30) % 12
    chroma = (s * np.minimum(li, 1 - li))[:, None]
    rgb = li[:, None] - chroma * np.clip(np.minimum(k - 3, 9 - k), -1, 1)
    colours: Labels = np.rint(rgb * 255).astype(np.uint8)
    return colours
