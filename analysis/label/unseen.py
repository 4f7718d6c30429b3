"""Do names that the run's own pictures gave hold on pictures that the network never saw?

Asked of every name that the choosing half chose, whether or not the scoring half made it a label:
labels passed a test there, so their scores there are too large (a winner's curse), and would fall
on any new pictures. Both sides are new to the choice, have as many images of every class, and get
the same tests (`isae.analysis.label.scoring`), corrected over all features and kinds of a side. A
name holds on a side with q <= alpha and a gain of at least `min_gain` there. Only pairs that both
sides can test are counted: a name that is true of every place looked at has no gain.

Chance: the same tests on exchanged images (`isae.analysis.label.chance`), of each side.
difference = gain on the own side - gain on the unseen side, its mean over features with the 95 %
interval over images of the same labels (`isae.analysis.label.resampled`).

Legend: S = 2 sides (OWN, UNSEEN), D draws, N features, X images of both stores, K kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.codes import Codes
from isae.analysis.label.chance import deal_padding
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.names import EDGE, POSITION, Names, edge_names, position_names
from isae.analysis.label.padding import Mirrored
from isae.analysis.label.resampled import Draws, image_weights, interval
from isae.analysis.label.scoring import Tested, correct, score_in, with_padding
from isae.analysis.label.strongest import (
    Strongest,
    exchange_images,
    exchange_places,
    strongest_images,
)
from isae.analysis.label.taxonomy import TAXONOMY, Labels, largest_significant
from isae.analysis.label.unseen_images import OWN, UNSEEN

SIDES = (OWN, UNSEEN)
_LONGER = 2


@dataclass(frozen=True)
class Differences:
    """Means over some features: gain_S, and of (own - unseen) the mean and its 95 % interval; NaN
    without features. features: how many.
    """

    features: int
    gain_S: tuple[float, float]
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class UnseenKind:
    """One kind. tested_S: the tests of each side; q_SN; holds_SN: bool; label_N: whether the kind's
    name is the feature's label; chance_SD: int64, names that hold on exchanged images; chosen,
    labels: differences of all names that were tested on both sides, and of the labels among them.
    """

    tested_S: tuple[Tested, Tested]
    q_SN: F64
    holds_SN: Bools
    label_N: Bools
    chance_SD: I64
    chosen: Differences
    labels: Differences

    @property
    def pair_N(self) -> Bools:
        """Whether both sides tested the feature's name."""
        return np.isfinite(self.tested_S[OWN].p_N)


@dataclass(frozen=True)
class Unseen:
    """kinds: by name; chosen, labels: differences over all of them; active_SN: whether a feature is
    active on enough images of each side; pictures: what the second side's are called.
    """

    kinds: dict[str, UnseenKind]
    chosen: Differences
    labels: Differences
    active_SN: Bools
    pictures: str = "unseen"


def strongest_of_both(
    own: Codes, second: Codes, set_X: I64, top: int
) -> tuple[Strongest, Strongest]:
    """The `top` strongest images of each feature on each side, and twice as many."""
    parts, first = [], 0
    for side, codes in zip(SIDES, (own, second), strict=True):
        mine_I = set_X[first : first + codes.images] == side
        found = strongest_images(codes, np.where(mine_I, 0, 1), _LONGER * top)
        image_NK = found.image_HNK[0]
        shifted_NK = np.where(image_NK >= 0, image_NK + first, -1)
        parts.append((shifted_NK, found.cell_HNK[0], found.images_HN[0]))
        first += codes.images
    longer = Strongest(*(np.stack(part) for part in zip(*parts, strict=True)))
    cut = replace(
        longer, image_HNK=longer.image_HNK[:, :, :top].copy(),
        cell_HNK=longer.cell_HNK[:, :, :top].copy(),
    )  # fmt: skip
    return cut, longer


def score_unseen(
    labels: Labels,
    names: Mapping[str, Names],
    strongest: tuple[Strongest, Strongest],
    mirrored_S: Sequence[Mirrored],
    set_X: I64,
    label_X: I64,
    grid: tuple[int, int],
    config: LabelConfig,
) -> Unseen:
    """Test the chosen names on both sides. names: of images and places of both stores; strongest:
    see `strongest_of_both`; mirrored_S: padding on pictures of each side; set_X, label_X: side of
    each image and the label within which sides were matched (`isae.analysis.label.unseen_images`).
    """
    cells, (cut, longer) = grid[0] * grid[1], strongest
    tested_N = cut.tested(config.least_images)
    both = dict(names)
    both[POSITION] = position_names(grid, cut.pooled(cells, tested_N))
    both[EDGE] = edge_names(grid)
    chosen = {
        kind: np.where(tested_N, renumbered(labels.kinds[kind].name_N, labels.names[kind], one), -1)
        for kind, one in both.items()
        if kind in labels.kinds
    }
    scored = _Scored(both, chosen, mirrored_S, cells, config)
    sides = _pairs([scored.on(side, cut, cut, mirrored_S[side]) for side in SIDES])
    q = [correct(found) for found in sides]
    bound = [largest_significant(sides[side], q[side], config.alpha) for side in SIDES]
    chance = _by_chance(scored, cut, set_X, sides, bound, tested_N)
    own_DX, unseen_DX = (image_weights(set_X, label_X, side, config.seed) for side in SIDES)
    draws = Draws(longer, config.top, tested_N, (own_DX, unseen_DX), cells)
    kinds, sums = {}, []
    for kind in chosen:
        one = (sides[OWN][kind], sides[UNSEEN][kind])
        label_N = labels.kind_N == TAXONOMY.index(kind)
        sums.append(_sums(draws, both[kind], one, label_N))
        kinds[kind] = UnseenKind(
            one,
            np.stack([q[side][kind] for side in SIDES]),
            np.stack([scored.holds(one[side], bound[side]) for side in SIDES]),
            label_N,
            chance[kind],
            *(_differences([part]) for part in sums[-1]),
        )
    chosen_all, labels_all = (_differences(part) for part in zip(*sums, strict=True))
    return Unseen(kinds, chosen_all, labels_all, cut.images_HN >= config.least_images)


