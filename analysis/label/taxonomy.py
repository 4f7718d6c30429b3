"""One label a feature, by a fixed rule.

A name qualifies if its test is significant and its gain is at least `min_gain` on both halves.

1. An edge artefact is one: padding decides where it fires, whatever else is true there.
2. A superclass qualifies only where it says more (bits of the scoring half) than the class below it
   that the choosing half prefers: else that class is what the feature knows.
3. Of the names of content (all but position) that qualify the label is the one of most bits on the
   scoring half, the most specific one: a rare name that holds says more than a common one. Ties:
   the order of KINDS.
4. Position is the label where no content qualifies: where is not what.
5. No name: 'unexplained'; too few images to test: 'rare'; active on no row: 'dead'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.names import (
    CLASS,
    EDGE,
    FACTOR,
    POSITION,
    SUPERCLASS,
    Names,
    edge_names,
    position_names,
)
from isae.analysis.label.padding import Mirrored
from isae.analysis.label.scoring import Tested, correct, score_kinds, with_padding
from isae.analysis.label.strongest import Strongest

COLOUR, ORIENTATION, CURVATURE, FREQUENCY = "colour", "orientation", "curvature", "frequency"
KINDS = (
    CLASS, SUPERCLASS, FACTOR, COLOUR, ORIENTATION, CURVATURE, FREQUENCY, POSITION, EDGE,
)  # fmt: skip
UNEXPLAINED, RARE, DEAD = "unexplained", "rare", "dead"
TAXONOMY = (*KINDS, UNEXPLAINED, RARE, DEAD)


@dataclass(frozen=True)
class Labels:
    """kinds, q: the tests of each kind; names: what the numbers of names mean; children: the best
    class below each superclass; kind_N: int64, number in TAXONOMY; tested_N; bound: the largest p
    that was significant (-1: none); qualified_KN: bool, kinds in KINDS's order.
    """

    kinds: dict[str, Tested]
    q: dict[str, F64]
    names: dict[str, Names]
    children: Tested | None
    kind_N: I64
    tested_N: Bools
    bound: float
    qualified_KN: Bools


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
    names[POSITION] = position_names(grid, strongest.pooled(cells, tested_N))
    names[EDGE] = edge_names(grid)
    found, children = score_kinds(names, strongest, tested_N, cells, config.min_gain)
    found[EDGE] = with_padding(found[EDGE], mirrored, config.padding_images)
    q = correct(found)
    bound = largest_significant(found, q, config.alpha)
    qualified_KN, kind_N = decide(found, children, bound, config.min_gain)
    kind_N = np.where(tested_N, kind_N, TAXONOMY.index(RARE))
    kind_N = np.where(strongest.images_HN.sum(axis=0) > 0, kind_N, TAXONOMY.index(DEAD))
    return Labels(found, q, names, children, kind_N, tested_N, bound, qualified_KN)


def largest_significant(found: Mapping[str, Tested], q: Mapping[str, F64], alpha: float) -> float:
    """The largest p whose q is at most alpha; -1 where none is."""
    return max(
        float(one.p_N[np.nan_to_num(q[kind], nan=1.0) <= alpha].max(initial=-1.0))
        for kind, one in found.items()
    )


def decide(
    found: Mapping[str, Tested], children: Tested | None, bound: float, min_gain: float
) -> tuple[Bools, I64]:
    """The rule above -> (which kinds qualify, bool [K, N]; the number in TAXONOMY, int64 [N])."""
    features = len(found[EDGE].p_N)
    qualified_KN = np.zeros((len(KINDS), features), dtype=np.bool_)
    bits_KN = np.full((len(KINDS), features), -1.0)
    for number, kind in enumerate(KINDS):
        if kind in found:
            one = found[kind]
            with np.errstate(invalid="ignore"):
                qualified_KN[number] = (one.p_N <= bound) & (one.gain_N >= min_gain)
            bits_KN[number] = np.nan_to_num(one.bits_N, nan=-1.0)
    if children is not None and SUPERCLASS in found:
        number = KINDS.index(SUPERCLASS)
        qualified_KN[number] &= bits_KN[number] > np.nan_to_num(children.bits_N, nan=-1.0)
    rank_KN = np.where(qualified_KN, bits_KN, -1.0)
    rank_KN[KINDS.index(POSITION), qualified_KN[KINDS.index(POSITION)]] = -0.5
    kind_N = rank_KN.argmax(axis=0)
    kind_N = np.where(qualified_KN[KINDS.index(EDGE)], KINDS.index(EDGE), kind_N)
    return qualified_KN, np.where(qualified_KN.any(axis=0), kind_N, TAXONOMY.index(UNEXPLAINED))


def name_text(
    labels: Labels, kind: str, feature: int, words: Mapping[str, Mapping[str, str]]
) -> str:
    """The name that was tested of a kind; '' where there is none. words: of texts, by kind."""
    number = int(labels.kinds[kind].name_N[feature]) if kind in labels.kinds else -1
    if number < 0:
        return ""
    text: str = labels.names[kind].texts[number]
    return words.get(kind, {}).get(text, text)
