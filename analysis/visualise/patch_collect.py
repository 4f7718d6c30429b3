"""Every feature's patches: their places, values, quantiles and heat maps; and its density.

A heat map is the feature's code after TopK at all cells whose fields are centred in the patch, from
0 to 255 = its largest value at the places read:

    heat = 0 where the code is 0, else max(1, round(255 * code / largest))

so that a weak answer is never drawn as none. Cells that the store does not hold are null.

Legend: P places, Q = P + 1, E a feature's positive places, N features, S columns of a sheet,
M patches, G cells along one axis, W cells of the widest window, F heat values of all patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.analysis.arrays import F32, I32, I64, U8, Bools
from isae.analysis.codes import Codes
from isae.analysis.patches import PatchGeometry
from isae.analysis.visualise.patch_choice import choose_places, draw_keys, fall
from isae.analysis.visualise.patch_config import PatchesConfig
from isae.progress import QUIET, Reporter

DENSITY_BINS = 16


@dataclass(frozen=True)
class HeatWindows:
    """The cells whose fields are centred in the patch of a cell, along one axis: int64 [G]."""

    first_G: I64
    count_G: I64

    @staticmethod
    def of(geometry: PatchGeometry) -> HeatWindows:
        """Those whose centres lie in [start, start + side]; a cell's own is among them."""
        centre_G, start_G = geometry.centre_G, geometry.start_G
        inside_GG = (centre_G >= start_G[:, None]) & (centre_G <= start_G[:, None] + geometry.side)
        return HeatWindows(inside_GG.argmax(axis=1), inside_GG.sum(axis=1))


@dataclass(frozen=True)
class Patches:
    """Patches by feature and column, and what is known of each feature.

    feature_M, column_M, place_M: int64 (place: of the codes); value_M: the feature's value there;
    quantile_M: share of its positive values that are at most this one. heat_F: uint8, row-major,
    those of patch m are [heat_M[m], heat_M[m + 1]) with heat_M of length M + 1; missing_F: cells
    that the store lacks. count_N: places with a positive value; images_N: images with one; sum_N,
    largest_N: of the values; density_ND: counts of positive values in equal bins up to the largest.
    """

    feature_M: I64
    column_M: I64
    place_M: I64
    value_M: F32
    quantile_M: F32
    heat_M: I64
    heat_F: U8
    missing_F: Bools
    count_N: I64
    images_N: I64
    sum_N: F32
    largest_N: F32
    density_ND: I64


def collect_patches(
    codes: Codes,
    held_out_I: Bools,
    geometry: PatchGeometry,
    config: PatchesConfig,
    reporter: Reporter = QUIET,
) -> Patches:
    """Choose every feature's patches and read their values and heat maps.

    codes: of whole images; held_out_I: whether each of those is held out. Features without a
    positive value get no patches.
    """
    collector = _Collector(codes, held_out_I, geometry, config)
    with reporter.task(codes.features, "patches", "features") as meter:
        for feature in range(codes.features):
            collector.add(feature)
            meter.advance()
    return collector.patches()


