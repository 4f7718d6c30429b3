"""Options of `isae-analyze stability`."""

from __future__ import annotations

from dataclasses import dataclass

from isae.config import check


@dataclass(frozen=True)
class StabilityConfig:
    """When a feature counts as found again in a run of another seed."""

    alpha: float = 0.05
    """False-discovery rate: a feature that comes back has q <= alpha as well."""
    threshold: float = 0.7
    """A feature that comes back has a best cosine of at least this."""
    duplicate_cosine: float = 0.9
    """Features of one dictionary whose decoder rows are so alike count as one in `clusters`."""
    candidates: int = 8
    """Best partners kept of each feature, from which the one-to-one matches are chosen."""
    dictionaries: int = 2
    """Random dictionaries drawn for the null of each pair of runs; each is used in 8 parts."""
    resamples: int = 500
    """Draws of feature clusters for intervals."""
    max_rows: int = 200_000
    """Rows to read for dead features and firing rates, where the run has no branch analysis."""
    batch_size: int = 8192
    """Rows encoded at once: speed and memory, not results."""
    device: str = "auto"
    """Where rows are encoded: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of the random dictionaries and of all draws."""

    def __post_init__(self) -> None:
        check(0 < self.alpha < 1, "--alpha between 0 and 1", self.alpha)
        check(0 < self.threshold <= 1, "--threshold in (0, 1]", self.threshold)
        check(0 < self.duplicate_cosine <= 1, "--duplicate-cosine in (0, 1]", self.duplicate_cosine)
        check(1 <= self.candidates <= 100, "--candidates from 1 to 100", self.candidates)
        check(1 <= self.dictionaries <= 100, "--dictionaries from 1 to 100", self.dictionaries)
        check(self.resamples >= 100, "resamples of at least 100", self.resamples)
        check(self.max_rows >= 1, "--max-rows of at least 1", self.max_rows)
        check(self.batch_size >= 1, "--batch-size of at least 1", self.batch_size)
