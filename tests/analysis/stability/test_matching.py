"""Features found again in other dictionaries: planted truth, the null, labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from isae.analysis.arrays import F64
from isae.analysis.layers.matching import duplicate_clusters
from isae.analysis.stability.agreement import label_agreement, share_interval, times_drawn
from isae.analysis.stability.config import StabilityConfig
from isae.analysis.stability.cosines import top_cosines, unit_rows
from isae.analysis.stability.findings import StabilityFindings, find_stability
from isae.analysis.stability.inputs import Dictionary
from isae.analysis.stability.null import best_null, random_rows
from isae.analysis.stability.summary import clusters_back, summarise
from isae.errors import ConfigError, DataError

CHANNELS = 40
CONFIG = StabilityConfig(resamples=100)


def dictionary(rows_AC: F64, encoder_AC: F64 | None = None) -> Dictionary:
    decoder_AC = unit_rows(torch.from_numpy(rows_AC))
    encoder = decoder_AC if encoder_AC is None else unit_rows(torch.from_numpy(encoder_AC))
    inside = top_cosines(decoder_AC, decoder_AC, 8, same=True)
    count = len(rows_AC)
    return Dictionary(
        run=Path("run"), seed=0, features=count, feature_A=np.arange(count),
        decoder_AC=decoder_AC, encoder_AC=encoder, fired_A=np.arange(1, count + 1),
        rows_read=1000, activity_from="made up", cluster_A=duplicate_clusters(inside, 0.9),
        neighbour_A=inside.r_NK[:, 0], labels={},
    )  # fmt: skip


class Population:
    """Rows of a few large entries, with correlated channels of unequal size and a common mean."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        mixing = rng.normal(size=(CHANNELS, CHANNELS)) * np.geomspace(1, 0.2, CHANNELS)
        values, vectors = np.linalg.eigh(mixing @ mixing.T)
        self.root = (vectors * np.sqrt(values)) @ vectors.T

    def rows(self, count: int) -> F64:
        return 0.5 + self.rng.standard_t(4, size=(count, CHANNELS)) @ self.root

    def noisy(self, rows: F64, cosine: float) -> F64:
        """Rows at about this cosine from the given ones."""
        noise = self.rng.normal(size=rows.shape)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        noise -= (noise * unit).sum(axis=1, keepdims=True) * unit
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        return np.asarray(cosine * unit + np.sqrt(1 - cosine**2) * noise)


def test_partners_are_those_of_the_whole_matrix() -> None:
    rng = np.random.default_rng(0)
    one = unit_rows(torch.from_numpy(rng.normal(size=(2101, 5))))
    two = unit_rows(torch.from_numpy(np.concatenate([rng.normal(size=(6, 5)), np.zeros((1, 5))])))
    whole = one.astype(np.float64) @ two.astype(np.float64).T
    found = top_cosines(one, two, 9)
    np.testing.assert_allclose(found.r_NK[:, :7], -np.sort(-whole, axis=1), atol=1e-6)
    assert (found.feature_NK[:, 7:] == -1).all()
    picked = np.take_along_axis(whole, found.feature_NK[:, :7].astype(np.int64), axis=1)
    np.testing.assert_allclose(picked, found.r_NK[:, :7], atol=1e-6)
    inside = top_cosines(two, two, 3, same=True)
    own = two.astype(np.float64) @ two.astype(np.float64).T
    np.fill_diagonal(own, -2)
    np.testing.assert_allclose(inside.r_NK, -np.sort(-own, axis=1)[:, :3], atol=1e-6)
    assert (inside.feature_NK != np.arange(7)[:, None]).all()
    alone = top_cosines(two[:1], two[:1], 2, same=True)
    assert (alone.feature_NK == -1).all()
    with pytest.raises(DataError, match="finite"):
        unit_rows(torch.tensor([[1.0, float("nan")]]))


