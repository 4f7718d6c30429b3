"""Options of `isae-analyze curves`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from isae.analysis.tuning.stimuli import COLOURS
from isae.config import check


@dataclass(frozen=True)
class CurvesConfig:
    """Which curves are shown, when a unit is a curve detector, and what it is compared with.

    Where a paper states no number for a threshold, the number is ours.
    """

    alpha: float = 0.05
    """False-discovery rate over the units of a kind."""
    min_selectivity: float = 0.2
    """Least |h_1| / sum of the curve over directions."""
    min_contrast: float = 0.1
    """Least (a - b) / (a + b) of the best arc a over the straight stimulus b, and the reversed."""
    min_corner_contrast: float = 0.0
    """The same over the best corner that points the same way."""
    min_circle_contrast: float = -0.15
    """The same over the best whole circle; -0.15: the arc is answered 3/4 as much."""
    min_period: float = 0.5
    """Least |h_1| / |h_2|: a line's curve has two opposite peaks, and no first harmonic."""
    max_turn: float = 30.0
    """Most degrees between a variant's preferred direction and the unit's, or peak and mean."""
    level_share: float = 0.2
    """A variant is answered if its peak is at least this part of that of the strongest one."""
    min_peak: float = 0.5
    """Least answer to the best arc over the 99th percentile of positive values on real rows."""
    size: int | None = None
    """Side of the pictures in pixels; None: the store's."""
    directions: int = 24
    """Directions over 360 degrees."""
    radii: tuple[float, ...] = (0.2, 0.35, 0.6, 1.2)
    """Radii of arcs over the field's side."""
    widths: tuple[float, ...] = (0.08,)
    """Widths of strokes over the field's side."""
    openings: tuple[float, ...] = (90.0, 120.0)
    """Openings of corners in degrees."""
    colours: tuple[str, ...] = ("grey", "red", "blue")
    """Colours of figures."""
    pictures: int = 16
    """Pictures over which the effective field is measured."""
    rows: int = 16384
    """Training rows for firing rates and percentiles, at most."""
    held_out_rows: int = 40000
    """Held-out rows on which neurons' large activations are taken apart, at most."""
    gap: float = 30.0
    """Least width in degrees of a gap between curve neurons that counts as one to fill."""
    margin: float = 10.0
    """A direction fills a gap if it is at least so many degrees from both ends."""
    draws: int = 1000
    """Draws of equal counts, of uniform directions, and of features permuted."""
    resamples: int = 200
    """Draws of images for intervals of what features explain."""
    split_share: float = 0.05
    """Least part of a neuron's large activations that a feature of a split explains."""
    large: float = 0.99
    """Activations above this quantile of a neuron's held-out ones are large."""
    batch_size: int = 64
    """Pictures shown at once: speed and memory, not results."""
    device: str = "auto"
    """Where the network runs and rows are encoded: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of controls and of all draws."""

    def __post_init__(self) -> None:
        check(0 < self.alpha < 1, "--alpha between 0 and 1", self.alpha)
        for name in ("min_selectivity", "level_share", "split_share", "large"):
            check(0 < getattr(self, name) < 1, f"{name} between 0 and 1", getattr(self, name))
        for name in ("min_contrast", "min_corner_contrast", "min_circle_contrast"):
            check(-1 <= getattr(self, name) < 1, f"{name} from -1 to 1", getattr(self, name))
        check(0 < self.max_turn <= 180, "max_turn in (0, 180]", self.max_turn)
        check(self.min_period >= 0, "min_period of at least 0", self.min_period)
        check(self.min_peak > 0, "--min-peak above 0", self.min_peak)
        check(self.size is None or self.size >= 1, "--size of at least 1", self.size)
        right = self.directions >= 8 and self.directions % 4 == 0
        check(right, "a number of directions of at least 8 that 4 divides", self.directions)
        for name in ("radii", "widths", "openings"):
            values = getattr(self, name)
            rising = all(a < b for a, b in pairwise(values))
            check(bool(values) and values[0] > 0 and rising, f"{name} that rise from 0", values)
        check(self.openings[-1] < 180, "openings below 180 degrees", self.openings)
        known = bool(self.colours) and set(self.colours) <= set(COLOURS)
        check(known, f"colours among {', '.join(COLOURS)}", self.colours)
        check(0 <= 2 * self.margin < self.gap <= 360, "a gap of more than 2 margins", self.gap)
        for name in ("pictures", "batch_size", "resamples", "draws"):
            check(getattr(self, name) >= 1, f"{name} of at least 1", getattr(self, name))
        for name in ("rows", "held_out_rows"):
            check(getattr(self, name) >= 2, f"{name} of at least 2", getattr(self, name))
