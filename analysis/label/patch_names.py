"""What the patch at a place looks like: colour, direction and curve of its edges, their fineness.

Attributes are means over the square that holds half of the cell's gradient energy (the effective
field), once for every place that is read, whatever the features. Names cut them at fixed hues and
directions, and at quantiles of the places that are read. Directions: degrees counter-clockwise from
the right; of stripes and edges along them, in [0, 180); of an arc where its outside points.

Structure tensor: Bigün and Granlund 1987, "Optimal orientation detection of linear symmetry".
Curvature vector k n of level lines with unit normal n, k = div n: its sign does not depend on which
side is lighter, so that the vectors of an arc add up and those of a texture cancel.

Legend: R = I * G places of images by cell, C sums of `patch_loops.SUMS`, B pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.label.names import SECTORS, Names, apart, hue_name, place_names
from isae.analysis.label.patch_loops import SUMS, patch_means
from isae.analysis.label.taxonomy import COLOUR, CURVATURE, FREQUENCY, ORIENTATION
from isae.analysis.patches import PatchGeometry
from isae.images import ImageSource, decode_batches
from isae.progress import QUIET, Reporter

HUED = 0.15
"""Least chroma (largest less smallest of red, green and blue) of a patch that has a hue."""
_FINE, _COARSE = 1, 3
_BATCH = 32
_ORIENTATIONS = np.arange(0, 180, 22.5)
_DIRECTIONS = np.arange(0, 360, 45)


@dataclass(frozen=True)
class PatchMeans:
    """mean_RC: float32, means of SUMS over each place's patch; known_R: whether its picture could
    be read; side: of the patch in pixels; cut_R: places whose quantiles names are cut at, None for
    all.
    """

    mean_RC: F32
    known_R: Bools
    side: int
    cut_R: Bools | None = None

    def of(self, name: str) -> F64:
        """One of SUMS as float64 [R]."""
        return self.mean_RC[:, SUMS.index(name)].astype(np.float64)


def read_patches(
    source: ImageSource,
    image_I: I64,
    geometry: PatchGeometry,
    *,
    workers: int = 0,
    reporter: Reporter = QUIET,
) -> PatchMeans:
    """Measure every cell's patch in some of a source's pictures (rising numbers, int64 [I])."""
    cells = len(geometry.start_G)
    y_G, x_G = np.divmod(np.arange(cells * cells), cells)
    box_G4 = geometry.boxes(y_G, x_G)
    mean_IGC = np.zeros((len(image_I), len(box_G4), len(SUMS)), dtype=np.float32)
    known_I = np.zeros(len(image_I), dtype=np.bool_)
    with reporter.task(len(image_I), "patches", "pictures") as meter:
        for batch in decode_batches(source, geometry.size, _BATCH, workers, indices=image_I):
            pixels = np.ascontiguousarray(batch.pixels_BCHW.numpy().transpose(0, 2, 3, 1))
            mean_BGC = np.empty((len(pixels), *mean_IGC.shape[1:]), dtype=np.float32)
            patch_means(pixels, box_G4, _FINE, _COARSE, mean_BGC)
            at = np.searchsorted(image_I, batch.indices)
            mean_IGC[at], known_I[at] = mean_BGC, True
            meter.advance(len(pixels) + len(batch.bad))
    known_R = np.repeat(known_I, len(box_G4))
    return PatchMeans(mean_IGC.reshape(-1, len(SUMS)), known_R, geometry.side)


def beside(own: PatchMeans, other: PatchMeans) -> PatchMeans:
    """The places of both, one after the other; names mean what they mean on the first alone."""
    return PatchMeans(
        np.concatenate([own.mean_RC, other.mean_RC]),
        np.concatenate([own.known_R, other.known_R]),
        own.side,
        np.concatenate([own.known_R, np.zeros_like(other.known_R)]),
    )


def patch_names(patches: PatchMeans, half_I: I64, cells: int) -> dict[str, Names]:
    """The kinds of names of places that the pictures give."""
    kinds = {
        COLOUR: colours(patches),
        ORIENTATION: orientations(patches),
        CURVATURE: curvatures(patches),
        FREQUENCY: frequencies(patches),
    }
    found = {
        kind: place_names(kind, has, patches.known_R, half_I, cells) for kind, has in kinds.items()
    }
    return {kind: names for kind, names in found.items() if names is not None}


def colours(patches: PatchMeans) -> dict[str, Bools]:
    """The hue of the mean colour, dark, light, vivid and grey (fifths of the places)."""
    colour_R3 = np.stack([patches.of(name) for name in ("red", "green", "blue")], axis=1)
    high_R, low_R = colour_R3.max(axis=1), colour_R3.min(axis=1)
    chroma_R, lightness_R = high_R - low_R, (high_R + low_R) / 2
    hue_R = hue_name(hues(colour_R3))
    found = {name: (hue_R == number) & (chroma_R >= HUED) for number, name in enumerate(SECTORS)}
    return found | {
        "dark": _lowest(patches, lightness_R, patches.known_R),
        "light": _highest(patches, lightness_R, patches.known_R),
        "grey": _lowest(patches, chroma_R, patches.known_R),
        "vivid": _highest(patches, chroma_R, patches.known_R),
    }


def hues(colour_R3: F64) -> F64:
    """Hue of HSL in degrees, [R]; 0 for greys."""
    red, green, blue = colour_R3.T
    high, low = colour_R3.max(axis=1), colour_R3.min(axis=1)
    chroma = np.maximum(high - low, 1e-12)
    of_red, of_green = (green - blue) / chroma % 6, (blue - red) / chroma + 2
    of_blue = (red - green) / chroma + 4
    sixth = np.where(high == red, of_red, np.where(high == green, of_green, of_blue))
    return np.asarray(60.0 * sixth * (high > low))


def orientations(patches: PatchMeans) -> dict[str, Bools]:
    """The direction along edges, of the more coherent half of the patches that have edges.

    Names lie every 22.5 degrees and reach 22.5 to both sides, so that they overlap.
    """
    angle_R, coherence_R = edge_directions(patches)
    clear_R = _some_edges(patches)
    clear_R = clear_R & (coherence_R >= _quantile(patches, coherence_R, clear_R, 0.5))
    return {
        f"edges along {angle:g}°": clear_R & (apart(angle_R, angle, 180) <= 22.5)
        for angle in _ORIENTATIONS
    }


def edge_directions(patches: PatchMeans) -> tuple[F64, F64]:
    """(direction along edges in degrees, coherence 0..1 of the structure tensor) of each patch."""
    xx, yy, xy = (patches.of(name) for name in ("xx", "yy", "xy"))
    # Rows count downwards: the mathematical y is turned round.
    across_R = np.rad2deg(np.arctan2(-2 * xy, xx - yy)) / 2
    coherence_R = np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-12)
    return (across_R + 90) % 180, coherence_R


def curvatures(patches: PatchMeans) -> dict[str, Bools]:
    """'curved' (the highest fifth), and where the outside of the more curved half points.

    Directions lie every 45 degrees and reach 33.75 to both sides.
    """
    bend_R, angle_R = curve_vectors(patches)
    edges_R = _some_edges(patches)
    clear_R = edges_R & (bend_R >= _quantile(patches, bend_R, edges_R, 0.5))
    found = {"curved": _highest(patches, bend_R, edges_R)}
    return found | {
        f"arc, outside at {angle:g}°": clear_R & (apart(angle_R, angle, 360) <= 33.75)
        for angle in _DIRECTIONS
    }


def curve_vectors(patches: PatchMeans) -> tuple[F64, F64]:
    """(mean curvature times the patch's side, where its outside points in degrees)."""
    x_R, y_R, length_R = (patches.of(name) for name in ("bend_x", "bend_y", "length"))
    bend_R = np.hypot(x_R, y_R) / np.maximum(length_R, 1e-6) * patches.side
    return bend_R, np.rad2deg(np.arctan2(-y_R, x_R)) % 360


def frequencies(patches: PatchMeans) -> dict[str, Bools]:
    """Plain and busy (energy of the gradient), fine and coarse (its fine over its coarse part)."""
    energy_R = patches.of("xx") + patches.of("yy")
    edges_R = _some_edges(patches)
    ratio_R = np.log((energy_R + 1e-9) / (patches.of("coarse") + 1e-9))
    return {
        "plain": _lowest(patches, energy_R, patches.known_R),
        "high contrast": _highest(patches, energy_R, patches.known_R),
        "fine texture": _highest(patches, ratio_R, edges_R),
        "coarse texture": _lowest(patches, ratio_R, edges_R),
    }


def _some_edges(patches: PatchMeans) -> Bools:
    """The known places but for the fifth of least gradient energy."""
    energy_R = patches.of("xx") + patches.of("yy")
    return patches.known_R & (energy_R > _quantile(patches, energy_R, patches.known_R, 0.2))


def _lowest(patches: PatchMeans, value_R: F64, among_R: Bools) -> Bools:
    return among_R & (value_R <= _quantile(patches, value_R, among_R, 0.2))


def _highest(patches: PatchMeans, value_R: F64, among_R: Bools) -> Bools:
    return among_R & (value_R >= _quantile(patches, value_R, among_R, 0.8))


def _quantile(patches: PatchMeans, value_R: F64, among_R: Bools, share: float) -> float:
    cut_R = among_R if patches.cut_R is None else among_R & patches.cut_R
    return float(np.quantile(value_R[cut_R], share)) if cut_R.any() else 0.0
