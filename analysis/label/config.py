"""Options of `isae-analyze label`."""

from __future__ import annotations

from dataclasses import dataclass

from isae.config import check


@dataclass(frozen=True)
class LabelConfig:
    """Which images are read, which names are tried, and when a name labels a feature.

    No paper states these numbers; they are ours.
    """

    alpha: float = 0.05
    """False-discovery rate over all features and kinds of names."""
    min_gain: float = 0.3
    """Least (share - chance) / (1 - chance) of the strongest scoring images that have the name."""
    top: int = 48
    """Strongest images of a feature that are looked at, in each half."""
    least_images: int = 8
    """A feature active on fewer images of either half is not tested."""
    name_images: int = 4
    """A class or another name of whole images needs so many images in each half."""
    max_rows: int = 400_000
    """Rows to read, at most, as whole images."""
    tree: str | None = None
    """Table of a tree over the classes (wnid, parent, words); None: the packaged one."""
    shuffles: int = 10
    """Times that images are exchanged to count the labels of chance."""
    padding_pictures: int = 64
    """Pictures continued by their mirror images, to find what padding causes; 0: none."""
    padding_images: int = 6
    """A feature on at the border of fewer of them is not tested for edge artefacts."""
    field_pictures: int = 16
    """Pictures over which the effective field is measured."""
    batch_size: int = 8192
    """Rows encoded at once: speed and memory, not results."""
    workers: int = 2
    """Processes that decode pictures; 0: none. Speed, not results."""
    figures: bool = True
    """Whether figures are drawn."""
    device: str = "auto"
    """Where the network runs and rows are encoded: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of the images, the halves and all draws."""

    def __post_init__(self) -> None:
        check(0 < self.alpha < 1, "--alpha between 0 and 1", self.alpha)
        check(0 <= self.min_gain < 1, "--min-gain from 0 to below 1", self.min_gain)
        for name in ("top", "least_images", "name_images", "shuffles", "padding_images"):
            option = name.replace("_", "-")
            check(getattr(self, name) >= 1, f"--{option} of at least 1", getattr(self, name))
        check(self.max_rows >= 2, "--max-rows of at least 2", self.max_rows)
        for name in ("padding_pictures", "workers"):
            option = name.replace("_", "-")
            check(getattr(self, name) >= 0, f"--{option} of at least 0", getattr(self, name))
        for name in ("field_pictures", "batch_size"):
            check(getattr(self, name) >= 1, f"{name} of at least 1", getattr(self, name))
