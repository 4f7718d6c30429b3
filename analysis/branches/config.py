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
    figures: bool = True
    """Draw figures and contact sheets."""
    sheets: bool = True
    """Draw contact sheets where figures are drawn; `visualise` has patches of every feature."""
    samples: int = 1000
    """Draws for a p-value that the saddlepoint formula cannot give."""
    heldout_rows: int = 16_384
    """Held-out rows in which branches are replaced; 0: no causal shares."""
    pairs: int = 64
    """Rows a feature is measured on, at most, spread over images."""
    draws: int = 2
    """Other images that a row's branch is taken from, one after the other."""
    pictures: int = 192
    """Held-out pictures for logits and for cut kernels; 0: neither."""
    spliced: int = 32
    """Features whose first-order effect on logits is checked by true splicing."""
    reference_rows: int = 2048
    """Rows of each reference dictionary, at most; 0: no references."""
    alike: float = 0.9
    """Cosine from which two decoder rows count as near-duplicates."""
    resamples: int = 200
    """Draws of images, or of clusters of features, for intervals."""
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
        check(self.heldout_rows >= 0, "--heldout-rows from 0", self.heldout_rows)
        check(self.pairs >= 1, "--pairs of at least 1", self.pairs)
        check(self.draws >= 1, "--draws of at least 1", self.draws)
        check(self.pictures >= 0, "--pictures from 0", self.pictures)
        check(self.spliced >= 0, "--spliced from 0", self.spliced)
        check(self.reference_rows >= 0, "--reference-rows from 0", self.reference_rows)
        check(0 < self.alike <= 1, "--alike in (0, 1]", self.alike)
        check(self.resamples >= 20, "resamples of at least 20", self.resamples)
