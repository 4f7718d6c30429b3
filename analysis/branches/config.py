"""Options of `isae-analyze branches`."""

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
