"""What labels on unseen pictures read of the second store, and the names of both sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from isae.analysis.arrays import I64, Bools
from isae.analysis.codes import Codes, Room, read_codes
from isae.analysis.inputs import RunInputs
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.factors import factor_names, has_factors
from isae.analysis.label.images import Halves
from isae.analysis.label.names import CLASS, FACTOR, SUPERCLASS, Names, class_names
from isae.analysis.label.patch_names import PatchMeans, beside, patch_names, read_patches
from isae.analysis.label.pictures import (
    GONE,
    Border,
    Seen,
    border_images,
    border_test,
    no_border_test,
)
from isae.analysis.label.taxonomy import Labels
from isae.analysis.label.tree import Tree
from isae.analysis.label.unseen import Unseen, score_unseen, strongest_of_both
from isae.analysis.label.unseen_images import (
    OWN,
    UNSEEN,
    Second,
    in_both,
    label_numbers,
    labels_of_both,
    match_images,
)
from isae.analysis.label.unseen_summary import describe_unseen, may_have_been_seen
from isae.analysis.patches import draw_among, find_pictures
from isae.images import ImageSource
from isae.inception import Network
from isae.progress import Reporter
from isae.randomness import keyed_seed


def label_unseen(
    labels: Labels,
    inputs: RunInputs,
    second: Second,
    network: Network,
    seen: Seen,
    halves: Halves,
    codes: Codes,
    tree: Tree,
    images: str | None,
    config: LabelConfig,
    device: torch.device,
    reporter: Reporter,
) -> tuple[Unseen, dict[str, Any]]:
    """Test a run's names on a second store's pictures -> (findings, summary.json's 'unseen').

    seen, halves, codes: what was read of the run's store; images: where the second store's pictures
    are now (None: as recorded). Without the pictures of either only names of whole images and of
    cells are tested. Warns of pictures that the network may have learned from.
    """
    store = second.inputs.store
    source, patches = _second_pictures(second, seen, images, config, reporter)
    both_J = in_both(
        (inputs.store, seen.source, seen.patches, len(halves.image_I)),
        (second, source, patches),
        int(store.manifest["size"]),
    )
    set_X = match_images(halves, second, both_J, config.seed)
    found = read_codes(
        inputs.sae, store, inputs.layer, second.image_J,
        batch_size=config.batch_size, device=device, room=Room(), reporter=reporter,
    )  # fmt: skip
    names = _names_of_both(seen.patches, patches, halves, second, set_X, tree, config)
    borders = padding_once_more(inputs, second, network, seen, source, both_J, config, reporter)
    unseen = score_unseen(
        labels, names, strongest_of_both(codes, found, set_X, config.top),
        [one.mirrored for one in borders], set_X, label_numbers(halves, second), codes.grid,
        config,
    )  # fmt: skip
    doubt = may_have_been_seen(second, set_X)
    if doubt:
        reporter.warn(f"{doubt}: --unseen is spoken of as 'other' pictures, not as unseen ones")
        unseen = replace(unseen, pictures="other")
    return unseen, describe_unseen(unseen, second, set_X, int(both_J.sum()), labels, borders)


def padding_once_more(
    inputs: RunInputs,
    second: Second,
    network: Network,
    seen: Seen,
    source: ImageSource | None,
    both_J: Bools,
    config: LabelConfig,
    reporter: Reporter,
) -> list[Border]:
    """The test of padding on new pictures of both stores, as many of each.

    The pictures of the label's own test made it an edge artefact and would flatter it: on the own
    side they are left out, and on the other one the pictures that both stores hold (and those that
    were not read, of which that is not known). Where fewer are left than a feature must be active
    on, padding is not tested.
    """
    stores = (inputs, second.inputs)
    if seen.source is None or seen.field is None or source is None:
        return [no_border_test(each, GONE) for each in stores]
    if seen.border.left_out:
        return [no_border_test(each, seen.border.left_out) for each in stores]
    left = (
        np.setdiff1d(border_images(inputs.store)[1], seen.border.image_P),
        np.intersect1d(border_images(second.inputs.store)[1], second.image_J[~both_J]),
    )
    count = min(config.padding_pictures, *(len(images) for images in left))
    if count < config.padding_images:
        reason = (
            f"new pictures that the SAE did not learn from: {len(left[OWN]):,} of the run's store, "
            f"{len(left[UNSEEN]):,} of --unseen; at least {config.padding_images} are needed"
        )
        return [no_border_test(each, reason) for each in stores]
    seed = keyed_seed(config.seed, "label", "padding once more") >> 64
    return [
        border_test(
            each, network, where, seen.field, draw_among(images, count, seed), config, reporter
        )
        for each, where, images in zip(stores, (seen.source, source), left, strict=True)
    ]


def _second_pictures(
    second: Second, seen: Seen, images: str | None, config: LabelConfig, reporter: Reporter
) -> tuple[ImageSource | None, PatchMeans | None]:
    manifest = second.inputs.store.manifest
    source = find_pictures(
        manifest["images"], int(manifest["seed"]), images, reporter,
        "names of colour and shape on unseen pictures", "--unseen-images",
    )  # fmt: skip
    if source is None or seen.field is None:
        return source, None
    return source, read_patches(
        source, second.image_J, seen.field.geometry, workers=config.workers, reporter=reporter
    )


def _names_of_both(
    own: PatchMeans | None,
    other: PatchMeans | None,
    halves: Halves,
    second: Second,
    set_X: I64,
    tree: Tree,
    config: LabelConfig,
) -> dict[str, Names]:
    """Names of images and places of both stores, cut where the run's own pictures are."""
    stored = second.inputs.stored
    cells, least = stored.grid[0] * stored.grid[1], config.name_images
    found: dict[str, Names | None] = {}
    if has_factors(halves.table) and has_factors(second.table):
        table = pa.concat_tables([halves.table, second.table], promote_options="default")
        cut_X = np.arange(len(set_X)) < len(halves.image_I)
        found[FACTOR] = factor_names(table, set_X, cells, least, cut_X)
    elif not has_factors(halves.table):
        texts = labels_of_both(halves, second, set_X)
        found[CLASS], found[SUPERCLASS] = class_names(texts, set_X, cells, tree, least)
    if own is not None and other is not None:
        found |= patch_names(beside(own, other), set_X, cells)
    return {kind: names for kind, names in found.items() if names is not None}