def planted(seed: int, shared: int, widths: tuple[int, ...], cosine: float) -> StabilityFindings:
    """Dictionaries whose first `shared` rows are noisy copies of the same rows."""
    population = Population(np.random.default_rng(seed))
    common = population.rows(shared)
    return find_stability(
        [
            dictionary(
                np.concatenate([population.noisy(common, cosine), population.rows(width - shared)])
            )
            for width in widths
        ],
        CONFIG,
    )


def test_planted_features_come_back_and_the_rest_does_not() -> None:
    """Cosine of two noisy copies: about 0.97^2 = 0.94."""
    shared, false_found, found, false_null, above_null = 120, 0, 0, 0, 0
    for seed in range(2):
        findings = planted(seed, shared, (400, 300, 500), 0.97)
        for number, mine in enumerate(findings.dictionaries):
            back_A = findings.comes_back[number]
            assert back_A[:shared].mean() > 0.95
            found += int(back_A.sum())
            false_found += int(back_A[shared:].sum())
            above_A = findings.q_every[number] <= CONFIG.alpha
            above_null += int(above_A.sum())
            false_null += int(above_A[shared:].sum())
            assert len(mine) == (400, 300, 500)[number]
        for each in findings.directions:
            partners = each.partner_A[:shared]
            assert (partners == np.arange(shared)).mean() > 0.9
            assert each.mutual_A[:shared].mean() > 0.9
    assert false_null / above_null <= CONFIG.alpha
    assert false_found / found <= CONFIG.alpha
    assert found > 2 * 3 * 0.95 * shared


def test_p_values_of_unrelated_dictionaries_are_not_too_small() -> None:
    p = []
    for seed in range(3):
        findings = planted(seed, 0, (400, 500), 1.0)
        p += [each.nearest["decoder"].p_A for each in findings.directions]
        assert not any(back_A.any() for back_A in findings.comes_back)
        assert sum(int((q_A <= CONFIG.alpha).sum()) for q_A in findings.q["decoder"]) <= 2
    p_A = np.concatenate(p)
    # 2,700 p-values, those against one dictionary not independent: twice the binomial's room.
    for level in (0.5, 0.05, 0.01, 0.001):
        room = 6 * np.sqrt(level / len(p_A))
        assert (p_A <= level).mean() <= level + room
    assert (p_A <= 0.5).mean() > 0.4


def test_random_dictionaries_keep_moments_and_concentration() -> None:
    rows = Population(np.random.default_rng(5)).rows(4000)
    unit = unit_rows(torch.from_numpy(rows))
    source = random_rows(unit)
    drawn = np.concatenate(list(source.parts(4, np.random.default_rng(6))))
    assert drawn.shape == (16000, CHANNELS)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-6)
    covariance = np.cov(unit, rowvar=False)
    distance = np.linalg.norm(np.cov(drawn, rowvar=False) - covariance)
    assert distance < 0.15 * np.linalg.norm(covariance)
    np.testing.assert_allclose(drawn.mean(axis=0), unit.mean(axis=0), atol=0.02)
    fourth = [(one.astype(np.float64) ** 4).sum(axis=1).mean() for one in (unit, drawn)]
    assert fourth[1] == pytest.approx(fourth[0], rel=0.1)
    # Where every channel has its own feature, a random dictionary meets every one of them.
    channels = unit_rows(torch.eye(CHANNELS).repeat(20, 1))
    null = best_null(channels, random_rows(channels), 2, np.random.default_rng(7))
    assert null.p(np.full(len(channels), 0.99)).min() > 0.05
    assert null.largest_DN.min() > 0.99


def test_a_dictionary_comes_back_whole_in_itself() -> None:
    population = Population(np.random.default_rng(8))
    mine = dictionary(population.rows(300), population.rows(300))
    findings = find_stability([mine, mine], CONFIG)
    for each in findings.directions:
        for near in each.nearest.values():
            np.testing.assert_allclose(near.cosine_A, 1, atol=1e-12)
            np.testing.assert_array_equal(near.best_A, np.arange(300))
        np.testing.assert_array_equal(each.partner_A, np.arange(300))
        np.testing.assert_allclose(each.partner_encoder_A, 1, atol=1e-12)
        assert each.mutual_A.all()
    assert all(back_A.all() for back_A in findings.comes_back)
    summary = summarise(findings)
    assert [one["share"] for one in summary["runs"]] == [1.0, 1.0]
    assert summary["over_runs"]["share"] == {"mean": 1, "sd": 0, "min": 1, "max": 1, "n": 2}


