"""Options of `isae-analyze layers`."""

from __future__ import annotations

from dataclasses import dataclass

from isae.config import check


@dataclass(frozen=True)
class LayersConfig:
    """How features of layers are matched on the same places, and how matches are tested."""

    alpha: float = 0.05
    """False-discovery rate: a match with q <= alpha is found."""
    pairs: str = "adjacent"
    """Which layers are compared: adjacent ones of those given, or all."""
    max_images: int = 2000
    """Training images to select matches on, and held-out images to score them on, at most."""
    least_images: int = 10
    """A feature active on fewer of the selection images is not matched."""
    candidates: int = 8
    """Best partners kept of each feature, from which the one-to-one matches are chosen."""
    shuffles: int = 20
    """Times that images are exchanged within their class for the null of the best match."""
    duplicate_r: float = 0.9
    """Features of one layer whose activations correlate so much count as one in `clusters`."""
    resamples: int = 500
    """Draws of images for intervals of r, and of feature clusters for those of log odds."""
    label_draws: int = 2000
    """Times that branch labels are dealt anew."""
    virtual_images: int = 400
    """Training images to measure the paths of virtual weights on; 0: no virtual weights."""
    virtual_draws: int = 8
    """Draws of all decoder rows, of each kind, for the null of matches by virtual weights."""
    batch_size: int = 8192
    """Rows encoded at once: speed and memory, not results."""
    device: str = "auto"
    """Where rows are encoded: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of the images chosen and exchanged, and of all draws."""

    def __post_init__(self) -> None:
        check(0 < self.alpha < 1, "--alpha between 0 and 1", self.alpha)
        check(self.pairs in ("adjacent", "all"), "--pairs adjacent or all", self.pairs)
        check(self.max_images >= 2, "--max-images of at least 2", self.max_images)
        check(self.least_images >= 1, "--least-images of at least 1", self.least_images)
        check(1 <= self.candidates <= 100, "--candidates from 1 to 100", self.candidates)
        check(self.shuffles >= 5, "--shuffles of at least 5", self.shuffles)
        check(0 < self.duplicate_r <= 1, "--duplicate-r in (0, 1]", self.duplicate_r)
        check(self.resamples >= 100, "resamples of at least 100", self.resamples)
        check(self.label_draws >= 100, "label_draws of at least 100", self.label_draws)
        check(self.virtual_images >= 0, "--virtual-images of at least 0", self.virtual_images)
        check(self.virtual_draws >= 5, "virtual_draws of at least 5", self.virtual_draws)
        check(self.batch_size >= 1, "--batch-size of at least 1", self.batch_size)
