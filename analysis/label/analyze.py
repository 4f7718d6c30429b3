"""`analyze_label`: one run in, names of its features with their tests out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isae.analysis.arrays import I64
from isae.analysis.codes import Room, read_codes
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.label.branches import group_features
from isae.analysis.label.chance import chance_labels
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.factors import factor_names, has_factors
from isae.analysis.label.images import Halves, choose_images, describe_images
from isae.analysis.label.joined import describe_joined, join
from isae.analysis.label.names import CLASS, EDGE, FACTOR, SUPERCLASS, Names, class_names
from isae.analysis.label.padding import (
    Mirrored,
    margin,
    mirrored_border,
    no_padding_test,
    reached_cells,
)
from isae.analysis.label.patch_names import patch_names, read_patches
from isae.analysis.label.scoring import share_in
from isae.analysis.label.strongest import sampled_images, strongest_images
from isae.analysis.label.summary import summarise_labels
from isae.analysis.label.tables import write_label_tables
from isae.analysis.label.taxonomy import (
    COLOUR,
    CURVATURE,
    FREQUENCY,
    ORIENTATION,
    find_labels,
)
from isae.analysis.label.tree import Tree, read_tree
from isae.analysis.network import store_network
from isae.analysis.outputs import SUMMARY, check_out
from isae.analysis.patches import draw_pictures, find_pictures, patch_geometry
from isae.analysis.tuning.effective_field import EffectiveField, effective_field, read_cell
from isae.analysis.tuning.inputs import field_pictures
from isae.config import to_json
from isae.device import resolve_device
from isae.files import swap_folder, write_json
from isae.images import ImageSource
from isae.inception import Network
from isae.progress import QUIET, Reporter

ANALYSIS = "label"
_GONE = "the store's pictures are not there; give --images SRC"


@dataclass(frozen=True)
class _Seen:
    """What is read of the pictures: the names of places, the test of padding, and both in words."""

    kinds: dict[str, Names]
    mirrored: Mirrored
    left_out: dict[str, str]
    words: dict[str, Any]


def analyze_label(
    run: str | Path,
    *,
    store: str | Path | None = None,
    images: str | None = None,
    weights: str | None = None,
    out: str | Path | None = None,
    config: LabelConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Name a run's features by what their strongest images have in common -> summary's dict.

    run: folder of a finished training run; store, images, weights: where its store, the store's
    pictures and the network's weights are now (default: as recorded); out: folder to write
    (default: RUN/analysis/label); it appears whole or not at all. Writes labels and names as
    Parquet and CSV, summary.json, figures/*.png and *.svg. Without the pictures, classes,
    superclasses and positions are left to name.

    Raises RunError, StoreError, WeightsError or DataError when the inputs are missing, unfinished
    or do not belong together.
    """
    config = config or LabelConfig()
    started = time.monotonic()
    device = resolve_device(config.device)
    inputs = open_run(run, store, device=device)
    out = Path(out) if out is not None else inputs.run / "analysis" / ANALYSIS
    check_out(out, ANALYSIS, overwrite)
    tree = read_tree(config.tree)
    network = store_network(inputs.store, weights, device)
    halves = choose_images(inputs.store, inputs.layer, config)
    seen = _look(inputs, network, halves, images, config, reporter)
    codes = read_codes(
        inputs.sae, inputs.store, inputs.layer, halves.image_I,
        batch_size=config.batch_size, device=device, room=Room(), reporter=reporter,
    )  # fmt: skip
    strongest = strongest_images(codes, halves.half_I, config.top)
    sample = sampled_images(codes, halves.half_I, config.top, config.seed)
    cells = codes.grid[0] * codes.grid[1]
    named, left_out = _named(halves, tree, cells, config)
    left_out |= seen.left_out
    labels = find_labels(named | seen.kinds, strongest, seen.mirrored, codes.grid, config)
    chance = chance_labels(labels, strongest, seen.mirrored, halves.half_I, codes.grid, config)
    sampled = {
        kind: share_in(names, sample, labels.kinds[kind].name_N, cells)
        for kind, names in labels.names.items()
    }
    grouping = group_features(inputs, codes, halves.half_I, config)
    joined = join(inputs.run, inputs.sae.n, inputs.store.content_id)
    words = _words(labels.names, tree)
    summary = _describe(inputs, config, halves, tree)
    summary |= seen.words | summarise_labels(
        labels, chance, sampled, grouping, left_out, seen.mirrored, config
    )
    summary["joined"] = describe_joined(joined, labels)

    def fill(folder: Path) -> None:
        write_label_tables(
            labels, sampled, seen.mirrored, strongest.images_HN, grouping, joined, words, folder
        )
        summary["figures"] = []
        if config.figures:
            from isae.analysis.label.figures import write_label_figures

            (folder / "figures").mkdir()
            summary["figures"] = write_label_figures(
                inputs.layer, labels, chance, sampled, grouping, folder / "figures"
            )
        summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(folder / SUMMARY, summary)

    swap_folder(out, fill)
    return {**summary, "out": str(out)}


