"""All features of all layers in one plane, near each other where they fire on the same images.

    a = profile over the images (isae.analysis.report.profiles), divided by its length
    z = a V / |a V|, V: the leading right singular vectors of all profiles
    map: UMAP of z by cosine (McInnes, Healy and Melville 2018), from the two leading components

UMAP keeps neighbourhoods and distorts distances: how far apart groups lie, and how large they are,
means nothing. The two leading components alone are the map it is compared with: the one that keeps
more neighbours (isae.analysis.report.map_quality) is drawn.

Legend: N features of a layer, F features on the map, I images, D directions.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import csr_array, vstack

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.report.config import ReportConfig
from isae.analysis.report.map_quality import NEIGHBOURS, Quality, measure_map
from isae.analysis.report.scripts import NO_PLACE
from isae.analysis.stability.cosines import top_cosines
from isae.randomness import keyed_rng

UMAP, COMPONENTS = "UMAP", "two components"
_SIDE = NO_PLACE - 1
_BLOCK = 4096


@dataclass(frozen=True)
class FeatureMap:
    """Places of all features, layer by layer: x_N, y_N in 0 to 65534, 65535 for those left out.

    method: which map is drawn; qualities: of every map tried; left_out: features active on too
    few images, or dead.
    """

    x_N: I64
    y_N: I64
    method: str
    qualities: dict[str, Quality]
    images: int
    shown: int
    left_out: int

    def how(self, config: ReportConfig) -> str:
        """What the map is and is not, in words."""
        parts = [
            f"Features lie near each other where they fire on the same images: each is described "
            f"by its largest activation on each of {self.images:,} images, the same of all "
            f"layers, reduced to {config.dimensions} principal directions.",
            f"Laid out by {self.method}"
            + (
                f" (cosine, {config.map_neighbours} neighbours, seed {config.seed})."
                if self.method == UMAP
                else ", of the profiles."
            ),
            "Only near neighbours mean something: distances between groups, sizes of groups and "
            "the axes do not.",
            f"{self.shown:,} features; {self.left_out:,} that fire on fewer than "
            f"{config.least_images} of these images are left out.",
        ]
        parts += [
            f"{name}: {100 * one.kept:.1f} % of the {NEIGHBOURS} nearest on the map are among the "
            f"{NEIGHBOURS} nearest by profile ({100 * one.chance:.2g} % by chance), "
            f"trustworthiness {one.trustworthiness:.3f}, on {one.sample:,} features."
            for name, one in self.qualities.items()
        ]
        return " ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For the summary."""
        return {
            "method": self.method,
            "images": self.images,
            "shown": self.shown,
            "left_out": self.left_out,
            "quality": {name: asdict(one) for name, one in self.qualities.items()},
        }


def lay_out(profiles: Sequence[csr_array], config: ReportConfig) -> FeatureMap:
    """Profiles of each layer, float32 [N, I] over the same images -> FeatureMap."""
    all_NI = vstack(profiles, format="csr")
    on_N: Bools = np.diff(all_NI.indptr) >= config.least_images
    unit_FI = _unit(all_NI[np.flatnonzero(on_N)])
    place = {COMPONENTS: np.zeros((unit_FI.shape[0], 2))}
    if unit_FI.shape[0]:
        reduced_FD = principal_directions(unit_FI, config.dimensions)
        place[COMPONENTS] = _two(reduced_FD)
        if unit_FI.shape[0] > 2 * config.map_neighbours:
            place[UMAP] = run_umap(reduced_FD, config)
    rng = keyed_rng(config.seed, "report", "map sample")
    count = unit_FI.shape[0]
    sample = np.sort(rng.choice(count, min(config.sample, count), replace=False))
    measured = {name: measure_map(unit_FI, one, sample) for name, one in place.items()}
    qualities = {name: one for name, one in measured.items() if one is not None}
    method = max(qualities, key=lambda name: qualities[name].kept, default=COMPONENTS)
    x_N, y_N = (np.full(len(on_N), NO_PLACE, dtype=np.int64) for _ in range(2))
    x_N[on_N], y_N[on_N] = _to_grid(place[method]).T
    return FeatureMap(x_N, y_N, method, qualities, all_NI.shape[1], count, int(len(on_N) - count))


