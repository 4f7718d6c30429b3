"""Does the branch analysis find planted truth, and only that?"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from isae.analysis.branches.figures import write_figures
from isae.analysis.branches.findings import RELATIVE, find, larger, relative
from isae.analysis.branches.nulls import concentration_pvalues
from isae.analysis.branches.shares import BASES, branch_scores, branch_shares, dominant, energies
from isae.analysis.branches.summary import summarise
from isae.analysis.multiple import benjamini_hochberg
from isae.errors import DataError
from isae.files import write_json

BRANCHES = {"1x1": (0, 192), "3x3": (192, 396), "5x5": (396, 444), "pool": (444, 508)}
C, ALPHA, DICTIONARIES = 508, 0.05, 200
TAILS = {
    "gaussian": lambda rng, shape: rng.normal(size=shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "student2": lambda rng, shape: rng.standard_t(2, size=shape),
}


def planted(rng: np.random.Generator, n: int, part: float, gain: float, draw: object) -> tuple:
    """Decoder rows of which `part` have one branch's entries multiplied by `gain`."""
    W_dec_NC = draw(rng, (n, C))  # type: ignore[operator]
    truth_NB = np.zeros((n, 4), dtype=bool)
    for i in range(round(part * n)):
        j = int(rng.integers(4))
        start, stop = list(BRANCHES.values())[j]
        W_dec_NC[i, start:stop] *= gain
        truth_NB[i, j] = True
    return W_dec_NC / np.linalg.norm(W_dec_NC, axis=1, keepdims=True), truth_NB


# The heavier a row's tails, the more its share moves by chance, and the less can be found.
@pytest.mark.parametrize(
    ("name", "strong"), [("gaussian", 0.95), ("laplace", 0.9), ("student2", 0.5)]
)
def test_planted_concentration_is_found(name: str, strong: float) -> None:
    rng = np.random.default_rng(11)
    std_C, recall = np.ones(C), {}
    for gain in (1.15, 1.5, 3.0):
        found_true, true = 0, 0
        for repeat in range(2):
            W_dec_NC, truth_NB = planted(rng, 120, 0.2, gain, TAILS[name])
            found = find(W_dec_NC, std_C, BRANCHES, alpha=ALPHA, seed=repeat, samples=200)
            found_true += int((found.significant["decoder"] & truth_NB).sum())
            true += int(truth_NB.sum())
        recall[gain] = found_true / true
    assert recall[3.0] > strong
    assert recall[1.15] < recall[1.5] <= recall[3.0]


def false_share(hits: np.ndarray, truth_NB: np.ndarray) -> float:
    """The share of discoveries that are false; without any, 0.

    A feature concentrated in one branch is no more than the null in the others, so everything
    outside the planted pairs is false.
    """
    return float((hits & ~truth_NB).sum() / max(hits.sum(), 1))


def bound(dictionaries: int) -> float:
    """The mean of that many shares in 0..1 whose expectation is ALPHA, and three of its errors.

    A number in 0..1 of mean a has a variance of at most a (1 - a), that of a coin.
    """
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / dictionaries)


@pytest.mark.parametrize("part", [0.0, 0.25])
@pytest.mark.parametrize("name", TAILS)
def test_false_discoveries_of_many_dictionaries_stay_at_the_rate(name: str, part: float) -> None:
    # Without planted features (part 0) any discovery makes the share 1.
    rng, n = np.random.default_rng(13), 12
    dictionaries = [planted(rng, n, part, 2.5, TAILS[name]) for _ in range(DICTIONARIES)]
    p_NB = concentration_pvalues(
        np.concatenate([W_dec_NC for W_dec_NC, _ in dictionaries]) ** 2, BRANCHES, samples=200
    ).p_NB
    hits, false = 0, []
    for (_, truth_NB), part_NB in zip(dictionaries, np.split(p_NB, DICTIONARIES), strict=True):
        found_NB = benjamini_hochberg(part_NB) <= ALPHA
        hits += int((found_NB & truth_NB).sum())
        false.append(false_share(found_NB, truth_NB))
    assert np.mean(false) <= bound(DICTIONARIES)
    assert (hits > 0) == (part > 0)


@pytest.mark.parametrize("part", [0.0, 0.25])
def test_the_joint_correction_keeps_the_rate_with_unequal_channels(part: float) -> None:
    # Channels' deviations differ a lot, without regard for the branches, and anew each time.
    rng, false, hits = np.random.default_rng(31), [], 0
    for repeat in range(DICTIONARIES):
        draw = list(TAILS.values())[repeat % len(TAILS)]
        W_dec_NC, truth_NB = planted(rng, 8, part, 2.5, draw)
        std_C = np.exp(rng.normal(size=C))
        found = find(W_dec_NC, std_C, BRANCHES, alpha=ALPHA, seed=repeat, samples=100)
        both = np.stack([found.significant[basis] for basis in BASES])
        hits += int((both & truth_NB).sum())
        false.append(false_share(both, truth_NB))
    assert np.mean(false) <= bound(DICTIONARIES)
    assert (hits > 0) == (part > 0)


