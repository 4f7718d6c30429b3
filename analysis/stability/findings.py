"""What of each dictionary comes back in each other one, as arrays.

Legend: A live features of a dictionary, D random dictionaries, X one-to-one matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.layers.correlation import Tops
from isae.analysis.layers.matching import Matches, mutual_nearest, one_to_one
from isae.analysis.multiple import benjamini_hochberg
from isae.analysis.stability.config import StabilityConfig
from isae.analysis.stability.cosines import row_cosines, top_cosines
from isae.analysis.stability.inputs import Dictionary
from isae.analysis.stability.null import RandomRows, best_null, random_rows
from isae.progress import QUIET, Reporter
from isae.randomness import keyed_rng

BASES = ("decoder", "encoder")
MATCHED = ("one_to_one", "above_null", "comes_back")


@dataclass(frozen=True)
class Nearest:
    """The best partner of each feature in another dictionary, by one kind of rows.

    best_A: place of the partner among the other's live features; cosine_A; p_A under the null;
    null_A: the mean best cosine with random dictionaries; chance_A: P(best >= threshold) by chance;
    drawn_DA: best cosine with each random dictionary.
    """

    best_A: I64
    cosine_A: F64
    p_A: F64
    null_A: F64
    chance_A: F64
    drawn_DA: F64


@dataclass(frozen=True)
class Direction:
    """One dictionary's features sought in another: `one`, `other` are their places in the list.

    mutual_A: the decoder's best partner has this feature as its best; partner_A: the one-to-one
    partner (-1: none), with the cosines of its decoder row and of its encoder row (NaN: none).
    """

    one: int
    other: int
    nearest: dict[str, Nearest]
    mutual_A: Bools
    partner_A: I64
    partner_cosine_A: F64
    partner_encoder_A: F64


@dataclass(frozen=True)
class StabilityFindings:
    """All directions between the dictionaries, and what was decided of every feature.

    q[basis][direction]: q of p_A, one Benjamini-Hochberg family a basis; back: cosine >= threshold
    and q <= alpha by decoder rows, of each direction; p_every, q_every: of each dictionary the
    largest p over the others and its q (one family over all dictionaries); comes_back: found in
    every other dictionary at q_every <= alpha.
    """

    dictionaries: list[Dictionary]
    directions: list[Direction]
    config: StabilityConfig
    q: dict[str, list[F64]]
    back: list[Bools]
    p_every: list[F64]
    q_every: list[F64]
    comes_back: list[Bools]

    def of(self, one: int) -> list[int]:
        """Numbers of the directions that seek features of this dictionary."""
        return [i for i, each in enumerate(self.directions) if each.one == one]

    def direction(self, one: int, other: int) -> int:
        """Number of the direction that seeks features of `one` in `other`."""
        return next(i for i in self.of(one) if self.directions[i].other == other)

    def least_cosine(self, one: int) -> F64:
        """The smallest over the other dictionaries of each feature's best cosine -> [A]."""
        found = [self.directions[i].nearest["decoder"].cosine_A for i in self.of(one)]
        return np.asarray(np.min(found, axis=0), dtype=np.float64)

    def matched(self, one: int, other: int, which: str) -> tuple[I64, I64]:
        """Matches of a pair of dictionaries, as places in both.

        which: 'one_to_one', all of them; 'above_null', those that are each other's best with
        q <= alpha both ways; 'comes_back', those at the threshold that come back both ways.
        """
        forth, back = self.direction(one, other), self.direction(other, one)
        partner_A = self.directions[forth].partner_A
        first_X = np.flatnonzero(partner_A >= 0)
        second_X = partner_A[first_X]
        if which == "one_to_one":
            return first_X, second_X
        if which == "above_null":
            q, alpha = self.q["decoder"], self.config.alpha
            best_A = self.directions[forth].nearest["decoder"].best_A
            kept_X = self.directions[forth].mutual_A[first_X] & (best_A[first_X] == second_X)
            kept_X &= (q[forth][first_X] <= alpha) & (q[back][second_X] <= alpha)
        else:
            kept_X = self.directions[forth].partner_cosine_A[first_X] >= self.config.threshold
            kept_X &= self.back[forth][first_X] & self.back[back][second_X]
        return first_X[kept_X], second_X[kept_X]


