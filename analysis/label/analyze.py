"""`analyze_label`: one run in, names of its features with their tests out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isae.analysis.codes import Room, read_codes
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.label.branches import group_features
from isae.analysis.label.chance import chance_labels
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.factors import factor_names, has_factors
from isae.analysis.label.images import Halves, choose_images, describe_images
from isae.analysis.label.joined import describe_joined, join
from isae.analysis.label.names import CLASS, EDGE, FACTOR, SUPERCLASS, Names, class_names
from isae.analysis.label.patch_names import patch_names
from isae.analysis.label.pictures import GONE, Seen, look
from isae.analysis.label.scoring import share_in
from isae.analysis.label.strongest import sampled_images, strongest_images
from isae.analysis.label.summary import note_of_positions, summarise_labels
from isae.analysis.label.tables import write_label_tables
from isae.analysis.label.taxonomy import (
    COLOUR,
    CURVATURE,
    FREQUENCY,
    ORIENTATION,
    find_labels,
)
from isae.analysis.label.tree import Tree, read_tree
from isae.analysis.label.unseen_images import open_second
from isae.analysis.label.unseen_reading import label_unseen
from isae.analysis.network import store_network
from isae.analysis.outputs import SUMMARY, check_out
from isae.config import to_json
from isae.device import resolve_device
from isae.files import swap_folder, write_json
from isae.progress import QUIET, Reporter

ANALYSIS = "label"


def analyze_label(
    run: str | Path,
    *,
    store: str | Path | None = None,
    images: str | None = None,
    weights: str | None = None,
    unseen: str | None = None,
    unseen_images: str | None = None,
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

    unseen, unseen_images: a second store, of the same layer and network but of other pictures, on
    which the names are tested once more (`isae.analysis.label.unseen`), and where its pictures are.

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
    second = open_second(inputs, unseen, config) if unseen is not None else None
    halves = choose_images(inputs.store, inputs.layer, config)
    seen = look(inputs, network, halves.image_I, images, config, reporter)
    kinds, left_out = _places(seen, halves, inputs)
    codes = read_codes(
        inputs.sae, inputs.store, inputs.layer, halves.image_I,
        batch_size=config.batch_size, device=device, room=Room(), reporter=reporter,
    )  # fmt: skip
    strongest = strongest_images(codes, halves.half_I, config.top)
    sample = sampled_images(codes, halves.half_I, config.top, config.seed)
    cells = codes.grid[0] * codes.grid[1]
    named, not_named = _named(halves, tree, cells, config)
    left_out = not_named | left_out
    mirrored = seen.border.mirrored
    labels = find_labels(named | kinds, strongest, mirrored, codes.grid, config)
    chance = chance_labels(labels, strongest, mirrored, halves.half_I, codes.grid, config)
    sampled = {
        kind: share_in(names, sample, labels.kinds[kind].name_N, cells)
        for kind, names in labels.names.items()
    }
    grouping = group_features(inputs, codes, halves.half_I, config)
    joined = join(inputs.run, inputs.sae.n, inputs.store.content_id)
    words = _words(labels.names, tree)
    summary = _describe(inputs, config, halves, tree)
    summary |= seen.words | summarise_labels(
        labels, chance, sampled, grouping, left_out, mirrored, config
    )
    summary["notes"] += note_of_positions(str(inputs.store.manifest["positions"]))
    summary["joined"] = describe_joined(joined, labels)
    there = None
    if second is not None:
        there, summary["unseen"] = label_unseen(
            labels, inputs, second, network, seen, halves, codes, tree, unseen_images,
            config, device, reporter,
        )  # fmt: skip

    def fill(folder: Path) -> None:
        write_label_tables(
            labels,
            sampled,
            mirrored,
            strongest.images_HN,
            grouping,
            joined,
            words,
            folder,
            there,
        )
        summary["figures"] = []
        if config.figures:
            from isae.analysis.label.figures import write_label_figures

            (folder / "figures").mkdir()
            summary["figures"] = write_label_figures(
                inputs.layer, labels, chance, sampled, grouping, folder / "figures", there
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


def _places(
    seen: Seen, halves: Halves, inputs: RunInputs
) -> tuple[dict[str, Names], dict[str, str]]:
    """Names of places, and why kinds that need the pictures are left out."""
    if seen.patches is None:
        return {}, dict.fromkeys((COLOUR, ORIENTATION, CURVATURE, FREQUENCY, EDGE), GONE)
    cells = inputs.stored.grid[0] * inputs.stored.grid[1]
    left_out = {EDGE: seen.border.left_out} if seen.border.left_out else {}
    return patch_names(seen.patches, halves.half_I, cells), left_out


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
