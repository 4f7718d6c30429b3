"""What every feature does on the images of the map: its profile over them, its histogram.

The profile of a feature is its largest activation over the places of each image. It is the one
description that features of all layers share, whatever their channels and grids.

Legend: N features, I images, B bins, E positive entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from isae.analysis.arrays import F64, I64
from isae.analysis.codes import MAX, Codes, pool_codes, read_codes
from isae.analysis.inputs import RunInputs
from isae.progress import Reporter
from isae.randomness import hash64, keyed_seed
from isae.store import Store
from isae.store.images_table import HOLDOUT, TRAIN

PER_OCTAVE = 2
"""Bins of a histogram per doubling of the activation."""


@dataclass(frozen=True)
class Histograms:
    """Positive activations at the places read: count_NB within edge_B[b] to edge_B[b + 1].

    Edges are powers of two to the half; places: how many were read.
    """

    edge_B: F64
    count_NB: I64
    places: int

    def of(self, feature: int) -> dict[str, Any]:
        """{edges, counts, places} of one feature, without empty bins at both ends."""
        filled = np.flatnonzero(self.count_NB[feature])
        first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
        return {
            "edges": [float(f"{one:.6g}") for one in self.edge_B[first : last + 1]]
            if len(filled)
            else [],
            "counts": self.count_NB[feature, first:last].tolist(),
            "places": self.places,
        }


@dataclass(frozen=True)
class Profiles:
    """Of one layer: profile_NI float32, sparse; histograms of the same places."""

    profile_NI: csr_array
    histograms: Histograms

    @property
    def active_N(self) -> I64:
        """Images that each feature is active on."""
        active_N: I64 = np.diff(self.profile_NI.indptr).astype(np.int64)
        return active_N


def common_images(stores: Sequence[Store], most: int, seed: int) -> list[I64]:
    """The images that all stores have, at most `most`, drawn by the seed: numbers in each store.

    Entry i is the same image in all of them: the same number in stores of one content, else the
    same name and size, where those name one image in every store. Sorted by the first store's
    numbers. No images: arrays of length 0.
    """
    first = stores[0]
    split = np.array(first.images.column("split").to_pylist(), dtype=object)
    readable = np.flatnonzero(np.isin(split, (TRAIN, HOLDOUT)))
    numbers = {0: {int(i): int(i) for i in readable}}
    for place, store in enumerate(stores):
        if store.content_id == first.content_id:
            numbers[place] = numbers[0]
        elif place:
            theirs, ours = _by_name(store), _by_name(first)
            numbers[place] = {ours[key]: theirs[key] for key in ours.keys() & theirs.keys()}
    shared = sorted(set.intersection(*(set(one) for one in numbers.values())))
    chosen = np.array(shared, dtype=np.int64)
    order = np.lexsort((chosen, hash64(keyed_seed(seed, "report", "images"), chosen)))
    chosen = np.sort(chosen[order[:most]])
    return [
        np.array([numbers[place][int(i)] for i in chosen], dtype=np.int64)
        for place in range(len(stores))
    ]


def _by_name(store: Store) -> dict[tuple[Any, ...], int]:
    """{(name, width, height): number} of readable images; names that come twice are left out."""
    table = store.images.select(["name", "width", "height", "split"])
    found: dict[tuple[Any, ...], int] = {}
    twice = set()
    for number, row in enumerate(table.to_pylist()):
        key = (row["name"], row["width"], row["height"])
        if row["split"] in (TRAIN, HOLDOUT):
            twice |= {key} & found.keys()
            found[key] = number
    return {key: number for key, number in found.items() if key not in twice}


def read_profiles(
    run: RunInputs, images_I: I64, batch_size: int, device: Any, reporter: Reporter
) -> Profiles:
    """Encode all places of the images, in one pass over the layer's rows -> Profiles.

    images_I: numbers in the run's store, in any order. Memory: 8 bytes an active entry, three
    times over, and 24 bytes a place.
    """
    order = np.argsort(images_I)
    codes = read_codes(
        run.sae, run.store, run.layer, images_I[order],
        batch_size=batch_size, device=device, reporter=reporter,
    )  # fmt: skip
    pooled = pool_codes(codes, (1, 1), None, MAX)
    columns = pooled.columns
    image_E = order[pooled.image_P[columns.place_T]]
    profile_NI = csr_array(
        (columns.value_T, image_E, columns.first_M), shape=(codes.features, len(images_I))
    )
    profile_NI.sort_indices()
    return Profiles(profile_NI, _histograms(codes))


def _histograms(codes: Codes) -> Histograms:
    positive = codes.value_E > 0
    feature_E, value_E = codes.feature_E[positive], codes.value_E[positive].astype(np.float64)
    if not len(value_E):
        return Histograms(np.ones(1), np.zeros((codes.features, 0), np.int64), codes.places)
    level_E = np.floor(PER_OCTAVE * np.log2(value_E)).astype(np.int64)
    low, bins = int(level_E.min()), int(level_E.max() - level_E.min()) + 1
    flat = np.bincount(
        feature_E.astype(np.int64) * bins + level_E - low, minlength=codes.features * bins
    )
    edge_B = 2.0 ** (np.arange(low, low + bins + 1) / PER_OCTAVE)
    return Histograms(edge_B, flat.reshape(codes.features, bins), codes.places)
