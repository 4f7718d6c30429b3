"""Spectra to pictures: gradients, fall with frequency, colours; what pictures go through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isae.analysis.visualise.config import VisualiseConfig
from isae.analysis.visualise.picture_space import (
    PictureSpace,
    measure_statistics,
    plain_statistics,
    statistics_from_json,
    to_pixels,
)
from isae.analysis.visualise.redirected import RedirectedRelus
from isae.analysis.visualise.transformations import draw_maps, show
from isae.config import to_json

CPU = torch.device("cpu")


def radial_amplitude(planes_NHW: np.ndarray) -> np.ndarray:
    """Root of the mean power at 0, 1, 2, ... cycles a picture."""
    size = planes_NHW.shape[1]
    power = (np.abs(np.fft.fft2(planes_NHW)) ** 2).mean(axis=0)
    cycles = np.fft.fftfreq(size) * size
    ring = np.rint(np.hypot(cycles[:, None], cycles[None, :])).astype(int)
    return np.sqrt(np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel()))


@pytest.mark.parametrize("size", [6, 5])
def test_gradients_are_those_of_finite_differences(size: int) -> None:
    space = PictureSpace(size, plain_statistics(size), CPU)
    start = torch.tensor(space.start(1.0, 3))[None].requires_grad_()
    assert start.shape == (1, 3, size, size // 2 + 1, 2)
    assert torch.autograd.gradcheck(space.pictures, (start,))


@pytest.mark.parametrize("size", [32, 31])
def test_a_plain_start_falls_as_one_over_f_with_the_spread_asked_for(size: int) -> None:
    space = PictureSpace(size, plain_statistics(size), CPU)
    starts = torch.tensor(np.stack([space.start(0.5, 0, number) for number in range(200)]))
    pictures = space.pictures(starts)
    assert 0 < float(pictures.min()) < float(pictures.max()) < 1
    z = torch.logit(pictures).numpy()
    assert z.std() == pytest.approx(0.5, rel=0.05)  # 600 planes; the lowest cycles vary most
    fall = radial_amplitude(z.reshape(-1, size, size))
    cycles = np.fft.fftfreq(size) * size
    radius = np.hypot(cycles[:, None], cycles[None, :])
    ring = np.rint(radius).astype(int).ravel()
    power = 1 / np.maximum(radius, 1).ravel() ** 2
    wanted = np.sqrt(np.bincount(ring, power) / np.bincount(ring))
    np.testing.assert_allclose(fall[1:12] / fall[2], wanted[1:12] / wanted[2], rtol=0.12)


def test_pixels_are_rounded_and_fill_is_the_empty_picture() -> None:
    space = PictureSpace(9, plain_statistics(9), CPU)
    pixels = to_pixels(space.pictures(torch.zeros(2, 3, 9, 5, 2)))
    assert pixels.shape == (2, 9, 9, 3)
    assert (pixels == 128).all()
    np.testing.assert_allclose(space.fill_3.numpy(), 0.5)


def test_statistics_of_photos_are_found_again() -> None:
    """Photos drawn from known statistics: their colours' covariance, their fall, and its end."""
    size, last = 48, 9
    mix = np.array([[0.6, 0.2, 0.1], [0.6, -0.2, 0.1], [0.5, 0.0, -0.3]])
    cycles = np.fft.fftfreq(size) * size
    ring = np.hypot(cycles[:, None], cycles[None, :])
    amplitude = np.where(ring <= last, 1 / np.maximum(ring, 1), 0)
    white = np.random.default_rng(0).standard_normal((64, 3, size, size))
    z = np.fft.ifft2(np.fft.fft2(white) * amplitude).real
    z *= 1 / z.std()
    logit = np.einsum("nchw,dc->ndhw", z, mix) + np.array([-0.2, 0.1, 0.3])[:, None, None]
    photos = np.rint(255 / (1 + np.exp(-logit))).astype(np.uint8).transpose(0, 2, 3, 1)
    found = measure_statistics(photos)
    assert statistics_from_json(to_json(found)) == found
    assert (found.pictures, found.source) == (64, "pictures")
    root = np.array(found.matrix)
    assert np.linalg.norm(root, axis=0).max() == pytest.approx(1, abs=1e-5)
    covariance = root @ root.T
    expected = mix @ mix.T
    np.testing.assert_allclose(covariance / covariance[0, 0], expected / expected[0, 0], atol=0.05)
    np.testing.assert_allclose(found.mean, [-0.2, 0.1, 0.3], atol=0.05)
    fall = np.array(found.amplitude)
    np.testing.assert_allclose(fall[2:8], fall[2] * 2 / np.arange(2, 8), rtol=0.3)
    assert fall[last + 4 :].max() < 0.1 * fall[last - 1]
    space = PictureSpace(size, found, CPU)
    start = torch.tensor(np.stack([space.start(1.0, 1, n) for n in range(32)]))
    made = torch.logit(space.pictures(start)).numpy()
    assert np.cov(made.transpose(1, 0, 2, 3).reshape(3, -1))[0, 1] > 0.5 * covariance[0, 1]


def test_without_moves_a_picture_is_shown_as_it_is_and_a_shift_brings_in_the_fill() -> None:
    still = VisualiseConfig(jitter=0, rotation=0, scale=0, steps=3)
    maps = torch.tensor(draw_maps(still, 8, 0), dtype=torch.float32)
    pictures = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fill = torch.tensor([0.2, 0.4, 0.6])
    np.testing.assert_allclose(show(pictures, maps, fill), pictures, atol=1e-6)
    maps[:, 0, 2] = 2 * 2 / 8  # two pixels: what is shown is read from the right
    moved = show(pictures, maps, fill)
    np.testing.assert_allclose(moved[..., :6], pictures[..., 2:], atol=1e-5)
    np.testing.assert_allclose(moved[..., 6:], fill[None, :, None, None].expand(3, 3, 8, 2))


def test_moves_stay_within_their_bounds_and_depend_on_the_key_alone() -> None:
    config = VisualiseConfig(jitter=5, rotation=10, scale=0.2, steps=400)
    maps = draw_maps(config, 50, 7, "maps", "feature", 3)
    np.testing.assert_array_equal(maps, draw_maps(config, 50, 7, "maps", "feature", 3))
    assert not np.allclose(maps, draw_maps(config, 50, 7, "maps", "feature", 4))
    shift = np.abs(maps[:, :, 2]) * 50 / 2
    assert 4.8 < shift.max() <= 5
    scale = np.sqrt(np.linalg.det(maps[:, :, :2]))
    assert -0.2 <= np.log(scale.min()) < -0.18
    turn = np.rad2deg(np.arctan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert 9.8 < np.abs(turn).max() <= 10


def test_relus_that_are_off_let_only_the_way_up_through() -> None:
    x = torch.tensor([-1.0, -2.0, 3.0, 4.0], requires_grad=True)
    up = torch.tensor([-1.0, 1.0, -1.0, 1.0])  # of a loss: minus goes up
    with RedirectedRelus():
        y = torch.nn.functional.relu_(x * 1.0)
    np.testing.assert_array_equal(y.detach(), [0, 0, 3, 4])
    (gradient,) = torch.autograd.grad(y, x, up)
    np.testing.assert_array_equal(gradient, [-1, 0, -1, 1])
    (plain,) = torch.autograd.grad(torch.relu(x), x, up)
    np.testing.assert_array_equal(plain, [0, 0, -1, 1])
