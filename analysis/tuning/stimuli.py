"""Stimuli with known factors, drawn on the fly about one point and sized to a receptive field.

Families:

    arc       a stroke along a circle, its midpoint at the point, or (fill 'disc') the whole disc
              that it bounds; radius x direction x width x fill x polarity x colour
    edge      the straight rim of a half-plane: direction x polarity x colour; an arc's disc of
              infinite radius, as a line is an arc's stroke
    line      a straight stroke: orientation x width x polarity x colour
    corner    two strokes that meet: direction x opening x polarity x colour
    grating   stripes in a round window: orientation x frequency x phase x colour
    gabor     the same under a Gaussian of a sixth of the field
    patch     a disc of one colour on grey: hue x lightness
    dots      one disc (frequency NaN) or a lattice of them: size x polarity x colour
    blank     the bare ground of dark figures (light), of light ones (dark), and grey

Angles are degrees counter-clockwise from the right: of an arc or edge where its outside points (90
an arch, 270 a bowl), of a corner the middle of its opening, all over 360; of lines, gratings and
Gabors the direction of their strokes or stripes, over 180. Lengths are pixels of the picture that
the network sees; a plan gives them in parts of the field. Nothing is random: a plan, a size, a
point and a field give the same pixels everywhere. Colours differ in luminance: they are equal in
HSL lightness alone. Arcs of the smallest radii are shorter than others (MOST_TURN), and their
`length` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from isae.analysis.arrays import U8
from isae.config import check

NAN = float("nan")
PERIODS = {"arc": 360, "corner": 360, "edge": 360, "line": 180, "grating": 180, "gabor": 180}
"""Families with an angle, and the degrees after which they look the same."""

FAMILIES = (*PERIODS, "patch", "dots", "blank")
HUES = {"red": 0.0, "yellow": 60.0, "green": 120.0, "cyan": 180.0, "blue": 240.0, "purple": 300.0}
COLOURS = ("grey", *HUES)
SMALLEST_PERIOD = 2.5
"""Pixels; gratings, Gabors and lattices that are finer are left out, since they would alias."""

SMALLEST_WIDTH = 1.5
"""Pixels; thinner strokes are drawn this wide, and arcs of a radius below their width left out."""

LENGTH = 0.9
"""Length of a line or (along the stroke) an arc over the field's side."""

MOST_TURN = 1.5 * np.pi
"""No arc is longer than this times its radius: it would close."""


@dataclass(frozen=True)
class Stimulus:
    """The factors of one stimulus; NaN or '' where one does not apply.

    orientation in degrees; radius (of an arc), width (of a stroke; of a patch and of dots the
    diameter), length (of gratings and lattices the diameter of their round window) in pixels; fill:
    'stroke' or 'disc'; polarity: +1 lighter than the ground, -1 darker, 0 both; colour: one of
    COLOURS (of gratings: against its complement), 'patch' for patches; frequency in periods a
    pixel, phase and opening in degrees; hue, saturation, lightness of the figure (HSL).
    """

    family: str
    orientation: float = NAN
    radius: float = NAN
    width: float = NAN
    length: float = NAN
    fill: str = ""
    polarity: int = 0
    colour: str = "grey"
    frequency: float = NAN
    phase: float = NAN
    opening: float = NAN
    hue: float = NAN
    saturation: float = 0.0
    lightness: float = 0.5


FACTORS = tuple(field.name for field in fields(Stimulus))


@dataclass(frozen=True)
class StimulusPlan:
    """Which values each factor takes; lengths in parts of the field's side."""

    directions: int = 24
    """Angles over 360 degrees of arcs and corners; lines and gratings take the first half."""
    radii: tuple[float, ...] = (0.15, 0.25, 0.4, 0.7, 1.5)
    widths: tuple[float, ...] = (0.06, 0.12)
    colours: tuple[str, ...] = ("grey", "red", "blue")
    cycles: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Periods of a grating over the field; a Gabor has those of them that are at least 2."""
    phases: int = 4
    openings: tuple[float, ...] = (60.0, 90.0, 120.0)
    diameters: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    hues: int = 12
    lightnesses: tuple[float, ...] = (0.3, 0.5, 0.7)

    def __post_init__(self) -> None:
        right = self.directions >= 8 and self.directions % 4 == 0
        check(right, "a number of directions of at least 8 that 4 divides", self.directions)
        for name in ("radii", "widths", "cycles", "diameters"):
            values = getattr(self, name)
            rising = all(a < b for a, b in pairwise(values))
            check(bool(values) and values[0] > 0 and rising, f"{name} that rise from 0", values)
        known = bool(self.colours) and set(self.colours) <= set(COLOURS)
        unique = len(set(self.colours)) == len(self.colours)
        check(known and unique, f"colours among {', '.join(COLOURS)}", self.colours)
        check(self.phases >= 1 and self.hues >= 1, "at least one phase and hue", self.phases)


@dataclass(frozen=True)
class StimulusSet:
    """Stimuli in a fixed order. size: side of the pictures in pixels; centre: (x, y) in pixels
    from left and top (pixel i spans [i, i + 1]); field: the side in pixels they are sized to.
    """

    stimuli: tuple[Stimulus, ...]
    size: int
    centre: tuple[float, float]
    field: float

    def __len__(self) -> int:
        return len(self.stimuli)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One factor of all stimuli -> [S], float64, int64 or str."""
        return np.array([getattr(one, name) for one in self.stimuli])

    def table(self) -> pa.Table:
        """One row per stimulus: its number and its factors."""
        columns: dict[str, Any] = {"stimulus": np.arange(len(self), dtype=np.int32)}
        for name in FACTORS:
            values = self.column(name)
            columns[name] = pa.array(values, from_pandas=values.dtype.kind == "f")
        return pa.table(columns)

    def draw(self, number: int) -> U8:
        """Pixels uint8 [size, size, 3] of one stimulus."""
        from isae.analysis.tuning.stimulus_drawing import draw

        return draw(self.stimuli[number], self.size, self.centre, self.field)

    def batches(self, count: int) -> Iterator[U8]:
        """All pictures in order -> uint8 [up to count, size, size, 3]."""
        for first in range(0, len(self), count):
            yield np.stack([self.draw(i) for i in range(first, min(first + count, len(self)))])


def make_stimuli(
    plan: StimulusPlan, size: int, centre: tuple[float, float], field: float
) -> StimulusSet:
    """All stimuli of a plan, family by family.

    Raises ConfigError for a field below 3 pixels or beyond the picture, and for a point outside it.
    """
    check(3 <= field <= size, f"a field from 3 to {size} pixels (the picture)", field)
    inside = all(0 <= at <= size for at in centre)
    check(inside, f"a point inside the picture of {size} pixels", centre)
    from isae.analysis.tuning.generators import generate

    rows = tuple(generate(plan, float(field)))
    return StimulusSet(rows, size, (float(centre[0]), float(centre[1])), float(field))


def figure_colour(colour: str, polarity: int) -> dict[str, float]:
    """hue, saturation and lightness of a stroke or dot of a named colour."""
    if colour == "grey":
        return {"hue": NAN, "saturation": 0.0, "lightness": 0.9 if polarity > 0 else 0.1}
    return {"hue": HUES[colour], "saturation": 0.9, "lightness": 0.65 if polarity > 0 else 0.35}