def find_stability(
    dictionaries: Sequence[Dictionary], config: StabilityConfig, reporter: Reporter = QUIET
) -> StabilityFindings:
    """Match every dictionary with every other one, test, and decide what comes back.

    Dictionaries of the same channels, at least two; their widths may differ.
    """
    some = list(dictionaries)
    matches: dict[tuple[int, int], tuple[Tops, Matches, Bools]] = {}
    for one, other in combinations(range(len(some)), 2):
        matches |= _match(some, one, other, config)
    nearest: dict[tuple[int, int], dict[str, Nearest]] = {pair: {} for pair in matches}
    with reporter.task(len(BASES) * len(some), "null", "dictionaries") as meter:
        for basis, other in product(BASES, range(len(some))):
            source = random_rows(_rows(some[other], basis))
            for one in range(len(some)):
                if one != other:
                    tops = matches[one, other][0] if basis == "decoder" else None
                    nearest[one, other][basis] = _nearest(
                        some, one, other, basis, tops, source, config
                    )
            meter.advance()
    directions = [
        _direction(some, one, other, nearest[one, other], *matches[one, other][1:])
        for one, other in sorted(matches)
    ]
    return _decide(some, directions, config)


def _nearest(
    some: list[Dictionary],
    one: int,
    other: int,
    basis: str,
    tops: Tops | None,
    source: RandomRows,
    config: StabilityConfig,
) -> Nearest:
    """tops: the best partners where they are known; source: of random rows like `other`'s."""
    mine = _rows(some[one], basis)
    tops = tops or top_cosines(mine, _rows(some[other], basis), 1)
    rng = keyed_rng(config.seed, "stability", basis, one, other)
    null = best_null(mine, source, config.dictionaries, rng)
    return Nearest(
        best_A=tops.feature_NK[:, 0].astype(np.int64),
        cosine_A=tops.r_NK[:, 0],
        p_A=null.p(tops.r_NK[:, 0]),
        null_A=null.largest_DN.mean(axis=0),
        chance_A=null.p(np.full(len(mine), config.threshold)),
        drawn_DA=null.largest_DN,
    )


def _rows(dictionary: Dictionary, basis: str) -> F32:
    return dictionary.decoder_AC if basis == "decoder" else dictionary.encoder_AC


def _match(
    some: list[Dictionary], one: int, other: int, config: StabilityConfig
) -> dict[tuple[int, int], tuple[Tops, Matches, Bools]]:
    """{direction: (best partners, one-to-one matches, mutual)} of a pair by decoder rows."""
    mine, theirs = some[one].decoder_AC, some[other].decoder_AC
    forth = top_cosines(mine, theirs, config.candidates)
    back = top_cosines(theirs, mine, config.candidates)
    both = one_to_one(forth, back)
    turned = Matches(both.second_X, both.first_X, both.r_X)
    nearest = mutual_nearest(forth, back)
    mutual_A, mutual_O = np.zeros(len(mine), dtype=np.bool_), np.zeros(len(theirs), dtype=np.bool_)
    mutual_A[nearest.first_X], mutual_O[nearest.second_X] = True, True
    return {(one, other): (forth, both, mutual_A), (other, one): (back, turned, mutual_O)}


def _direction(
    some: list[Dictionary],
    one: int,
    other: int,
    nearest: dict[str, Nearest],
    matches: Matches,
    mutual_A: Bools,
) -> Direction:
    count = len(some[one])
    partner_A = np.full(count, -1, dtype=np.int64)
    cosine_A, encoder_A = np.full(count, np.nan), np.full(count, np.nan)
    partner_A[matches.first_X] = matches.second_X
    cosine_A[matches.first_X] = matches.r_X
    encoder_A[matches.first_X] = row_cosines(
        some[one].encoder_AC[matches.first_X], some[other].encoder_AC[matches.second_X]
    )
    return Direction(one, other, nearest, mutual_A, partner_A, cosine_A, encoder_A)


def _decide(
    some: list[Dictionary], directions: list[Direction], config: StabilityConfig
) -> StabilityFindings:
    q = {basis: _jointly([each.nearest[basis].p_A for each in directions]) for basis in BASES}
    near = [each.nearest["decoder"].cosine_A >= config.threshold for each in directions]
    back = [near_A & (q_A <= config.alpha) for near_A, q_A in zip(near, q["decoder"], strict=True)]
    of = [[i for i, each in enumerate(directions) if each.one == one] for one in range(len(some))]
    p_every = [np.max([directions[i].nearest["decoder"].p_A for i in mine], axis=0) for mine in of]
    q_every = _jointly(p_every)
    comes_back = [
        np.logical_and.reduce([near[i] for i in mine]) & (q_A <= config.alpha)
        for mine, q_A in zip(of, q_every, strict=True)
    ]
    return StabilityFindings(some, directions, config, q, back, p_every, q_every, comes_back)


def _jointly(p: list[F64]) -> list[F64]:
    """Corrected together, handed back apart."""
    q = benjamini_hochberg(np.concatenate(p))
    return list(np.split(q, np.cumsum([len(one) for one in p])[:-1]))
