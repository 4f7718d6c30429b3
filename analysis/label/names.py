"""Names that can be true of an image, of a place in an image, or of a cell of the map.

A kind of names is one table of bits: which names each row has. Rows are images (classes,
superclasses, factors), places (what the patch looks like) or cells (position). The chance of a name
at a cell is the share of the images of a half that have it there: what an exchange of images that
keeps every location gives.

Legend: A names, I images, G cells, R rows (I, I * G or G), H = 2 halves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isae.analysis.arrays import F64, I64, U8, Bools
from isae.analysis.label.images import CHOOSING, SCORING
from isae.analysis.label.tree import Tree, superclasses

IMAGE, PLACE, CELL = "image", "place", "cell"
CLASS, SUPERCLASS, FACTOR = "class", "superclass", "factor"
POSITION, EDGE = "position", "edge artefact"
_LEAST_PLACES = 8
SECTORS = {
    "red": 0, "orange": 30, "yellow": 60, "green": 120, "cyan": 180, "blue": 225, "purple": 285,
    "pink": 330,
}  # fmt: skip
"""Hues in degrees of HSL that stand for a name; a hue has the name of the nearest one."""


@dataclass(frozen=True)
class Names:
    """One kind of names. texts: [A]; has_RA: uint8, 1 where a row has the name; known_R: whether
    the row's names are known; at: what a row is; limit_HA: images that a half has of each name, so
    many of a feature's strongest images are looked at, at most; chance_HGA: float64, of names at
    cells in each half; members_A: for a superclass the numbers of its classes.
    """

    kind: str
    texts: tuple[str, ...]
    at: str
    has_RA: U8
    known_R: Bools
    limit_HA: I64
    chance_HGA: F64
    members_A: tuple[frozenset[int], ...] = ()

    def rows(self, image_X: I64, cell_X: I64, cells: int) -> I64:
        """The row of each (image, cell); -1 where image is -1 or the row is not known."""
        row_X = {IMAGE: image_X, PLACE: image_X * cells + cell_X, CELL: cell_X}[self.at]
        row_X = np.where(image_X >= 0, row_X, 0)
        return np.where((image_X >= 0) & self.known_R[row_X], row_X, -1)


def image_names(
    kind: str,
    has: Mapping[str, Bools],
    known_I: Bools,
    half_I: I64,
    cells: int,
    least: int,
    members: Mapping[str, frozenset[int]] | None = None,
) -> Names | None:
    """Names of whole images, those of at least `least` images in each half; None if none is left.

    has: for each name whether each image has it, bool [I].
    """
    halves = [known_I & (half_I == half) for half in (CHOOSING, SCORING)]
    kept, limits, chances = [], [], []
    for text, has_I in has.items():
        counts = [int((has_I & mine).sum()) for mine in halves]
        shares = [
            count / max(int(mine.sum()), 1) for count, mine in zip(counts, halves, strict=True)
        ]
        if min(counts) >= least and max(shares) < 1:
            kept.append(text)
            limits.append(counts)
            chances.append(shares)
    if not kept:
        return None
    chance_HA = np.array(chances).T
    return Names(
        kind=kind,
        texts=tuple(kept),
        at=IMAGE,
        has_RA=np.stack([has[text] for text in kept], axis=1).astype(np.uint8),
        known_R=known_I,
        limit_HA=np.array(limits, dtype=np.int64).T,
        chance_HGA=np.repeat(chance_HA[:, None], cells, axis=1),
        members_A=tuple(members[text] for text in kept) if members else (),
    )


def place_names(
    kind: str, has: Mapping[str, Bools], known_R: Bools, half_I: I64, cells: int
) -> Names | None:
    """Names of places, those that some but not all known places of each half have; else None.

    has: for each name whether each place has it, bool [I * G], places by image, then cell. A cell
    of fewer than 8 known places of a half takes the chance of all cells.
    """
    half_R = np.repeat(half_I, cells)
    cell_R = np.tile(np.arange(cells), len(half_I))
    kept, chances = [], []
    for text, has_R in has.items():
        chance_HG = np.empty((2, cells))
        for half in (CHOOSING, SCORING):
            mine = known_R & (half_R == half)
            places_G = np.bincount(cell_R[mine], minlength=cells)
            named_G = np.bincount(cell_R[mine & has_R], minlength=cells)
            overall = named_G.sum() / max(places_G.sum(), 1)
            few_G = places_G < _LEAST_PLACES
            chance_HG[half] = np.where(few_G, overall, named_G / np.maximum(places_G, 1))
        if (chance_HG.max(axis=1) > 0).all() and (chance_HG.min(axis=1) < 1).all():
            kept.append(text)
            chances.append(chance_HG)
    if not kept:
        return None
    return Names(
        kind=kind,
        texts=tuple(kept),
        at=PLACE,
        has_RA=np.stack([has[text] for text in kept], axis=1).astype(np.uint8),
        known_R=known_R,
        limit_HA=np.full((2, len(kept)), np.iinfo(np.int32).max),
        chance_HGA=np.stack(chances, axis=-1),
    )


def class_names(
    labels: Sequence[str], half_I: I64, cells: int, tree: Tree, least: int
) -> tuple[Names | None, Names | None]:
    """(classes, superclasses) with at least `least` images in each half."""
    label_I = np.array(labels, dtype=object)
    known_I = label_I != ""
    found = sorted(set(labels) - {""})
    of_class = {label: label_I == label for label in found}
    classes = image_names(CLASS, of_class, known_I, half_I, cells, least)
    number = {label: i for i, label in enumerate(classes.texts)} if classes else {}
    above = superclasses(tree, found)
    supers = image_names(
        SUPERCLASS,
        {node: np.isin(label_I.astype(str), sorted(below)) for node, below in above.items()},
        known_I,
        half_I,
        cells,
        least,
        {
            node: frozenset(number[one] for one in below & set(number))
            for node, below in above.items()
        },
    )
    return classes, supers


def position_names(grid: tuple[int, int], pooled_HG: F64) -> Names:
    """Where in the picture: the outer thirds of rows and of columns, and the middle.

    pooled_HG: float64 [H, G], how often the strongest place of a feature of this layer lies at each
    cell in each half (sums to 1): the chance that a feature is compared with.
    """
    down_G, right_G = _middles(grid)
    middle_G = (abs(down_G - 0.5) <= 1 / 6) & (abs(right_G - 0.5) <= 1 / 6)
    has = {f"{side} of the picture": has_G for side, has_G in _sides(grid).items()}
    return _cell_names(POSITION, has | {"middle of the picture": middle_G}, pooled_HG)


def edge_names(grid: tuple[int, int]) -> Names:
    """Where padding reaches most: the outermost ring of the map and the outer thirds.

    Every cell is alike, since most features of a layer may answer to padding.
    """
    cells = grid[0] * grid[1]
    has = {f"edge artefact: {side}": has_G for side, has_G in _sides(grid).items()}
    even_HG = np.full((2, cells), 1 / cells)
    return _cell_names(EDGE, {"edge artefact: all sides": border_cells(grid)} | has, even_HG)


def _cell_names(kind: str, has: Mapping[str, Bools], share_HG: F64) -> Names:
    has_GA = np.stack(list(has.values()), axis=1)
    return Names(
        kind=kind,
        texts=tuple(has),
        at=CELL,
        has_RA=has_GA.astype(np.uint8),
        known_R=np.ones(len(has_GA), dtype=np.bool_),
        limit_HA=np.full((2, len(has)), np.iinfo(np.int32).max),
        chance_HGA=np.repeat((share_HG @ has_GA)[:, None], len(has_GA), axis=1),
    )


def _middles(grid: tuple[int, int]) -> tuple[F64, F64]:
    """Middles of the cells from top and from left, as parts of the picture, float64 [G]."""
    y_G, x_G = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return (y_G + 0.5) / grid[0], (x_G + 0.5) / grid[1]


def _sides(grid: tuple[int, int]) -> dict[str, Bools]:
    down_G, right_G = _middles(grid)
    return {
        "top": down_G < 1 / 3,
        "bottom": down_G > 2 / 3,
        "left": right_G < 1 / 3,
        "right": right_G > 2 / 3,
    }


def border_cells(grid: tuple[int, int]) -> Bools:
    """Whether each cell lies in the outermost ring of the map, bool [G]."""
    y_G, x_G = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    outer: Bools = (y_G == 0) | (x_G == 0) | (y_G == grid[0] - 1) | (x_G == grid[1] - 1)
    return outer


def hue_name(hue: Any) -> I64:
    """Number (in SECTORS) of the named hue that is nearest, for hues in degrees."""
    centre = np.array(list(SECTORS.values()), dtype=np.float64)
    away = apart(np.asarray(hue)[..., None], centre, 360)
    return np.asarray(away.argmin(axis=-1), dtype=np.int64)


def apart(angle: Any, other: Any, period: float) -> F64:
    """How far angles lie apart on a circle of `period`, in the unit given."""
    return np.asarray(np.abs((angle - other + period / 2) % period - period / 2))
