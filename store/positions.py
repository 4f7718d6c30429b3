"""Which places of an image are stored: all, N at random, or N by activation norm.

Places are cells of the coarsest grid among the layers of a build, drawn once per image without
replacement; a finer grid takes the cells inside the drawn ones. So the rows of different layers
show the same places of the same pictures.

With weights w_c (1, or the L2 norm of a layer's activations in cell c plus 1e-8, after
arXiv 2504.11489), the N cells with the smallest -log(u_c) / w_c are taken, u_c uniform: that is
drawing without replacement with probabilities proportional to w (Efraimidis and Spirakis 2006,
"Weighted random sampling with a reservoir"). u_c depends on (seed, image, cell) alone.

Shapes: B images, H W cells of a grid, P places an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isae.errors import ConfigError
from isae.randomness import hash64, keyed_seed

Ints = npt.NDArray[np.int64]
NORM_OFFSET = 1e-8


@dataclass(frozen=True)
class PositionRule:
    """`all` (count None), `N` (uniform), or `N:norm:LAYER` (weights from a layer's norms)."""

    count: int | None
    norm_layer: str | None

    @classmethod
    def parse(cls, text: str) -> PositionRule:
        """Read the option's text; raise ConfigError for anything else."""
        parts = text.split(":")
        if text == "all":
            return cls(None, None)
        if parts[0].isdecimal() and int(parts[0]) > 0:
            if len(parts) == 1:
                return cls(int(parts[0]), None)
            if len(parts) == 3 and parts[1] == "norm" and parts[2]:
                return cls(int(parts[0]), parts[2])
        raise ConfigError(
            f"expected --positions all, N or N:norm:LAYER with N of at least 1, found '{text}'; "
            "for example --positions 10:norm:mixed4c"
        )

    def places_per_image(self, cells: int) -> int:
        """How many places of a grid of `cells` are drawn; ConfigError if there are not so many."""
        if self.count is not None and self.count > cells:
            raise ConfigError(
                f"expected at most {cells} positions (the cells of the coarsest grid asked for), "
                f"found {self.count}; ask for fewer, for all, or for a larger --size"
            )
        return cells if self.count is None else self.count


def draw_cells(
    rule: PositionRule,
    images_B: Ints,
    grid: tuple[int, int],
    seed: int,
    norms_BC: npt.NDArray[np.float64] | None = None,
) -> Ints:
    """Cells [B, P] of the coarsest grid, as y * W + x, in increasing order within an image.

    `norms_BC` [B, H*W] are the weights' norms, needed when the rule asks for them.
    """
    cells = grid[0] * grid[1]
    count = rule.places_per_image(cells)
    if count == cells:
        return np.broadcast_to(np.arange(cells, dtype=np.int64), (len(images_B), cells))
    columns = np.tile(np.arange(cells), len(images_B))
    keys = hash64(keyed_seed(seed, "places"), np.repeat(images_B, cells), columns)
    uniform = (keys.astype(np.float64) + 1.0) / (2.0**64 + 2.0)
    cost_BC = -np.log(uniform).reshape(len(images_B), cells)
    if rule.norm_layer is not None:
        if norms_BC is None:
            raise ConfigError(f"expected norms of layer {rule.norm_layer}, found none")
        cost_BC = cost_BC / (norms_BC + NORM_OFFSET)
    chosen = np.argsort(cost_BC, axis=1, kind="stable")[:, :count]
    return np.sort(chosen, axis=1)


def parent_cells(fine: int, coarse: int, ratio: int) -> Ints:
    """The coarse cell of each of `fine` cells along one axis: min(f // ratio, coarse - 1).

    With SAME padding a coarse grid is the fine one divided and rounded up, so f // ratio is always
    there. A pool without padding (torchvision's GoogLeNet) can leave cells over at the end; they
    belong to the last coarse cell.
    """
    return np.minimum(np.arange(fine) // ratio, coarse - 1)


def refine_cells(
    cells_BP: Ints, coarse: tuple[int, int], fine: tuple[int, int], ratio: int
) -> tuple[Ints, Ints, Ints]:
    """(batch row, y, x) of every cell of a finer grid that lies inside the drawn coarse cells."""
    chosen = np.zeros((len(cells_BP), coarse[0] * coarse[1]), dtype=np.bool_)
    np.put_along_axis(chosen, cells_BP, True, axis=1)
    y = parent_cells(fine[0], coarse[0], ratio)
    x = parent_cells(fine[1], coarse[1], ratio)
    row, fine_y, fine_x = np.nonzero(chosen[:, y[:, None] * coarse[1] + x[None, :]])
    return row, fine_y, fine_x


def most_refined(cells: int, coarse: tuple[int, int], fine: tuple[int, int], ratio: int) -> int:
    """At most so many fine cells lie inside `cells` coarse ones."""
    inside = 1
    for fine_side, coarse_side in zip(fine, coarse, strict=True):
        inside *= int(np.bincount(parent_cells(fine_side, coarse_side, ratio)).max())
    return min(cells * inside, fine[0] * fine[1])


def pool_norms(
    squares_BHW: npt.NDArray[np.float64], coarse: tuple[int, int], ratio: int
) -> npt.NDArray[np.float64]:
    """L2 norms [B, H*W] of coarse cells from squared norms of a grid `ratio` times finer."""
    batch, height, width = squares_BHW.shape
    y = parent_cells(height, coarse[0], ratio)
    x = parent_cells(width, coarse[1], ratio)
    sums = np.zeros((batch, *coarse))
    for row in range(height):
        np.add.at(sums[:, y[row]].T, x, squares_BHW[:, row].T)
    norms: npt.NDArray[np.float64] = np.sqrt(sums).reshape(batch, -1)
    return norms