def test_copies_of_one_feature_count_once() -> None:
    population = Population(np.random.default_rng(9))
    shared = population.rows(1)
    one = np.concatenate(
        [population.noisy(np.repeat(shared, 50, axis=0), 0.99), population.rows(200)]
    )
    two = np.concatenate([shared, population.rows(200)])
    findings = find_stability([dictionary(one), dictionary(two)], CONFIG)
    back_A, mine = findings.comes_back[0], findings.dictionaries[0]
    assert back_A[:50].all()
    assert len(np.unique(mine.cluster_A[:50])) == 1
    assert len(clusters_back(mine.cluster_A, back_A)) == 1 + back_A[50:].sum()
    assert summarise(findings)["runs"][0]["clusters_come_back"] < 5
    # Of fifty copies one has the partner to itself.
    assert (findings.directions[0].partner_A[:50] == 0).sum() == 1


def test_kappa_and_its_interval() -> None:
    rng = np.random.default_rng(10)
    one = np.array(["a"] * 25 + ["b"] * 25, dtype=object)
    two = np.array(["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15, dtype=object)
    cluster = np.arange(50)
    found = label_agreement(one, two, cluster, resamples=500, rng=rng)
    assert (found.matches, found.observed) == (50, 0.7)
    assert found.expected == pytest.approx(0.5)
    assert found.kappa == pytest.approx(0.4)
    assert 0.05 < found.low < 0.25 < 0.55 < found.high < 0.75
    # Ten matches of one cluster are one observation: the interval is wider.
    joined = label_agreement(one, two, cluster // 5, resamples=500, rng=rng)
    assert joined.kappa == found.kappa
    assert joined.high - joined.low > 1.3 * (found.high - found.low)
    covered = 0
    for _ in range(40):
        labels = rng.choice(["a", "b", "c"], size=(2, 100)).astype(object)
        chance = label_agreement(labels[0], labels[1], np.arange(100), resamples=100, rng=rng)
        covered += chance.low <= 0 <= chance.high
    assert covered >= 34
    assert label_agreement(one, one, cluster, resamples=100, rng=rng).kappa == 1
    same = label_agreement(one[:5], one[:5], cluster[:5], resamples=100, rng=rng)
    assert np.isnan([same.kappa, same.low]).all()
    assert label_agreement(one[:0], one[:0], cluster[:0], resamples=100, rng=rng).matches == 0
    low, high = share_interval(one == "a", cluster, resamples=300, rng=rng)
    assert 0.3 < low < 0.45 < 0.55 < high < 0.7


@pytest.mark.parametrize(
    "option",
    [{"alpha": 0.0}, {"threshold": 1.5}, {"duplicate_cosine": 0.0}, {"dictionaries": 0},
     {"candidates": 0}, {"max_rows": 0}],
)  # fmt: skip
def test_options_out_of_range_are_refused(option: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        StabilityConfig(**option)


def test_times_drawn_have_the_multinomial_law() -> None:
    rng = np.random.default_rng(3)
    count, draws = 7, 20_000
    times_TG = times_drawn(count, draws, rng)
    assert (times_TG.sum(axis=1) == count).all()
    # Each is binomial (7, 1/7); two of a draw go together by -1/7. Bounds: five standard errors.
    mean_G, error = times_TG.mean(axis=0), np.sqrt(6 / 7 / draws)
    np.testing.assert_allclose(mean_G, 1.0, atol=5 * error)
    covariance = np.cov(times_TG, rowvar=False)
    expected = np.eye(count) - 1 / count
    np.testing.assert_allclose(covariance, expected, atol=5 * np.sqrt(3 / draws))
    zero = (times_TG == 0).mean()
    chance = (6 / 7) ** 7
    assert abs(zero - chance) < 5 * np.sqrt(chance * (1 - chance) / draws)
