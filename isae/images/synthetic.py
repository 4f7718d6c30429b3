"""Procedural pictures with known factors, from a seed and an index alone.

Grounds are plain, or dead leaves: occluding discs with power-law radii, the simplest model that has
the edges, occlusions and scales of photos (Lee, Mumford and Huang 2001, "Occlusion models for
natural images"). On a ground lies one thing: a filled shape, an arc, a grating, dots or a checker,
or nothing ('leaves'). Factors of a picture are columns of its row, NaN where they do not apply.

Angles are degrees counter-clockwise from the right; lengths are fractions of the picture's side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isae.config import check
from isae.images import shapes
from isae.images.base import U8, ImageSource, digest
from isae.randomness import keyed_rng

VERSION = 1
"""Raise it with every change that alters a picture or a factor: it is part of the fingerprint."""

SIDE = 128
SUPERSAMPLE = 2
LEAVES = 150
WAVE_LEVELS = 64
KINDS = ("arc", "checker", "circle", "dots", "grating", "leaves", "square", "star", "triangle")
PERIODS = {"arc": 360, "grating": 180, "square": 90, "dots": 90, "checker": 90}
PERIODS |= {"triangle": 120, "star": 72}
"""Degrees after which a thing looks the same; its orientation lies in [0, period)."""

TEXTURES = ("checker", "dots", "grating")
FULL_FIELD = 1.5
"""`size` of a texture that fills the picture."""

COLUMNS = {
    "kind": "string",
    "ground": "string",
    "palette": "string",
    "hue": "float",
    "saturation": "float",
    "lightness": "float",
    "contrast": "float",
    "orientation": "float",
    "curvature": "float",
    "frequency": "float",
    "phase": "float",
    "size": "float",
    "thickness": "float",
    "x": "float",
    "y": "float",
}
"""The factors. kind: one of KINDS, also the label. ground: 'leaves' or 'plain'. palette: 'colour'
or 'grey' (black and white). hue (degrees), saturation, lightness (HSL, 0..1): of the thing;
contrast: its lightness less that of what it lies on (of a texture: of its second colour; of leaves:
their mean). orientation: of an arc where its outside points (90 arch, 270 bowl), of a grating the
direction of its stripes, of dots and checkers of their rows, of a shape of one corner. curvature:
the picture's side over the arc's radius. frequency: periods a side; phase: of a grating, degrees at
its centre. size: diameter of the circle around a shape or texture, length of an arc along its
stroke. thickness: of an arc's stroke. x, y: the centre (of an arc: its midpoint), from left and
top."""


def factors(seed: int, index: int) -> dict[str, Any]:
    """The factors of one picture, one value for each of COLUMNS."""
    rng = keyed_rng(seed, "synthetic factors", VERSION, index)
    values: dict[str, Any] = dict.fromkeys(COLUMNS, float("nan"))
    kind = KINDS[int(rng.integers(len(KINDS)))]
    values["kind"] = kind
    values["ground"] = "leaves" if kind == "leaves" or rng.random() < 0.7 else "plain"
    values["palette"] = "colour" if rng.random() < 0.7 else "grey"
    if values["palette"] == "colour" and kind != "leaves":
        values["hue"], values["saturation"] = 360 * rng.random(), rng.uniform(0.5, 1)
    if kind == "leaves":
        return values
    values["contrast"] = rng.choice([-1.0, 1.0]) * rng.uniform(0.25, 0.7)
    low, high = sorted((0.1 + max(values["contrast"], 0), 0.9 + min(values["contrast"], 0)))
    values["lightness"] = rng.uniform(low, high)
    if kind in PERIODS:
        values["orientation"] = PERIODS[kind] * rng.random()
    values["x"], values["y"] = rng.uniform(0.35, 0.65, 2)
    if kind in TEXTURES:
        _texture_factors(values, rng)
    elif kind == "arc":
        values["curvature"] = float(np.exp(rng.uniform(np.log(1.5), np.log(10))))
        values["size"] = min(rng.uniform(0.3, 0.8), 1.5 * np.pi / values["curvature"])
        values["thickness"] = rng.uniform(0.02, 0.08)
    else:
        values["size"] = rng.uniform(0.2, 0.6)
    return {
        name: value if isinstance(value, str) else float(value) for name, value in values.items()
    }


def _texture_factors(values: dict[str, Any], rng: np.random.Generator) -> None:
    values["frequency"] = float(np.exp(rng.uniform(np.log(3), np.log(16))))
    values["size"] = rng.uniform(0.4, 0.9)
    if rng.random() < 0.5:
        values["size"], values["x"], values["y"] = FULL_FIELD, 0.5, 0.5
    if values["kind"] == "grating":
        values["phase"] = 360 * rng.random()


def draw(seed: int, index: int) -> U8:
    """Pixels uint8 [SIDE, SIDE, 3] of one picture."""
    values = factors(seed, index)
    rng = keyed_rng(seed, "synthetic ground", VERSION, index)
    resolution = SIDE * SUPERSAMPLE
    lightness = values["lightness"] - values["contrast"]
    labels, ground_K3 = _ground(rng, values, lightness if lightness == lightness else 0.5)
    thing_K3 = shapes.hsl_to_rgb(0, 0, 0)
    if values["kind"] != "leaves":
        thing_K3 = _thing_colours(rng, values)
        _draw_thing(labels, values, resolution, len(ground_K3), len(thing_K3))
    return shapes.flatten(labels, np.concatenate([ground_K3, thing_K3]), SUPERSAMPLE)


def _ground(
    rng: np.random.Generator, values: dict[str, Any], lightness: float
) -> tuple[shapes.Labels, U8]:
    resolution = SIDE * SUPERSAMPLE
    count = LEAVES if values["ground"] == "leaves" else 0
    labels = np.zeros((resolution, resolution), dtype=np.uint8)
    hue = 360 * rng.random(count + 1)
    vivid = 0.8 * rng.random(count + 1) * (values["palette"] == "colour")
    spread = 0.2 if values["kind"] == "leaves" else 0.1
    light = np.clip(lightness + spread * rng.standard_normal(count + 1), 0.02, 0.98)
    if count:
        radii = _power_law(rng, count, 3 * SUPERSAMPLE, 32 * SUPERSAMPLE)
        centres = rng.integers(0, resolution, (2, count))
        shapes.paint_discs(labels, centres[0], centres[1], radii)
    else:
        light[0] = lightness
    return labels, shapes.hsl_to_rgb(hue, vivid, light)


def _power_law(
    rng: np.random.Generator, count: int, low: float, high: float
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Radii with density proportional to r^-3 between low and high: alike at every scale."""
    share = rng.random(count)
    return np.rint((low**-2 + share * (high**-2 - low**-2)) ** -0.5).astype(np.int64)


