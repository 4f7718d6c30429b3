"""Options of `isae-analyze tuning`."""

from __future__ import annotations

from dataclasses import dataclass

from isae.config import check


@dataclass(frozen=True)
class TuningConfig:
    """Which stimuli are shown, at which size, and when a unit counts as tuned."""

    alpha: float = 0.05
    """False-discovery rate over all features (and, apart, all neurons), families and harmonics."""
    min_selectivity: float = 0.1
    """A tuned unit's |h_m| / sum of its curve is at least this, by the harmonic it counts with."""
    faint: float = 0.1
    """A unit is faint whose largest answer is below this part of its 99 % quantile on photos."""
    rows: int = 16_384
    """Held-out rows of the store over which those quantiles are taken, at most."""
    size: int | None = None
    """Side of the pictures in pixels; None: the store's if padding spares a cell there, else the
    smallest that has such a cell if it is at most `largest`, else the store's."""
    largest: int = 192
    """The largest side that is chosen by itself: cost grows with its square."""
    directions: int = 24
    """Angles over 360 degrees."""
    colours: tuple[str, ...] = ("grey", "red", "blue")
    """Colours of figures."""
    pictures: int = 16
    """Pictures over which the effective field is measured."""
    batch_size: int = 64
    """Pictures shown at once: speed and memory, not results."""
    device: str = "auto"
    """Where the network runs and rows are encoded: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of the gradient probes, the choice of pictures and the noise pictures."""

    def __post_init__(self) -> None:
        check(0 < self.alpha < 1, "--alpha between 0 and 1", self.alpha)
        check(0 <= self.min_selectivity <= 1, "--min-selectivity in [0, 1]", self.min_selectivity)
        check(self.size is None or self.size >= 1, "--size of at least 1", self.size)
        check(self.pictures >= 1, "--pictures of at least 1", self.pictures)
        check(0 <= self.faint <= 1, "--faint in [0, 1]", self.faint)
        check(self.rows >= 1, "rows of at least 1", self.rows)
        check(self.batch_size >= 1, "--batch-size of at least 1", self.batch_size)
