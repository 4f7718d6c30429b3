"""The stimuli of a plan, family by family: every factor's values in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from isae.analysis.tuning.stimuli import (
    HUES,
    LENGTH,
    MOST_TURN,
    NAN,
    SMALLEST_PERIOD,
    SMALLEST_WIDTH,
    Stimulus,
    StimulusPlan,
    figure_colour,
)

INFINITE = float("inf")


def generate(plan: StimulusPlan, field: float) -> list[Stimulus]:
    """All stimuli of a plan; lengths in pixels, sized to `field`."""
    rows: list[Stimulus] = []
    for family in (_arcs, _corners, _edges, _lines, _gratings, _gabors, _patches, _dots, _blanks):
        rows.extend(family(plan, field))
    return rows


def stroke_widths(parts: tuple[float, ...], field: float) -> list[float]:
    """Widths of strokes in pixels, none below SMALLEST_WIDTH, each once."""
    return sorted({max(part * field, SMALLEST_WIDTH) for part in parts})


def _angles(plan: StimulusPlan, period: int) -> list[float]:
    step = 360 / plan.directions
    return [step * number for number in range(round(period / step))]


def _looks(plan: StimulusPlan) -> Iterator[dict[str, Any]]:
    """Every colour in both polarities."""
    for colour in plan.colours:
        for polarity in (-1, 1):
            yield {"colour": colour, "polarity": polarity, **figure_colour(colour, polarity)}


def _arcs(plan: StimulusPlan, field: float) -> Iterator[Stimulus]:
    widths = stroke_widths(plan.widths, field)
    for look in _looks(plan):
        for part in plan.radii:
            radius = part * field
            length = min(LENGTH * field, MOST_TURN * radius)
            for angle in _angles(plan, 360):
                for width in widths:
                    if radius >= width:
                        yield Stimulus("arc", angle, radius, width, length, "stroke", **look)
                yield Stimulus("arc", angle, radius, fill="disc", **look)


def _corners(plan: StimulusPlan, field: float) -> Iterator[Stimulus]:
    width, length = stroke_widths(plan.widths, field)[-1], LENGTH / 2 * field
    for look in _looks(plan):
        for opening in plan.openings:
            for angle in _angles(plan, 360):
                yield Stimulus(
                    "corner",
                    angle,
                    width=width,
                    length=length,
                    fill="stroke",
                    opening=opening,
                    **look,
                )


def _lines(plan: StimulusPlan, field: float) -> Iterator[Stimulus]:
    for look in _looks(plan):
        for width in stroke_widths(plan.widths, field):
            for angle in _angles(plan, 180):
                yield Stimulus("line", angle, INFINITE, width, LENGTH * field, "stroke", **look)


def _edges(plan: StimulusPlan, field: float) -> Iterator[Stimulus]:
    for look in _looks(plan):
        for angle in _angles(plan, 360):
            yield Stimulus("edge", angle, INFINITE, fill="disc", **look)


def _blanks(plan: StimulusPlan, field: float) -> Iterator[Stimulus]:
    """The bare grounds of dark figures, of light ones, and of gratings and patches."""
    for polarity in (-1, 1, 0):
        yield Stimulus("blank", polarity=polarity, lightness={-1: 0.9, 1: 0.1, 0: 0.5}[polarity])


def _waves(plan: StimulusPlan, field: float, family: str, least: float) -> Iterator[Stimulus]:
    for colour in plan.colours:
        hue = HUES.get(colour, NAN)
        grey = colour == "grey"
        look: dict[str, Any] = {"hue": hue, "saturation": 0.0 if grey else 0.9, "lightness": 0.5}
        for cycles in plan.cycles:
            if cycles < least or field / cycles < SMALLEST_PERIOD:
                continue
            for number in range(plan.phases):
                phase = 360 / plan.phases * number
                for angle in _angles(plan, 180):
                    yield Stimulus(
                        family,
                        angle,
                        length=field,
                        colour=colour,
                        frequency=cycles / field,
                        phase=phase,
                        **look,
                    )


def _gratings(plan: StimulusPlan, field: float) -> Iterator[Stimulus]:
    yield from _waves(plan, field, "grating", 0.0)


def _gabors(plan: StimulusPlan, field: float) -> Iterator[Stimulus]:
    yield from _waves(plan, field, "gabor", 2.0)


def _patches(plan: StimulusPlan, field: float) -> Iterator[Stimulus]:
    for lightness in plan.lightnesses:
        for number in range(plan.hues):
            yield Stimulus(
                "patch",
                width=field,
                fill="disc",
                colour="patch",
                hue=360 / plan.hues * number,
                saturation=0.9,
                lightness=lightness,
            )
        yield Stimulus("patch", width=field, fill="disc", colour="patch", lightness=lightness)


def _dots(plan: StimulusPlan, field: float) -> Iterator[Stimulus]:
    for look in _looks(plan):
        for part in plan.diameters:
            yield Stimulus("dots", width=part * field, fill="disc", **look)
        for cycles in plan.cycles:
            if cycles >= 2 and field / cycles >= 2 * SMALLEST_PERIOD:
                yield Stimulus(
                    "dots",
                    width=0.5 * field / cycles,
                    length=field,
                    fill="disc",
                    frequency=cycles / field,
                    **look,
                )