def test_above_the_null_in_both_bases_is_corrected_as_one_claim() -> None:
    """300 features truly above in one basis only, 300 in the other, 15 in both, and noise.

    The two corrected sets have more in common than the 15, most of it false.
    """
    rng, n, false, crossed, hits = np.random.default_rng(5), 2000, [], [], 0
    truth = {basis: np.zeros((n, 1), dtype=bool) for basis in BASES}
    truth["decoder"][:315], truth["spread"][300:615] = True, True
    both_N1 = truth["decoder"] & truth["spread"]
    for _ in range(60):
        shared = rng.normal(size=(n, 1))
        noise = {b: 0.95 * shared + math.sqrt(1 - 0.95**2) * rng.normal(size=(n, 1)) for b in BASES}
        p = {basis: norm.sf(noise[basis] + 4.5 * truth[basis]) for basis in BASES}
        found = benjamini_hochberg(larger(p)) <= ALPHA
        hits += int((found & both_N1).sum())
        false.append(false_share(found, both_N1))
        q = dict(zip(BASES, benjamini_hochberg(np.stack([p[b] for b in BASES])), strict=True))
        crossed.append(false_share(np.logical_and(*(q[b] <= ALPHA for b in BASES)), both_N1))
    assert np.mean(false) <= bound(60)
    assert hits > 0.6 * 60 * both_N1.sum()
    assert np.mean(crossed) > 2 * ALPHA


def test_channel_scales_alone_are_no_discovery_relative_to_the_other_features() -> None:
    rng = np.random.default_rng(17)
    scales_C = np.where(np.arange(C) < 192, 3.0, 1.0)
    found = find(rng.normal(size=(200, C)) * scales_C, np.ones(C), BRANCHES, seed=1, samples=200)
    # All rows load on 1x1, and the exchangeable null says so; the relative basis says why.
    assert found.significant["decoder"][:, 0].mean() > 0.9
    assert found.significant[RELATIVE].sum() <= 3
    assert found.variance_share_B == pytest.approx(np.array([192, 204, 48, 64]) / C)


def test_features_that_stand_out_are_found_relative_to_the_others() -> None:
    rng = np.random.default_rng(19)
    W_dec_NC, truth_NB = planted(rng, 200, 0.1, 3.0, TAILS["gaussian"])
    W_dec_NC = W_dec_NC * np.exp(rng.normal(size=C))
    found = find(W_dec_NC, np.ones(C), BRANCHES, seed=1, samples=200)
    hits = found.significant[RELATIVE]
    assert hits[truth_NB].mean() > 0.9
    assert (hits & ~truth_NB).sum() <= 0.1 * hits.sum() + 3


def test_relative_scores_give_every_channel_the_same_distribution() -> None:
    rng = np.random.default_rng(23)
    energy_NC = rng.normal(size=(99, 7)) ** 2 * np.array([1e-6, 1, 1, 5, 9, 1, 1e6])
    scores_NC = relative(energy_NC)
    for j in range(1, 7):
        np.testing.assert_allclose(np.sort(scores_NC[:, j]), np.sort(scores_NC[:, 0]))


def test_shares_scores_and_dominant_branches_by_hand() -> None:
    branches = {"a": (0, 2), "b": (2, 3)}
    W_dec_NC = np.array([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, -2.0]])
    energy = energies(W_dec_NC, np.array([1.0, 0.5, 2.0]))
    np.testing.assert_allclose(branch_shares(energy["decoder"], branches)[0], [1.0, 0.0])
    np.testing.assert_allclose(branch_shares(energy["decoder"], branches)[2], [0.2, 0.8])
    np.testing.assert_allclose(branch_shares(energy["spread"], branches)[2], [1 / 17, 16 / 17])
    assert np.isnan(branch_shares(energy["decoder"], branches)[1]).all()
    scores_NB = branch_scores(W_dec_NC, branches)
    np.testing.assert_allclose(scores_NB[0], [1.0, 0.0])
    assert np.isnan(scores_NB[1:]).all()
    assert dominant(branch_shares(energy["decoder"], branches)).tolist() == [0, -1, 1]


def test_dead_features_are_measured_but_not_tested() -> None:
    rng = np.random.default_rng(29)
    alive_N = np.arange(40) % 4 != 0
    found = find(rng.normal(size=(40, C)), np.ones(C), BRANCHES, alive_N=alive_N, samples=200)
    assert found.tests == 30 * 4 * 2
    for basis in (*BASES, RELATIVE):
        assert np.isnan(found.q[basis][~alive_N]).all()
        assert np.isfinite(found.q[basis][alive_N]).all()
    assert np.isfinite(found.shares["decoder"]).all()


def test_a_dictionary_without_any_living_feature_has_no_tests() -> None:
    found = find(np.ones((3, C)), np.ones(C), BRANCHES, alive_N=np.zeros(3, dtype=bool))
    assert found.tests == 0
    assert not found.both_NB.any()


@pytest.mark.parametrize(
    ("branches", "words"),
    [
        ({}, "has none"),
        ({"a": (0, 5), "b": (6, C)}, "follow each other"),
        ({"a": (0, 5), "b": (5, 500)}, "cover"),
    ],
)
def test_branches_that_do_not_tile_the_layer_are_refused(branches: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        find(np.ones((2, C)), np.ones(C), branches)


def test_shapes_and_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="standard deviations"):
        find(np.ones((2, C)), np.ones(C - 1), BRANCHES)
    with pytest.raises(DataError, match="finite"):
        find(np.full((2, C), np.nan), np.ones(C), BRANCHES)


@pytest.mark.parametrize(
    ("rows", "alive", "tests"),
    [
        (np.ones((5, C)) * np.arange(C), False, 0),
        (np.zeros((2, C)), True, 0),
        (np.eye(C)[:9], True, 72),
    ],
    ids=["all dead", "no energy", "one channel each"],
)
def test_odd_dictionaries_give_figures_and_valid_json(
    rows: np.ndarray, alive: bool, tests: int, tmp_path: Path
) -> None:
    found = find(rows, np.ones(C), BRANCHES, alive_N=np.full(len(rows), alive), samples=200)
    names = write_figures(found, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * len(names)
    # write_json refuses NaN.
    write_json(tmp_path / "summary.json", summarise(found))
    assert found.tests == tests
