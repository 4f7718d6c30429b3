"""One label a feature, by a fixed rule, and the same rule on exchanged images.

A name qualifies if its test is significant and its gain on the scoring half is at least `min_gain`.
1. An edge artefact is one: padding decides where it fires, whatever else is true there.
2. A superclass qualifies only where it says more (bits of the scoring half) than the class below it
   that the choosing half prefers: else that class is what the feature knows.
3. Of the names that qualify the label is the one of most bits on the scoring half, the most
   specific one: a rare name that holds says more than a common one. Ties: the order of KINDS.
4. No name: 'unexplained'; too few images to test: 'rare'; active on no row: 'dead'.

By chance: images exchanged within their half (the same exchange for all features, so that what
features share stays shared), every location kept; names are chosen and tested anew, and count with
the p at which the real tests were significant. For position and edge artefacts, which an exchange
of images does not touch, the places are dealt anew among the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.names import CLASS, FACTOR, POSITION, SUPERCLASS, Names, position_names
from isae.analysis.label.padding import Mirrored
from isae.analysis.label.scoring import EDGE, Tested, correct, score_edges, score_kinds
from isae.analysis.label.strongest import Strongest, exchange_images, exchange_places
from isae.randomness import keyed_rng

COLOUR, ORIENTATION, CURVATURE, FREQUENCY = "colour", "orientation", "curvature", "frequency"
KINDS = (
    CLASS, SUPERCLASS, FACTOR, COLOUR, ORIENTATION, CURVATURE, FREQUENCY, POSITION, EDGE,
)  # fmt: skip
UNEXPLAINED, RARE, DEAD = "unexplained", "rare", "dead"
TAXONOMY = (*KINDS, UNEXPLAINED, RARE, DEAD)


@dataclass(frozen=True)
class Labels:
    """kinds, q: the tests of each kind; names: what the numbers of names mean; children: the best
    class below each superclass; kind_N: int64, number in TAXONOMY; tested_N; cut: the largest p
    that was significant (-1: none); qualified_KN: bool, kinds in KINDS's order.
    """

    kinds: dict[str, Tested]
    q: dict[str, F64]
    names: dict[str, Names]
    children: Tested | None
    kind_N: I64
    tested_N: Bools
    cut: float
    qualified_KN: Bools


@dataclass(frozen=True)
class Chance:
    """What exchanged images give. kind_DN: int64 [draws, N], number in TAXONOMY of each feature at
    the real tests' bound; own_D: labels of each draw where the draw is corrected by itself.
    """

    kind_DN: I64
    own_D: I64


def find_labels(
    kinds: Mapping[str, Names],
    strongest: Strongest,
    mirrored: Mirrored,
    grid: tuple[int, int],
    config: LabelConfig,
) -> Labels:
    """Labels of all features. kinds: names of images and places; positions and edges are added."""
    cells = grid[0] * grid[1]
    tested_N = strongest.tested(config.least_images)
    names = dict(kinds)
    if cells > 1:
        names[POSITION] = position_names(grid, strongest.pooled(cells, tested_N))
    found, children = score_kinds(names, strongest, tested_N, cells)
    found[EDGE] = score_edges(strongest, mirrored, grid, tested_N, config.padding_images)
    q = correct(found)
    significant = [
        one.p_N[np.nan_to_num(q[kind], nan=1.0) <= config.alpha] for kind, one in found.items()
    ]
    cut = max((float(p.max(initial=-1.0)) for p in significant), default=-1.0)
    qualified_KN, kind_N = decide(found, children, cut, config.min_gain)
    kind_N = np.where(tested_N, kind_N, TAXONOMY.index(RARE))
    kind_N = np.where(strongest.images_HN.sum(axis=0) > 0, kind_N, TAXONOMY.index(DEAD))
    return Labels(found, q, names, children, kind_N, tested_N, cut, qualified_KN)


def decide(
    found: Mapping[str, Tested], children: Tested | None, cut: float, min_gain: float
) -> tuple[Bools, I64]:
    """The rule above -> (which kinds qualify, bool [K, N]; the number in TAXONOMY, int64 [N])."""
    features = len(found[EDGE].p_N)
    qualified_KN = np.zeros((len(KINDS), features), dtype=np.bool_)
    bits_KN = np.full((len(KINDS), features), -1.0)
    for number, kind in enumerate(KINDS):
        if kind in found:
            one = found[kind]
            with np.errstate(invalid="ignore"):
                qualified_KN[number] = (one.p_N <= cut) & (one.gain_N >= min_gain)
            bits_KN[number] = np.nan_to_num(one.bits_N, nan=-1.0)
    if children is not None and SUPERCLASS in found:
        number = KINDS.index(SUPERCLASS)
        qualified_KN[number] &= bits_KN[number] > np.nan_to_num(children.bits_N, nan=-1.0)
    bits_KN = np.where(qualified_KN, bits_KN, -1.0)
    kind_N = bits_KN.argmax(axis=0)
    kind_N = np.where(qualified_KN[KINDS.index(EDGE)], KINDS.index(EDGE), kind_N)
    return qualified_KN, np.where(qualified_KN.any(axis=0), kind_N, TAXONOMY.index(UNEXPLAINED))


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
    named = {kind: names for kind, names in labels.names.items() if kind != POSITION}
    drawn, own = [], []
    for draw in range(config.shuffles):
        images = exchange_images(strongest, half_I, config.seed, draw)
        found, children = score_kinds(named, images, labels.tested_N, cells)
        places = exchange_places(strongest, labels.tested_N, config.seed, draw)
        if POSITION in labels.names:
            positions = {POSITION: labels.names[POSITION]}
            found |= score_kinds(positions, places, labels.tested_N, cells)[0]
        other_N = keyed_rng(config.seed, "label", "features", draw).permutation(
            len(mirrored.kept_N)
        )
        dealt = replace(
            mirrored,
            kept_N=mirrored.kept_N[other_N],
            images_N=mirrored.images_N[other_N],
            lost_N=mirrored.lost_N[other_N],
        )
        found[EDGE] = score_edges(places, dealt, grid, labels.tested_N, config.padding_images)
        drawn.append(decide(found, children, labels.cut, config.min_gain)[1])
        q = correct(found)
        cut = max(
            float(one.p_N[np.nan_to_num(q[kind], nan=1.0) <= config.alpha].max(initial=-1.0))
            for kind, one in found.items()
        )
        kind_N = decide(found, children, cut, config.min_gain)[1]
        own.append(int((kind_N < len(KINDS)).sum()))
    kind_DN = np.where(labels.tested_N, np.stack(drawn), labels.kind_N)
    return Chance(kind_DN, np.array(own, dtype=np.int64))


def name_text(
    labels: Labels, kind: str, feature: int, words: Mapping[str, Mapping[str, str]]
) -> str:
    """The name that was tested of a kind; '' where there is none. words: of texts, by kind."""
    number = int(labels.kinds[kind].name_N[feature]) if kind in labels.kinds else -1
    if number < 0:
        return ""
    if kind == EDGE:
        return EDGE
    text = labels.names[kind].texts[number]
    return words.get(kind, {}).get(text, text)
