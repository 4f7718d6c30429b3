"""Options of the patches that `isae-analyze visualise` cuts for every feature."""

from __future__ import annotations

from dataclasses import dataclass

from isae.config import check
from isae.store.images_table import HOLDOUT, TRAIN

TOP, RANGE, RANDOM, ANYWHERE = "top", "range", "random", "anywhere"


@dataclass(frozen=True)
class Column:
    """A column of a sheet: the group and rank of its tiles, and their split (None: of both)."""

    group: str
    rank: int
    split: str | None = None


@dataclass(frozen=True)
class PatchesConfig:
    """Which patches a feature gets, how many places are read for them, and how sheets look."""

    top: int = 3
    """Strongest places of training images, at most one an image."""
    top_held_out: int = 2
    """Strongest places of held-out images, at most one an image."""
    ranges: int = 4
    """Bins of equal counts of a feature's positive values, from each of which one is drawn."""
    random: int = 2
    """Places drawn from all at which the feature is above 0."""
    anywhere: int = 1
    """Places drawn from all, whatever the feature does there."""
    tile: int = 48
    """Side of a tile in pixels; a multiple of 16 keeps JPEG's blocks within tiles."""
    quality: int = 25
    """JPEG quality of the sheets."""
    max_rows: int = 400_000
    """Rows to encode, at most: whole images, drawn by the seed."""
    field_pictures: int = 16
    """Pictures over which the effective field is measured."""
    batch_size: int = 8192
    """Rows encoded at once: speed and memory, not results."""
    threads: int | None = None
    """Threads that read pictures and write sheets; None: as many as torch uses."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        for name in ("top", "top_held_out", "ranges", "random", "anywhere", "seed"):
            check(getattr(self, name) >= 0, f"{name} of at least 0", getattr(self, name))
        for name in ("max_rows", "field_pictures", "batch_size"):
            check(getattr(self, name) >= 1, f"{name} of at least 1", getattr(self, name))
        check(bool(self.columns), "at least one patch a feature", 0)
        check(8 <= self.tile <= 512, "a tile of 8 to 512 pixels", self.tile)
        check(1 <= self.quality <= 95, "a JPEG quality of 1 to 95", self.quality)
        check(self.threads is None or self.threads >= 1, "at least one thread", self.threads)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of a sheet from left to right.

        Ranks rise from the strongest: of top places within their split, of ranges from the highest
        bin. Places of random and anywhere stand in the order in which they were drawn.
        """
        counts = (
            (TOP, self.top, TRAIN),
            (TOP, self.top_held_out, HOLDOUT),
            (RANGE, self.ranges, None),
            (RANDOM, self.random, None),
            (ANYWHERE, self.anywhere, None),
        )
        return tuple(
            Column(group, rank, split) for group, count, split in counts for rank in range(count)
        )
