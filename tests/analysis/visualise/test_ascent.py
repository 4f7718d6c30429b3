"""Gradient ascent on the packaged network at a small size, towards planted linear functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isae.analysis.tuning.effective_field import noise_pictures, read_cell
from isae.analysis.visualise.ascent import Ascent, pack
from isae.analysis.visualise.config import VisualiseConfig
from isae.analysis.visualise.picture_space import PictureSpace, measure_statistics
from isae.analysis.visualise.targets import Drives, Objective, Picture
from isae.inception import Network, load_model

LAYER, SIZE = "conv2d2", 40
CONFIG = VisualiseConfig(steps=24, jitter=2, rotation=4, lr=0.15)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_model("inceptionv1", dtype=torch.float32)


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return noise_pictures(48, SIZE, 0)


def ascent_of(network: Network, photos: np.ndarray, config: VisualiseConfig = CONFIG) -> Ascent:
    at = read_cell(network.layers[LAYER], SIZE)
    space = PictureSpace(SIZE, measure_statistics(photos), torch.device("cpu"))
    return Ascent(network, LAYER, at.cell, space, config)


def planted(kind: str, units: list[int], channels: int) -> tuple[list[Picture], Drives]:
    """Objectives with weights of their own, drawn by the unit."""
    objectives = [Objective(kind, unit) for unit in units]
    rows = [np.random.default_rng(unit).standard_normal(channels) for unit in units]
    weight = torch.tensor(np.stack(rows), dtype=torch.float32)
    drives = Drives(
        tuple(objectives), weight / weight.norm(dim=1, keepdim=True), torch.zeros(len(units))
    )
    return [Picture(one) for one in objectives], drives


def values(ascent: Ascent, drives: Drives, pixels_BHW3: np.ndarray) -> np.ndarray:
    """Each function's value at the middle cell of each picture [B, P]."""
    pixels = torch.from_numpy(np.ascontiguousarray(pixels_BHW3)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        maps = ascent.network.activations(pixels, [LAYER])[LAYER]
        return drives.values(maps[:, :, ascent.cell, ascent.cell]).numpy()


def test_pictures_beat_their_starts_and_every_picture_of_the_data(
    network: Network, photos: np.ndarray
) -> None:
    ascent = ascent_of(network, photos)
    pictures, drives = planted("feature", list(range(8)), network.layers[LAYER].channels)
    ends, starts = ascent.run(pictures, drives, torch.ones(8))
    assert ends.shape == starts.shape == (8, SIZE, SIZE, 3)
    assert ends.dtype == np.uint8
    reached, noise = values(ascent, drives, ends), values(ascent, drives, starts)
    data = values(ascent, drives, photos)
    own = np.arange(8)
    assert (reached[own, own] > 1.2 * data.max(axis=0)).all()
    assert (reached[own, own] > noise[own, own] + 0.5 * np.ptp(data, axis=0)).all()
    assert (reached.argmax(axis=0) == own).mean() >= 0.75  # of all pictures each has its own most


def test_a_picture_is_the_same_alone_and_in_any_company(
    network: Network, photos: np.ndarray
) -> None:
    """Nine pictures take two chunks; one of them alone, and first among others, is the same."""
    ascent = ascent_of(network, photos, VisualiseConfig(steps=8, jitter=2))
    pictures, drives = planted("feature", list(range(9)), network.layers[LAYER].channels)
    together, _ = ascent.run(pictures, drives, torch.ones(9))
    told: list[int] = []
    alone, _ = ascent.run([pictures[8]], drives, torch.ones(9), told.append)
    turned, _ = ascent.run(pictures[::-1][:3], drives, torch.ones(9))
    assert told == [1] * 8
    np.testing.assert_array_equal(alone[0], together[8])
    np.testing.assert_array_equal(turned, together[[8, 7, 6]])


def test_a_neuron_that_is_off_on_the_start_is_turned_on(
    network: Network, photos: np.ndarray
) -> None:
    ascent = ascent_of(network, photos)
    channels = network.layers[LAYER].channels
    eye = torch.eye(channels)
    every = Drives(
        tuple(Objective("neuron", c) for c in range(channels)), eye, torch.zeros(channels)
    )
    off_C = values(ascent, every, photos[:16]).max(axis=0) <= 0
    start = ascent.space.pictures(
        torch.tensor(ascent.space.start(0.06, 0, "any"), dtype=torch.float32)[None]
    )
    dark_C = values(ascent, every, (start[0] * 255).byte().permute(1, 2, 0)[None].numpy())[0] <= 0
    chosen = np.flatnonzero(dark_C & ~off_C)[:4].tolist()
    assert len(chosen) == 4
    pictures = [Picture(Objective("neuron", c)) for c in chosen]
    ends, starts = ascent.run(pictures, every, torch.ones(channels))
    rows = range(4)
    assert (values(ascent, every, starts)[rows, chosen] <= 0).sum() >= 2
    assert (values(ascent, every, ends)[rows, chosen] > 0).all()


def test_a_diversity_set_is_less_alike_with_the_penalty_and_stays_together(
    network: Network, photos: np.ndarray
) -> None:
    one, other = Objective("diversity", 1), Objective("diversity", 2)
    pictures = [Picture(target, number) for target in (one, other) for number in range(3)]
    assert [len(chunk) for chunk in pack(pictures, 5)] == [3, 3]
    assert [len(chunk) for chunk in pack(pictures, 8)] == [6]
    assert len({picture.stem for picture in pictures}) == 6
    _, drives = planted("diversity", [1, 2], network.layers[LAYER].channels)

    def likeness(weight: float) -> float:
        ascent = ascent_of(
            network, photos, VisualiseConfig(steps=24, jitter=2, lr=0.15, diversity=weight)
        )
        ends, _ = ascent.run(pictures, drives, torch.full((2,), 20.0))
        pixels = torch.from_numpy(ends).permute(0, 3, 1, 2)
        with torch.inference_mode():
            maps = network.activations(pixels, [LAYER])[LAYER].flatten(2)
        gram = torch.nn.functional.normalize((maps @ maps.mT).flatten(1), dim=1)
        cosine = gram @ gram.T
        return float((cosine[:3, :3].sum() + cosine[3:, 3:].sum() - 6) / 12)

    assert likeness(3.0) < likeness(0.0) - 0.02
