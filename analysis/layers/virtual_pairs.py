"""Virtual weights of a study's adjacent layers: paths measured on pictures, matches, agreement.

Adjacent are a layer and the Inception block after it, with at most a max pool between (mixed3b and
mixed4a, mixed4e and mixed5a). The network and the store's pictures are needed; where they are gone,
these pairs are left out with the reason.

Matches by weights are selected by z (`isae.analysis.layers.virtual_weights`), and scored like all
others: by the correlation of the two features' activations on images that had no part in
the choice. So a share of matches that correlate there says what weights predict.

Agreement with correlation: the share of tested features whose best partner is the same by weights
and by correlation (and: whose best partner by correlation is among the K best by weights), against
what popularity alone gives: with v_j and r_j the numbers of features whose best partner is j,
chance = sum_j v_j r_j / n^2. Interval: clusters of near-duplicates resampled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.codes import Codes
from isae.analysis.inputs import RunInputs
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.correlation import Tops
from isae.analysis.layers.image_null import MaxNull
from isae.analysis.layers.matching import METHODS, Matches, mutual_nearest, one_to_one
from isae.analysis.layers.pairs import (
    Comparison,
    Nearest,
    Split,
    match_p,
    nearest_of,
    score_matches,
)
from isae.analysis.layers.virtual_paths import PathMeter
from isae.analysis.layers.virtual_weights import Virtual, strongest_partners, weight_nulls
from isae.analysis.network import store_network
from isae.analysis.patches import Cropper, find_pictures
from isae.errors import IsaeError
from isae.images import ImageSource
from isae.inception import Network, layer_table
from isae.inception.blocks import block_branches, block_input
from isae.progress import Reporter
from isae.randomness import keyed_rng
from isae.store import Store

WEIGHTS = "weights"
_PICTURES = 32
Pair = tuple[str, str]


@dataclass(frozen=True)
class Paths:
    """What was measured of a pair of layers: M_b of each branch, and on what.

    reliability: correlation of M from one half of the pictures with M from the other; whole_map:
    whether places that padding reaches were used, for want of others.
    """

    matrices: dict[str, F64]
    pictures: int
    places: int
    whole_map: bool
    reliability: float


@dataclass(frozen=True)
class PartnerAgreement:
    """How often two ways name the same best partner; see the module's docstring."""

    features: int
    shared: float
    low: float
    high: float
    chance: float
    among_best: float
    chance_among_best: float


@dataclass(frozen=True)
class VirtualFindings:
    """Virtual weights of one pair of layers.

    weights: per method V of the matches by branch, float64 [X, B]; agreement: with the correlation
    measure named, of either layer's features.
    """

    paths: Paths
    branches: tuple[str, ...]
    weights: dict[str, F64]
    measure: str
    agreement: tuple[PartnerAgreement, PartnerAgreement]


def adjacent(model: str, pair: Pair) -> str | None:
    """The operation whose map the second layer reads from the first, or None: not adjacent."""
    if not layer_table(model)[pair[1]].branches:
        return None
    before, reads = block_input(model, pair[1])
    return reads if pair[0] in (before, reads) else None


def measure_paths(
    store: Store,
    pairs: list[Pair],
    images_I: I64,
    config: LayersConfig,
    *,
    images: str | None,
    weights: str | None,
    device: torch.device,
    reporter: Reporter,
) -> tuple[dict[Pair, Paths], dict[Pair, str]]:
    """The paths of the adjacent pairs, and why the others have none.

    images_I: numbers of pictures to show (the first `virtual_images` of them are). Raises
    StoreError for weights that were given and are not the store's.
    """
    model = store.manifest["model"]
    if config.virtual_images < 1:
        return {}, dict.fromkeys(pairs, "not asked for (--virtual-images 0)")
    reads = {pair: adjacent(str(model["name"]), pair) for pair in pairs}
    why = {
        pair: "no block with at most a max pool between" for pair, op in reads.items() if op is None
    }
    wanted = {pair: op for pair, op in reads.items() if op is not None}
    if not wanted:
        return {}, why
    source = find_pictures(
        store.manifest["images"], int(store.manifest["seed"]), images, reporter, "virtual weights"
    )
    if source is None:
        return {}, why | dict.fromkeys(wanted, "the store's pictures are gone; give --images SRC")
    try:
        network = store_network(store, weights, device)
    except IsaeError as error:
        if weights is not None:
            raise
        reporter.warn(f"no virtual weights: {error}")
        return {}, why | dict.fromkeys(wanted, "the network's weights are gone; give --weights")
    meters = {pair: PathMeter(block_branches(network, pair[1])) for pair in wanted}
    size = int(store.manifest["size"])
    _show(network, source, images_I[: config.virtual_images], size, wanted, meters, reporter)
    found = {pair: _paths(meter) for pair, meter in meters.items() if meter.pictures}
    unread = set(wanted) - set(found)
    return found, why | dict.fromkeys(unread, "none of the pictures could be read")


def _show(
    network: Network,
    source: ImageSource,
    images_I: I64,
    size: int,
    reads: dict[Pair, str],
    meters: dict[Pair, PathMeter],
    reporter: Reporter,
) -> None:
    """Show pictures to the network and count the gates of every block."""
    with reporter.task(len(images_I), "virtual weights", "pictures") as meter:
        for start in range(0, len(images_I), _PICTURES):
            numbers = images_I[start : start + _PICTURES]
            meter.advance(len(numbers))
            boxes = np.tile([0, 0, size, size], (len(numbers), 1))
            cut = Cropper(source, size).cut(numbers.tolist(), boxes)
            pixels = [one for one in cut if one is not None]
            if not pixels:
                continue
            pixels_BCHW = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            with torch.inference_mode():
                maps = network.activations(pixels_BCHW.contiguous(), set(reads.values()))
            for pair, op in reads.items():
                meters[pair].add(maps[op])


