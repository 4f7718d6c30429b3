"""The null that turns parts: exact where all turnings are counted, a bound elsewhere, tails far."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from isae.analysis.tuning.null import (
    EXACT_MOST,
    smallest_pvalues,
    tail_bound,
    turning_pvalues,
    turns,
)


def random_parts(rng: np.random.Generator, parts: int, units: int, count: int, uneven: float):
    """z of parts of uneven sizes, each turned at random, complex [L, U]."""
    size = rng.lognormal(0, uneven, (parts, units)) * np.exp(2j * np.pi * rng.random((parts, 1)))
    return size * np.exp(2j * np.pi * rng.integers(0, count, (parts, units)) / count)


def held(p: np.ndarray, levels: tuple[float, ...]) -> bool:
    """No more p-values at or below each level than allowed, within three standard deviations."""
    allowed = np.array(levels) * len(p)
    found = (p[:, None] <= np.array(levels)).sum(axis=0)
    return bool((found <= allowed + 3 * np.sqrt(allowed) + 1).all())


@pytest.mark.parametrize(("parts", "count"), [(2, 24), (3, 24), (4, 12), (5, 8)])
def test_few_turnings_are_all_counted(parts: int, count: int) -> None:
    rng = np.random.default_rng(parts)
    z_LU = random_parts(rng, parts, 3, count, 1.0)
    z_LU[:, 2] = np.exp(1j) * np.arange(1, parts + 1)
    expected = []
    for z_L in z_LU.T:
        turned = [
            abs(z_L[0] + z_L[1:] @ np.exp(2j * np.pi * np.array(steps) / count))
            for steps in product(range(count), repeat=parts - 1)
        ]
        expected.append(np.mean(np.array(turned) >= abs(z_L.sum()) * (1 - 1e-12)))
    np.testing.assert_allclose(turning_pvalues(z_LU, count), expected, rtol=1e-9)
    # Perfect agreement has the smallest p that there is.
    assert expected[2] == pytest.approx(smallest_pvalues(np.array([parts]), count)[0])


@pytest.mark.parametrize(("parts", "uneven"), [(6, 0.1), (15, 1.0), (30, 0.3), (90, 2.0)])
def test_bounds_hold_far_into_the_tail_and_are_not_empty(parts: int, uneven: float) -> None:
    """Phases pulled together by a known weight: exact probabilities of far tails, by sampling.

    Parts are drawn with chances proportional to exp(t cos(phase)), so that large sums are common;
    1/weight undoes it. The bound must lie above the sampled chance, and not by much.
    """
    rng = np.random.default_rng(parts)
    count, draws = 24, 20_000
    assert count ** (parts - 1) > EXACT_MOST
    size_L = rng.lognormal(0, uneven, parts)
    angle_A = 2 * np.pi * np.arange(count) / count
    for part in (1.0, 3.0, 16.0):
        t = part / np.sqrt((size_L**2).mean()) / np.sqrt(parts / 6)
        tilt_LA = np.exp(t * size_L[:, None] * np.cos(angle_A))
        norm_L = tilt_LA.mean(axis=1)
        chance_LA = tilt_LA / tilt_LA.sum(axis=1, keepdims=True)
        step_LD = np.stack([rng.choice(count, draws, p=chance_A) for chance_A in chance_LA])
        z_D = (size_L[:, None] * np.exp(1j * angle_A[step_LD])).sum(axis=0)
        level = np.quantile(np.abs(z_D), 0.5)
        # Every common turn of all parts has the same |Z|: the weights of all of them count.
        around_D = np.exp(t * (z_D[:, None] * np.exp(-1j * angle_A)).real).mean(axis=1)
        weight_D = norm_L.prod() / around_D
        exact = (weight_D * (np.abs(z_D) >= level)).mean()
        spread = (weight_D * (np.abs(z_D) >= level)).std() / np.sqrt(draws)
        nearest = np.abs(np.abs(z_D) - level).argmin()
        z_L = size_L * np.exp(1j * angle_A[step_LD[:, nearest]])
        bound = turning_pvalues(z_L[:, None], count)[0]
        assert exact - 4 * spread <= bound <= min(1.0, 60 * exact)
    assert exact < 1e-3


def test_null_units_have_no_small_p_values() -> None:
    rng = np.random.default_rng(3)
    for parts, count, units in ((3, 24, 20_000), (4, 12, 5_000), (15, 24, 8_000), (30, 12, 8_000)):
        p = turning_pvalues(random_parts(rng, parts, units, count, 1.0), count)
        assert held(p, (0.05, 0.01, 1e-3, 1e-4))
        assert (p <= 0.05).mean() > 0.003


def test_agreement_has_no_factorial_floor() -> None:
    for parts, count, most in ((4, 12, 12.0**-3), (6, 24, 1e-5), (12, 24, 1e-12), (90, 24, 1e-90)):
        p = turning_pvalues(np.full((parts, 1), 2.0 - 1.0j), count)[0]
        assert float(count) ** -(parts - 1) * 0.999 <= p <= most * 1.001
    assert turning_pvalues(np.zeros((9, 2), complex), 24).tolist() == [1, 1]
    assert turning_pvalues(np.ones((1, 2), complex), 24).tolist() == [1, 1]
    assert [turns(24, 1), turns(24, 2), turns(12, 2), turns(9, 2)] == [24, 12, 6, 9]


def test_the_tail_bound_is_a_factorial_over_a_power() -> None:
    t = np.array([0.0, 0.5, 1.0, 2.0, 3.5, 50.0, np.nan])
    found = tail_bound(t, 11)
    assert found[:3] == pytest.approx([1, 1, 1])
    assert found[3] == pytest.approx(0.5)
    assert found[4] == pytest.approx(6 / 3.5**3)
    assert found[5] == pytest.approx(39916800 / 50.0**11)
    assert np.isnan(found[6])
    assert (np.exp(-t[:5]) <= found[:5]).all()