def renumbered(name_N: I64, old: Names, new: Names) -> I64:
    """The same names by their numbers in another list; -1 where that does not have them."""
    number_of = {text: i for i, text in enumerate(new.texts)}
    return np.array([*(number_of.get(text, -1) for text in old.texts), -1], dtype=np.int64)[name_N]


@dataclass(frozen=True)
class _Scored:
    """How names are tested: the same way for real and for exchanged images."""

    names: dict[str, Names]
    chosen: dict[str, I64]
    mirrored_S: Sequence[Mirrored]
    cells: int
    config: LabelConfig

    def on(
        self, side: int, images: Strongest, places: Strongest, mirrored: Mirrored
    ) -> dict[str, Tested]:
        """Every chosen name on one side. places: what names of cells are tested on."""
        found = {
            kind: score_in(
                self.names[kind], places if kind in (POSITION, EDGE) else images, name_N,
                self.cells, side,
            )
            for kind, name_N in self.chosen.items()
        }  # fmt: skip
        found[EDGE] = with_padding(found[EDGE], mirrored, self.config.padding_images)
        return found

    def holds(self, tested: Tested, bound: float) -> Bools:
        """Whether each feature's name holds."""
        with np.errstate(invalid="ignore"):
            return np.asarray((tested.p_N <= bound) & (tested.gain_N >= self.config.min_gain))


def _pairs(sides: Sequence[Mapping[str, Tested]]) -> list[dict[str, Tested]]:
    """The tests of names that every side could test."""
    both = {
        kind: np.all([np.isfinite(each[kind].p_N + each[kind].gain_N) for each in sides], axis=0)
        for kind in sides[0]
    }
    return [{kind: one.only(both[kind]) for kind, one in found.items()} for found in sides]


def _by_chance(
    scored: _Scored,
    strongest: Strongest,
    set_X: I64,
    sides: Sequence[Mapping[str, Tested]],
    bound: Sequence[float],
    tested_N: Bools,
) -> dict[str, I64]:
    """How many of the same names hold on exchanged images, at the real tests' bound, [S, D]."""
    config = scored.config
    count = {kind: np.zeros((2, config.shuffles), dtype=np.int64) for kind in sides[0]}
    for draw in range(config.shuffles):
        images = exchange_images(strongest, set_X, config.seed, draw)
        places = exchange_places(strongest, tested_N, config.seed, draw)
        for side in SIDES:
            dealt = deal_padding(scored.mirrored_S[side], tested_N, config.seed, draw)
            for kind, one in scored.on(side, images, places, dealt).items():
                among_N = np.isfinite(sides[side][kind].p_N)
                count[kind][side, draw] = (scored.holds(one, bound[side]) & among_N).sum()
    return count


@dataclass(frozen=True)
class _Sums:
    """Gains of some features on each side, and of each draw the sum of their differences."""

    gain_SN: F64
    sum_D: F64


def _sums(
    draws: Draws, names: Names, one: tuple[Tested, Tested], label_N: Bools
) -> tuple[_Sums, _Sums]:
    """Of all pairs of a kind, and of the labels among them."""
    own_DN, unseen_DN = (draws.gains(names, one[side].name_N, side) for side in SIDES)
    difference_DN, gain_SN = own_DN - unseen_DN, np.stack([part.gain_N for part in one])
    # A draw in which a name is true of every place looked at says nothing: it stays where it is.
    drawn_DN = np.where(np.isfinite(difference_DN), difference_DN, gain_SN[OWN] - gain_SN[UNSEEN])
    pair_N = np.isfinite(one[OWN].p_N)
    of_pairs, of_labels = (
        _Sums(gain_SN[:, among_N], drawn_DN[:, among_N].sum(axis=1))
        for among_N in (pair_N, pair_N & label_N)
    )
    return of_pairs, of_labels


def _differences(parts: Sequence[_Sums]) -> Differences:
    gain_SN = np.concatenate([part.gain_SN for part in parts], axis=1)
    if not gain_SN.shape[1]:
        return Differences(0, (np.nan, np.nan), np.nan, np.nan, np.nan)
    own, unseen = (float(gains.mean()) for gains in gain_SN)
    mean_D = np.sum([part.sum_D for part in parts], axis=0) / gain_SN.shape[1]
    return Differences(
        gain_SN.shape[1], (own, unseen), own - unseen, *interval(own - unseen, mean_D)
    )
