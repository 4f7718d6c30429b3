"""How preferred directions cover the circle: gaps, what fills them, at equal counts.

A set of thousands of directions fills every gap of ten, whatever they are. So sets are compared
after drawing equally many from each: in each draw the largest gap that is left, and how many of the
neurons' gaps get a direction inside (at least `margin` degrees from both ends). Uniform random
directions are the reference.

Tests of uniformity: Rayleigh's |sum exp(i a)| / n against one preferred side, and Rao's spacing
sum |gap - 360 / n| / 2 against uneven gaps; both p by draws of uniform directions, (1 + as
extreme) / (1 + draws). Directions of one network or dictionary are not independent draws; read
these p as descriptions.

Shape legend: D directions, G gaps, X draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isae.analysis.arrays import F64, I64
from isae.randomness import keyed_rng

LEAST = 2
"""Fewer directions than this leave no gaps to compare."""

_MOST_TESTED = 2000


@dataclass(frozen=True)
class Gaps:
    """The gaps between directions, widest first: [start, start + width) in degrees, float64 [G]."""

    start_G: F64
    width_G: F64

    def inside(self, directions_D: F64, margin: float) -> I64:
        """How many directions lie in each gap, at least `margin` from both ends -> [G]."""
        offset_GD = (directions_D[None, :] - self.start_G[:, None]) % 360
        within = (offset_GD >= margin) & (offset_GD <= self.width_G[:, None] - margin)
        counted: I64 = within.sum(axis=1)
        return counted

    def at_least(self, width: float) -> Gaps:
        """The gaps of at least that width."""
        kept = self.width_G >= width
        return Gaps(self.start_G[kept], self.width_G[kept])


def find_gaps(directions_D: F64) -> Gaps:
    """All gaps of a set of directions; one of 360 degrees for a single one, none for none."""
    at = np.sort(directions_D[np.isfinite(directions_D)] % 360)
    if not len(at):
        return Gaps(np.zeros(0), np.zeros(0))
    width = np.diff(np.append(at, at[0] + 360))
    order = np.argsort(-width, kind="stable")
    return Gaps(at[order], width[order])


def uniformity(directions_D: F64, draws: int, *key: int | str) -> dict[str, Any] | None:
    """Rayleigh's and Rao's tests in numbers; None below LEAST directions.

    Of more than 2,000 directions as many are drawn first.
    """
    rng = keyed_rng(*key, "uniformity")
    count = min(len(directions_D), _MOST_TESTED)
    if count < LEAST:
        return None
    tested = np.sort(rng.choice(directions_D, count, replace=False))[None]
    null = np.sort(rng.uniform(0, 360, (draws, count)), axis=1)
    length, null_length = _resultant(tested)[0], _resultant(null)
    spacing, null_spacing = _spacing(tested)[0], _spacing(null)
    return {
        "directions": count,
        "resultant": float(length),
        "rayleigh_p": float((1 + (null_length >= length).sum()) / (1 + draws)),
        "rao_spacing": float(spacing),
        "rao_p": float((1 + (null_spacing >= spacing).sum()) / (1 + draws)),
        "rao_p_too_even": float((1 + (null_spacing <= spacing).sum()) / (1 + draws)),
    }


def equal_count(
    directions_D: F64, count: int, gaps: Gaps, margin: float, draws: int, *key: int | str
) -> dict[str, Any] | None:
    """`count` of the directions drawn without replacement, `draws` times: gaps left and filled.

    None where there are fewer. `gaps`: those to be filled. Medians with 2.5 and 97.5 % of draws.
    """
    if count < LEAST or len(directions_D) < count:
        return None
    rng = keyed_rng(*key, "equal count", count)
    drawn_XD = np.stack([rng.choice(directions_D, count, replace=False) for _ in range(draws)])
    return _of_draws(drawn_XD, gaps, margin)


def uniform_count(
    count: int, gaps: Gaps, margin: float, draws: int, *key: int | str
) -> dict[str, Any] | None:
    """The same of uniform random directions."""
    if count < LEAST:
        return None
    rng = keyed_rng(*key, "uniform count", count)
    return _of_draws(rng.uniform(0, 360, (draws, count)), gaps, margin)


def _of_draws(drawn_XD: F64, gaps: Gaps, margin: float) -> dict[str, Any]:
    largest_X = _widths(np.sort(drawn_XD % 360, axis=1)).max(axis=1)
    filled_X = np.array([(gaps.inside(one, margin) > 0).sum() for one in drawn_XD])
    return {
        "count": drawn_XD.shape[1],
        "draws": len(drawn_XD),
        "largest_gap": interval(largest_X),
        "gaps_to_fill": len(gaps.width_G),
        "gaps_filled": interval(filled_X),
        "mean_gaps_filled": float(filled_X.mean()),
    }


def interval(values: F64 | I64) -> list[float]:
    """Median, 2.5 % and 97.5 % of draws."""
    return [float(one) for one in np.quantile(values, [0.5, 0.025, 0.975])]


def _widths(sorted_XD: F64) -> F64:
    widths: F64 = np.diff(np.concatenate([sorted_XD, sorted_XD[:, :1] + 360], axis=1), axis=1)
    return widths


def _resultant(directions_XD: F64) -> F64:
    length: F64 = np.abs(np.exp(1j * np.deg2rad(directions_XD)).mean(axis=1))
    return length


def _spacing(sorted_XD: F64) -> F64:
    even = 360 / sorted_XD.shape[1]
    spacing: F64 = np.abs(_widths(sorted_XD) - even).sum(axis=1) / 2
    return spacing
