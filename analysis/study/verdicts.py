"""What a trained network shows beyond untrained ones: differences with intervals, verdicts.

For a number measured on s SAEs of the trained network and on u of untrained ones,

    difference = mean_s - mean_u,    interval = difference +- t * sd * sqrt(1 / s + 1 / u),

t the 97.5 % point of Student's distribution. Where both groups have two values or more this is
Welch's interval; with a single untrained network, sd is that of the trained network's seeds, and
the interval says nothing of how much untrained networks differ. Nothing is judged where seeds agree
(nearly) exactly, as counts of 0 do, and the networks do not: that no spread was seen is no spread
of 0.
Seeds are of the SAE: the trained network itself is one, so verdicts are about this network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy.stats import t as student

K = TypeVar("K")
ALIKE = 2e-3
"""Seeds count as agreeing whose deviation is below this part of their mean: one feature of 4,092
and one of 4,094 are shares whose spread is that of the denominators alone."""
MORE, LESS, SAME, UNKNOWN = "more", "less", "not told apart", "not judged"


@dataclass(frozen=True)
class Verdict:
    """One number, trained against untrained. low, high: the interval; NaN with one seed only."""

    trained: tuple[float, ...]
    untrained: tuple[float, ...]
    difference: float
    low: float
    high: float
    verdict: str

    def row(self) -> dict[str, Any]:
        """For a table: means, deviations, counts, difference, interval, verdict."""
        return {
            **_group("trained", self.trained),
            **_group("untrained", self.untrained),
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "verdict": self.verdict,
        }


def judge(trained: Sequence[float], untrained: Sequence[float]) -> Verdict:
    """Compare one number's values, NaN left out -> Verdict."""
    ours = tuple(float(value) for value in trained if math.isfinite(value))
    theirs = tuple(float(value) for value in untrained if math.isfinite(value))
    if not ours or not theirs:
        return Verdict(ours, theirs, math.nan, math.nan, math.nan, UNKNOWN)
    difference = float(np.mean(ours) - np.mean(theirs))
    half = _half_width(ours, theirs)
    if half is None:
        return Verdict(ours, theirs, difference, math.nan, math.nan, UNKNOWN)
    low, high = difference - half, difference + half
    word = MORE if low > 0 else LESS if high < 0 else SAME
    return Verdict(ours, theirs, difference, low, high, word)


def judge_all(
    trained: Sequence[Mapping[K, float]], untrained: Sequence[Mapping[K, float]]
) -> list[tuple[K, Verdict]]:
    """`judge` of every number that a trained one has, in the order of the first of them."""
    names = dict.fromkeys(name for one in trained for name in one)
    return [
        (
            name,
            judge(
                [one[name] for one in trained if name in one],
                [one[name] for one in untrained if name in one],
            ),
        )
        for name in names
    ]


def _half_width(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float | None:
    s, u = len(ours), len(theirs)
    if s > 1 and u > 1:
        parts = (np.var(ours, ddof=1) / s, np.var(theirs, ddof=1) / u)
        total = float(sum(parts))
        if _alike(ours) and _alike(theirs):
            return _without_spread(ours, theirs)
        freedom = total**2 / (parts[0] ** 2 / (s - 1) + parts[1] ** 2 / (u - 1))
        return float(student.ppf(0.975, freedom) * math.sqrt(total))
    if s == 1 and u == 1:
        return None
    several = ours if s > 1 else theirs
    deviation = float(np.std(several, ddof=1))
    if _alike(several):
        return _without_spread(ours, theirs)
    factor = math.sqrt(1 / s + 1 / u)
    return float(student.ppf(0.975, len(several) - 1)) * deviation * factor


def _alike(values: tuple[float, ...]) -> bool:
    return float(np.std(values, ddof=1)) <= ALIKE * abs(float(np.mean(values)))


def _without_spread(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float | None:
    """A few seeds that agree exactly (counts of 0) say nothing of how far others might lie."""
    return 0.0 if ours[0] == theirs[0] else None


def _group(name: str, values: tuple[float, ...]) -> dict[str, Any]:
    return {
        name: float(np.mean(values)) if values else math.nan,
        f"{name}_sd": float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        f"{name}_n": len(values),
    }
