"""Reference dictionaries, clusters of near-duplicates, effect sizes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from isae.analysis.branches.dictionaries import (
    gaussian_rows,
    nmf_parts,
    principal,
    random_rotation,
    reference_dictionaries,
)
from isae.analysis.branches.effects import effect_sizes
from isae.analysis.branches.findings import Findings, find
from isae.analysis.branches.references import difference, of_findings, put_to_test, stopped_at
from isae.analysis.branches.resampling import alike_clusters, cluster_draws
from isae.analysis.branches.shares import branch_shares

BRANCHES = {"1x1": (0, 40), "3x3": (40, 84), "5x5": (84, 100), "pool": (100, 120)}
C, N = 120, 300
ONES = np.ones(C)


def planted(rng: np.random.Generator, part: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """(unit rows of which `part` lie mostly in 5x5, whether each does)."""
    rows_NC = rng.normal(size=(N, C))
    truth_N = np.arange(N) < part * N
    rows_NC[truth_N, 84:100] *= 4.0
    return rows_NC / np.linalg.norm(rows_NC, axis=1, keepdims=True), truth_N


@pytest.fixture(scope="module")
def activations() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = np.abs(rng.normal(size=(900, 12))) @ np.abs(rng.normal(size=(12, C)))
    return (mixed + 0.1 * rng.random((900, C))).astype(np.float32)


def test_each_dictionary_keeps_what_its_name_says(activations: np.ndarray) -> None:
    rows_NC, _ = planted(np.random.default_rng(1))
    found = reference_dictionaries(rows_NC, activations, BRANCHES, count=N, seed=3)
    assert {name: len(one) for name, one in found.items()} == {
        "gaussian": N, "rotated within": N, "rotated": N, "pca": C, "nmf": C, "neurons": C
    }  # fmt: skip
    for one in found.values():
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1.0)
    np.testing.assert_allclose(
        np.sort(branch_shares(found["rotated within"] ** 2, BRANCHES), axis=0),
        np.sort(branch_shares(rows_NC**2, BRANCHES), axis=0),
        atol=1e-9,
    )
    np.testing.assert_allclose(found["rotated"] @ found["rotated"].T, rows_NC @ rows_NC.T)
    np.testing.assert_allclose(found["pca"] @ found["pca"].T, np.eye(C), atol=1e-9)
    first = found["pca"][0]
    variance = np.cov(activations, rowvar=False).astype(float)
    assert first @ variance @ first == pytest.approx(np.linalg.eigvalsh(variance)[-1], rel=1e-6)
    assert (found["nmf"] >= 0).all()
    again = reference_dictionaries(rows_NC, activations, BRANCHES, count=N, seed=3)
    for name, one in found.items():
        np.testing.assert_array_equal(one, again[name])


def test_gaussian_rows_have_the_covariance_of_the_activations(activations: np.ndarray) -> None:
    drawn = gaussian_rows(*principal(activations), 10_000, np.random.default_rng(1))
    ours, theirs = np.cov(drawn, rowvar=False), np.cov(activations, rowvar=False)
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)


def test_a_rotation_is_orthogonal_and_nmf_finds_planted_parts() -> None:
    rng = np.random.default_rng(2)
    turn = random_rotation(17, rng)
    np.testing.assert_allclose(turn @ turn.T, np.eye(17), atol=1e-12)
    parts = np.zeros((6, C))
    for i in range(6):
        parts[i, 20 * i : 20 * i + 20] = rng.random(20) + 0.5
    rows = (rng.exponential(size=(500, 6)) @ parts).astype(np.float32)
    found = nmf_parts(rows, 6, seed=1, steps=200)
    cosine = (found / np.linalg.norm(found, axis=1, keepdims=True)) @ (
        parts / np.linalg.norm(parts, axis=1, keepdims=True)
    ).T
    assert cosine.max(axis=0).min() > 0.97


def test_the_same_test_finds_planted_rows_and_no_rotated_ones(activations: np.ndarray) -> None:
    rows_NC, truth_N = planted(np.random.default_rng(4))
    findings = find(rows_NC, ONES, BRANCHES, samples=200)
    sae = of_findings(findings)
    assert sae.both_NB[truth_N, 2].mean() > 0.95
    assert (sae.both_NB[~truth_N].sum() + sae.both_NB[truth_N][:, [0, 1, 3]].sum()) <= 10
    cut = stopped_at(findings)
    assert 0 < cut <= 0.05
    dictionaries = reference_dictionaries(rows_NC, activations, BRANCHES, count=N, seed=5)
    lines = {
        name: put_to_test(
            one, ONES, BRANCHES, alpha=0.05, seed=0, samples=200, stream=name
        ).line(list(BRANCHES), cut)
        for name, one in dictionaries.items()
    }  # fmt: skip
    # A rotation within branches leaves shares alone: what is planted stays.
    within = lines["rotated within"]["branches"]["5x5"]
    assert within["rows_significant"] == pytest.approx(truth_N.mean(), abs=0.03)
    # Across branches nothing is planted any more; one channel a row can never be significant.
    assert lines["rotated"]["rows_significant"] <= 0.02
    assert lines["rotated"]["branches"]["5x5"]["rows_below_the_saes_p"] <= 3 * cut + 0.02
    assert lines["neurons"]["rows_significant"] == 0
    assert lines["rotated"]["branches"]["5x5"]["mean_share"] == pytest.approx(16 / C, abs=0.01)


def findings_of(rows_NC: np.ndarray, alive_N: np.ndarray | None = None) -> Findings:
    return find(rows_NC, ONES, BRANCHES, alive_N=alive_N, samples=100)


def test_the_difference_to_another_dictionary_is_found_with_its_interval() -> None:
    rng = np.random.default_rng(6)
    rows_NC, _ = planted(rng)
    plain_NC = rng.normal(size=(N, C))
    other = put_to_test(plain_NC, ONES, BRANCHES, alpha=0.05, seed=0, samples=100, stream="other")
    found = difference(findings_of(rows_NC), other, rows_NC, plain_NC, 0.9, 200)
    five = found["mean_share"]["5x5"]
    assert five["interval_95"][0] > 0.1
    assert five["interval_95"][0] < five["difference"] < five["interval_95"][1]
    assert found["rows_significant"]["5x5"]["interval_95"][0] > 0.2
    low, high = difference(findings_of(plain_NC), other, plain_NC, plain_NC, 0.9, 200)[
        "mean_share"
    ]["5x5"]["interval_95"]
    assert low < 0 < high


def test_clusters_are_the_connected_rows_whatever_the_block() -> None:
    rng = np.random.default_rng(8)
    centre_KC = rng.normal(size=(40, C))
    member = rng.integers(40, size=1300)
    # Copies at all distances around the limit, so that chains appear.
    rows_NC = centre_KC[member] + rng.uniform(0, 0.8, size=(1300, 1)) * rng.normal(size=(1300, C))
    alive_N = rng.random(1300) < 0.9
    found_N = alike_clusters(rows_NC, alive_N, 0.8)
    unit_NC = rows_NC[alive_N] / np.linalg.norm(rows_NC[alive_N], axis=1, keepdims=True)
    count, expected = connected_components(unit_NC @ unit_NC.T >= 0.8, directed=False)
    assert (found_N[~alive_N] == -1).all()
    assert 40 <= count < alive_N.sum() - 100
    pairs = np.unique(np.stack([found_N[alive_N], expected]), axis=1)
    assert pairs.shape[1] == count == found_N.max() + 1


def test_effect_sizes_and_their_intervals_count_near_duplicates_once() -> None:
    rng = np.random.default_rng(9)
    rows_NC, truth_N = planted(rng, part=0.2)
    alone = effect_sizes(findings_of(rows_NC), rows_NC, least=0.9, resamples=400, seed=0)
    assert alone.clusters == N
    copied_NC = np.repeat(rows_NC, 5, axis=0) + 1e-3 * rng.normal(size=(5 * N, C))
    many = effect_sizes(findings_of(copied_NC), copied_NC, least=0.9, resamples=400, seed=0)
    assert many.clusters == N
    assert many.clusters_above_B[2] == pytest.approx(truth_N.sum(), abs=4)
    one, other = alone.branch(2)["decoder"], many.branch(2)["decoder"]
    chance = 16 / C
    shares_NB = branch_shares(rows_NC**2, BRANCHES)
    assert one["mean_excess"] == pytest.approx(shares_NB[:, 2].mean() - chance)
    assert other["mean_excess"] == pytest.approx(one["mean_excess"], abs=2e-3)
    # Five copies of each row make no interval narrower.
    width = [high - low for low, high in (one["interval_95"], other["interval_95"])]
    assert width[1] == pytest.approx(width[0], rel=0.25)
    assert one["interval_95"][0] > 0


def test_means_over_clusters_have_the_right_spread() -> None:
    # Of 2,000 features in clusters of four equal ones the mean has the deviation of 500 numbers.
    rng = np.random.default_rng(10)
    value_N1 = np.repeat(rng.normal(size=500), 4)[:, None]
    draws_T1 = cluster_draws(value_N1, np.repeat(np.arange(500), 4), 2000, 0)
    assert draws_T1.std() == pytest.approx(1 / np.sqrt(500), rel=0.15)
    assert np.isnan(cluster_draws(value_N1, np.full(2000, -1), 3, 0)).all()
