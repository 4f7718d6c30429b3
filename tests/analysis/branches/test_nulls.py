"""The exchangeable null's p-values against enumeration, exact counting and Monte Carlo."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from isae.analysis.branches.nulls import METHODS, SAMPLE_BELOW, column_null, concentration_pvalues
from isae.errors import DataError

BRANCHES = {"1x1": (0, 192), "3x3": (192, 396), "5x5": (396, 444), "pool": (444, 508)}


def one_channel(lowest: float, highest: float) -> Callable[..., np.ndarray]:
    """Rows of one channel of energy 1 and, in the others, squares of lowest..highest x Gaussian."""

    def draw(rng: np.random.Generator, shape: int | tuple[int, int]) -> np.ndarray:
        amplitude = lowest * (highest / lowest) ** rng.random(np.atleast_1d(shape)[:-1])
        energy = (amplitude[..., None] * rng.normal(size=shape)) ** 2
        large = rng.integers(energy.shape[-1], size=amplitude.shape)
        np.put_along_axis(energy, large[..., None], 1.0, axis=-1)
        return energy

    return draw


ROWS = {
    "gaussian": lambda rng, shape: rng.normal(size=shape) ** 2,
    "laplace": lambda rng, shape: rng.laplace(size=shape) ** 2,
    "student2": lambda rng, shape: rng.standard_t(2, size=shape) ** 2,
    "cauchy": lambda rng, shape: rng.standard_cauchy(size=shape) ** 2,
    "lognormal": lambda rng, shape: np.exp(4 * rng.normal(size=shape)),
    "few channels": lambda rng, shape: np.where(rng.random(shape) < 0.03, rng.random(shape), 1e-9),
    "two values": lambda rng, shape: np.where(rng.random(shape) < 0.2, 1.0, 0.0),
    # Noise so small that the tolerance of the references below takes it for nothing, too.
    "one channel": one_channel(1e-8, 1e-7),
}
VALID_ROWS = {
    **ROWS,
    "one channel, some noise": one_channel(1e-8, 1e-6),
    "one channel, more noise": one_channel(1e-6, 1e-3),
}


def p_of(energy_C: np.ndarray, m: int, samples: int = 4000) -> float:
    """P-value of a branch that is the first m channels."""
    branches = {"in": (0, m), "out": (m, len(energy_C))}
    return float(concentration_pvalues(energy_C[None], branches, samples=samples).p_NB[0, 0])


def enumerated(energy_C: np.ndarray, m: int) -> float:
    sums = [energy_C[list(s)].sum() for s in itertools.combinations(range(len(energy_C)), m)]
    return float(np.mean(np.array(sums) >= energy_C[:m].sum() * (1 - 1e-12)))


def counted(energy_C: np.ndarray, m: int) -> float:
    """P(sum >= observed) of integer energies by counting subsets by size and sum, all positive."""
    total, size = int(energy_C.sum()), len(energy_C)
    ways = np.zeros((m + 1, total + 1))
    ways[0, 0] = 1.0
    for energy in energy_C.astype(int):
        # Numbers of subsets reach 1e40: float64 keeps them to 1e-16 relative, as all are added.
        ways[1:, energy:] += ways[:-1, : total + 1 - energy].copy()
    return float(ways[m, int(energy_C[:m].sum()) :].sum() / math.comb(size, m))


@pytest.mark.parametrize("name", ROWS)
def test_small_rows_agree_with_enumeration(name: str) -> None:
    rng = np.random.default_rng(1)
    for size, m in [(7, 2), (11, 3), (13, 6), (13, 10), (5, 1)]:
        for _ in range(6):
            energy_C = ROWS[name](rng, size)
            if energy_C.sum() == 0:
                continue
            # Towards the tail in half of the trials: largest channels first.
            if rng.random() < 0.5:
                energy_C = np.sort(energy_C)[::-1] * 1.0
                energy_C[[0, -1]] = energy_C[[-1, 0]]
            exact = enumerated(energy_C, m)
            p = p_of(energy_C, m)
            # Rows this short are sampled (3 % standard error at 4,000 draws) where it matters, and
            # left to the formula where it gives p > 0.25.
            assert p > min(0.5 * exact, SAMPLE_BELOW)
            if p <= SAMPLE_BELOW:
                assert p == pytest.approx(exact, rel=0.25)


@pytest.mark.parametrize("height", [2, 6, 12, 20, 26, 29, 30])
def test_tied_rows_agree_with_the_hypergeometric_law_far_into_the_tail(height: int) -> None:
    # 30 of 200 channels hold all energy, `height` of them in a branch of 40.
    energy_C = np.zeros(200)
    energy_C[:height] = 1.0
    energy_C[40 : 40 + 30 - height] = 1.0
    exact = hypergeom.sf(height - 1, 200, 30, 40)
    if exact > 0.25:
        assert p_of(energy_C, 40) > 0.2
    else:
        # Sampled with 4,000 draws: standard error below 5 %, four of them allowed.
        assert p_of(energy_C, 40) == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("tilt", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("m", [11, 40, 90])
def test_smooth_rows_agree_with_exact_counting_far_into_the_tail(m: int, tilt: float) -> None:
    rng = np.random.default_rng(m)
    energy_C = np.floor(20 * rng.normal(size=120) ** 2)
    weights = np.exp(tilt * energy_C / energy_C.max())
    first = rng.choice(120, size=m, replace=False, p=weights / weights.sum())
    energy_C = np.concatenate([energy_C[first], np.delete(energy_C, first)])
    exact = counted(energy_C, m)
    # The documented accuracy of the formula, and of 4,000 draws where a row is rough.
    assert p_of(energy_C, m) == pytest.approx(exact, rel=0.2)


def test_rows_of_all_kinds_agree_with_many_random_assignments() -> None:
    rng = np.random.default_rng(3)
    size, m, draws = 160, 20, 400_000
    energy_RC = np.stack([draw(rng, size) for draw in ROWS.values() for _ in range(3)])
    hits_R = np.zeros(len(energy_RC))
    for _ in range(10):
        # The m smallest of 160 random keys are a random subset of size m.
        keys = rng.random((draws // 10, size), dtype=np.float32)
        subset = np.argpartition(keys, m, axis=1)[:, :m]
        for r, energy_C in enumerate(energy_RC):
            observed = energy_C[:m].sum() * (1 - 1e-12)
            hits_R[r] += (energy_C[subset].sum(axis=1) >= observed).sum()
    for energy_C, hits in zip(energy_RC, hits_R, strict=True):
        p, estimate, error = p_of(energy_C, m), hits / draws, math.sqrt(hits + 1) / draws
        assert p > min(0.5 * estimate, SAMPLE_BELOW)
        if p <= SAMPLE_BELOW:
            # The documented accuracy and four standard errors of the Monte Carlo estimate.
            assert abs(p - estimate) < 0.2 * estimate + 4 * error


def test_one_channel_rows_have_the_exact_chance_of_their_branch() -> None:
    energy_NC = np.eye(508)[[0, 250, 400, 507]]
    result = concentration_pvalues(energy_NC, BRANCHES)
    assert np.allclose(np.diag(result.p_NB), np.array([192, 204, 48, 64]) / 508, rtol=1e-9)
    assert (result.p_NB[~np.eye(4, dtype=bool)] == 1.0).all()
    assert (result.method_NB == METHODS.index("exact")).all()


def test_the_largest_share_possible_has_the_smallest_p_possible() -> None:
    energy_C = np.sort(np.random.default_rng(0).normal(size=508) ** 2)
    energy_C = np.concatenate([energy_C[:396], energy_C[-48:], energy_C[396:-48]])
    p = concentration_pvalues(energy_C[None], BRANCHES).p_NB[0, 2]
    assert p == pytest.approx(1 / math.comb(508, 48), rel=1e-9)


def test_flat_rows_and_rows_without_energy() -> None:
    result = concentration_pvalues(np.stack([np.ones(508), np.zeros(508)]), BRANCHES)
    assert (result.p_NB[0] == 1.0).all()
    assert np.isnan(result.p_NB[1]).all()
    assert (result.method_NB[1] == METHODS.index("not tested")).all()


@pytest.mark.parametrize("name", VALID_ROWS)
def test_p_values_are_valid_under_the_null(name: str) -> None:
    rng = np.random.default_rng(7)
    count = 500
    p_NB = concentration_pvalues(VALID_ROWS[name](rng, (count, 508)), BRANCHES, samples=200).p_NB
    for level in (0.2, 0.1, 0.05, 0.01, 0.002):
        for j in range(4):
            reached = (p_NB[:, j] <= level).mean()
            # Four standard errors of a binomial share, and the 5 % that the formula may be off.
            assert reached <= 1.05 * level + 4 * math.sqrt(level / count)


def test_p_values_do_not_depend_on_threads_and_depend_on_the_seed_where_sampled() -> None:
    energy_NC = np.random.default_rng(5).standard_cauchy(size=(200, 508)) ** 2
    threads = torch.get_num_threads()
    one = concentration_pvalues(energy_NC, BRANCHES, seed=3, samples=100)
    torch.set_num_threads(1)
    try:
        two = concentration_pvalues(energy_NC, BRANCHES, seed=3, samples=100)
    finally:
        torch.set_num_threads(threads)
    other = concentration_pvalues(energy_NC, BRANCHES, seed=4, samples=100)
    np.testing.assert_array_equal(one.p_NB, two.p_NB)
    np.testing.assert_array_equal(one.method_NB, other.method_NB)
    sampled = one.method_NB == METHODS.index("sampled")
    assert sampled.any()
    assert (one.p_NB[sampled] != other.p_NB[sampled]).any()
    np.testing.assert_array_equal(one.p_NB[~sampled], other.p_NB[~sampled])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_energies_that_are_no_energies_are_refused(bad: float) -> None:
    energy_NC = np.ones((2, 508))
    energy_NC[1, 3] = bad
    with pytest.raises(DataError, match="finite energies"):
        concentration_pvalues(energy_NC, BRANCHES)


def test_permuted_columns_keep_channel_scales_and_find_coincidence() -> None:
    rng = np.random.default_rng(2)
    scales_C = np.where(np.arange(508) < 192, 5.0, 1.0)
    energy_NC = (rng.normal(size=(2000, 508)) * scales_C) ** 2
    found = column_null(energy_NC, BRANCHES, draws=5)
    # Scales alone: every count is the null's expectation within five standard errors.
    assert (np.abs(found.above_BL - found.expected_L) < 5 * np.sqrt(found.expected_L) + 1).all()
    energy_NC[:100, 396:444] *= 30.0
    found = column_null(energy_NC, BRANCHES, draws=5)
    assert found.above_BL[2, 1] >= 90
