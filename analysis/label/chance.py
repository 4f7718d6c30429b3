"""How many labels chance gives: the same choice, tests and rule on exchanged images.

Images are exchanged within their half, the same exchange for all features, so that what features
share stays shared, and every location is kept. For position and edge artefacts, which an exchange
of images does not touch, the places are dealt anew among the tested features, and so are the
findings about padding. A label counts where its p is at most the largest that was significant in
the real tests: so many labels of the real count are what chance gives at that bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from isae.analysis.arrays import I64, Bools
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.names import EDGE, POSITION
from isae.analysis.label.padding import Mirrored
from isae.analysis.label.scoring import correct, score_kinds, with_padding
from isae.analysis.label.strongest import Strongest, exchange_images, exchange_places
from isae.analysis.label.taxonomy import KINDS, Labels, decide, largest_significant
from isae.randomness import keyed_rng


@dataclass(frozen=True)
class Chance:
    """What exchanged images give. kind_DN: int64 [draws, N], number in TAXONOMY of each feature at
    the real tests' bound; own_D: labels of each draw where the draw is corrected by itself.
    """

    kind_DN: I64
    own_D: I64


def chance_labels(
    labels: Labels,
    strongest: Strongest,
    mirrored: Mirrored,
    half_I: I64,
    grid: tuple[int, int],
    config: LabelConfig,
) -> Chance:
    """The labels of exchanged images, `config.shuffles` times."""
    cells = grid[0] * grid[1]
    placed = {kind: labels.names[kind] for kind in (POSITION, EDGE)}
    named = {kind: names for kind, names in labels.names.items() if kind not in placed}
    drawn, own = [], []
    for draw in range(config.shuffles):
        images = exchange_images(strongest, half_I, config.seed, draw)
        found, children = score_kinds(named, images, labels.tested_N, cells, config.min_gain)
        places = exchange_places(strongest, labels.tested_N, config.seed, draw)
        found |= score_kinds(placed, places, labels.tested_N, cells, config.min_gain)[0]
        dealt = deal_padding(mirrored, labels.tested_N, config.seed, draw)
        found[EDGE] = with_padding(found[EDGE], dealt, config.padding_images)
        drawn.append(decide(found, children, labels.bound, config.min_gain)[1])
        bound = largest_significant(found, correct(found), config.alpha)
        alone_N = decide(found, children, bound, config.min_gain)[1]
        own.append(int((alone_N < len(KINDS)).sum()))
    kind_DN = np.where(labels.tested_N, np.stack(drawn), labels.kind_N)
    return Chance(kind_DN, np.array(own, dtype=np.int64))


def deal_padding(mirrored: Mirrored, tested_N: Bools, seed: int, draw: int) -> Mirrored:
    """The findings about padding dealt anew among the tested features; others keep theirs.

    Dead features have none: dealt to tested ones they would make chance look rarer than it is.
    """
    other_N, tested = np.arange(len(tested_N)), np.flatnonzero(tested_N)
    other_N[tested] = keyed_rng(seed, "label", "features", draw).permutation(tested)
    return replace(
        mirrored,
        kept_N=mirrored.kept_N[other_N],
        images_N=mirrored.images_N[other_N],
        lost_N=mirrored.lost_N[other_N],
    )
