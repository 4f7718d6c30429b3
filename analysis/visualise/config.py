"""Options of the optimised pictures of `isae-analyze visualise`."""

from __future__ import annotations

from dataclasses import dataclass

from isae.config import check

FEATURE, NEURON, BRANCH, DIVERSITY = "feature", "neuron", "branch", "diversity"
KINDS = (FEATURE, NEURON, BRANCH, DIVERSITY)
MAIN, EVERY = "main", "all"
CENTRE, ALL_CELLS = "centre", "all"
OWN, PLAIN = "pictures", "plain"
UNSEEN = ("visualise", "features", "kind", "branch", "batch_size", "device", "ranking_rows")
"""Options that say which pictures are made, or how fast: no settings of a picture."""


def is_coded(kind: str) -> bool:
    """Whether a kind's activation is a TopK code; of the others it is the linear function."""
    return kind in (FEATURE, DIVERSITY)


@dataclass(frozen=True)
class VisualiseConfig:
    """Which units get a picture by optimisation, and how one is made.

    Lengths are pixels of the picture; lr and start are in standard deviations of the start's
    colours before the sigmoid (`PictureSpace`).
    """

    visualise: int = 24
    """Units that get pictures, by rank (`ranking`); 0: none. Unused where features are given."""
    features: tuple[int, ...] = ()
    """Units that get pictures, by number."""
    kind: tuple[str, ...] = (FEATURE,)
    """feature, neuron, branch, diversity: what pictures are made of each."""
    branch: str = MAIN
    """Branch of the kind branch: a name, all, or main, that of most decoder energy."""
    steps: int = 96
    """Steps of Adam."""
    size: int | None = None
    """Side of the pictures in pixels; None: the store's, or less where the cell sees less."""
    cells: str = CENTRE
    """centre: the map's middle cell is driven; all: the mean over its cells."""
    lr: float = 0.06
    """Adam's step; it falls to a tenth over the last quarter of the steps."""
    start: float = 0.06
    """Standard deviation of the noise that a picture starts from."""
    colours: str = OWN
    """pictures: mean, colour matrix and amplitude by frequency of the store's own pictures; plain:
    grey, colours as they are, amplitude 1/f."""
    jitter: float = 6.0
    """Most pixels that a shown picture is moved by, in both directions."""
    rotation: float = 8.0
    """Most degrees that it is turned by."""
    scale: float = 0.1
    """Most natural logarithm that it is enlarged or made smaller by."""
    redirect: int = 8
    """First steps of neurons' pictures in which ReLUs that are off let gradients through that would
    turn them on."""
    set_size: int = 4
    """Pictures of a diversity set."""
    diversity: float = 1.0
    """Weight of the mean cosine of Gram matrices within a set; the objective is 1 at the data's
    largest activation."""
    rows: int = 2_000_000
    """Rows among which the data's largest activation is sought, at most."""
    ranking_rows: int = 16384
    """Rows that are encoded to rank features, at most."""
    batch_size: int = 16
    """Pictures made at once: speed and memory, and how many a kill can cost, not results."""
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of starts and transformations."""

    def __post_init__(self) -> None:
        for name in ("visualise", "jitter", "rotation", "scale", "redirect", "diversity"):
            check(getattr(self, name) >= 0, f"{name} of at least 0", getattr(self, name))
        for name in ("steps", "rows", "ranking_rows", "batch_size"):
            check(getattr(self, name) >= 1, f"{name} of at least 1", getattr(self, name))
        for name in ("lr", "start"):
            check(getattr(self, name) > 0, f"{name} above 0", getattr(self, name))
        check(self.size is None or self.size >= 8, "--size of at least 8", self.size)
        check(self.rotation <= 180, "rotation of at most 180 degrees", self.rotation)
        check(self.scale < 1, "scale below 1", self.scale)
        check(2 <= self.set_size <= 8, "a set of 2 to 8 pictures", self.set_size)
        known = bool(self.kind) and set(self.kind) <= set(KINDS)
        check(known, f"--kind among {', '.join(KINDS)}", self.kind)
        check(len(set(self.kind)) == len(self.kind), "every --kind once", self.kind)
        check(self.cells in (CENTRE, ALL_CELLS), "--cells centre or all", self.cells)
        check(self.colours in (OWN, PLAIN), "--colours pictures or plain", self.colours)
        numbers = all(one >= 0 for one in self.features)
        check(numbers, "--features as whole numbers from 0", self.features)
