"""Whether two images are one photo, by the rows at places that both store.

Rows of one photo are nearly the same wherever its network ran; those of two are not. A place where
nothing is active in either tells nothing, so the liveliest of up to TRIES common places decides,
counted from the middle outwards, since borders look alike.

Shapes: I images of all stores, M of them looked at; R rows of a piece; P pairs; T places of a pair;
C channels; K projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from isae.progress import Meter
from isae.randomness import keyed_rng
from isae.store.cuts import Ints
from isae.store.reader import Store

PIECE_ROWS = 1 << 15
PAIRS_AT_ONCE = 1 << 18
"""Each takes some 400 bytes, and so many need one reading of the rows."""
FEW_PAIRS = 1 << 14
PROJECTIONS = 8
TRIES = 3
NEARLY = {"float32": 5e-3}
"""Relative distance of rows of one photo, where all networks ran in this type; else ROUNDED."""
ROUNDED = 0.03
"""Rows of one photo in float32 and bfloat16 were 0.009 apart at most, those of two over 0.25."""
SAME, OTHER, UNTOLD = 1, 0, -1


class CommonPlaces:
    """Places and rows of the images `members`, numbered through all stores, in one layer.

    `first` is the number of each store's first image. In memory a bit for each cell of a member.
    """

    def __init__(self, stores: Sequence[Store], first: Sequence[int], members: Ints) -> None:
        self.stores, self.first = stores, first
        self.layer = min(stores[0].layers, key=_coarse(stores[0]))
        self.rank = _middle_first(stores[0].layer(self.layer).grid)
        self.member_I = np.full(first[-1], -1, dtype=np.int64)
        self.member_I[members] = np.arange(len(members))
        self.taken_MB = np.zeros((len(members), -(-len(self.rank) // 8)), dtype=np.uint8)
        for _, _, member, place in self._rows():
            bit = np.left_shift(1, place & 7).astype(np.uint8)
            np.bitwise_or.at(self.taken_MB, (member, place >> 3), bit)
        kinds = {store.manifest["model"].get("compute_dtype") for store in stores}
        self.limit = NEARLY.get(str(kinds.pop()), ROUNDED) if len(kinds) == 1 else ROUNDED

    def compare(self, pairs_P2: Ints, meter: Meter) -> npt.NDArray[np.int8]:
        """SAME, OTHER or UNTOLD for each pair of members."""
        found = []
        for start in range(0, len(pairs_P2), PAIRS_AT_ONCE):
            some = self.member_I[pairs_P2[start : start + PAIRS_AT_ONCE]]
            found.append(self._judge(some))
            meter.advance(len(some))
        return np.concatenate([np.empty(0, dtype=np.int8), *found])

    def _judge(self, pairs_P2: Ints) -> npt.NDArray[np.int8]:
        place_PT = self._common(pairs_P2)
        there_PT = place_PT >= 0
        key_2PT = pairs_P2.T[:, :, None] * len(self.rank) + np.maximum(place_PT, 0)
        keys = np.unique(key_2PT[:, there_PT])
        if not len(keys):
            return np.full(len(pairs_P2), UNTOLD, dtype=np.int8)
        seen = self._seen(keys)
        at_2PT = np.minimum(np.searchsorted(keys, key_2PT), len(keys) - 1)
        size_2PT = np.linalg.norm(seen, axis=1)[at_2PT]
        total_PT = np.where(there_PT, size_2PT.sum(axis=0), 0)
        best_P = total_PT.argmax(axis=1)
        every = np.arange(len(pairs_P2))
        one_P, other_P = at_2PT[:, every, best_P]
        apart_P = np.linalg.norm(seen[one_P] - seen[other_P], axis=1)
        same_P = apart_P < self.limit * size_2PT[:, every, best_P].max(axis=0)
        told_P = total_PT[every, best_P] > 0
        return np.where(told_P, np.where(same_P, SAME, OTHER), UNTOLD).astype(np.int8)

    def _common(self, pairs_P2: Ints) -> Ints:
        """The first places [P, T] that both images have, by rank; -1 where there are fewer."""
        found_PT = np.full((len(pairs_P2), TRIES), -1, dtype=np.int64)
        for start in range(0, len(pairs_P2), FEW_PAIRS):
            one, other = pairs_P2[start : start + FEW_PAIRS].T
            both = self.taken_MB[one] & self.taken_MB[other]
            cells = np.unpackbits(both, axis=1, bitorder="little")
            every = np.arange(len(cells))
            for number in range(TRIES):
                place = cells.argmax(axis=1)
                there = cells[every, place] > 0
                found_PT[start + every[there], number] = place[there]
                cells[every, place] = 0
        return found_PT

    def _seen(self, keys: Ints) -> npt.NDArray[np.float32]:
        """Projections [keys, K] of the rows whose member and place the sorted `keys` name."""
        seen = np.zeros((len(keys), PROJECTIONS), dtype=np.float32)
        channels = self.stores[0].layer(self.layer).channels
        onto_CK = keyed_rng(0, "same images").standard_normal((channels, PROJECTIONS), np.float32)
        for store, rows, member, place in self._rows():
            key = member * len(self.rank) + place
            at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
            wanted = np.flatnonzero(keys[at] == key)
            if len(wanted):
                values_RC = store.activations(self.layer)[rows[wanted]].astype(np.float32)
                seen[at[wanted]] = values_RC @ onto_CK
        return seen

    def _rows(self) -> Iterator[tuple[Store, Ints, Ints, Ints]]:
        """Store, and number, member and rank of place [R] of the rows of members."""
        for store, first in zip(self.stores, self.first, strict=False):
            width = store.layer(self.layer).grid[1]
            for span, place_R3 in pieces(store, self.layer):
                member = self.member_I[first + place_R3[:, 0]]
                mine = np.flatnonzero(member >= 0)
                if len(mine):
                    place = self.rank[place_R3[mine, 1] * width + place_R3[mine, 2]]
                    yield store, span.start + mine, member[mine], place


def pieces(store: Store, layer: str) -> Iterator[tuple[slice, Ints]]:
    """Spans of rows with their places [R, 3]."""
    positions = store.positions(layer)
    for start in range(0, len(positions), PIECE_ROWS):
        span = slice(start, min(start + PIECE_ROWS, len(positions)))
        yield span, positions[span].astype(np.int64)


def _coarse(store: Store) -> Callable[[str], tuple[int, int]]:
    return lambda name: (-store.layer(name).stride, store.layer(name).channels)


def _middle_first(grid: tuple[int, int]) -> Ints:
    """The rank of each cell y * W + x, from the middle outwards."""
    y, x = np.indices(grid)
    apart = np.abs(y - (grid[0] - 1) / 2) + np.abs(x - (grid[1] - 1) / 2)
    rank = np.empty(apart.size, dtype=np.int64)
    rank[np.argsort(apart.ravel(), kind="stable")] = np.arange(apart.size)
    return rank
