"""Options of the analyses."""

from __future__ import annotations

from dataclasses import dataclass

from isae.config import check


@dataclass(frozen=True)
class BranchesConfig:
    """How features are compared with the null, and what is shown of them."""

    alpha: float = 0.05
    """False-discovery rate: a feature x branch x basis with q <= alpha is above the null."""
    top: int = 9
    """Strongest patches per feature, at most one per image."""
    max_rows: int | None = None
    """Rows of the store to read, of both splits in proportion; None: all."""
    batch_size: int = 8192
    """Rows encoded at once: speed and memory, not results."""
    samples: int = 1000
    """Draws for a p-value that the saddlepoint formula cannot give."""
    device: str = "auto"
    """Where rows are encoded: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of the sampled p-values, the null's draws and the audit."""

    def __post_init__(self) -> None:
        check(0 < self.alpha < 1, "--alpha between 0 and 1", self.alpha)
        check(1 <= self.top <= 100, "--top from 1 to 100", self.top)
        check(self.max_rows is None or self.max_rows >= 1, "--max-rows from 1", self.max_rows)
        check(self.batch_size >= 1, "--batch-size of at least 1", self.batch_size)
        check(self.samples >= 100, "samples of at least 100", self.samples)


@dataclass(frozen=True)
class TuningConfig:
    """Which stimuli are shown, at which size, and when a unit counts as tuned."""

    alpha: float = 0.05
    """False-discovery rate over all features (and, apart, all neurons) and families."""
    min_selectivity: float = 0.1
    """A tuned unit's |h_m| / sum of its curve is at least this, by either harmonic."""
    size: int | None = None
    """Side of the pictures in pixels; None: the store's."""
    directions: int = 24
    """Angles over 360 degrees."""
    colours: tuple[str, ...] = ("grey", "red", "blue")
    """Colours of figures."""
    pictures: int = 16
    """Pictures over which the effective field is measured."""
    shuffles: int = 100
    """Draws of the shuffled null that audit its p-values."""
    batch_size: int = 64
    """Pictures shown at once: speed and memory, not results."""
    device: str = "auto"
    """Where the network runs and rows are encoded: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of the shuffles, the gradient probes and the noise pictures."""

    def __post_init__(self) -> None:
        check(0 < self.alpha < 1, "--alpha between 0 and 1", self.alpha)
        check(0 <= self.min_selectivity <= 1, "--min-selectivity in [0, 1]", self.min_selectivity)
        check(self.size is None or self.size >= 1, "--size of at least 1", self.size)
        check(self.pictures >= 1, "--pictures of at least 1", self.pictures)
        check(self.shuffles >= 1, "shuffles of at least 1", self.shuffles)
        check(self.batch_size >= 1, "--batch-size of at least 1", self.batch_size)


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
        check(self.batch_size >= 1, "--batch-size of at least 1", self.batch_size)
