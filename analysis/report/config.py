"""Options of `isae-analyze report`."""

from __future__ import annotations

from dataclasses import dataclass

from isae.config import check


@dataclass(frozen=True)
class ReportConfig:
    """What a report holds besides what the analyses wrote."""

    title: str = ""
    """Heading of the pages; empty: the name of the study or run."""
    draw_map: bool = True
    """Whether to encode images for the map of all features and for histograms of activations."""
    map_images: int = 3000
    """Images, the same of every layer, whose profiles place the features on the map."""
    least_images: int = 2
    """A feature active on fewer of them is not on the map."""
    dimensions: int = 256
    """Principal directions of the profiles that UMAP starts from."""
    map_neighbours: int = 15
    """Neighbours of each feature that UMAP keeps close."""
    least_distance: float = 0.0
    """Distance on the map below which UMAP does not push features apart; 0 keeps most neighbours.
    """
    epochs: int = 200
    """Passes of UMAP over its graph."""
    sample: int = 1000
    """Features whose neighbours on the map are compared with those by profile."""
    neighbours: int = 8
    """Nearest decoder rows of the same layer on a feature's page."""
    batch_size: int = 8192
    """Rows encoded at once: speed and memory, not results."""
    device: str = "auto"
    """Where rows are encoded: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of the choice of images, of the layout, and of the sample that it is measured on."""

    def __post_init__(self) -> None:
        check(self.map_images >= 2, "--map-images of at least 2", self.map_images)
        for name in ("least_images", "dimensions", "epochs", "sample", "neighbours", "batch_size"):
            check(getattr(self, name) >= 1, f"{name} of at least 1", getattr(self, name))
        check(0 <= self.least_distance < 1, "least_distance from 0 to 1", self.least_distance)
        check(self.map_neighbours >= 2, "map_neighbours of at least 2", self.map_neighbours)
