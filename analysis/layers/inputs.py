"""What the comparison of layers reads: runs of one store, the images, each layer's codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.branches.nulls import concentration_pvalues
from isae.analysis.codes import MAX, Codes, Room, pool_codes, read_codes
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.correlation import feature_moments, identity, top_correlations
from isae.analysis.layers.matching import duplicate_clusters
from isae.analysis.layers.pairs import Split
from isae.analysis.layers.virtual_weights import effective_channels
from isae.analysis.multiple import benjamini_hochberg
from isae.errors import DataError, RunError
from isae.inception import LayerInfo, layer_table
from isae.progress import Reporter
from isae.randomness import hash64, keyed_seed
from isae.store import Store


@dataclass(frozen=True)
class LayerCodes:
    """A layer ready to be compared: codes, image profiles, branches, duplicates.

    branches: channel slices, empty for a layer without; branch_N: number of the branch that each
    feature lies in beyond the null of exchangeable channels, -1 for none; fan_in_N: the share of
    that branch's channels that it draws on (NaN: none); cluster_N: number of each feature's cluster
    of duplicates; images_N: selection images that it is active on; tested_N: those of enough
    images.
    """

    name: str
    info: LayerInfo
    codes: Codes
    profiles: Codes
    branches: Mapping[str, tuple[int, int]]
    branch_N: I64
    fan_in_N: F64
    cluster_N: I64
    images_N: I64
    tested_N: Bools


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
    class_I, labelled = image_classes(table.column("label").take(pa.array(images_I)).to_pylist())
    used = Split(np.isin(images_I, select), np.isin(images_I, scoring), class_I)
    words = {
        "selection": {"images": len(select), "from": "training images"},
        "scoring": {
            "images": len(scoring),
            "from": "held-out images of the store"
            if held_out
            else "other training images: the store has no held-out ones",
        },
        "classes": len(np.unique(class_I[labelled])),
        "without_label": int((~labelled).sum()),
        "numbers_hash": f"{int(hash64(stream, images_I).sum(dtype=np.uint64)):016x}",
    }
    return images_I, used, words


def image_classes(labels: Sequence[str | None]) -> tuple[I64, Bools]:
    """(number of each image's class, whether it has a label); one without is a class of its own."""
    labelled = np.array([bool(label) for label in labels], dtype=np.bool_)
    named = [str(label) if label else f"\0{number}" for number, label in enumerate(labels)]
    return np.unique(np.array(named), return_inverse=True)[1].astype(np.int64), labelled


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
    cluster_N, images_N, tested_N = clusters(codes, split, config)
    rows_NC = run.sae.W_dec_ND.detach().cpu().double().numpy()
    branch_N, fan_in_N = assign_branches(rows_NC, run.stored.branches, tested_N, config)
    return LayerCodes(
        name=run.layer,
        info=run.info,
        codes=codes,
        profiles=pool_codes(codes, (1, 1), None, MAX),
        branches=run.stored.branches,
        branch_N=branch_N,
        fan_in_N=fan_in_N,
        cluster_N=cluster_N,
        images_N=images_N,
        tested_N=tested_N,
    )


def assign_branches(
    rows_NC: F64, branches: Mapping[str, tuple[int, int]], tested_N: Bools, config: LayersConfig
) -> tuple[I64, F64]:
    """The branch that each tested feature lies in, and its fan-in there -> int64 [N], float64 [N].

    A feature lies in the branch whose energy share in the decoder row is the least likely when its
    energies are dealt to channels at random, if q <= alpha (Benjamini-Hochberg over tested features
    x branches); -1 for the others. Not the largest share: that of a row which is spread over all
    channels is the largest branch's. Fan-in: effective channels within the branch over its
    channels.
    """
    branch_N, fan_in_N = np.full(len(rows_NC), -1, dtype=np.int64), np.full(len(rows_NC), np.nan)
    tested = np.flatnonzero(tested_N)
    if not branches or not len(tested):
        return branch_N, fan_in_N
    p_nB = concentration_pvalues(
        rows_NC[tested] ** 2, branches, seed=config.seed, stream="layers", samples=200
    ).p_NB
    q_nB = np.where(np.isfinite(p_nB), benjamini_hochberg(p_nB), 1.0)
    best_n = np.where(np.isfinite(p_nB), p_nB, 2.0).argmin(axis=1)
    lying_n = q_nB[np.arange(len(tested)), best_n] <= config.alpha
    branch_N[tested[lying_n]] = best_n[lying_n]
    for number, (start, stop) in enumerate(branches.values()):
        mine = np.flatnonzero(branch_N == number)
        fan_in_N[mine] = effective_channels(rows_NC[mine, start:stop]) / (stop - start)
    return branch_N, fan_in_N


def clusters(codes: Codes, split: Split, config: LayersConfig) -> tuple[I64, I64, Bools]:
    """Clusters of features whose activations correlate on the selection images.

    -> (number of each feature's cluster int64 [N], selection images it is active on int64 [N],
    whether it is tested, bool [N]). Every partner at or above `duplicate_r` counts: as many are
    kept as it takes.
    """
    image_I = identity(codes.images, split.select_I)
    moments = feature_moments(codes, codes.partners(codes, image_I))
    tested_N = (moments.images_N >= config.least_images) & (moments.deviation_N > 0)
    keep = config.candidates
    while True:
        inside = top_correlations(codes, codes, image_I, keep, tested_N, tested_N, same_layer=True)
        if keep >= codes.features or not (inside.r_NK[:, -1] >= config.duplicate_r).any():
            return duplicate_clusters(inside, config.duplicate_r), moments.images_N, tested_N
        keep = min(4 * keep, codes.features)


def layer_pairs(layers: list[LayerCodes], which: str) -> list[tuple[LayerCodes, LayerCodes]]:
    """The pairs to compare, the earlier layer first: 'adjacent' ones of the list, or 'all'."""
    if which == "adjacent":
        return list(pairwise(layers))
    return list(combinations(layers, 2))
