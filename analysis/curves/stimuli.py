"""Arcs of all curvatures down to straight, corners and reversed arcs, in the same looks.

A look is a fill (a disc, or a stroke of some width), a polarity and a colour. In every look arcs
have A directions and R radii; their limit of no curvature is a line (of a stroke) or the edge of a
half-plane (of a disc), at the same tangent and with the ground on the same side. The reversed arc
is that of the opposite direction. Corners have strokes alone; one that 'points' at an angle opens
away from it, as an arc bends away from where its outside points. Whole circles touch the point as
arcs do; arcs are at most half of one, discs' rims excepted.

Angles as in `isae.analysis.tuning.stimuli`: degrees counter-clockwise from the right, of an arc
where its outside points: 90 an arch, 270 a bowl.

Shape legend: L looks, K looks of strokes, R radii, Q radii of circles, O openings, A directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from isae.analysis.arrays import F64, I64
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.tuning.stimuli import (
    LENGTH,
    NAN,
    Stimulus,
    StimulusSet,
    figure_colour,
)
from isae.config import check

EDGE = 50.0
"""An edge is drawn as a disc with a radius of so many fields."""

DISC = "disc"
MOST_TURN = np.pi
"""No arc is longer than this times its radius."""

SMALLEST_WIDTH = 1.5
"""Pixels; thinner strokes are drawn this wide, and arcs of smaller radii than widths left out."""


@dataclass(frozen=True)
class CurveStimuli:
    """Pictures and which of them is what; the index arrays hold numbers of stimuli.

    angles_A in degrees from 0, evenly spaced; radii_R in pixels, rising; straight_LA: the line or
    edge with the tangent of the arcs of each direction; corner_KOA: corners that point there, in
    the looks stroke_K; circle_KQA: whole circles in those looks, of radii below half the field,
    what lies outside of the field left out; part_L: number of the fill (stroke or disc), polarity
    and colour of each look, whatever its width; levels: {factor: its value in each look [L]}, those
    that vary.
    """

    shown: StimulusSet
    angles_A: F64
    radii_R: F64
    arc_LRA: I64
    straight_LA: I64
    corner_KOA: I64
    circle_KQA: I64
    stroke_K: I64
    part_L: I64
    levels: dict[str, np.ndarray[Any, np.dtype[np.str_]]]


def curve_stimuli(
    config: CurvesConfig, size: int, centre: tuple[float, float], field: float
) -> CurveStimuli:
    """All pictures of a config, about `centre` (x, y) in pixels, sized to `field` pixels.

    Raises ConfigError for a field below 3 pixels or beyond the picture, a point outside it, and
    where strokes are wider than every radius.
    """
    check(3 <= field <= size, f"a field from 3 to {size} pixels (the picture)", field)
    check(all(0 <= at <= size for at in centre), f"a point in {size} pixels", centre)
    angles_A = np.arange(config.directions) * 360 / config.directions
    widths = sorted({max(part * field, SMALLEST_WIDTH) for part in config.widths})
    radii = [part * field for part in config.radii if part * field >= widths[-1]]
    check(bool(radii), f"a radius of at least {widths[-1]:g} pixels, the stroke's", config.radii)
    looks = list(_looks(config.colours, widths))
    rows: list[Stimulus] = []

    def add(one: Stimulus) -> int:
        rows.append(one)
        return len(rows) - 1

    arcs = [
        [[add(_arc(angle, radius, field, look)) for angle in angles_A] for radius in radii]
        for look in looks
    ]
    straight = [_straight(add, angles_A, field, look) for look in looks]
    stroke_K = np.flatnonzero([look["fill"] != DISC for look in looks])
    corners = [
        [
            [add(_corner(at, opening, field, looks[k])) for at in angles_A]
            for opening in config.openings
        ]
        for k in stroke_K
    ]
    small = [radius for radius in radii if radius < field / 2] or radii[:1]
    circles = [
        [[add(_circle(at, radius, looks[k])) for at in angles_A] for radius in small]
        for k in stroke_K
    ]
    kinds = [(look["fill"], look["polarity"], look["colour"]) for look in looks]
    levels = {
        "fill": np.array([look["fill"] for look in looks]),
        "polarity": np.array(["light" if look["polarity"] > 0 else "dark" for look in looks]),
        "colour": np.array([look["colour"] for look in looks]),
    }
    return CurveStimuli(
        StimulusSet(tuple(rows), size, (float(centre[0]), float(centre[1])), float(field)),
        angles_A,
        np.array(radii),
        np.array(arcs),
        np.array(straight),
        np.array(corners),
        np.array(circles),
        stroke_K,
        np.array([sorted(set(kinds)).index(kind) for kind in kinds]),
        {name: value_L for name, value_L in levels.items() if len(np.unique(value_L)) > 1},
    )


def _looks(colours: tuple[str, ...], widths: list[float]) -> Iterator[dict[str, Any]]:
    """Factors of every look; a disc's width is NaN."""
    for colour in colours:
        for polarity in (-1, 1):
            look = {"colour": colour, "polarity": polarity, **figure_colour(colour, polarity)}
            for width in widths:
                yield {"fill": "stroke", "width": width, **look}
            yield {"fill": DISC, "width": NAN, **look}


def _arc(angle: float, radius: float, field: float, look: dict[str, Any]) -> Stimulus:
    if look["fill"] == DISC:
        return Stimulus("arc", float(angle), radius, **look)
    length = min(LENGTH * field, MOST_TURN * radius)
    return Stimulus("arc", float(angle), radius, length=length, **look)


def _circle(angle: float, radius: float, look: dict[str, Any]) -> Stimulus:
    return Stimulus("arc", float(angle), radius, length=2 * np.pi * radius, **look)


def _straight(
    add: Callable[[Stimulus], int], angles_A: F64, field: float, look: dict[str, Any]
) -> list[int]:
    """Numbers of the straight stimuli of a look, for every direction; a line serves two."""
    if look["fill"] == DISC:
        return [add(_arc(angle, EDGE * field, field, look)) for angle in angles_A]
    half = len(angles_A) // 2
    lines = [
        add(Stimulus("line", float(at), float("inf"), length=LENGTH * field, **look))
        for at in angles_A[:half]
    ]
    return [lines[(place + half // 2) % half] for place in range(len(angles_A))]


def _corner(at: float, opening: float, field: float, look: dict[str, Any]) -> Stimulus:
    opens = (float(at) + 180) % 360
    return Stimulus("corner", opens, length=LENGTH / 2 * field, opening=opening, **look)