class _Collector:
    def __init__(
        self, codes: Codes, held_out_I: Bools, geometry: PatchGeometry, config: PatchesConfig
    ) -> None:
        self.codes, self.config = codes, config
        self.windows = HeatWindows.of(geometry)
        self.offsets_W = np.arange(self.windows.count_G.max())
        self.held_out_P = held_out_I[codes.image_P]
        self.value_Q = np.zeros(codes.places + 1, dtype=np.float32)
        # The place of a cell that is not stored is -1, which reads the last value.
        self.value_Q[-1] = np.nan
        features = codes.features
        self.key_ND = draw_keys(features, config)
        self.count_N = np.diff(codes.columns.first_M)
        self.images_N = np.zeros(features, dtype=np.int64)
        self.sum_N, self.largest_N = np.zeros((2, features), dtype=np.float32)
        self.density_ND = np.zeros((features, DENSITY_BINS), dtype=np.int64)
        self.feature: list[I64] = []
        self.parts: list[tuple[npt.NDArray[Any], ...]] = []

    def add(self, feature: int) -> None:
        """Choose and read one feature's patches."""
        columns = self.codes.columns
        mine = slice(*columns.first_M[feature : feature + 2])
        place_E, value_E = np.array(columns.place_T[mine]), np.array(columns.value_T[mine])
        if not len(place_E):
            return
        self._describe(feature, place_E, value_E)
        falling_E, fallen_E = fall(place_E, value_E)
        chosen_S = choose_places(
            falling_E, self.codes.image_P, self.held_out_P, self.key_ND[feature].tolist(),
            self.config,
        )  # fmt: skip
        column_M = np.flatnonzero(chosen_S >= 0)
        place_M = chosen_S[column_M]
        self.value_Q[place_E] = value_E
        value_M = self.value_Q[place_M]
        heat = self._heat(place_M, self.largest_N[feature])
        self.value_Q[place_E] = 0
        quantile_M = np.searchsorted(fallen_E[::-1], value_M, side="right") / len(value_E)
        self.feature.append(np.full(len(place_M), feature))
        self.parts.append((column_M, place_M, value_M, quantile_M, *heat))

    def _describe(self, feature: int, place_E: I32, value_E: F32) -> None:
        largest = value_E.max()
        image_E = self.codes.image_P[place_E]
        self.images_N[feature] = 1 + np.count_nonzero(np.diff(image_E))
        self.sum_N[feature], self.largest_N[feature] = value_E.sum(dtype=np.float64), largest
        bin_E = np.minimum(value_E * (DENSITY_BINS / largest), DENSITY_BINS - 1).astype(np.int64)
        self.density_ND[feature] = np.bincount(bin_E, minlength=DENSITY_BINS)

    def _heat(self, place_M: I64, largest: float) -> tuple[I64, U8, Bools]:
        """(cells of each patch [M], heat of all [F], whether it is missing [F])."""
        codes, windows = self.codes, self.windows
        height, width = codes.grid
        y_M, x_M = np.divmod(codes.cell_P[place_M].astype(np.int64), width)
        rows_M, columns_M = windows.count_G[y_M], windows.count_G[x_M]
        row_MW, column_MW = (
            windows.first_G[axis_M][:, None] + self.offsets_W for axis_M in (y_M, x_M)
        )
        wanted_MWW = (self.offsets_W < rows_M[:, None])[:, :, None] & (
            self.offsets_W < columns_M[:, None]
        )[:, None, :]
        image_M = codes.image_P[place_M].astype(np.int64)[:, None, None]
        cell_MWW = (image_M * height + row_MW[:, :, None]) * width + column_MW[:, None, :]
        value_F = self.value_Q[codes.place_of_cell[cell_MWW[wanted_MWW]]]
        missing_F = np.isnan(value_F)
        value_F[missing_F] = 0
        heat_F = np.where(value_F > 0, np.maximum(np.rint(value_F * (255 / largest)), 1), 0)
        return rows_M * columns_M, heat_F.astype(np.uint8), missing_F

    def patches(self) -> Patches:
        """All that was added."""
        none = np.zeros(0, dtype=np.int64)
        parts = [np.concatenate(part) for part in zip(*self.parts, strict=True)] or [none] * 7
        column_M, place_M, value_M, quantile_M, cells_M, heat_F, missing_F = parts
        return Patches(
            feature_M=np.concatenate([*self.feature, none]),
            column_M=column_M,
            place_M=place_M,
            value_M=value_M.astype(np.float32),
            quantile_M=quantile_M.astype(np.float32),
            heat_M=np.concatenate([[0], np.cumsum(cells_M)]),
            heat_F=heat_F.astype(np.uint8),
            missing_F=missing_F.astype(np.bool_),
            count_N=self.count_N,
            images_N=self.images_N,
            sum_N=self.sum_N,
            largest_N=self.largest_N,
            density_ND=self.density_ND,
        )