def _thing_colours(rng: np.random.Generator, values: dict[str, Any]) -> U8:
    """Palette of the thing: a texture's second colour (a grating's ramp) and then its first."""
    steps = {"grating": WAVE_LEVELS, "dots": 2, "checker": 2}.get(values["kind"], 1)
    colour = values["palette"] == "colour"
    hue, vivid = (values["hue"], values["saturation"]) if colour else (0.0, 0.0)
    first = shapes.hsl_to_rgb(hue, vivid, values["lightness"])
    if steps == 1:
        return first
    other = 0.8 * rng.random() if colour else 0.0
    light = values["lightness"] - values["contrast"]
    second = shapes.hsl_to_rgb(360 * rng.random(), other, light)
    ramp = np.linspace(0, 1, steps)[:, None]
    return np.rint(second * (1 - ramp) + first * ramp).astype(np.uint8)


def _draw_thing(
    labels: shapes.Labels, values: dict[str, Any], resolution: int, base: int, steps: int
) -> None:
    kind, angle, radius = values["kind"], values["orientation"], values["size"] / 2
    u, v = shapes.offsets(resolution, values["x"], values["y"])
    level: shapes.Labels | int = steps - 1
    mask = shapes.disc(u, v, radius) if kind in (*TEXTURES, "circle") else None
    if kind == "grating":
        level = shapes.wave(u, v, angle, values["frequency"], values["phase"], steps)
    elif kind == "dots":
        level = shapes.dots(u, v, angle, values["frequency"], 0.55).astype(np.uint8)
    elif kind == "checker":
        level = shapes.checker(u, v, angle, values["frequency"]).astype(np.uint8)
    elif kind == "arc":
        size, thickness = values["size"], values["thickness"]
        mask = shapes.arc(u, v, angle, values["curvature"], size, thickness)
    elif mask is None:
        mask = shapes.polygon(u, v, kind, radius, angle)
    np.copyto(labels, np.uint8(base) + np.asarray(level, dtype=np.uint8), where=mask)


class SyntheticReader:
    """Draws pictures by their number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def read(self, address: int) -> U8:
        """Pixels uint8 [128, 128, 3] of picture `address`."""
        return draw(self.seed, address)


class SyntheticSource(ImageSource):
    """`count` procedural pictures of 128 x 128; picture i is the same whatever `count` is."""

    kind = "synthetic"

    def __init__(self, count: int, seed: int, spec: str | None = None) -> None:
        check(count >= 1, "synthetic:N with N of at least 1", count)
        self.count, self.seed = count, seed
        self.spec = f"synthetic:{count}" if spec is None else spec
        self.columns = COLUMNS
        self.reader = SyntheticReader(seed)

    def __len__(self) -> int:
        return self.count

    def row(self, index: int) -> dict[str, Any]:
        """'name' (kind and number), 'label' (the kind) and the factors."""
        values = factors(self.seed, self.checked(index))
        return {"name": f"{values['kind']}-{index:08d}", "label": values["kind"], **values}

    def address(self, index: int) -> int:
        """The number of the picture."""
        return self.checked(index)

    def fingerprint(self) -> str:
        """Hash of the generator's version, the seed and the number of pictures."""
        return digest([self.kind, VERSION, self.seed, self.count])
