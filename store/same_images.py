"""The same photo in several stores: merged, its rows would count twice, perhaps on both sides.

Three proofs, all linear in images and rows:

- one file: the path (of folders), else source and name, are the same, and so are the sizes;
- one map: all rows of a layer are the same bit for bit, at the same places, and then those of the
  other layers: this tells copies under other names, where stores hold the same places;
- one name and size, and nearly the same row at a place that both store: this tells copies where
  places were drawn, or where processors and number types differ in the last bits.

Images of one name and size that have no place in common may be the same: these are counted.
In memory: some 40 bytes an image, and for each that has another's name and size a byte a cell.

Shapes: I images of all stores, numbered through; R rows of a piece; G groups of images that may be
the same; C channels; K projections.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from isae.progress import Reporter
from isae.randomness import hash64, keyed_rng, keyed_seed
from isae.store.checksum import row_checksums
from isae.store.cuts import Ints
from isae.store.images_table import GROUP_ROWS, UNREADABLE
from isae.store.merged_rows import image_parts
from isae.store.reader import Store
from isae.store.verify import IMPORTED

U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
PIECE_ROWS = 1 << 15
PROJECTIONS = 8
NEARLY = {"float32": 5e-3}
"""Relative distance of rows of one photo, where all networks ran in this type; else ROUNDED."""
ROUNDED = 0.03
"""Rows of one photo in float32 and bfloat16 were 0.009 apart at most, those of two over 0.25."""
SAME_PLACES = ("all", IMPORTED)
"""Positions of stores that have the same places of one photo."""
STREAM = keyed_seed("same images")


@dataclass
class Copies:
    """Images that are the same photo, by their numbers in the merged store."""

    groups: list[list[int]] = field(default_factory=list)
    untold: int = 0
    """Pairs of one name and size of which no place is stored in both."""


def find_copies(stores: Sequence[Store], reporter: Reporter) -> Copies:
    """Photos that are in more than one of the stores; the stores must be alike."""
    images = _Images(stores)
    joined = _Joined()
    for group in images.groups(images.by_file()):
        joined.add(group.tolist())
    if stores[0].manifest["positions"] in SAME_PLACES:
        for group in _same_maps(images, reporter):
            joined.add(group.tolist())
    maybe = [g for g in images.groups(images.by_name()) if not joined.are_one(g.tolist())]
    untold = 0
    if maybe:
        pairs, untold = _compare_places(images, maybe, reporter)
        for pair in pairs:
            joined.add(pair)
    return Copies(joined.groups(), untold)


def _same_maps(images: _Images, reporter: Reporter) -> list[Ints]:
    """Groups of images whose rows are the same in all layers; most often one layer is read."""
    first, key_I, groups = images.stores[0], images.sizes_I, []
    for name in sorted(first.layers, key=lambda name: _numbers(first, name)):
        key_I = hash64(STREAM, key_I, _prints(images, name, reporter))
        groups = images.groups(key_I)
        if not groups:
            break
    return groups


class _Images:
    """The images of all stores, numbered through."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores
        counts = [store.images.num_rows for store in stores]
        self.first = np.cumsum([0, *counts]).tolist()
        self.store_I = np.repeat(np.arange(len(stores), dtype=np.int32), counts)
        self.readable_I = self._column("split", lambda values: values != UNREADABLE)

    @cached_property
    def sizes_I(self) -> U64:
        """Width and height as one number, 0 where they are unknown."""
        width, height = (
            self._column(name, lambda values: np.nan_to_num(values.astype(np.float64)))
            for name in ("width", "height")
        )
        sizes: U64 = width.astype(np.uint64) << np.uint64(32) | height.astype(np.uint64)
        return sizes

    def by_file(self) -> U64:
        """A key [I] of each image's file and size."""
        return self._keyed(
            hash((_origin(part), name))
            for store in self.stores
            for part, names in _names_by_part(store)
            for name in _file_names(part, names)
        )

    def by_name(self) -> U64:
        """A key [I] of each image's name and size; where this is unknown, one of its own."""
        key_I = self._keyed(
            hash(name) for store in self.stores for name in _texts(store.images.column("name"))
        )
        return np.where(self.sizes_I > 0, key_I, np.arange(len(key_I), dtype=np.uint64))

    def groups(self, key_I: U64) -> list[Ints]:
        """Readable images of equal keys, where they are of more than one store."""
        images = np.flatnonzero(self.readable_I)
        order = images[np.argsort(key_I[images], kind="stable")]
        if not len(order):
            return []
        keys, store = key_I[order], self.store_I[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        several = np.minimum.reduceat(store, starts) != np.maximum.reduceat(store, starts)
        stops = np.append(starts[1:], len(order))
        found = zip(starts[several].tolist(), stops[several].tolist(), strict=True)
        return [order[start:stop] for start, stop in found]

    def _keyed(self, hashes: Iterable[int]) -> U64:
        hash_I = np.fromiter(hashes, dtype=np.int64, count=len(self.store_I))
        return hash64(STREAM, hash_I, self.sizes_I)

    def _column(self, name: str, read: Callable[[Any], Any]) -> npt.NDArray[Any]:
        return np.concatenate([read(store.images.column(name).to_numpy()) for store in self.stores])


class _Joined:
    """Which images are one: groups that share an image become one group."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def root(self, image: int) -> int:
        """What stands for the image's group."""
        while (above := self.parent.setdefault(image, image)) != image:
            self.parent[image] = self.parent[above]
            image = above
        return image

    def add(self, images: Sequence[int]) -> None:
        """These are one photo."""
        for image in images[1:]:
            low, high = sorted((self.root(images[0]), self.root(image)))
            self.parent[high] = low

    def are_one(self, images: Sequence[int]) -> bool:
        """Whether these are known to be one photo."""
        there = [image in self.parent for image in images]
        return all(there) and len({self.root(image) for image in images}) == 1

    def groups(self) -> list[list[int]]:
        """All groups of two and more, each in order."""
        found: dict[int, list[int]] = {}
        for image in sorted(self.parent):
            found.setdefault(self.root(image), []).append(image)
        return list(found.values())


def _names_by_part(store: Store) -> Iterator[tuple[Mapping[str, Any], Iterator[str]]]:
    start, names = 0, store.images.column("name")
    for part in image_parts(store):
        yield part, _texts(names.slice(start, part["count"]))
        start += part["count"]


def _texts(column: pa.ChunkedArray) -> Iterator[str]:
    for start in range(0, len(column), GROUP_ROWS):
        yield from column.slice(start, GROUP_ROWS).to_pylist()


def _origin(part: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names of this part are names in; () where names are whole paths."""
    if part["kind"] == "folder":
        return ()
    if part["kind"] == "synthetic":
        return (part["kind"], part["seed"])
    seed = part["seed"] if part["kind"] in ("merge", "imported") else None
    return (part["kind"], part["spec"], seed)


def _file_names(part: Mapping[str, Any], names: Iterator[str]) -> Iterator[str]:
    if part["kind"] != "folder":
        yield from names
        return
    root = os.path.realpath(part["spec"])
    for name in names:
        yield f"{root}/{name}"


def _numbers(store: Store, layer: str) -> int:
    one = store.layer(layer)
    return one.rows * one.channels


def _pieces(store: Store, layer: str) -> Iterator[tuple[slice, Ints]]:
    """Spans of rows with their places [R, 3]."""
    positions = store.positions(layer)
    for start in range(0, len(positions), PIECE_ROWS):
        span = slice(start, min(start + PIECE_ROWS, len(positions)))
        yield span, positions[span].astype(np.int64)


def _prints(images: _Images, layer: str, reporter: Reporter) -> U64:
    """A sum [I] over the rows of each image of hashes of place and values."""
    found = np.zeros(len(images.store_I), dtype=np.uint64)
    total = sum(store.layer(layer).rows for store in images.stores)
    with reporter.task(total, "comparing", "rows") as meter:
        for store, first in zip(images.stores, images.first, strict=False):
            for span, place_R3 in _pieces(store, layer):
                rows_RC = store.activations(layer)[span]
                # Two sums of other orders of the channels: one alone has 32 bits.
                back_RC = np.ascontiguousarray(rows_RC[:, ::-1])
                image, y, x = place_R3.T
                print_R = hash64(STREAM, y, x, row_checksums(rows_RC), row_checksums(back_RC))
                np.add.at(found, first + image, print_R)
                meter.advance(len(rows_RC))
    return found


def _compare_places(
    images: _Images, groups: Sequence[Ints], reporter: Reporter
) -> tuple[list[list[int]], int]:
    """Pairs of images in one group whose rows at a common place are nearly the same; the untold.

    Of each group a store's first image is looked at; names come twice only in merged stores.
    """
    stores, layer = images.stores, min(images.stores[0].layers, key=_coarse(images.stores[0]))
    group_I = np.full(len(images.store_I), -1, dtype=np.int64)
    image_SG = np.full((len(stores), len(groups)), -1, dtype=np.int64)
    for number, members in enumerate(groups):
        _, firsts = np.unique(images.store_I[members], return_index=True)
        chosen = members[firsts]
        group_I[chosen] = number
        image_SG[images.store_I[chosen], number] = chosen
    rank = _middle_first(stores[0].layer(layer).grid)
    taken = np.zeros((len(groups), len(rank)), dtype=np.uint8)
    for _, group, cell, _ in _rows_of(images, layer, group_I):
        np.add.at(taken, (group, rank[cell]), 1)
    cell_G, most_G = taken.argmax(axis=1), taken.max(axis=1)
    del taken
    seen_SGK = np.full((len(stores), len(groups), PROJECTIONS), np.nan, dtype=np.float32)
    channels = stores[0].layer(layer).channels
    onto_CK = keyed_rng(0, "same images").standard_normal((channels, PROJECTIONS), np.float32)
    with reporter.task(len(groups), "comparing", "images of one name") as meter:
        for which, group, cell, rows in _rows_of(images, layer, group_I):
            here = np.flatnonzero(rank[cell] == cell_G[group])
            values_RC = stores[which].activations(layer)[rows[here]].astype(np.float32)
            seen_SGK[which, group[here]] = values_RC @ onto_CK
        meter.advance(len(groups))
    return list(_nearly_same(images, image_SG, seen_SGK)), int((most_G < 2).sum())


def _rows_of(images: _Images, layer: str, group_I: Ints) -> Iterator[tuple[int, Ints, Ints, Ints]]:
    """Store, group [R], cell [R] and number [R] of the rows of images that are in a group."""
    for which, store in enumerate(images.stores):
        width = store.layer(layer).grid[1]
        for span, place_R3 in _pieces(store, layer):
            number = group_I[images.first[which] + place_R3[:, 0]]
            mine = np.flatnonzero(number >= 0)
            if len(mine):
                cell = place_R3[mine, 1] * width + place_R3[mine, 2]
                yield which, number[mine], cell, span.start + mine


def _nearly_same(images: _Images, image_SG: Ints, seen_SGK: F32) -> Iterator[list[int]]:
    kinds = {store.manifest["model"].get("compute_dtype") for store in images.stores}
    limit = NEARLY.get(str(kinds.pop()), ROUNDED) if len(kinds) == 1 else ROUNDED
    for one in range(len(seen_SGK)):
        for other in range(one + 1, len(seen_SGK)):
            apart_G = np.linalg.norm(seen_SGK[one] - seen_SGK[other], axis=1)
            # A NaN, where one of the two has no row, compares as False; so do rows of zeros.
            same = np.flatnonzero(apart_G < limit * np.linalg.norm(seen_SGK[one], axis=1))
            yield from np.stack([image_SG[one, same], image_SG[other, same]], axis=1).tolist()


def _coarse(store: Store) -> Callable[[str], tuple[int, int]]:
    return lambda name: (-store.layer(name).stride, store.layer(name).channels)


def _middle_first(grid: tuple[int, int]) -> Ints:
    """The rank of each cell y * W + x, from the middle outwards: borders look alike."""
    y, x = np.indices(grid)
    apart = np.abs(y - (grid[0] - 1) / 2) + np.abs(x - (grid[1] - 1) / 2)
    rank = np.empty(apart.size, dtype=np.int64)
    rank[np.argsort(apart.ravel(), kind="stable")] = np.arange(apart.size)
    return rank
