"""The part of the picture that a layer's cell really sees, and the cells that padding spares.

Gradient energy of a cell (after Luo et al. 2016, "Understanding the effective receptive field in
deep convolutional networks"): with J[c, p] the derivative of the cell's channel c by the pixel
value p,

    E[y, x] = mean over pictures of  sum over c and over R, G, B of J[c, p]^2,

estimated with one standard normal probe g per picture, since E_g[(J^T g)_p^2] = sum_c J[c, p]^2.
The effective field is the smallest square about the centre of the theoretical field that holds 95 %
of the energy inside the picture.

A cell is free of padding where its theoretical window lies inside the picture. Deep layers have no
such cell in a small picture; `smallest_free_size` tells which picture would have one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from isae.analysis.arrays import F64, I64, U8, Bools
from isae.errors import ConfigError, DataError
from isae.inception import LayerInfo, Network
from isae.progress import QUIET, Reporter
from isae.randomness import keyed_rng

SHARE = 0.95
_BATCH = 8


@dataclass(frozen=True)
class ReadCell:
    """The cell of a layer's map at which stimuli are read.

    size: side of the picture; cells: cells a side of the map; cell: (y, x), both the same number;
    free: cells along one axis that padding does not reach; padded: True where there are none, so
    that the cell's window reaches over the picture; window: pixels [start, stop) of the theoretical
    field along one axis, not clipped; centre: its middle in pixels, of both axes.
    """

    size: int
    cells: int
    cell: int
    free: tuple[int, ...]
    window: tuple[int, int]

    @property
    def padded(self) -> bool:
        """Whether padding reaches the cell."""
        return self.cell not in self.free

    @property
    def centre(self) -> float:
        """The middle of the theoretical field, in pixels from left and from top."""
        return (self.window[0] + self.window[1]) / 2


def padding_free(info: LayerInfo, size: int) -> I64:
    """Cells along one axis whose theoretical window lies in a picture of `size` pixels -> [F]."""
    windows = [info.window(cell, size) for cell in range(info.grid(size))]
    free = [cell for cell, (start, stop) in enumerate(windows) if start >= 0 and stop <= size]
    return np.array(free, dtype=np.int64)


def smallest_free_size(info: LayerInfo) -> int:
    """The smallest side of a square picture in which some cell of the layer is free of padding."""
    size = info.receptive_field
    while not len(padding_free(info, size)):
        size += 1
    return size


def read_cell(info: LayerInfo, size: int) -> ReadCell:
    """The cell nearest the middle of the picture, among those free of padding if there are any."""
    free = padding_free(info, size)
    cells = info.grid(size)
    among = free if len(free) else np.arange(cells)
    centres = np.array([sum(info.window(int(cell), size)) / 2 for cell in among])
    cell = int(among[np.abs(centres - size / 2).argmin()])
    return ReadCell(size, cells, cell, tuple(free.tolist()), info.window(cell, size))


@dataclass(frozen=True)
class EffectiveField:
    """side: of the square in pixels, by SHARE of the energy; side_half: by half of it; clipped:
    whether the square reaches over the picture; centroid: (x, y) of the energy in pixels, to be
    compared with the cell's centre; energy_HW: float64, sums to 1; pictures: how many were used;
    sides_of_halves: the side by each half of the pictures alone, its spread.
    """

    side: int
    side_half: int
    clipped: bool
    centroid: tuple[float, float]
    energy_HW: F64
    pictures: int
    sides_of_halves: tuple[int, ...] = ()


def default_size(info: LayerInfo, stored: int, largest: int) -> int:
    """The store's size if padding spares a cell of the layer there; else the smallest size that has
    such a cell, if it is at most `largest`; else the store's.
    """
    smallest = smallest_free_size(info)
    return stored if len(padding_free(info, stored)) or smallest > largest else smallest


def effective_field(
    network: Network,
    layer: str,
    at: ReadCell,
    pictures_NHW3: U8,
    *,
    seed: int = 0,
    reporter: Reporter = QUIET,
) -> EffectiveField:
    """Measure a cell's effective field on pictures uint8 [N, size, size, 3].

    Raises ConfigError for pictures of another size, DataError where the cell has no gradient (a
    dead layer) or one that is not finite.
    """
    expected = (at.size, at.size, 3)
    if pictures_NHW3.shape[1:] != expected or not len(pictures_NHW3):
        raise ConfigError(
            f"expected at least one picture of shape {expected}, found {pictures_NHW3.shape}; "
            "resize them to the size of the cell"
        )
    half_2HW = np.zeros((2, *expected[:2]))
    with reporter.task(len(pictures_NHW3), f"{layer}: effective field", "pictures") as meter:
        for first in range(0, len(pictures_NHW3), _BATCH):
            batch = pictures_NHW3[first : first + _BATCH]
            energy_BHW = _energy(network, layer, at.cell, batch, seed, first)
            half_2HW[0] += energy_BHW[::2].sum(axis=0)
            half_2HW[1] += energy_BHW[1::2].sum(axis=0)
            meter.advance(len(batch))
    energy_HW = half_2HW.sum(axis=0)
    total = energy_HW.sum()
    if not (np.isfinite(total) and total > 0):
        raise DataError(
            f"expected a gradient at cell {at.cell} of '{layer}', found energy {total}; the layer "
            "is dead on these pictures, or the weights are damaged: try other pictures"
        )
    halves = [
        measure_energy(half / half.sum(), at.centre, 0) for half in half_2HW if half.sum() > 0
    ]
    whole = measure_energy(energy_HW / total, at.centre, len(pictures_NHW3))
    return replace(whole, sides_of_halves=tuple(half.side for half in halves))


def measure_energy(energy_HW: F64, centre: float, pictures: int) -> EffectiveField:
    """The squares of an energy map that sums to 1, about (centre, centre) in pixels."""
    middles = np.arange(len(energy_HW)) + 0.5
    distance = np.abs(middles - centre)
    distance_HW = np.maximum(distance[:, None], distance[None, :])
    order = np.argsort(distance_HW, axis=None, kind="stable")
    held = np.cumsum(energy_HW.ravel()[order])
    sides = []
    for share in (SHARE, 0.5):
        # A sum of rounded numbers may end a hair below its own total.
        last = min(int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))), len(held) - 1)
        sides.append(int(np.ceil(2 * distance_HW.ravel()[order[last]] + 1 - 1e-9)))
    centroid = float(energy_HW.sum(axis=0) @ middles), float(energy_HW.sum(axis=1) @ middles)
    clipped = bool(reaches_out(np.array(centre), sides[0], len(energy_HW)))
    return EffectiveField(sides[0], sides[1], clipped, centroid, energy_HW, pictures)


def reaches_out(centre_G: F64, side: int, size: int) -> Bools:
    """Whether squares of `side` about the centres reach over a picture's edges, along one axis.

    Half a pixel is let pass: a centre may lie on a pixel or between two.
    """
    return (centre_G - side / 2 < -0.5) | (centre_G + side / 2 > size + 0.5)


def padding_reaches(info: LayerInfo, size: int, side: int) -> Bools:
    """Whether padding lies in the effective field of the cells along one axis -> bool [cells].

    side: of the effective field. Padding in deeper layers is felt where the picture's edge is.
    """
    windows_G2 = np.array([info.window(cell, size) for cell in range(info.grid(size))])
    return reaches_out(windows_G2.mean(axis=1), side, size)


def noise_pictures(count: int, size: int, seed: int) -> U8:
    """Coloured noise with the 1/f amplitude of photos -> uint8 [count, size, size, 3]."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    pictures = np.empty((count, size, size, 3), dtype=np.uint8)
    for number in range(count):
        white = keyed_rng(seed, "noise picture", number).standard_normal((3, size, size))
        pink = np.fft.ifft2(np.fft.fft2(white) / frequency).real
        pink *= 50 / max(float(pink.std()), 1e-12)
        pictures[number] = np.clip(np.rint(pink + 127), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return pictures


def _energy(network: Network, layer: str, cell: int, batch: U8, seed: int, first: int) -> F64:
    """The squared gradients of one probe a picture -> float64 [B, H, W]."""
    pixels = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float()
    pixels = pixels.to(network.device).requires_grad_()
    with torch.enable_grad():
        row_BC = network.activations(pixels, [layer])[layer][:, :, cell, cell]
        probes = [
            keyed_rng(seed, "probe", first + number).standard_normal(row_BC.shape[1])
            for number in range(len(batch))
        ]
        probe_BC = torch.from_numpy(np.stack(probes)).to(row_BC)
        (gradient,) = torch.autograd.grad((row_BC * probe_BC).sum(), pixels)
    squared: F64 = gradient.double().square().sum(dim=1).cpu().numpy()
    return squared