def _paths(meter: PathMeter) -> Paths:
    return Paths(
        meter.matrices(), meter.pictures, meter.places, meter.whole_map, meter.reliability()
    )


def virtual_of(paths: Paths, one: RunInputs, two: RunInputs) -> Virtual:
    """The virtual weights between the features of two runs."""
    source = one.stored.branches or {"all": (0, one.stored.channels)}
    decoder, encoder = (
        part.detach().cpu().double().numpy() for part in (one.sae.W_dec_ND, two.sae.W_enc_ND)
    )
    return Virtual(paths.matrices, decoder, encoder, source, two.stored.branches)


def compare_weights(
    virtual: Virtual,
    paths: Paths,
    like: Comparison,
    codes: tuple[Codes, Codes],
    clusters: tuple[I64, I64],
    split: Split,
    config: LayersConfig,
    device: torch.device | str,
) -> tuple[Comparison, VirtualFindings]:
    """Match two layers' features by virtual weights.

    like: a comparison of the same layers by correlation, whose tested features are tested here too
    and whose best partners are compared; codes: what it compared; clusters: of near-duplicates, of
    both layers.
    """
    tested_N, tested_O = (side.tested_N for side in like.nearest)
    forth, back = strongest_partners(virtual, tested_N, tested_O, config.candidates, device)
    nulls = weight_nulls(virtual, tested_N, tested_O, config.virtual_draws, config.seed, device)
    first, second = ([pair[side] for pair in nulls.values()] for side in (0, 1))
    matches = {
        name: match(forth, back)
        for name, match in zip(METHODS, (mutual_nearest, one_to_one), strict=True)
    }
    rng = keyed_rng(config.seed, "layers", "images exchanged", *like.layers, WEIGHTS)
    comparison = Comparison(
        layers=like.layers,
        measure=WEIGHTS,
        nearest=(_nearest(forth, tested_N, first), _nearest(back, tested_O, second)),
        matches=matches,
        p={name: _match_p(found, first, second) for name, found in matches.items()},
        scores=score_matches(*codes, split, matches, rng, config),
        places=paths.places,
        null_places=paths.places,
        images=paths.pictures,
        classes_kept=like.classes_kept,
    )
    agreement = (
        partner_agreement(like.nearest[0], forth, clusters[0], config),
        partner_agreement(like.nearest[1], back, clusters[1], config),
    )
    weights = {name: virtual.of(one.first_X, one.second_X) for name, one in matches.items()}
    found = VirtualFindings(paths, tuple(virtual.target), weights, like.measure, agreement)
    return comparison, found


def _nearest(tops: Tops, tested_N: Bools, nulls: list[MaxNull]) -> Nearest:
    """Best partners with the largest p of several nulls."""
    found = [nearest_of(tops, tested_N, null) for null in nulls]
    return replace(found[0], p_N=np.maximum.reduce([one.p_N for one in found]))


def _match_p(matches: Matches, first: list[MaxNull], second: list[MaxNull]) -> F64:
    """The largest p of both features under several nulls."""
    p_X = [match_p(matches, both) for both in zip(first, second, strict=True)]
    return np.asarray(np.maximum.reduce(p_X), dtype=np.float64)


def partner_agreement(
    nearest: Nearest, tops: Tops, cluster_N: I64, config: LayersConfig
) -> PartnerAgreement:
    """How often best partners by correlation are those by weights, against popularity alone."""
    both = np.flatnonzero(nearest.tested_N & (nearest.best_N >= 0) & (tops.feature_NK[:, 0] >= 0))
    if not len(both):
        return PartnerAgreement(0, *(float("nan"),) * 6)
    by_r, by_weights_K = nearest.best_N[both], tops.feature_NK[both].astype(np.int64)
    hit = by_weights_K[:, 0] == by_r
    size = int(max(by_r.max(), by_weights_K.max())) + 1
    popular_r = np.bincount(by_r, minlength=size) / len(both)
    first = np.bincount(by_weights_K[:, 0], minlength=size) / len(both)
    among = np.bincount(by_weights_K[by_weights_K >= 0], minlength=size) / len(both)
    low, high = _resampled_share(hit, cluster_N[both], config)
    return PartnerAgreement(
        features=len(both),
        shared=float(hit.mean()),
        low=low,
        high=high,
        chance=float(popular_r @ first),
        among_best=float((by_weights_K == by_r[:, None]).any(axis=1).mean()),
        chance_among_best=float(popular_r @ among),
    )


def _resampled_share(hit: Bools, cluster: I64, config: LayersConfig) -> tuple[float, float]:
    groups, group = np.unique(cluster, return_inverse=True)
    hits, sizes = np.bincount(group, weights=hit), np.bincount(group).astype(np.float64)
    rng = keyed_rng(config.seed, "layers", "partners")
    even = np.full(len(groups), 1 / len(groups))
    weight_TG = rng.multinomial(len(groups), even, size=config.resamples)
    low, high = np.quantile((weight_TG @ hits) / (weight_TG @ sizes), (0.025, 0.975))
    return float(low), float(high)
