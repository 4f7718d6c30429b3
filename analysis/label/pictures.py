"""What labels need of the pictures: patches of every place, and the border without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isae.analysis.arrays import I64
from isae.analysis.inputs import RunInputs
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.padding import (
    Mirrored,
    margin,
    mirrored_border,
    no_padding_test,
    reached_cells,
)
from isae.analysis.label.patch_names import PatchMeans, read_patches
from isae.analysis.patches import (
    PatchGeometry,
    draw_among,
    find_pictures,
    patch_geometry,
    read_pictures,
)
from isae.analysis.tuning.effective_field import EffectiveField, effective_field, read_cell
from isae.analysis.tuning.inputs import field_pictures
from isae.images import ImageSource
from isae.inception import Network
from isae.progress import Reporter
from isae.store import Store

GONE = "the store's pictures are not there; give --images SRC"


@dataclass(frozen=True)
class Field:
    """geometry: the patches of a layer's cells; effective: its field; reached: int64, the cells
    that padding reaches.
    """

    geometry: PatchGeometry
    effective: EffectiveField
    reached: I64


@dataclass(frozen=True)
class Border:
    """What padding does. words: for summary.json; left_out: why it was not tested, '' if it was;
    image_P: int64, numbers in the store of the pictures that it was tested on.
    """

    mirrored: Mirrored
    words: dict[str, Any]
    left_out: str
    image_P: I64


@dataclass(frozen=True)
class Seen:
    """What was read of a store's pictures; the first three None without them.

    words: for summary.json; border: what padding does.
    """

    source: ImageSource | None
    field: Field | None
    patches: PatchMeans | None
    words: dict[str, Any]
    border: Border


def look(
    inputs: RunInputs,
    network: Network,
    image_I: I64,
    images: str | None,
    config: LabelConfig,
    reporter: Reporter,
) -> Seen:
    """Read the pictures of a run's store. image_I: rising numbers of those to measure."""
    size = int(inputs.store.manifest["size"])
    manifest = inputs.store.manifest
    source = find_pictures(
        manifest["images"], int(manifest["seed"]), images, reporter, "names of colour and shape"
    )
    if source is None:
        border = no_border_test(inputs, GONE)
        words = {"patches": {"skipped": GONE}, "padding": border.words}
        return Seen(None, None, None, words, border)
    at = read_cell(inputs.info, size)
    pictures, about = field_pictures(
        inputs.store, images, size, config.field_pictures, config.seed, reporter
    )
    effective = effective_field(
        network, inputs.layer, at, pictures, seed=config.seed, reporter=reporter
    )
    geometry = patch_geometry(inputs.info, size, effective.side_half)
    patches = read_patches(source, image_I, geometry, workers=config.workers, reporter=reporter)
    field = Field(geometry, effective, reached_cells(geometry, effective.side))
    image_P = draw_among(border_images(inputs.store)[1], config.padding_pictures, config.seed)
    border = border_test(inputs, network, source, field, image_P, config, reporter)
    words = {
        "patches": {
            "side": geometry.side,
            "holds": "half of the gradient energy of the cell in the middle",
            "field_of_95_percent": effective.side,
            "field_measured_on": about,
            "readable_pictures": int(patches.known_R.sum()) // len(geometry.start_G) ** 2,
        },
        "padding": border.words,
    }
    return Seen(source, field, patches, words, border)


def border_images(store: Store) -> tuple[str, I64]:
    """(The split whose pictures padding is tested on: those held out, if any; their numbers.)"""
    split_I = np.array(store.images.column("split").to_pylist(), dtype=object)
    split = "holdout" if (split_I == "holdout").any() else "train"
    return split, np.flatnonzero(split_I == split)


def no_border_test(inputs: RunInputs, reason: str) -> Border:
    """What stands for a test that was not made."""
    none = np.array([], dtype=np.int64)
    return Border(no_padding_test(inputs.sae.n), {"skipped": reason}, reason, none)


def border_test(
    inputs: RunInputs,
    network: Network,
    source: ImageSource,
    field: Field,
    image_P: I64,
    config: LabelConfig,
    reporter: Reporter,
) -> Border:
    """The test of padding on the store's pictures of the numbers given (`border_images`)."""
    size = int(inputs.store.manifest["size"])
    added = margin(inputs.info, size, field.effective.side)
    if added is None:
        reason = "no margin keeps the cells in step with those of the plain picture"
        return no_border_test(inputs, reason)
    if not config.padding_pictures:
        return no_border_test(inputs, "--padding-pictures 0")
    pictures, used = read_pictures(source, image_P, size)
    with torch.inference_mode():
        found = mirrored_border(
            network, inputs.sae, inputs.layer, pictures, added, inputs.info.stride,
            field.reached, reporter=reporter,
        )  # fmt: skip
    about = {
        "pictures": len(used),
        "split": border_images(inputs.store)[0],
        "cells_that_padding_reaches": len(field.reached),
        "added_pixels": added,
        "covers_the_field": added >= field.effective.side / 2,
        **found.describe(config.padding_images, config.alpha),
    }
    return Border(found, about, "", np.array(used, dtype=np.int64))
