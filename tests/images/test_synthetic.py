"""The factors of procedural pictures against what is measured in their pixels.

Measured angles are counter-clockwise with v upwards; z = u + iv in fractions of the side.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import least_squares

from isae.images import open_source, shapes
from isae.images.synthetic import (
    COLUMNS,
    FULL_FIELD,
    KINDS,
    PERIODS,
    SIDE,
    _power_law,
    draw,
    factors,
)

SEED = 5
F64 = npt.NDArray[np.float64]
TABLE = [factors(SEED, i) for i in range(3000)]


def chosen(count: int, *kinds: str, **wanted: Any) -> list[tuple[dict[str, Any], F64]]:
    """The first pictures of these kinds with these factor values."""
    rows = [
        (i, row)
        for i, row in enumerate(TABLE)
        if row["kind"] in kinds and all(row[key] == value for key, value in wanted.items())
    ][:count]
    assert len(rows) == count
    return [(row, draw(SEED, i).astype(np.float64)) for i, row in rows]


def places() -> npt.NDArray[np.complex128]:
    at = (np.arange(SIDE) + 0.5) / SIDE
    return at[None, :] + 1j * (1 - at)[:, None]


def coverage(pixels: F64) -> F64:
    """Share of each pixel that the thing covers, on a plain ground: 0 at the corner, 1 inside."""
    change = pixels - pixels[0, 0]
    axis = change.reshape(-1, 3)[np.abs(change).sum(2).argmax()]
    share: F64 = change @ axis / (axis @ axis)
    return share


def angle_between(a: float, b: float, period: float) -> float:
    return abs((a - b + period / 2) % period - period / 2)


def grey(pixels: F64) -> F64:
    """Projection on the direction of colour that varies most, mean 0."""
    flat = (pixels - pixels.mean((0, 1))).reshape(-1, 3)
    axis = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    return (flat @ axis).reshape(SIDE, SIDE)


def test_factors_are_complete_and_in_range() -> None:
    texture = {"grating", "dots", "checker"}
    applies = {
        "orientation": set(PERIODS),
        "curvature": {"arc"},
        "thickness": {"arc"},
        "frequency": texture,
        "phase": {"grating"},
    }
    for row in TABLE:
        kind = row["kind"]
        assert list(row) == list(COLUMNS)
        for name in ("contrast", "lightness", "size", "x", "y", *applies):
            kinds = applies.get(name, set(KINDS) - {"leaves"})
            assert math.isnan(row[name]) == (kind not in kinds), (kind, name)
        coloured = row["palette"] == "colour" and kind != "leaves"
        assert math.isnan(row["hue"]) != coloured
        assert math.isnan(row["saturation"]) != coloured
        if kind in PERIODS:
            assert 0 <= row["orientation"] < PERIODS[kind]
        if kind != "leaves":
            assert 0.25 <= abs(row["contrast"]) <= 0.7
            assert 0.1 <= row["lightness"] <= 0.9
            assert 0.1 - 1e-9 <= row["lightness"] - row["contrast"] <= 0.9 + 1e-9


def test_kinds_are_equally_frequent() -> None:
    counts = Counter(row["kind"] for row in TABLE)
    expected = len(TABLE) / len(KINDS)
    assert set(counts) == set(KINDS)
    # Five standard deviations of a count.
    assert max(abs(n - expected) for n in counts.values()) < 5 * math.sqrt(expected)


def test_a_picture_depends_on_seed_and_number_alone() -> None:
    code = (
        "import hashlib; from isae.images import open_source\n"
        "source = open_source('synthetic:500', seed=5)\n"
        "for i in (41, 3, 7): print(source.row(i), hashlib.sha256(source.load(i)).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    here = open_source("synthetic:42", seed=5)
    lines = [f"{here.row(i)} {hashlib.sha256(here.load(i)).hexdigest()}" for i in (41, 3, 7)]
    assert run.stdout.splitlines() == lines
    assert (open_source("synthetic:42", seed=6).load(3) != here.load(3)).any()


def test_colours_of_filled_shapes() -> None:
    for row, pixels in chosen(60, "circle", "square", "triangle", "star"):
        red, green, blue = pixels[int(row["y"] * SIDE), int(row["x"] * SIDE)] / 255
        hue, lightness, _ = colorsys.rgb_to_hls(red, green, blue)
        # Channels are rounded to 1/255; a hue is 60 degrees times a ratio of channel differences.
        assert abs(lightness - row["lightness"]) <= 0.5 / 255 + 1e-9
        if row["palette"] == "colour":
            chroma = 255 * (max(red, green, blue) - min(red, green, blue))
            assert angle_between(360 * hue, row["hue"], 360) <= 60 * 1.5 / chroma


def test_grey_pictures_are_grey_and_colour_pictures_are_not() -> None:
    for i, row in enumerate(TABLE[:60]):
        spread = np.ptp(draw(SEED, i).astype(int), axis=2).max()
        assert (spread == 0) == (row["palette"] == "grey")


def test_contrast_against_a_plain_ground() -> None:
    for row, pixels in chosen(30, "circle", "square", ground="plain"):
        inside, outside = pixels[int(row["y"] * SIDE), int(row["x"] * SIDE)], pixels[0, 0]
        light = [(p.max() + p.min()) / 510 for p in (inside, outside)]
        assert abs(light[0] - light[1] - row["contrast"]) <= 1 / 255 + 1e-9


AREAS = {
    "circle": math.pi,
    "square": 2.0,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 5 * shapes.STAR_INNER * math.sin(math.pi / 5),
}


@pytest.mark.parametrize("kind", AREAS)
def test_place_size_and_orientation_of_filled_shapes(kind: str) -> None:
    for row, pixels in chosen(20, kind, ground="plain"):
        share, z = coverage(pixels), places()
        area = share.sum() / SIDE**2
        # Edge pixels know a quarter of a pixel: under 2 % of a shape of 25 pixels and more.
        assert abs(area / (AREAS[kind] * (row["size"] / 2) ** 2) - 1) < 0.03
        centre = (share * z).sum() / share.sum()
        assert abs(centre - (row["x"] + 1j * (1 - row["y"]))) < 0.5 / SIDE
        if kind != "circle":
            corners = shapes.POLYGONS[kind]
            moment = (share * (z - centre) ** corners).sum()
            measured = math.degrees(np.angle(moment)) / corners
            assert angle_between(measured, row["orientation"], 360 / corners) < 1.5


def test_curvature_and_orientation_of_arcs() -> None:
    checked = 0
    for row, pixels in chosen(50, "arc", ground="plain"):
        share, z = coverage(pixels), places()
        sagitta = row["size"] ** 2 * row["curvature"] / 8
        edge = np.concatenate([share[0], share[-1], share[:, 0], share[:, -1]])
        if sagitta < 1.5 * row["thickness"] or np.abs(edge).max() > 0.1:
            # Too straight for its width to fit a circle, or cut off by the picture's edge.
            continue
        weight, z = np.sqrt(np.clip(share, 0, 1)[share > 0.2]), z[share > 0.2]

        def residual(p: F64, weight: F64 = weight, z: F64 = z) -> F64:
            return weight * (np.abs(z - p[0] - 1j * p[1]) - p[2])

        midpoint = (weight**2 * z).sum() / (weight**2).sum()
        starts = [
            least_squares(residual, [midpoint.real + 0.2 * dx, midpoint.imag + 0.2 * dy, 0.2])
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))
        ]
        fit = min(starts, key=lambda result: float(result.cost)).x
        centre, radius = fit[0] + 1j * fit[1], abs(fit[2])
        outwards = midpoint - centre
        measured = math.degrees(np.angle(outwards))
        # The ends are cut at subpixels: a degree or two for a stroke of a few pixels' width.
        assert angle_between(measured, row["orientation"], 360) < 2.5
        assert abs(1 / radius / row["curvature"] - 1) < 0.08
        tip = centre + radius * outwards / abs(outwards)
        assert abs(tip - (row["x"] + 1j * (1 - row["y"]))) < 1 / SIDE
        checked += 1
    assert checked >= 15


def test_gratings_by_the_structure_tensor() -> None:
    inner = slice(8, -8)
    for row, pixels in chosen(30, "grating", size=FULL_FIELD):
        wave = grey(pixels)
        du = gaussian_filter(wave, 1.5, order=(0, 1))[inner, inner]
        dv = -gaussian_filter(wave, 1.5, order=(1, 0))[inner, inner]
        across = 0.5 * math.degrees(math.atan2(2 * (du * dv).sum(), (du**2 - dv**2).sum()))
        # Half a degree by 64 grey steps and a field that is no whole number of periods.
        assert angle_between(across + 90, row["orientation"], 180) < 1
        smooth = gaussian_filter(wave, 1.5)[inner, inner]
        frequency = math.sqrt((du**2 + dv**2).sum() / smooth.var() / smooth.size) * SIDE
        # At three periods a side the field ends within a period, which moves its variance.
        assert abs(frequency / (2 * math.pi) / row["frequency"] - 1) < 0.15


def test_the_phase_of_gratings() -> None:
    middle = slice(SIDE // 2 - 1, SIDE // 2 + 1)
    for row, pixels in chosen(30, "grating", size=FULL_FIELD, palette="grey"):
        first, contrast = 255 * row["lightness"], 255 * row["contrast"]
        share = (pixels[middle, middle].mean() - (first - contrast)) / contrast
        # The mean over two pixels of 1/8 period and less: cos changes by under 0.05 there.
        assert abs(share - (1 + math.cos(math.radians(row["phase"]))) / 2) < 0.06


@pytest.mark.parametrize(
    ("kind", "turn", "stretch", "period"),
    [("grating", 90, 1.0, 180), ("dots", 0, 1.0, 90), ("checker", 45, math.sqrt(2), 90)],
)
def test_frequency_and_orientation_by_the_spectrum(
    kind: str, turn: float, stretch: float, period: float
) -> None:
    padded = 4 * SIDE
    taper = np.hanning(SIDE)[:, None] * np.hanning(SIDE)[None, :]
    cycles = np.fft.fftfreq(padded) * SIDE
    for row, pixels in chosen(20, kind, size=FULL_FIELD):
        wave = grey(pixels)
        wave = (wave - (wave * taper).sum() / taper.sum()) * taper
        power = np.abs(np.fft.fft2(wave, (padded, padded)))
        row_at, column_at = np.unravel_index(power.argmax(), power.shape)
        peak = complex(cycles[column_at], -cycles[row_at])
        # Bins are a quarter of a cycle; the two mirrored peaks of 3 periods pull a little.
        assert abs(abs(peak) - stretch * row["frequency"]) < 0.3
        limit = math.degrees(0.3 / abs(peak))
        assert (
            angle_between(math.degrees(np.angle(peak)), row["orientation"] + turn, period) < limit
        )


def test_leaves_have_power_law_radii() -> None:
    radii = _power_law(np.random.default_rng(0), 20_000, 50, 1000)
    assert radii.min() >= 50
    assert radii.max() <= 1000
    for r in (60, 100, 300):
        beyond = (r**-2 - 1000**-2) / (50**-2 - 1000**-2)
        # Four standard deviations of a share, and the rounding of the radii.
        assert abs((radii > r).mean() - beyond) < 4 * math.sqrt(beyond / 20_000) + 0.6 / r


def test_discs_lie_over_earlier_ones_and_may_leave_the_picture() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 37, (2, 30))
    radii = rng.integers(1, 25, 30)
    labels = np.zeros((37, 37), dtype=np.uint8)
    shapes.paint_discs(labels, x, y, radii)
    rows, columns = np.mgrid[:37, :37]
    expected = np.zeros((37, 37), dtype=np.uint8)
    for j in range(30):
        inside = np.hypot(columns - x[j], rows - y[j]) <= radii[j] + 0.5
        expected[inside] = j + 1
    np.testing.assert_array_equal(labels, expected)


def test_colours_agree_with_the_standard_library() -> None:
    rng = np.random.default_rng(0)
    h, s, light = rng.random((3, 50))
    expected = [colorsys.hls_to_rgb(*hls) for hls in zip(h, light, s, strict=True)]
    # Half a level by rounding.
    assert (
        np.abs(shapes.hsl_to_rgb(360 * h, s, light) - 255 * np.array(expected)).max() <= 0.5 + 1e-6
    )
