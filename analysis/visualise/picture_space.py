"""Pictures as spectra with the statistics of photos, so that every direction is as easy to go.

A picture is parametrised by the coefficients p of its three decorrelated colours,

    z = irfft2(a * p),    pixels / 255 = sigmoid(M z + m),

where a [H, F] falls with frequency as photos do (about 1/f), M [3, 3] is the root of the
covariance of the colours' logits, scaled so that its longest column is 1, and m [3] is their
mean. a is scaled so that standard normal p give z a standard deviation of 1. All three are
measured on pictures of the run's own store, where a also ends where those pictures end (photos
that were enlarged hold no fine detail, and what a network does with detail that it never saw is
no answer to what a feature detects); or plain: a = 1/f, M = 1, m = 0.

Source: Olah, Mordvintsev and Schubert 2017, "Feature visualization" (preconditioning).

Legend: B pictures, H rows, W columns (both the picture's side), F = W // 2 + 1 frequencies,
N photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isae.analysis.arrays import F64, U8
from isae.analysis.visualise.config import OWN, PLAIN
from isae.randomness import keyed_rng

_EDGE = 0.02
_LEAST_SPREAD = 1e-3
_LEAST_AMPLITUDE = 1e-6


@dataclass(frozen=True)
class Statistics:
    """What photos are like: matrix 3 x 3 and mean [3] of colour logits; amplitude at 0, 1, 2, ...
    cycles over `side` pixels, 1 at one cycle; pictures: how many photos they are of (0: plain).
    """

    matrix: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    amplitude: tuple[float, ...]
    side: int
    pictures: int

    @property
    def source(self) -> str:
        """Pictures or plain."""
        return OWN if self.pictures else PLAIN

    def amplitude_at(self, cycles_a_pixel: F64) -> F64:
        """Amplitude at frequencies in cycles a pixel, whatever the picture's side; at the lowest
        ones that of one cycle over `side` pixels.
        """
        cycles = np.maximum(cycles_a_pixel * self.side, 1.0)
        whole = np.arange(1, len(self.amplitude))
        # Between whole cycles along powers of frequency, so that 1/f stays 1/f.
        known = np.log(np.maximum(self.amplitude[1:], _LEAST_AMPLITUDE))
        found: F64 = np.exp(np.interp(np.log(cycles), np.log(whole), known))
        return found


def plain_statistics(size: int) -> Statistics:
    """Amplitude 1/f, mid grey, and colours as they are."""
    cycles = np.maximum(np.arange(size + 1), 1)
    identity = tuple(tuple(row) for row in np.eye(3).tolist())
    return Statistics(identity, (0.0, 0.0, 0.0), tuple((1 / cycles).tolist()), size, 0)


def measure_statistics(pictures_NHW3: U8) -> Statistics:
    """The statistics of square photos uint8 [N, size, size, 3], rounded to 6 digits."""
    size = pictures_NHW3.shape[1]
    share = np.clip(pictures_NHW3.reshape(-1, 3) / 255.0, _EDGE, 1 - _EDGE)
    logit = np.log(share / (1 - share))
    spread, axes = np.linalg.eigh(np.cov(logit.T))
    root = (axes * np.sqrt(np.maximum(spread, _LEAST_SPREAD))) @ axes.T
    root /= np.linalg.norm(root, axis=0).max()
    # A window hides the jump from one edge to the opposite one, which is no part of a photo.
    window = np.hanning(size + 2)[1:-1]
    grey_NHW = pictures_NHW3.mean(axis=3)
    grey_NHW = (grey_NHW - grey_NHW.mean(axis=(1, 2), keepdims=True)) * window * window[:, None]
    power_HF = (np.abs(np.fft.rfft2(grey_NHW)) ** 2).mean(axis=0)
    cycles_HF = np.rint(size * _frequency(size)).astype(np.int64)
    ring = np.bincount(cycles_HF.ravel(), power_HF.ravel()) / np.bincount(cycles_HF.ravel())
    amplitude = np.sqrt(np.maximum(ring, 1e-12 * ring.max(initial=1e-12)))
    amplitude = amplitude / amplitude[min(1, len(amplitude) - 1)]
    amplitude[0] = 1.0
    return Statistics(
        tuple(tuple(row) for row in root.round(6).tolist()),
        tuple(logit.mean(axis=0).round(6).tolist()),
        tuple(amplitude.round(6).tolist()),
        size,
        len(pictures_NHW3),
    )


def statistics_from_json(values: dict[str, Any]) -> Statistics:
    """The statistics that `to_json` wrote."""
    return Statistics(
        tuple(tuple(row) for row in values["matrix"]),
        tuple(values["mean"]),
        tuple(values["amplitude"]),
        int(values["side"]),
        int(values["pictures"]),
    )


class PictureSpace:
    """Spectra [B, 3, H, F, 2] (real and imaginary part) to pictures [B, 3, H, W] in (0, 1)."""

    def __init__(self, size: int, statistics: Statistics, device: torch.device) -> None:
        self.size = size
        amplitude_HF = statistics.amplitude_at(_frequency(size))
        amplitude_HF = amplitude_HF / _spread(amplitude_HF, size)
        self.amplitude_HF = torch.tensor(amplitude_HF, dtype=torch.float32, device=device)
        self.matrix_33 = torch.tensor(statistics.matrix, dtype=torch.float32, device=device)
        self.mean_3 = torch.tensor(statistics.mean, dtype=torch.float32, device=device)

    @property
    def fill_3(self) -> torch.Tensor:
        """The colour of an empty picture, also shown beyond its edges."""
        return torch.sigmoid(self.mean_3)

    def start(self, spread: float, *key: int | str) -> F64:
        """A start of noise [3, H, F, 2] from a key alone."""
        shape = (3, *self.amplitude_HF.shape, 2)
        start: F64 = spread * keyed_rng(*key).standard_normal(shape)
        return start

    def pictures(self, spectrum_B3HF2: torch.Tensor) -> torch.Tensor:
        """Pixels over 255, differentiable."""
        scaled = torch.view_as_complex(spectrum_B3HF2) * self.amplitude_HF
        z_B3HW = torch.fft.irfft2(scaled, s=(self.size, self.size), norm="ortho")
        mixed = torch.einsum("bchw,dc->bdhw", z_B3HW, self.matrix_33.to(z_B3HW.dtype))
        return torch.sigmoid(mixed + self.mean_3[:, None, None])


def to_pixels(pictures_B3HW: torch.Tensor) -> U8:
    """Pictures in [0, 1] as they are saved -> uint8 [B, H, W, 3]."""
    rounded = (pictures_B3HW.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _frequency(size: int) -> F64:
    """Cycles a pixel of each coefficient -> [H, F]."""
    frequency: F64 = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    return frequency


def _spread(amplitude_HF: F64, size: int) -> float:
    """The standard deviation of z for standard normal coefficients."""
    twice_F = np.full(amplitude_HF.shape[1], 2.0)
    twice_F[0] = 1.0
    if size % 2 == 0:
        twice_F[-1] = 1.0
    # Rows of the first and, for even sizes, of the last column are their own mirror images, so
    # that only half of their coefficients' variance enters: it is 1 instead of 2 for each.
    variance_F = np.where(twice_F == 2.0, 2.0, 1.0)
    return float(np.sqrt((amplitude_HF**2 * twice_F * variance_F).sum() / size**2))
