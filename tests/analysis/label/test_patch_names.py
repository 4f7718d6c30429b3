"""What patches look like: drawn stripes, discs and colours of known direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import uniform_filter

from isae.analysis.label import patch_loops
from isae.analysis.label.names import SECTORS, apart, hue_name, place_names
from isae.analysis.label.patch_names import (
    PatchMeans,
    colours,
    curvatures,
    curve_vectors,
    edge_directions,
    frequencies,
    hues,
    orientations,
    patch_names,
    read_patches,
)
from isae.analysis.patches import patch_geometry
from isae.images import open_source
from isae.inception import layer_table

SIDE = 64
BOX = np.array([[12, 12, 52, 52]])


def measure(light: np.ndarray[Any, Any]) -> PatchMeans:
    """The means over the middle of grey pictures in 0..1 [B, SIDE, SIDE]."""
    pixels = np.rint(255 * np.repeat(light[..., None], 3, axis=-1)).astype(np.uint8)
    mean = np.empty((len(light), 1, len(patch_loops.SUMS)), dtype=np.float32)
    patch_loops.patch_means(pixels, BOX, 1, 3, mean)
    return PatchMeans(mean[:, 0], np.ones(len(light), dtype=bool), 40)


def plane() -> tuple[Any, Any]:
    """Coordinates to the right and upwards from the middle, in pixels."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return x - (SIDE - 1) / 2, (SIDE - 1) / 2 - y


def stripes(along: float, period: float) -> np.ndarray[Any, Any]:
    right, up = plane()
    turn = np.deg2rad(along + 90)
    return 0.5 + 0.4 * np.sin(2 * np.pi / period * (right * np.cos(turn) + up * np.sin(turn)))


def edge_of_disc(towards: float, radius: float, dark: bool) -> np.ndarray[Any, Any]:
    """A disc whose edge passes through the middle, its outside pointing `towards`."""
    right, up = plane()
    turn = np.deg2rad(towards)
    away = np.hypot(right + radius * np.cos(turn), up + radius * np.sin(turn))
    inside = 1 / (1 + np.exp(away - radius))
    return 0.8 - 0.6 * inside if dark else 0.2 + 0.6 * inside


def test_blur_is_three_box_means() -> None:
    image = np.random.default_rng(0).random((23, 23)).astype(np.float32)
    for reach in (1, 3):
        found, spare = np.empty_like(image), np.empty_like(image)
        patch_loops.blur(image, found, spare, reach)
        expected = image.astype(np.float64)
        for _ in range(3):
            expected = uniform_filter(expected, 2 * reach + 1, mode="nearest")
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_stripes_have_the_direction_that_they_are_drawn_in() -> None:
    angles = np.arange(0, 180, 15.0)
    found = measure(np.stack([stripes(angle, 9) for angle in angles]))
    direction, coherence = edge_directions(found)
    assert apart(direction, angles, 180).max() < 1.5
    assert coherence.min() > 0.95
    noise = np.random.default_rng(1).random((8, SIDE, SIDE))
    assert edge_directions(measure(noise))[1].max() < 0.3


def test_arcs_point_outwards_whichever_side_is_dark_and_straight_edges_nowhere() -> None:
    angles = np.arange(0, 360, 30.0)
    for dark in (True, False):
        found = measure(np.stack([edge_of_disc(angle, 25, dark) for angle in angles]))
        bend, outside = curve_vectors(found)
        # A square cuts the ends of an oblique arc unevenly.
        assert apart(outside, angles, 360).max() < 6
        assert apart(outside, angles, 360)[::3].max() < 0.1
        assert bend == pytest.approx(np.full(len(angles), found.side / 25), rel=0.25)
    straight = measure(np.stack([edge_of_disc(angle, 1e5, True) for angle in angles]))
    assert curve_vectors(straight)[0].max() < 0.1
    assert curve_vectors(measure(stripes(30, 9)[None]))[0].max() < 0.2


