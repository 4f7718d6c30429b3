"""`write_patches`: every feature of a run in pieces of pictures, with heat maps."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from isae.analysis.arrays import I64, Bools
from isae.analysis.codes import Codes, Room, read_codes
from isae.analysis.inputs import RunInputs
from isae.analysis.network import store_network
from isae.analysis.outputs import write_table
from isae.analysis.patches import PatchGeometry, patch_geometry
from isae.analysis.tuning.effective_field import (
    SHARE,
    EffectiveField,
    effective_field,
    padding_reaches,
    read_cell,
)
from isae.analysis.tuning.inputs import pictures_of
from isae.analysis.visualise.patch_choice import choose_images
from isae.analysis.visualise.patch_collect import Patches, collect_patches
from isae.analysis.visualise.patch_config import ANYWHERE, PatchesConfig
from isae.analysis.visualise.patch_table import densities_table, patches_table
from isae.analysis.visualise.patch_tiles import (
    FEATURES_PER_SHEET,
    ScaledPictures,
    Tiles,
    read_pictures,
    write_tile_sheets,
)
from isae.images import ImageSource
from isae.inception import Network
from isae.progress import QUIET, Reporter
from isae.store.images_table import HOLDOUT

_LAST = "patches"
NOTES = (
    "top: the largest values at the places read, at most one an image, of training and of held-out "
    "images apart: the SAE and mostly the network saw the former; range: one drawn of each bin of "
    "equal counts of the positive values; random: drawn from all positive values; anywhere: drawn "
    "from all places, mostly silent ones",
    "top patches flatter a feature: read them beside the range and the random ones",
    "quantile: share of the feature's positive values at the places read that are at most this one",
    "heat: codes after the top k at the cells centred in the patch, 255 = the feature's largest "
    "value at the places read, 0 = silent; a weak answer is at least 1",
    "border: the measured effective field about the cell's centre reaches over the picture, so "
    "that padding takes part in the value",
    "a patch is moved back inside the picture where it would stick out: its middle is the middle "
    "of the field in other places only",
    "silent: no positive value at the places read, so no patches; other rows of the store may "
    "have some",
)


def write_patches(
    inputs: RunInputs,
    source: ImageSource | None,
    folder: Path,
    config: PatchesConfig,
    reporter: Reporter = QUIET,
    *,
    network: Network | None = None,
) -> dict[str, Any]:
    """Write patches.parquet, densities.parquet and sheets/<C>.jpg into `folder` -> what they hold.

    source: the store's pictures; without them no sheets are written, and the effective field is
    measured on noise. network: the store's, where it is open already (default: opened as
    recorded). Whatever an earlier call wrote is replaced; patches.parquet is written last, so that
    what a kill leaves has none. Codes and scaled pictures lie in a folder of their own meanwhile:
    about 16 bytes times k for each row read, and a picture in the scale of tiles for each image
    shown.

    Raises StoreError or WeightsError where the network is not the store's, DataError where codes
    are not finite or the disk is full.
    """
    clock = _Clock()
    size = int(inputs.store.manifest["size"])
    field, about = _field(inputs, source, network, size, config, reporter)
    geometry = patch_geometry(inputs.info, size, field.side)
    border_G = padding_reaches(inputs.info, size, field.side)
    clock.stop("field")
    images_I = choose_images(inputs.store, inputs.layer, config.max_rows, config.seed)
    held_out_I = (
        np.array(inputs.store.images.column("split").to_pylist(), dtype=object)[images_I] == HOLDOUT
    )
    room = Room(folder / ".patches")
    try:
        codes = read_codes(
            inputs.sae, inputs.store, inputs.layer, images_I, batch_size=config.batch_size,
            device=inputs.sae.W_enc_ND.device, room=room, reporter=reporter,
        )  # fmt: skip
        clock.stop("codes")
        patches = collect_patches(codes, held_out_I, geometry, config, reporter)
        clock.stop("choice")
        _make_way(folder)
        shown_I, sheets = _draw(
            source, codes, patches, images_I, geometry, config, folder, reporter, clock
        )
    finally:
        room.clear()
    densities = densities_table(patches, codes.places, len(images_I))
    write_table(densities, folder / "densities", csv=False)
    table = patches_table(
        patches, codes, inputs.store.images, images_I, shown_I, geometry, border_G, config
    )
    write_table(table, folder / _LAST, csv=False)
    clock.stop("tables")
    return {
        **_counts(patches, codes, held_out_I, shown_I, config),
        "tile": config.tile,
        "tiles": len(config.columns),
        **sheets,
        "place": {**_describe_place(geometry, field, border_G), "measured_on": about},
        "notes": list(NOTES),
        "seconds": clock.seconds,
    }


def _make_way(folder: Path) -> None:
    """Remove what an earlier call wrote, that which is written last first."""
    (folder / _LAST).with_suffix(".parquet").unlink(missing_ok=True)
    shutil.rmtree(folder / "sheets", ignore_errors=True)


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.monotonic()

    def stop(self, part: str) -> None:
        """The part that ran since the last stop ends here."""
        now = time.monotonic()
        self.seconds[part], self.last = round(now - self.last, 2), now


def _field(
    inputs: RunInputs,
    source: ImageSource | None,
    network: Network | None,
    size: int,
    config: PatchesConfig,
    reporter: Reporter,
) -> tuple[EffectiveField, dict[str, Any]]:
    """The effective field of the middle cell, and the pictures that it was measured on."""
    network = network or store_network(inputs.store, None, inputs.sae.W_enc_ND.device)
    at = read_cell(inputs.info, size)
    pictures, about = pictures_of(inputs.store, source, size, config.field_pictures, config.seed)
    field = effective_field(
        network, inputs.layer, at, pictures, seed=config.seed, reporter=reporter
    )
    return field, {**about, "cell": [at.cell, at.cell], "padding_reaches_the_cell": at.padded}


def _draw(
    source: ImageSource | None,
    codes: Codes,
    patches: Patches,
    images_I: I64,
    geometry: PatchGeometry,
    config: PatchesConfig,
    folder: Path,
    reporter: Reporter,
    clock: _Clock,
) -> tuple[Bools, dict[str, Any]]:
    """Write the sheets -> (whether each image's picture is shown, what the sheets are)."""
    if source is None:
        return np.zeros(len(images_I), dtype=np.bool_), {"sheets": None}
    image_M = codes.image_P[patches.place_M].astype(np.int64)
    y_M, x_M = np.divmod(codes.cell_P[patches.place_M], codes.grid[1])
    box_M4 = geometry.boxes(y_M, x_M)
    pictures = read_pictures(
        source, images_I, np.unique(image_M), geometry, config, codes.room.beside("pictures"),
        reporter,
    )  # fmt: skip
    clock.stop("pictures")
    tiles = Tiles(patches.feature_M, patches.column_M, image_M, box_M4[:, 0], box_M4[:, 1])
    written = write_tile_sheets(
        tiles, pictures, codes.features, config, folder / "sheets", reporter
    )
    clock.stop("sheets")
    return pictures.shown_I, {
        "sheets": {
            "count": -(-codes.features // FEATURES_PER_SHEET),
            "features_per_sheet": FEATURES_PER_SHEET,
            "bytes": written,
            "pictures": len(pictures.pixels_JSS3),
            "unreadable": _unreadable(pictures),
        }
    }


def _unreadable(pictures: ScaledPictures) -> int:
    """Pictures that were wanted and could not be read."""
    return int(((pictures.number_I >= 0) & ~pictures.shown_I).sum())


def _counts(
    patches: Patches, codes: Codes, held_out_I: Bools, shown_I: Bools, config: PatchesConfig
) -> dict[str, Any]:
    columns = np.bincount(patches.column_M, minlength=len(config.columns))
    anywhere = np.array([column.group == ANYWHERE for column in config.columns])[patches.column_M]
    return {
        "features": codes.features,
        "silent": int((patches.count_N == 0).sum()),
        "patches": len(patches.feature_M),
        "columns": [
            {
                "group": column.group,
                "rank": column.rank,
                "split": column.split,
                "patches": int(count),
            }
            for column, count in zip(config.columns, columns, strict=True)
        ],
        "anywhere_silent": float((patches.value_M[anywhere] == 0).mean())
        if anywhere.any()
        else None,
        "read": {
            "images": len(held_out_I),
            "training_images": int((~held_out_I).sum()),
            "held_out_images": int(held_out_I.sum()),
            "places": codes.places,
        },
    }


def _describe_place(
    geometry: PatchGeometry, field: EffectiveField, border_G: Bools
) -> dict[str, Any]:
    """Where patches lie: everything in pixels of the picture as the network saw it."""
    cells = len(border_G)
    return {
        "picture": geometry.size,
        "side": geometry.side,
        "cells": cells,
        "centres": geometry.centre_G.tolist(),
        "border_cells": int(cells**2 - (~border_G).sum() ** 2),
        "effective_field": {
            "side": field.side,
            "share": SHARE,
            "side_of_half_the_energy": field.side_half,
            "sides_by_halves_of_the_pictures": list(field.sides_of_halves),
            "square_reaches_over_the_picture": field.clipped,
        },
    }
