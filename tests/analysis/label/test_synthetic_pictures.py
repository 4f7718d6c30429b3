"""Made-up features on drawn pictures: what they fire on is computed without the code under test."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest

from isae.analysis.codes import codes_from_dense
from isae.analysis.label.chance import chance_labels
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.images import deal_halves
from isae.analysis.label.names import EDGE, POSITION, apart
from isae.analysis.label.padding import Mirrored
from isae.analysis.label.patch_names import patch_names, read_patches
from isae.analysis.label.strongest import strongest_images
from isae.analysis.label.taxonomy import (
    COLOUR,
    CURVATURE,
    FREQUENCY,
    KINDS,
    ORIENTATION,
    TAXONOMY,
    Labels,
    find_labels,
    name_text,
)
from isae.analysis.patches import patch_geometry
from isae.images import open_source, resize_crop
from isae.inception import layer_table

SIZE, SIDE, NOISE = 96, 32, 200
CONFIG = LabelConfig(seed=1, shuffles=3)
PLANTED = ("red", "edges along 45°", "arc, outside at 90°", "fine", "top", "border", "red again")


def drawn() -> tuple[Any, np.ndarray[Any, Any], list[dict[str, Any]]]:
    """A source, some of its pictures (gratings, arcs, leaves, red shapes) and their factors."""
    source = open_source("synthetic:6000", seed=2)
    rows = [source.row(i) for i in range(len(source))]
    whole = [i for i, row in enumerate(rows) if row["kind"] == "grating" and row["size"] > 1]
    plain = [i for i, row in enumerate(rows) if row["kind"] == "arc" and row["ground"] == "plain"]
    arcs = [i for i in plain if rows[i]["thickness"] > 0.03]
    leaves = [i for i, row in enumerate(rows) if row["kind"] == "leaves"]
    shapes = [i for i, row in enumerate(rows) if row["kind"] in ("circle", "square")]
    red = [i for i in shapes if apart(rows[i]["hue"], 0, 360) < 20 and rows[i]["size"] > 0.3]
    chosen = np.array(sorted(whole[:240] + arcs[:160] + leaves[:50] + red[:40]))
    return source, chosen, [rows[i] for i in chosen]


@pytest.fixture(scope="module")
def found() -> tuple[Labels, Any]:
    """Labels of the planted features and of noise, and of exchanged images."""
    rng = np.random.default_rng(3)
    source, chosen, rows = drawn()
    geometry = patch_geometry(layer_table("inceptionv1")["mixed4a"], SIZE, SIDE)
    across = len(geometry.start_G)
    cells, images = across * across, len(chosen)
    half_I = deal_halves(np.arange(images), [row["kind"] for row in rows], 0)
    value = rng.exponential(size=(images, cells, len(PLANTED) + NOISE))
    value *= rng.random(value.shape) < 0.05
    value[:, :, : len(PLANTED)] = 0
    boxes = geometry.boxes(*np.divmod(np.arange(cells), across))
    for i, row in enumerate(rows):
        pixels = resize_crop(source.load(int(chosen[i])), SIZE)
        plant(value[i], row, pixels, boxes, geometry.centre_G, rng)
    value[:, :, 6] = value[:, :, 0] * rng.uniform(0.95, 1.05, value.shape[:2])
    image, cell = np.divmod(np.arange(images * cells), cells)
    places = np.stack([image, *np.divmod(cell, across)], axis=1)
    codes = codes_from_dense(value.reshape(images * cells, -1), places, (across, across))
    kinds = patch_names(read_patches(source, chosen, geometry), half_I, cells)
    strongest = strongest_images(codes, half_I, CONFIG.top)
    count = value.shape[2]
    lost = np.where(np.arange(count) == PLANTED.index("border"), 40, 12)
    mirrored = Mirrored(1 - lost / 40, np.full(count, 40), lost)
    labels = find_labels(kinds, strongest, mirrored, codes.grid, CONFIG)
    return labels, chance_labels(labels, strongest, mirrored, half_I, codes.grid, CONFIG)


def plant(
    value: Any, row: dict[str, Any], pixels: Any, boxes: Any, centre_G: Any, rng: Any
) -> None:
    """Write the planted features' values at one picture's cells [G, features]."""
    across, strength = len(centre_G), rng.uniform(1, 2, len(value))
    for cell, (left, top, right, bottom) in enumerate(boxes):
        red, green, blue = pixels[top:bottom, left:right].reshape(-1, 3).mean(axis=0) / 255
        hue = 360 * colorsys.rgb_to_hls(red, green, blue)[0]
        vivid = max(red, green, blue) - min(red, green, blue)
        value[cell, 0] = strength[cell] * (vivid > 0.2 and apart(hue, 0, 360) < 13)
    some = int(rng.integers(len(value)))
    if row["kind"] == "grating":
        value[some, 1] = strength[0] * (apart(row["orientation"], 45, 180) < 11)
        value[some, 3] = strength[0] * (row["frequency"] > 12)
    if row["kind"] == "arc":
        y, x = (int(np.abs(centre_G - row[name] * SIZE).argmin()) for name in ("y", "x"))
        value[y * across + x, 2] = strength[0] * (apart(row["orientation"], 90, 360) < 35)
    if rng.random() < 0.5:
        value[rng.integers(across), 4] = strength[0]
    edge, along = int(rng.choice([0, across - 1])), int(rng.integers(across))
    value[edge * across + along if rng.random() < 0.5 else along * across + edge, 5] = strength[0]


def given(labels: Labels, feature: int) -> tuple[str, str]:
    kind = TAXONOMY[labels.kind_N[feature]]
    return kind, name_text(labels, kind, feature, {}) if kind in KINDS else ""


def test_planted_features_get_their_names(found: tuple[Labels, Any]) -> None:
    labels, _ = found
    got = [given(labels, i) for i in range(len(PLANTED))]
    assert got[0] == got[6] == (COLOUR, "red")
    assert got[1] == (ORIENTATION, "edges along 45°")
    assert got[2] == (CURVATURE, "arc, outside at 90°")
    assert got[3] == (FREQUENCY, "fine texture")
    assert got[4] == (POSITION, "top of the picture")
    assert got[5] == (EDGE, "edge artefact: all sides")
    assert labels.kinds[COLOUR].share_N[0] > 0.9
    # A tenth on average: of the patches with edges (4/5) the clearer half, a quarter of directions.
    assert 0.03 < labels.kinds[ORIENTATION].chance_N[1] < 0.3


def test_noise_is_labelled_no_more_often_than_chance(found: tuple[Labels, Any]) -> None:
    labels, chance = found
    labelled = labels.kind_N < len(KINDS)
    assert labelled[len(PLANTED) :].sum() <= 2
    by_chance = (chance.kind_DN < len(KINDS)).sum(axis=1)
    assert by_chance.mean() <= 2
    assert chance.own_D.max() <= 1
