"""The tables of patches: where each lies in its picture and what the feature does around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from isae.analysis.arrays import I64, Bools
from isae.analysis.codes import Codes
from isae.analysis.patches import PatchGeometry
from isae.analysis.visualise.patch_collect import DENSITY_BINS, HeatWindows, Patches
from isae.analysis.visualise.patch_config import PatchesConfig


def patches_table(
    patches: Patches,
    codes: Codes,
    images: pa.Table,
    images_I: I64,
    shown_I: Bools,
    geometry: PatchGeometry,
    border_G: Bools,
    config: PatchesConfig,
) -> pa.Table:
    """One row a patch, by feature and tile.

    feature, group, rank (see PatchesConfig.columns), tile (column of the sheet); value; quantile:
    share of the feature's positive values at the places read that are at most this one, 0 where it
    is silent; image, name, label, split; y, x: the cell; left, top, right, bottom: the patch in the
    picture as the network saw it; border: padding lies in the cell's effective field; shown: false
    where the picture could not be read; heat: uint8, row-major, null where the store has no such
    cell; heat_rows, heat_columns, heat_top, heat_left: its cells.

    images: the store's table; images_I: the store's number of each image of the codes, shown_I:
    whether its picture could be read; border_G: of the cells along one axis.
    """
    columns = config.columns
    image_M = codes.image_P[patches.place_M]
    y_M, x_M = np.divmod(codes.cell_P[patches.place_M].astype(np.int64), codes.grid[1])
    box_M4, windows = geometry.boxes(y_M, x_M), HeatWindows.of(geometry)
    described = images.select(["name", "label", "split"]).take(pa.array(images_I[image_M]))
    group = np.array([column.group for column in columns])
    rank = np.array([column.rank for column in columns])
    heat = pa.ListArray.from_arrays(
        pa.array(patches.heat_M, pa.int32()), pa.array(patches.heat_F, mask=patches.missing_F)
    )
    table: dict[str, Any] = {
        "feature": pa.array(patches.feature_M, pa.int32()),
        "group": pa.array(group[patches.column_M], pa.string()),
        "rank": _short(rank[patches.column_M]),
        "tile": _short(patches.column_M),
        "value": patches.value_M,
        "quantile": patches.quantile_M,
        "image": images_I[image_M],
        **{name: described.column(name) for name in described.column_names},
        "y": _short(y_M),
        "x": _short(x_M),
        **{name: _short(box_M4[:, i]) for i, name in enumerate(("left", "top", "right", "bottom"))},
        "border": border_G[y_M] | border_G[x_M],
        "shown": shown_I[image_M],
        "heat": heat,
        "heat_rows": _short(windows.count_G[y_M]),
        "heat_columns": _short(windows.count_G[x_M]),
        "heat_top": _short(windows.first_G[y_M]),
        "heat_left": _short(windows.first_G[x_M]),
    }
    return pa.table(table)


def densities_table(patches: Patches, places: int, images: int) -> pa.Table:
    """One row a feature: how its values at the places read are spread.

    feature; places, images: how many were read; fired, fired_images: those with a positive value;
    rate = fired / places; mean, max: of the positive values, null without any; counts: of positive
    values in equal bins from 0 to max.
    """
    count_N = patches.count_N
    silent_N = count_N == 0
    mean_N = patches.sum_N / np.maximum(count_N, 1)
    rows = len(count_N)
    return pa.table(
        {
            "feature": pa.array(np.arange(rows), pa.int32()),
            "places": np.full(rows, places),
            "images": np.full(rows, images),
            "fired": count_N,
            "fired_images": patches.images_N,
            "rate": count_N / places,
            "mean": pa.array(mean_N.astype(np.float32), mask=silent_N),
            "max": pa.array(patches.largest_N, mask=silent_N),
            "counts": pa.ListArray.from_arrays(
                pa.array(np.arange(rows + 1) * DENSITY_BINS, pa.int32()),
                pa.array(patches.density_ND.ravel(), pa.int32()),
            ),
        }
    )


def _short(values: npt.NDArray[Any]) -> pa.Array:
    return pa.array(values, pa.int16())
