"""A null for the best of n cosines: random dictionaries of the same moments and concentration.

A large dictionary has a near partner for any row, and the more so where its rows crowd in a few
directions or rest on a few channels. So the null keeps all three. With b_j the M unit rows of the
other dictionary, mean m and covariance S, rank R of C:

    w_j = S^(-1/2) (b_j - m)                white rows, by the symmetric root: nearest to channels
    e_j = m + sqrt(C / R) S^(1/2) P_j w_j   divided by its length; P_j a random permutation

H0 of feature i: the other dictionary is unrelated to it beyond these. Permuted coordinates of white
rows are white again, so e has mean m and covariance S (before it is divided by its length; exactly
for R = C), and each w_j keeps its entries: as many large and small ones, with their signs.

Best of n: a dictionary of M random rows is drawn and taken in PARTS parts of ceil(M / PARTS) rows;
the largest cosine in each part, of each feature, is standardised by feature and pooled over
features with a generalised Pareto tail (`isae.analysis.layers.image_null`, `fit_max_null`; its
strata are here features whose rows are similarly concentrated). As parts are alike and independent,

    P(best of M >= c) = 1 - (1 - p_part(c))^(M / rows of a part).

Rejecting says that the match is better than a random dictionary would give, which is little: it is
a guard beside the threshold, not a claim that the same feature was found.

Time: a product of both dictionaries for each random dictionary, and C^3. Memory: 4 M C bytes for
the white rows, 8 bytes a feature and part.
Legend: N features, M rows of the other dictionary, C channels, S parts in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F32, F64, I64
from isae.analysis.layers.image_null import MaxNull, fit_max_null
from isae.analysis.stability.cosines import largest_cosines

PARTS = 8
_RANK = 1e-10


@dataclass(frozen=True)
class RandomRows:
    """What random dictionaries are drawn from: mean_C, root_CC (of the covariance), white_MC."""

    mean_C: F64
    root_CC: F64
    white_MC: F32

    @property
    def part(self) -> int:
        """Rows of a part."""
        return -(-len(self.white_MC) // PARTS)

    def parts(self, dictionaries: int, rng: np.random.Generator) -> Iterator[F32]:
        """PARTS parts of each of so many random dictionaries: unit rows, float32 [part, C]."""
        count = len(self.white_MC)
        for _ in range(dictionaries):
            order = rng.permutation(count)
            more = rng.integers(count, size=PARTS * self.part - count)
            for rows in np.concatenate([order, more]).reshape(PARTS, self.part):
                white = rng.permuted(self.white_MC[rows], axis=1).astype(np.float64)
                drawn = self.mean_C + white @ self.root_CC
                length = np.linalg.norm(drawn, axis=1, keepdims=True)
                yield np.asarray(drawn / np.where(length > 0, length, 1.0), dtype=np.float32)


def random_rows(unit_MC: F32) -> RandomRows:
    """Moments and white rows of a dictionary of unit rows, float32 [M, C], M >= 2."""
    rows_MC = unit_MC.astype(np.float64)
    mean_C = rows_MC.mean(axis=0)
    rows_MC -= mean_C
    values_C, vectors_CC = np.linalg.eigh(rows_MC.T @ rows_MC / len(rows_MC))
    kept_C = values_C > _RANK * max(values_C[-1], 1e-300)
    scale = np.sqrt(len(values_C) / max(int(kept_C.sum()), 1))
    size_C = np.sqrt(np.where(kept_C, values_C, 0.0))
    invert_C = np.where(kept_C, 1 / np.where(kept_C, size_C, 1.0), 0.0)
    white_MC = rows_MC @ ((vectors_CC * invert_C) @ vectors_CC.T)
    root_CC = scale * ((vectors_CC * size_C) @ vectors_CC.T)
    return RandomRows(mean_C, root_CC, np.asarray(white_MC, dtype=np.float32))


def concentration_order(unit_NC: F32) -> I64:
    """Rank of each row by sum of its fourth powers, the most even first -> int64 [N]."""
    fourth_N = np.einsum("nc,nc->n", unit_NC**2, unit_NC**2, dtype=np.float64)
    rank_N = np.empty(len(unit_NC), dtype=np.int64)
    rank_N[np.argsort(fourth_N, kind="stable")] = np.arange(len(unit_NC))
    return rank_N


@dataclass(frozen=True)
class BestNull:
    """The null of each feature's best cosine with a dictionary of M rows.

    largest_DN: best cosine in each whole random dictionary; parts: M over the rows of a part.
    """

    part_null: MaxNull
    parts: float
    largest_DN: F64

    def p(self, cosine_N: F64) -> F64:
        """P(best of M >= cosine) of every feature -> float64 [N]."""
        part_N = self.part_null.p(np.arange(len(cosine_N)), cosine_N)
        with np.errstate(divide="ignore"):
            return np.asarray(-np.expm1(self.parts * np.log1p(-part_N)), dtype=np.float64)


def best_null(
    unit_NC: F32, other: RandomRows, dictionaries: int, rng: np.random.Generator
) -> BestNull:
    """The null of the best cosine of each row with `other`'s dictionary; see the module."""
    largest_SN = largest_cosines(unit_NC, other.parts(dictionaries, rng))
    tested_N = np.ones(len(unit_NC), dtype=np.bool_)
    return BestNull(
        fit_max_null(largest_SN, concentration_order(unit_NC), tested_N),
        len(other.white_MC) / other.part,
        largest_SN.reshape(dictionaries, PARTS, -1).max(axis=1),
    )
