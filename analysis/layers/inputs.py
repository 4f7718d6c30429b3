"""What the comparison of layers reads: runs of one store, the images, each layer's codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isae.analysis.arrays import I64
from isae.analysis.branches.shares import branch_shares, dominant
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.layers.codes import MAX, Codes, Room, pool_codes, read_codes
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.correlation import feature_moments, identity, top_correlations
from isae.analysis.layers.matching import duplicate_clusters
from isae.analysis.layers.pairs import Split
from isae.errors import DataError, RunError
from isae.inception import layer_table
from isae.progress import Reporter
from isae.randomness import hash64, keyed_seed
from isae.store import Store


@dataclass(frozen=True)
class LayerCodes:
    """A layer ready to be compared: codes, image profiles, strongest branches, duplicates.

    branches: names, empty for a layer without; branch_N: number of each feature's branch of the
    largest decoder share, -1 for none; cluster_N: number of each feature's cluster of duplicates.
    """

    name: str
    stride: int
    codes: Codes
    profiles: Codes
    branches: tuple[str, ...]
    branch_N: I64
    cluster_N: I64


def open_runs(
    runs: Sequence[str | Path], store: str | Path | None, device: Any
) -> tuple[list[RunInputs], Store]:
    """Open runs of different layers of one store -> (in order of the network, the store).

    Raises RunError for fewer than two runs, two runs of one layer, or runs of different stores.
    """
    if len(runs) < 2:
        raise RunError(
            f"expected at least two runs to compare, found {len(runs)}; give the folders of runs "
            "on different layers of one store"
        )
    inputs = [open_run(run, store, device=device) for run in runs]
    by_layer: dict[str, RunInputs] = {}
    for one in inputs:
        if one.store.content_id != inputs[0].store.content_id:
            raise RunError(
                f"expected runs of one store, found {inputs[0].run} on "
                f"{inputs[0].store.content_id[:12]} and {one.run} on {one.store.content_id[:12]}; "
                "places are the same only within a store: train both on one"
            )
        if one.layer in by_layer:
            raise RunError(
                f"expected runs of different layers, found two of '{one.layer}' "
                f"({by_layer[one.layer].run} and {one.run}); leave one out"
            )
        by_layer[one.layer] = one
    order = list(layer_table(str(inputs[0].store.manifest["model"]["name"])))
    return sorted(inputs, key=lambda one: order.index(one.layer)), inputs[0].store


def choose_images(store: Store, config: LayersConfig) -> tuple[I64, Split, dict[str, Any]]:
    """The images to read, how they are used, and that in words -> (numbers, Split, summary).

    Training images select, held-out images score, at most max_images of each, drawn by hash. In a
    store without held-out images a random half of the drawn ones scores. Raises DataError where
    either part has fewer than two images.
    """
    table = store.images
    split = np.array(table.column("split").to_pylist(), dtype=object)
    stream = keyed_seed(config.seed, "layers", "images")

    def drawn(which: str, most: int) -> I64:
        image = np.flatnonzero(split == which)
        order = np.lexsort((image, hash64(stream, image)))
        return np.asarray(image[order[:most]], dtype=np.int64)

    select, scoring = drawn("train", config.max_images), drawn("holdout", config.max_images)
    held_out = len(scoring) > 0
    if not held_out:
        select, scoring = select[::2], select[1::2]
    if min(len(select), len(scoring)) < 2:
        raise DataError(
            f"expected at least 2 images to select matches on and 2 others to score them, found "
            f"{len(select)} and {len(scoring)}; build a larger store, or raise --max-images"
        )
    images_I = np.sort(np.concatenate([select, scoring]))
    labels = [str(label) for label in table.column("label").take(pa.array(images_I)).to_pylist()]
    class_I = np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)
    used = Split(np.isin(images_I, select), np.isin(images_I, scoring), class_I)
    words = {
        "selection": {"images": len(select), "from": "training images"},
        "scoring": {
            "images": len(scoring),
            "from": "held-out images of the store"
            if held_out
            else "other training images: the store has no held-out ones",
        },
        "classes": int(class_I.max()) + 1,
        "numbers_hash": f"{int(hash64(stream, images_I).sum(dtype=np.uint64)):016x}",
    }
    return images_I, used, words


def load_layer(
    run: RunInputs,
    store: Store,
    images_I: I64,
    split: Split,
    config: LayersConfig,
    *,
    room: Room,
    device: Any,
    reporter: Reporter,
) -> LayerCodes:
    """Read a run's codes on the images, pool its profiles, find its duplicates and branches."""
    codes = read_codes(
        run.sae, store, run.layer, images_I,
        batch_size=config.batch_size, device=device, room=room, reporter=reporter,
    )  # fmt: skip
    branch_N = np.full(codes.features, -1, dtype=np.int64)
    if run.stored.branches:
        energy_NC = run.sae.W_dec_ND.detach().cpu().double().numpy() ** 2
        branch_N = dominant(branch_shares(energy_NC, run.stored.branches))
    return LayerCodes(
        name=run.layer,
        stride=run.stored.stride,
        codes=codes,
        profiles=pool_codes(codes, (1, 1), 1, MAX),
        branches=tuple(run.stored.branches),
        branch_N=branch_N,
        cluster_N=clusters(codes, split, config),
    )


def clusters(codes: Codes, split: Split, config: LayersConfig) -> I64:
    """Clusters of features whose activations correlate on the selection images -> int64 [N]."""
    image_I = identity(codes.images, split.select_I)
    moments = feature_moments(codes, codes.partners(codes, image_I))
    tested_N = (moments.images_N >= config.least_images) & (moments.deviation_N > 0)
    inside = top_correlations(
        codes, codes, image_I, config.candidates, tested_N, tested_N, same_layer=True
    )
    return duplicate_clusters(inside, config.duplicate_r)


def layer_pairs(layers: list[LayerCodes], which: str) -> list[tuple[LayerCodes, LayerCodes]]:
    """The pairs to compare, the earlier layer first: 'adjacent' ones of the list, or 'all'."""
    if which == "adjacent":
        return list(pairwise(layers))
    return list(combinations(layers, 2))