def _named(
    halves: Halves, tree: Tree, cells: int, config: LabelConfig
) -> tuple[dict[str, Names], dict[str, str]]:
    """Names of whole images, and why kinds of them are left out."""
    kinds: dict[str, Names | None] = {}
    least = config.name_images
    left_out: dict[str, str] = {}
    few = f"fewer than {least} images of each in each half"
    if has_factors(halves.table):
        kinds[FACTOR] = factor_names(halves.table, halves.half_I, cells, least)
        left_out[CLASS] = left_out[SUPERCLASS] = "labels of procedural pictures are a factor"
    else:
        left_out[FACTOR] = "the pictures are not procedural"
        labels = halves.labels
        kinds[CLASS], kinds[SUPERCLASS] = class_names(labels, halves.half_I, cells, tree, least)
        counts = np.unique([one for one in labels if one], return_counts=True)[1]
        if not len(counts):
            left_out[CLASS] = left_out[SUPERCLASS] = "the pictures have no labels"
        else:
            if kinds[CLASS] is None:
                one = "one photo a class" if counts.max() == 1 else few
                left_out[CLASS] = f"no class selectivity: {one}"
            if kinds[SUPERCLASS] is None:
                known = any(label in tree.parent for label in labels)
                left_out[SUPERCLASS] = few if known else "no label is in the tree of classes"
    return {kind: names for kind, names in kinds.items() if names is not None}, left_out


def _look(
    inputs: RunInputs,
    network: Network,
    halves: Halves,
    images: str | None,
    config: LabelConfig,
    reporter: Reporter,
) -> _Seen:
    """Read the pictures: patches of every place, and the border with and without padding."""
    size = int(inputs.store.manifest["size"])
    manifest = inputs.store.manifest
    source = find_pictures(
        manifest["images"], int(manifest["seed"]), images, reporter, "names of colour and shape"
    )
    if source is None:
        kinds = (COLOUR, ORIENTATION, CURVATURE, FREQUENCY, EDGE)
        gone = {"patches": {"skipped": _GONE}, "padding": {"skipped": _GONE}}
        none = no_padding_test(inputs.sae.n)
        return _Seen({}, none, dict.fromkeys(kinds, _GONE), gone)
    at = read_cell(inputs.info, size)
    pictures, about = field_pictures(
        inputs.store, images, size, config.field_pictures, config.seed, reporter
    )
    field = effective_field(
        network, inputs.layer, at, pictures, seed=config.seed, reporter=reporter
    )
    geometry = patch_geometry(inputs.info, size, field.side_half)
    patches = read_patches(
        source, halves.image_I, geometry, workers=config.workers, reporter=reporter
    )
    cells = len(geometry.start_G) ** 2
    kinds_of_places = patch_names(patches, halves.half_I, cells)
    reached = reached_cells(geometry, field.side)
    mirrored, padding, reason = _padding(
        inputs, network, source, (field, reached), config, reporter
    )
    words: dict[str, Any] = {
        "patches": {
            "side": geometry.side,
            "holds": "half of the gradient energy of the cell in the middle",
            "field_of_95_percent": field.side,
            "field_measured_on": about,
            "readable_pictures": int(patches.known_R.sum()) // cells,
        },
        "padding": padding,
    }
    left_out = {EDGE: reason} if reason else {}
    return _Seen(kinds_of_places, mirrored, left_out, words)


def _padding(
    inputs: RunInputs,
    network: Network,
    source: ImageSource,
    where: tuple[EffectiveField, I64],
    config: LabelConfig,
    reporter: Reporter,
) -> tuple[Mirrored, dict[str, Any], str]:
    """The test of padding, it in words, and why it was not made ('' if it was).

    where: the effective field and the cells that padding reaches.
    """
    size, (field, reached) = int(inputs.store.manifest["size"]), where
    added = margin(inputs.info, size, field.side)
    reason = ""
    if added is None:
        reason = "no margin keeps the cells in step with those of the plain picture"
    elif not config.padding_pictures:
        reason = "--padding-pictures 0"
    if reason or added is None:
        return no_padding_test(inputs.sae.n), {"skipped": reason}, reason
    split = "holdout" if "holdout" in inputs.store.images.column("split").to_pylist() else "train"
    pictures, used = draw_pictures(
        inputs.store, source, split, config.padding_pictures, size, config.seed
    )
    with torch.inference_mode():
        found = mirrored_border(
            network, inputs.sae, inputs.layer, pictures, added, inputs.info.stride,
            reached, reporter=reporter,
        )  # fmt: skip
    about = {
        "pictures": len(used),
        "split": split,
        "cells_that_padding_reaches": len(reached),
        "added_pixels": added,
        "covers_the_field": added >= field.side / 2,
        **found.describe(config.padding_images, config.alpha),
    }
    return found, about, ""


def _words(names: Mapping[str, Names], tree: Tree) -> dict[str, dict[str, str]]:
    """Texts of classes and superclasses by their ids."""
    return {
        kind: {text: tree.name(text) for text in names[kind].texts}
        for kind in (CLASS, SUPERCLASS)
        if kind in names
    }


def _describe(inputs: RunInputs, config: LabelConfig, halves: Halves, tree: Tree) -> dict[str, Any]:
    manifest = inputs.store.manifest
    return {
        "analysis": ANALYSIS,
        "run": str(inputs.run),
        "layer": inputs.layer,
        "layer_note": inputs.info.note,
        "options": to_json(config),
        "seed": config.seed,
        "store": {"path": inputs.store.location, "content_id": manifest["content_id"]},
        "model": {key: manifest["model"][key] for key in ("name", "weights", "weights_sha256")},
        "images": describe_images(inputs.store, halves),
        "tree": config.tree or "packaged: WordNet 3.0 over the classes of Tiny ImageNet",
        "classes_in_the_tree": len(set(halves.labels) & set(tree.parent)),
    }