def test_names_of_stripes_arcs_and_texture_go_to_their_pictures() -> None:
    rng = np.random.default_rng(2)
    flat = np.full((10, SIDE, SIDE), 0.5)
    noise = 0.5 + 0.1 * rng.standard_normal((10, SIDE, SIDE))
    arcs = np.stack([edge_of_disc(90, 20, True)] * 5 + [edge_of_disc(180, 20, False)] * 5)
    lines = np.stack([stripes(0, 6)] * 5 + [stripes(45, 24)] * 5)
    found = measure(np.concatenate([flat, noise.clip(0, 1), arcs, lines]))
    group = np.repeat(["flat", "noise", "up", "left", "fine", "coarse"], [10, 10, 5, 5, 5, 5])
    named = orientations(found) | curvatures(found) | frequencies(found)
    for name, wanted in {
        "edges along 0°": ["fine"],
        "edges along 45°": ["coarse"],
        "arc, outside at 90°": ["up"],
        "arc, outside at 180°": ["left"],
        "plain": ["flat"],
    }.items():
        for one in wanted:
            assert named[name][group == one].all(), (name, one)
    assert not named["edges along 90°"][np.isin(group, ["fine", "coarse"])].any()
    assert not named["arc, outside at 270°"][np.isin(group, ["up", "left"])].any()
    assert named["coarse texture"][group != "noise"].sum() > 0
    assert not named["coarse texture"][group == "noise"].any()
    assert not any(has[group == "flat"].any() for name, has in named.items() if name != "plain")


def test_hues_have_the_name_of_the_nearest_sector() -> None:
    import colorsys

    rng = np.random.default_rng(3)
    colour = rng.random((200, 3))
    expected = [360 * colorsys.rgb_to_hls(*one)[0] for one in colour]
    np.testing.assert_allclose(hues(colour), expected, atol=1e-6)
    assert hues(np.full((1, 3), 0.4))[0] == 0
    texts = list(SECTORS)
    at = [0, 355, 29, 61, 130, 185, 230, 290, 335]
    names = ["red", "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
    assert [texts[i] for i in hue_name(np.array(at))] == names


def test_patches_of_pictures_are_means_of_their_crops(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for i in range(5):
        pixels = rng.integers(0, 256, (48, 48, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    source = open_source(str(tmp_path))
    geometry = patch_geometry(layer_table("inceptionv1")["mixed3a"], 48, 20)
    chosen = np.array([0, 2, 4])
    found = read_patches(source, chosen, geometry)
    cells = len(geometry.start_G) ** 2
    assert found.known_R.reshape(3, cells).all(axis=1).tolist() == [True, False, True]
    box = geometry.boxes(1, 2)
    crop = np.asarray(Image.open(tmp_path / "4.png"))[box[1] : box[3], box[0] : box[2]] / 255
    row = 2 * cells + 1 * len(geometry.start_G) + 2
    got = [found.of(name)[row] for name in ("red", "green", "blue")]
    assert got == pytest.approx(crop.mean(axis=(0, 1)), abs=1e-5)
    kinds = patch_names(found, np.array([0, 1, 1]), cells)
    assert all(not names.has_RA[~found.known_R].any() for names in kinds.values())


def test_colours_are_named_by_the_mean() -> None:
    shades = np.array(
        [[200, 20, 20], [20, 30, 220], [15, 10, 12], [250, 250, 250], [128, 128, 128]]
    )
    mean = np.zeros((len(shades), len(patch_loops.SUMS)), dtype=np.float32)
    mean[:, :3] = shades / 255
    named = colours(PatchMeans(mean, np.ones(len(shades), dtype=bool), 10))
    assert named["red"].tolist() == [True, False, False, False, False]
    assert named["blue"].tolist() == [False, True, False, False, False]
    assert named["dark"].tolist() == [False, False, True, False, False]
    assert named["light"].tolist() == [False, False, False, True, False]


def test_chance_of_a_place_is_the_share_of_the_halfs_images_there() -> None:
    rng = np.random.default_rng(5)
    has = rng.random((40, 9)) < 0.3
    known = rng.random((40, 9)) < 0.9
    known[:, 4] = False
    known[:3, 4] = True
    half_I = np.arange(40) % 2
    names = place_names("x", {"a": has.ravel()}, known.ravel(), half_I, 9)
    assert names is not None
    for half in (0, 1):
        mine = half_I == half
        for cell in range(9):
            among = known[mine, cell] if cell != 4 else known[mine]
            named = has[mine, cell] if cell != 4 else has[mine]
            expected = named[among].mean()
            assert names.chance_HGA[half, cell, 0] == pytest.approx(expected)
    assert names.rows(np.array([0, -1]), np.array([2, 0]), 9).tolist() == [
        2 if known[0, 2] else -1,
        -1,
    ]
