"""Corrections for many tests made at once.

Benjamini and Hochberg 1995: with the m p-values sorted, q_(i) = min over j >= i of m p_(j) / j, at
most 1; rejecting q <= alpha keeps the expected share of false ones among the rejected at most at
alpha for independent tests, and for tests with positive regression dependence (Benjamini and
Yekutieli 2001). Branch shares of one feature sum to 1 and are negatively dependent, features of
one dictionary are not independent either, so here the guarantee is not a theorem;
tests/analysis/test_discoveries.py measures it on planted and on empty dictionaries. Holm 1979
keeps the chance of even one false rejection at alpha under any dependence.
"""

from __future__ import annotations

import numpy as np

from isae.analysis.arrays import F64


def benjamini_hochberg(p: F64) -> F64:
    """q-values, of the shape of p; NaN entries are no tests and stay NaN."""
    q = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    values = p[tested]
    order = np.argsort(values, kind="stable")
    count = len(values)
    raw = values[order] * count / np.arange(1, count + 1)
    monotone = np.minimum.accumulate(raw[::-1])[::-1]
    result = np.empty(count)
    result[order] = np.minimum(monotone, 1.0)
    q[tested] = result
    return q


def holm(p: F64) -> F64:
    """Holm's adjusted p-values, of the shape of p; NaN entries are no tests and stay NaN."""
    adjusted = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    values = p[tested]
    order = np.argsort(values, kind="stable")
    count = len(values)
    raw = values[order] * np.arange(count, 0, -1)
    result = np.empty(count)
    result[order] = np.minimum(np.maximum.accumulate(raw), 1.0)
    adjusted[tested] = result
    return adjusted


def bonferroni(p: F64) -> F64:
    """Bonferroni's adjusted p-values: p times the number of tests, at most 1."""
    adjusted: F64 = np.minimum(p * np.isfinite(p).sum(), 1.0)
    return adjusted
