"""The sizes that are measured, and rows that look like a network's activations.

Shapes: B rows, D channels, N latents, K active latents, F hidden factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from isae.errors import unknown_name

ZERO_QUANTILE = 0.5
"""Part of all numbers that are 0, as after a ReLU."""
FACTORS_PER_CHANNEL = 4
ACTIVE_FACTORS = 16
NOISE = 0.1


@dataclass(frozen=True)
class Workload:
    """Rows of a batch, channels, latents and active latents."""

    name: str
    rows: int
    d: int
    n: int
    k: int


WORKLOADS = {
    one.name: one
    for one in (
        Workload("L", 8192, 512, 8192, 32),
        Workload("W", 16384, 832, 65536, 64),
        Workload("M", 8192, 832, 1 << 20, 64),
        Workload("cpu", 4096, 512, 8192, 32),
        Workload("tiny", 48, 16, 96, 4),
    )
}


def find_workload(name: str) -> Workload:
    """The workload of that name. Raises UnknownNameError."""
    if name not in WORKLOADS:
        raise unknown_name("workload", name, WORKLOADS)
    return WORKLOADS[name]


class RowMaker:
    """Makes rows >= 0, about half of the numbers 0, mostly sums of a few of 4 D hidden directions.

    x = relu(c z G + noise - shift), z sparse; the shift of each channel is the median of a sample.
    Mean squared length D, so that every channel has about unit energy.
    """

    def __init__(self, d: int, device: torch.device, seed: int) -> None:
        self.d, self.factors = d, FACTORS_PER_CHANNEL * d
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = device
        self.directions_FD = self._normal(self.factors, d) / d**0.5
        self.shift_D = torch.zeros(d, device=device)
        self.scale = 1.0
        sample_BD = self._signed(4096)
        self.shift_D = sample_BD.quantile(ZERO_QUANTILE, dim=0)
        energy = float((sample_BD - self.shift_D).relu().square().mean())
        self.scale = energy**-0.5

    def rows(self, count: int) -> torch.Tensor:
        """That many new rows, float32 [B, D]."""
        return (self._signed(count) - self.shift_D).relu_().mul_(self.scale)

    def _signed(self, count: int) -> torch.Tensor:
        places_BA = torch.randint(
            self.factors, (count, ACTIVE_FACTORS), generator=self.generator, device=self.device
        )
        # Squaring a uniform number makes some factors far commoner than others.
        places_BA = places_BA * places_BA // self.factors
        size_BA = self._normal(count, ACTIVE_FACTORS).abs_()
        z_BF = torch.zeros(count, self.factors, device=self.device)
        z_BF.scatter_add_(1, places_BA, size_BA)
        signed_BD: torch.Tensor = z_BF @ self.directions_FD + NOISE * self._normal(count, self.d)
        return signed_BD

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)