def principal_directions(unit_FI: csr_array, dimensions: int) -> F32:
    """Rows times the leading right singular vectors, each row of length 1 -> float32 [F, D].

    The vectors are eigenvectors of the sum of outer products, [I, I]: exact, with no random start.
    Not centred, so that cosines stay those of the profiles. Signs are such that each vector's
    largest entry is positive.
    """
    images = unit_FI.shape[1]
    gram_II = np.zeros((images, images))
    for start in range(0, unit_FI.shape[0], _BLOCK):
        block = unit_FI[start : start + _BLOCK].toarray()
        gram_II += (block.T @ block).astype(np.float64)
    kept = min(dimensions, images)
    largest = (images - kept, images - 1)
    vector_ID = eigh(gram_II, subset_by_index=largest, overwrite_a=True)[1][:, ::-1]
    peak_D = np.abs(vector_ID).argmax(axis=0)
    vector_ID = vector_ID * np.where(vector_ID[peak_D, np.arange(len(peak_D))] < 0, -1, 1)
    reduced_FD = np.asarray(unit_FI @ vector_ID.astype(np.float32))
    length_F1 = np.linalg.norm(reduced_FD, axis=1, keepdims=True)
    return np.asarray(reduced_FD / np.maximum(length_F1, 1e-12), dtype=np.float32)


def run_umap(reduced_FD: F32, config: ReportConfig) -> F64:
    """UMAP of rows by cosine, started from two components; one thread, so that seeds decide.

    The nearest rows are found exactly, which takes less time than UMAP's own approximation.
    """
    near = top_cosines(reduced_FD, reduced_FD, config.map_neighbours - 1, same=True)
    own_F1 = np.arange(len(reduced_FD))[:, None]
    index_FK = np.concatenate([own_F1, near.feature_NK], axis=1).astype(np.int64)
    far_FK = np.concatenate([0.0 * own_F1, np.maximum(1 - near.r_NK, 0)], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts that need TensorFlow, new points: none is used
        from umap import umap_

        umap = umap_.UMAP(
            n_neighbors=config.map_neighbours,
            metric="cosine",
            n_epochs=config.epochs,
            min_dist=config.least_distance,
            init=_start(reduced_FD, config.seed),
            random_state=config.seed,
            n_jobs=1,
            precomputed_knn=(index_FK, far_FK.astype(np.float32)),
        )
        return np.asarray(umap.fit_transform(reduced_FD), dtype=np.float64)


def _start(reduced_FD: F32, seed: int) -> F32:
    """Two components scaled to -10 to 10, with a little noise so that no two features coincide."""
    two_F2 = _two(reduced_FD)
    two_F2 = two_F2 / max(float(np.abs(two_F2).max()), 1e-12) * 10
    noise_F2 = keyed_rng(seed, "report", "start").normal(scale=1e-4, size=two_F2.shape)
    return np.asarray(two_F2 + noise_F2, dtype=np.float32)


def _two(reduced_FD: F32) -> F64:
    """The two leading directions in which rows of length 1 differ, centred -> float64 [F, 2].

    The first direction of uncentred profiles is their mean; the rows are centred once more here.
    """
    centred_FD = reduced_FD.astype(np.float64) - reduced_FD.mean(axis=0)
    vector_DD = np.linalg.eigh(centred_FD.T @ centred_FD)[1][:, ::-1]
    two_F2 = centred_FD @ vector_DD[:, :2]
    return np.pad(two_F2, ((0, 0), (0, max(2 - two_F2.shape[1], 0))))


def _unit(rows_FI: csr_array) -> csr_array:
    length_F = np.sqrt(np.asarray(rows_FI.multiply(rows_FI).sum(axis=1)).ravel())
    scaled = rows_FI.copy()
    scaled.data = (rows_FI.data / np.repeat(length_F, np.diff(rows_FI.indptr))).astype(np.float32)
    return scaled


def _to_grid(place_F2: F64) -> I64:
    """Places as whole numbers 0 to 65534, with one scale for both axes."""
    if not len(place_F2):
        return np.zeros((0, 2), dtype=np.int64)
    low, high = place_F2.min(axis=0), place_F2.max(axis=0)
    scale = _SIDE / max(float((high - low).max()), 1e-12)
    middle = (low + high) / 2
    grid_F2: I64 = np.rint((place_F2 - middle) * scale + _SIDE / 2).astype(np.int64)
    return grid_F2.clip(0, _SIDE)
