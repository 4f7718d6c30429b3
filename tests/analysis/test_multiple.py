"""Corrections for many tests against SciPy and against their definitions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from isae.analysis.multiple import benjamini_hochberg, bonferroni, holm

P_VALUES = st.lists(st.floats(0.0, 1.0) | st.sampled_from([0.0, 0.01, 1.0]), min_size=1)


@given(P_VALUES)
def test_benjamini_hochberg_is_scipys(values: list[float]) -> None:
    p = np.array(values)
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p), rtol=1e-12)


@given(P_VALUES, st.floats(0.001, 0.999))
def test_holm_rejects_what_its_step_down_rule_rejects(values: list[float], alpha: float) -> None:
    p = np.array(values)
    rejected = np.zeros(len(p), dtype=bool)
    for step, place in enumerate(np.argsort(p, kind="stable")):
        # The adjusted value is p times the rest; compared so, rounding cannot part the two.
        if p[place] * (len(p) - step) > alpha:
            break
        rejected[place] = True
    np.testing.assert_array_equal(holm(p) <= alpha, rejected)


def test_entries_without_a_test_do_not_count() -> None:
    p = np.array([[0.01, np.nan], [0.02, 0.9]])
    for correct in (benjamini_hochberg, holm, bonferroni):
        adjusted = correct(p)
        assert np.isnan(adjusted[0, 1])
        np.testing.assert_array_equal(adjusted[np.isfinite(p)], correct(p[np.isfinite(p)]))
    assert bonferroni(p)[0, 0] == 0.03
