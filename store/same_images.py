"""The same photo in several stores: merged, its rows would count twice, perhaps on both sides.

Three proofs, all linear in images and rows:

- one map: all rows of a layer are the same bit for bit, at the same places, and then those of the
  other layers: this tells copies under other names, where stores hold the same places;
- one file: the path (of folders), else source and name, are the same, and so are the sizes. Other
  machines may have other photos there, so where both store a place the rows there decide;
- one name and size, and nearly the same row at a place that both store: this tells copies where
  places were drawn, or where processors and number types differ in the last bits. The name is the
  file's own; where a store has many of one name and size, their folders count too.

Pairs of images of one name and size with no place in common, or nothing active there, may be the
same: these are counted. What an earlier merge found stands in the manifest, and holds.
In memory: some 50 bytes an image, and for each that has another's name and size what
store/same_places.py takes.

Shapes: I images of all stores, numbered through; R rows of a piece; P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.progress import Reporter
from isae.randomness import hash64, keyed_seed
from isae.store.checksum import row_checksums
from isae.store.cuts import Ints
from isae.store.image_files import image_files, texts
from isae.store.images_table import UNREADABLE
from isae.store.reader import Store
from isae.store.same_places import SAME, UNTOLD, CommonPlaces, pieces
from isae.store.verify import IMPORTED

U64 = npt.NDArray[np.uint64]
SAME_PLACES = ("all", IMPORTED)
"""Positions of stores that have the same places of one photo."""
MOST_ALIKE = 4
"""A file's own name says little where a store has more images of that name and size."""
STREAM = keyed_seed("same images")


@dataclass
class Copies:
    """Images that are the same photo, by their numbers in the merged store."""

    groups: list[list[int]] = field(default_factory=list)
    """Of more than one store."""
    known: list[list[int]] = field(default_factory=list)
    """These, and those that are in one store, as an earlier merge kept them."""
    untold: int = 0
    """Images named and sized as one in an earlier store, with no place in common that tells."""


def find_copies(stores: Sequence[Store], reporter: Reporter) -> Copies:
    """Photos that are in more than one of the stores; the stores must be alike."""
    images, joined = _Images(stores), _Joined()
    for group in images.known_copies():
        joined.add(group)
    if stores[0].manifest["positions"] in SAME_PLACES:
        for same in _same_maps(images, reporter):
            joined.add(same.tolist())
    untold = _compare_places(images, joined, reporter)
    known = joined.groups()
    several = [one for one in known if len({*images.store_I[one].tolist()}) > 1]
    return Copies(several, known, untold)


def _same_maps(images: _Images, reporter: Reporter) -> list[Ints]:
    """Groups of images whose rows are the same in all layers; most often one layer is read."""
    first, key_I, groups = images.stores[0], images.sizes_I, []
    for name in sorted(first.layers, key=lambda name: _numbers(first, name)):
        key_I = hash64(STREAM, key_I, _prints(images, name, reporter))
        groups = images.groups(key_I)
        if not groups:
            break
    return groups


def _compare_places(images: _Images, joined: _Joined, reporter: Reporter) -> int:
    """Join pairs of one file or name that are the same by rows at a common place; the untold."""
    files, names = (
        images.pairs(one for one in groups if not joined.are_one(one.tolist()))
        for groups in (images.groups(images.by_file()), images.of_one_name())
    )
    pairs = np.unique(np.concatenate([files, names]), axis=0)
    if not len(pairs):
        return 0
    with reporter.task(len(pairs), "comparing", "pairs of one name") as meter:
        places = CommonPlaces(images.stores, images.first, np.unique(pairs))
        verdict_P = places.compare(pairs, meter)
    count = images.first[-1]
    one_file_P = np.isin(pairs @ [count, 1], files @ [count, 1])
    untold_P = verdict_P == UNTOLD
    for pair in pairs[(verdict_P == SAME) | (untold_P & one_file_P)].tolist():
        joined.add(pair)
    return len({pair[1] for pair in pairs[untold_P].tolist() if not joined.are_one(pair)})


class _Images:
    """The images of all stores, numbered through."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores
        counts = [store.images.num_rows for store in stores]
        self.first: list[int] = np.cumsum([0, *counts]).tolist()
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

    def known_copies(self) -> Iterator[list[int]]:
        """What earlier merges found and kept."""
        for store, first in zip(self.stores, self.first, strict=False):
            for group in store.manifest["images"].get("copies", []):
                yield [first + image for image in group]

    def by_file(self) -> U64:
        """A key [I] of each image's file and size."""
        return self._keyed(hash(one) for store in self.stores for one in image_files(store))

    def of_one_name(self) -> list[Ints]:
        """Groups of one name and size; where this is unknown, none."""
        groups = self.groups(self._by_name(lambda name: str(name).rpartition("/")[2]))
        many = [one for one in groups if np.bincount(self.store_I[one]).max() > MOST_ALIKE]
        if not many:
            return groups
        found = [one for one in groups if np.bincount(self.store_I[one]).max() <= MOST_ALIKE]
        whole = np.zeros(len(self.store_I), dtype=np.bool_)
        whole[np.concatenate(many)] = True
        return found + [one for one in self.groups(self._by_name(str)) if whole[one[0]]]

    def _by_name(self, short: Callable[[str], str]) -> U64:
        """A key [I] of name and size; where this is unknown, one of the image alone."""
        names = chain.from_iterable(texts(store.images.column("name")) for store in self.stores)
        key_I = self._keyed(hash(short(name)) for name in names)
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

    def pairs(self, groups: Iterable[Ints]) -> Ints:
        """The pairs [P, 2] in each group that are of two stores."""
        found = [np.empty((0, 2), dtype=np.int64)]
        for group in groups:
            one, other = np.triu_indices(len(group), 1)
            two = self.store_I[group[one]] != self.store_I[group[other]]
            found.append(np.stack([group[one[two]], group[other[two]]], axis=1))
        return np.concatenate(found)

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


def _numbers(store: Store, layer: str) -> int:
    one = store.layer(layer)
    return one.rows * one.channels


def _prints(images: _Images, layer: str, reporter: Reporter) -> U64:
    """A sum [I] over the rows of each image of hashes of place and values."""
    found = np.zeros(len(images.store_I), dtype=np.uint64)
    total = sum(store.layer(layer).rows for store in images.stores)
    with reporter.task(total, "comparing", "rows") as meter:
        for store, first in zip(images.stores, images.first, strict=False):
            for span, place_R3 in pieces(store, layer):
                rows_RC = store.activations(layer)[span]
                # Two sums of other orders of the channels: one alone has 32 bits.
                back_RC = np.ascontiguousarray(rows_RC[:, ::-1])
                image, y, x = place_R3.T
                print_R = hash64(STREAM, y, x, row_checksums(rows_RC), row_checksums(back_RC))
                np.add.at(found, first + image, print_R)
                meter.advance(len(rows_RC))
    return found
