"""Matches, the null of the best match, and branch agreement on made-up layers of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import fisher_exact

from isae.analysis.branches.shares import branch_shares, dominant
from isae.analysis.codes import Codes, codes_from_dense
from isae.analysis.layers.agreement import branch_agreement, halves, tied_matches
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.correlation import Tops
from isae.analysis.layers.image_null import exchangeable, fit_max_null, move_images, shuffle_images
from isae.analysis.layers.inputs import assign_branches, clusters, image_classes
from isae.analysis.layers.matching import (
    METHODS,
    MUTUAL,
    ONE_TO_ONE,
    Matches,
    mutual_nearest,
    one_to_one,
    representatives,
)
from isae.analysis.layers.pairs import (
    Comparison,
    Split,
    compare,
    match_q,
    measures,
    nearest_q,
    shared_places,
)
from isae.errors import DataError

IMAGES, CLASSES, GRID, N, OTHERS = 100, 5, (4, 4), 60, 50
CELLS = GRID[0] * GRID[1]
CONFIG = LayersConfig(least_images=5, resamples=100, shuffles=15)
PLACES_P3 = np.stack(
    np.meshgrid(*map(np.arange, (IMAGES, *GRID)), indexing="ij"), -1
).reshape(-1, 3)  # fmt: skip
CLASS_I = np.arange(IMAGES) % CLASSES
SPLIT = Split(np.arange(IMAGES) < 70, np.arange(IMAGES) >= 70, CLASS_I)


def activity(rng: np.random.Generator, chance: np.ndarray) -> np.ndarray:
    active = rng.random(chance.shape) < chance
    return np.where(active, rng.exponential(size=chance.shape), 0)


def made_up(seed: int, planted: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Activations of two layers [P, N], [P, O].

    Feature j of both likes the same places and the same classes. Of the first `planted` ones, the
    second layer's moreover repeats the first layer's activity at a part `strength` of the places.
    """
    rng = np.random.default_rng(seed)
    cell_P = PLACES_P3[:, 1] * GRID[1] + PLACES_P3[:, 2]
    place_CN, class_KN = rng.normal(size=(CELLS, N)), rng.normal(size=(CLASSES, N))
    liking_PN = 1.5 * place_CN[cell_P] + 1.5 * class_KN[CLASS_I[PLACES_P3[:, 0]]]
    chance_PN = 1 / (1 + np.exp(3.0 - liking_PN))
    a_PN, b_PO = activity(rng, chance_PN), activity(rng, chance_PN[:, :OTHERS])
    repeated_P = rng.random((len(cell_P), planted)) < strength
    b_PO[:, :planted] = np.where(repeated_P, a_PN[:, :planted], b_PO[:, :planted])
    return a_PN, b_PO


def compared(a_PN: np.ndarray, b_PO: np.ndarray, split: Split = SPLIT) -> Comparison:
    one, two = (codes_from_dense(part, PLACES_P3, GRID) for part in (a_PN, b_PO))
    return compare(("a", "b"), "place", one, two, split, CONFIG)


def test_shared_place_and_class_alone_are_not_called_matches() -> None:
    found = [compared(*made_up(seed, 0, 0.0)) for seed in range(8)]
    p = np.concatenate([side.p_N[side.tested_N] for one in found for side in one.nearest])
    assert len(p) > 700
    assert (p <= 0.05).mean() < 0.07
    assert (p <= 0.01).mean() < 0.02
    assert 0.35 < p.mean() < 0.65
    for one in found:
        assert one.classes_kept
        assert one.images == 70
    # One data set in twenty may have a false one; each is corrected for itself here.
    false = [bool((nearest_q([one])[0][0] <= 0.05).any()) for one in found]
    assert sum(false) <= 2
    # The test can fail: with a null that forgets classes far too many p-values are small.
    blind = Split(SPLIT.select_I, SPLIT.score_I, np.zeros(IMAGES, dtype=np.int64))
    loose = compared(*made_up(0, 0, 0.0), blind)
    assert (loose.nearest[0].p_N[loose.nearest[0].tested_N] <= 0.05).mean() > 0.15


def test_planted_pairs_are_found_the_stronger_the_more_and_few_others() -> None:
    recall, false, all_found = {}, 0, 0
    for strength in (0.03, 0.12, 0.5):
        hits = 0
        for seed in (20, 21):
            one = compared(*made_up(seed, 15, strength))
            q_X, matches = match_q([one], MUTUAL)[0], one.matches[MUTUAL]
            found = matches.where(q_X <= 0.05)
            true = (found.first_X == found.second_X) & (found.first_X < 15)
            hits, false, all_found = (
                hits + int(true.sum()), false + int((~true).sum()), all_found + len(found),
            )  # fmt: skip
        recall[strength] = hits / 30
    assert recall[0.5] > 0.95
    assert recall[0.03] < recall[0.12] < recall[0.5]
    assert false <= max(2, 0.1 * all_found)
    # On images that chose nothing r is as large as planted; with images exchanged it is not.
    scores = one.scores[MUTUAL]
    kept = np.flatnonzero(matches.first_X < 15)
    assert np.median(scores.r_X[kept]) > 0.4
    assert (scores.low_X[kept] > scores.shuffled_X[kept]).mean() > 0.9
    nearest = one.nearest[0]
    np.testing.assert_array_equal(nearest.best_N[:15], np.arange(15))
    assert np.isnan(nearest.p_N[~nearest.tested_N]).all()


def test_pairs_are_found_across_grids() -> None:
    rng, fine = np.random.default_rng(5), (8, 8)
    fine_P3 = np.stack(np.meshgrid(*map(np.arange, (IMAGES, *fine)), indexing="ij"), -1)
    a_IYXN = activity(rng, np.full((IMAGES, 8, 8, 12), 0.08))
    quarters = a_IYXN.reshape(IMAGES, 4, 2, 4, 2, 12)
    largest, mean = quarters.max(axis=(2, 4)), quarters.mean(axis=(2, 4))
    b_PO = np.concatenate([largest[..., :6], mean[..., 6:]], axis=-1).reshape(-1, 12)
    one = codes_from_dense(a_IYXN.reshape(-1, 12), fine_P3.reshape(-1, 3), fine)
    two = codes_from_dense(b_PO, PLACES_P3, GRID)
    halves_G2 = np.stack([np.arange(0, 8, 2), np.arange(2, 10, 2)], axis=1)
    wanted = measures(one, two, (halves_G2, halves_G2), (one, two))
    assert list(wanted) == ["max", "mean", "image"]
    for measure, exact in (("max", slice(0, 6)), ("mean", slice(6, 12))):
        found = compare(("a", "b"), measure, *wanted[measure], SPLIT, CONFIG)
        matches = found.matches[MUTUAL]
        np.testing.assert_array_equal(matches.first_X, matches.second_X)
        assert len(matches) == 12
        np.testing.assert_allclose(matches.r_X[exact], 1, atol=1e-6)
        assert (match_q([found], MUTUAL)[0] <= 0.05).all()


def test_duplicates_hang_together_and_count_once() -> None:
    a_PN, b_PO = made_up(30, 15, 0.9)
    rng = np.random.default_rng(6)
    for copy, original in ((15, 0), (16, 0), (17, 1)):
        noise = rng.random(len(a_PN)) < 0.02
        a_PN[:, copy] = np.where(noise, 0, a_PN[:, original])
        b_PO[:, copy] = np.where(noise, 0, b_PO[:, original])
    one, two = (codes_from_dense(part, PLACES_P3, GRID) for part in (a_PN, b_PO))
    (cluster_N, images_N, tested_N), (cluster_O, _, _) = (
        clusters(codes, SPLIT, CONFIG) for codes in (one, two)
    )
    active_IN = (a_PN.reshape(IMAGES, CELLS, N) > 0).any(axis=1)[SPLIT.select_I]
    np.testing.assert_array_equal(images_N, active_IN.sum(axis=0))
    np.testing.assert_array_equal(tested_N, images_N >= CONFIG.least_images)
    for cluster in (cluster_N, cluster_O):
        assert cluster[0] == cluster[15] == cluster[16]
        assert cluster[1] == cluster[17]
        assert len(np.unique(cluster)) == len(cluster) - 3
    found = compare(("a", "b"), "place", one, two, SPLIT, CONFIG)
    matches = found.matches[ONE_TO_ONE]
    assert len(np.unique(matches.first_X)) == len(np.unique(matches.second_X)) == len(matches)
    strong = matches.where(matches.r_X > 0.5)
    assert len(strong) == 18
    once = representatives(strong, cluster_N, cluster_O)
    assert len(once) == 15
    assert len(np.unique(cluster_N[once.first_X])) == 15


def test_the_same_answer_twice_and_nothing_from_silent_features() -> None:
    a_PN, b_PO = made_up(40, 10, 0.5)
    a_PN[:, 3] = 0
    a_PN[16:, 4] = 0  # active on the first image alone
    one, again = compared(a_PN, b_PO), compared(a_PN, b_PO)
    assert not one.nearest[0].tested_N[[3, 4]].any()
    assert (one.nearest[0].best_N[[3, 4]] == -1).all()
    for method in METHODS:
        assert not np.isin(one.matches[method].first_X, [3, 4]).any()
        np.testing.assert_array_equal(one.p[method], again.p[method])
        np.testing.assert_array_equal(one.scores[method].low_X, again.scores[method].low_X)
    assert len(match_q([one, again], MUTUAL)) == 2


def tops_of(r_NO: np.ndarray, keep: int) -> Tops:
    order = np.argsort(-r_NO, axis=1, kind="stable")[:, :keep].astype(np.int32)
    return Tops(np.take_along_axis(r_NO, order, axis=1), order)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_one_to_one_is_the_best_assignment(n: int, o: int, keep: int, seed: int) -> None:
    r_NO = np.random.default_rng(seed).uniform(-1, 1, (n, o))
    forth, back = tops_of(r_NO, min(keep, o)), tops_of(r_NO.T, min(keep, n))
    allowed = np.zeros_like(r_NO, dtype=bool)
    for i, j in np.ndindex(r_NO.shape):
        allowed[i, j] = j in forth.feature_NK[i] and i in back.feature_NK[j] and r_NO[i, j] > 0
    worth = np.where(allowed, r_NO, 0)
    best = worth[linear_sum_assignment(-worth)].sum()
    found = one_to_one(forth, back)
    assert found.r_X.sum() == pytest.approx(best)
    assert allowed[found.first_X, found.second_X].all()
    assert len(set(found.first_X)) == len(set(found.second_X)) == len(found)
    mutual = mutual_nearest(forth, back)
    for i, j in zip(mutual.first_X, mutual.second_X, strict=True):
        assert r_NO[i].argmax() == j
        assert r_NO[:, j].argmax() == i


def test_images_are_exchanged_within_their_class() -> None:
    rng = np.random.default_rng(8)
    class_I = np.array([0, 0, 1, 2, 2, 2, 2, 1, 0, 3])
    classes, chosen_I, kept = exchangeable(class_I, np.ones(10, dtype=bool))
    assert kept
    assert not chosen_I[9]  # alone in its class
    seen, stayed = set(), 0
    for _ in range(40):
        moved_I = move_images(classes, chosen_I, rng)
        assert (moved_I[:9] != np.arange(9)).all()
        shuffled_I = shuffle_images(classes, chosen_I, rng)
        stayed += int((shuffled_I == np.arange(10)).sum())
        for partner_I in (moved_I, shuffled_I):
            assert partner_I[9] == -1
            assert sorted(partner_I[:9]) == list(range(9))
            np.testing.assert_array_equal(class_I[partner_I[:9]], class_I[:9])
        seen.add(tuple(moved_I))
    assert len(seen) > 8  # 2 x 1 x 6 there are
    assert 70 < stayed < 170  # one a class on average
    # Classes of one image each, and one class of all: neither says anything of classes.
    for classes_I in (np.arange(10), np.full(10, 3)):
        alone, every_I, kept = exchangeable(classes_I, np.ones(10, dtype=bool))
        assert not kept
        assert every_I.all()
        assert (alone == 0).all()


@pytest.mark.parametrize("kind", ["gumbel", "normal", "heavy"])
def test_pooled_tails_keep_their_promise(kind: str) -> None:
    """Every feature has its own location and scale; a fresh draw of each is tested."""
    rng, features = np.random.default_rng(9), 30_000
    draw = {
        "gumbel": rng.gumbel,
        "normal": rng.normal,
        "heavy": lambda size: rng.standard_t(4, size),
    }[kind]
    location, scale = rng.normal(size=features), rng.uniform(0.8, 1.25, features)
    largest_SN = location + scale * draw(size=(20, features))
    null = fit_max_null(largest_SN, np.arange(features), np.ones(features, dtype=bool))
    p = null.p(np.arange(features), location + scale * draw(size=features))
    for level in (0.1, 0.01, 0.001):
        chance = np.sqrt(level / features)
        assert 0.6 * level - chance < (p <= level).mean() < 1.3 * level + 3 * chance
    assert (p <= 1e-4).mean() < 4e-4
    far = null.p(np.arange(4), location[:4] + 1e3)
    assert (far < 1e-3).all()
    assert (far > 0).all()
    with pytest.raises(DataError, match="--shuffles"):
        fit_max_null(largest_SN[:4], np.arange(features), np.ones(features, dtype=bool))


def test_a_pool_of_two_humps_is_not_undercut_by_its_smooth_tail() -> None:
    """In a few shuffles a rare feature meets another on one image and its largest r jumps."""
    rng, features = np.random.default_rng(12), 30_000

    def largest(count: int) -> np.ndarray:
        usual = 0.1 + 0.01 * rng.gumbel(size=(count, features))
        met = rng.random((count, features)) < 0.005
        return np.where(met, rng.uniform(0.3, 0.8, (count, features)), usual)

    null = fit_max_null(largest(20), np.arange(features), np.ones(features, dtype=bool))
    p = null.p(np.arange(features), largest(1)[0])
    for level in (0.01, 0.003, 0.001):
        assert (p <= level).mean() < 1.3 * level + 3 * np.sqrt(level / features)


SIZES = np.array([0.35, 0.4, 0.1, 0.15])
NAMES = ("1x1", "3x3", "5x5", "pool")


def labels(rng: np.random.Generator, matches: int, same: float) -> tuple[np.ndarray, np.ndarray]:
    a_X, b_X = (rng.choice(4, matches, p=SIZES) for _ in range(2))
    return a_X, np.where(rng.random(matches) < same, a_X, b_X)


def test_branch_agreement_without_an_effect_and_with_one() -> None:
    rng, p, covered = np.random.default_rng(10), [], 0
    for seed in range(60):
        a_X, b_X = labels(rng, 150, 0.0)
        one = branch_agreement(
            a_X, b_X, np.arange(150), NAMES, seed=seed, draws=200, resamples=100
        )  # fmt: skip
        p.append(one.p_R)
        covered += int(one.low_R[0] <= 0 <= one.high_R[0])
    p_DR = np.array(p)
    assert (p_DR <= 0.05).mean() < 0.08
    assert (p_DR[:, 0] <= 0.05).sum() <= 8
    assert covered >= 51
    # Matches moved to the diagonal until the detectable count is reached are found 4 times of 5.
    a_X, b_X = labels(rng, 300, 0.0)
    clean = branch_agreement(a_X, b_X, a_X, NAMES, seed=0, draws=400, resamples=100)
    for row, branch in ((0, None), (3, 2)):
        found = []
        for _ in range(25):
            dealt_X = rng.permutation(b_X)
            inside = a_X == dealt_X if branch is None else (a_X == branch) & (dealt_X == branch)
            room = np.flatnonzero(~inside if branch is None else ~inside & (a_X == branch))
            wanted = round(clean.detectable_R[row]) - int(inside.sum())
            for x in rng.permutation(room)[: max(wanted, 0)]:
                swap = rng.choice(np.flatnonzero((dealt_X == a_X[x]) & (a_X != a_X[x])))
                dealt_X[[x, swap]] = dealt_X[[swap, x]]
            one = branch_agreement(a_X, dealt_X, a_X, NAMES, seed=0, draws=200, resamples=100)
            found.append(one.p_R[row] <= 0.05)
        assert np.mean(found) > 0.6
        assert clean.detectable_R[row] > clean.expected_R[row]
    power = []
    for same in (0.05, 0.15, 0.5):
        tries = [branch_agreement(*labels(rng, 400, same), np.arange(400), NAMES, seed=0, draws=200,
                                  resamples=100) for _ in range(8)]  # fmt: skip
        power.append(np.mean([one.p_R[0] <= 0.05 for one in tries]))
        assert np.median([one.log_odds_R[0] for one in tries]) > 0
    assert power[0] < power[2] == 1
    assert tries[0].low_R[0] > 0
    assert (tries[0].p_R < 1e-2).all()


def test_the_table_its_expectation_and_exact_tests() -> None:
    rng = np.random.default_rng(11)
    a_X, b_X = labels(rng, 90, 0.3)
    one = branch_agreement(a_X, b_X, np.arange(90), NAMES, seed=0, draws=1000, resamples=100)
    assert one.table_BB.sum() == 90
    assert one.count_R[0] == (a_X == b_X).sum()
    dealt = [np.mean([(a_X == j) & (rng.permutation(b_X) == j) for _ in range(3000)]) * 90
             for j in range(4)]  # fmt: skip
    np.testing.assert_allclose(one.expected_R[1:], dealt, rtol=0.05, atol=0.1)
    for j in range(4):
        inside = one.table_BB[j, j]
        table = [
            [inside, one.table_BB[j].sum() - inside],
            [one.table_BB[:, j].sum() - inside, 0],
        ]
        table[1][1] = 90 - sum(table[0]) - table[1][0]
        assert one.p_R[1 + j] == pytest.approx(fisher_exact(table, "greater").pvalue)
    # The same matches drawn in clusters of ten copies: wider, not narrower, than 900 alone; and
    # no p, as copies are not independent.
    ten = [np.tile(part, 10) for part in (a_X, b_X)]
    tied_X = tied_matches(np.tile(np.arange(90), 10), np.arange(900))
    assert len(np.unique(tied_X)) == 90
    np.testing.assert_array_equal(tied_X, tied_matches(np.arange(900), np.tile(np.arange(90), 10)))
    clustered = branch_agreement(*ten, tied_X, NAMES, seed=0, resamples=300, tested=False)
    alone = branch_agreement(*ten, np.arange(900), NAMES, seed=0, resamples=300)
    assert clustered.high_R[0] - clustered.low_R[0] > 2 * (alone.high_R[0] - alone.low_R[0])
    assert np.isnan(clustered.p_R).all()
    assert np.isnan(clustered.detectable_R).all()


def diffuse_rows(rng: np.random.Generator, branches: dict, diffuse_N: np.ndarray) -> np.ndarray:
    """Decoder rows: spread over all channels, or lying in a branch drawn at random."""
    rows = rng.normal(size=(len(diffuse_N), max(stop for _, stop in branches.values())))
    for n in np.flatnonzero(~diffuse_N):
        start, stop = list(branches.values())[rng.integers(len(branches))]
        rows[n, start:stop] *= 4
    return rows


def test_features_that_agree_in_being_spread_do_not_make_branches_agree() -> None:
    """Spread features match spread ones; branches have nothing to do with it."""
    first = {"1x1": (0, 128), "3x3": (128, 384), "5x5": (384, 448), "pool": (448, 512)}
    second = {"1x1": (0, 112), "3x3": (112, 400), "5x5": (400, 464), "pool": (464, 528)}
    p, loose, lying = [], [], []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        diffuse_N, every_N = rng.random(500) < 0.5, np.ones(500, dtype=bool)
        labels_X, fan_in_X, largest_X = [], [], []
        for branches in (first, second):
            rows_NC = diffuse_rows(rng, branches, diffuse_N)
            branch_N, fan_in_N = assign_branches(rows_NC, branches, every_N, CONFIG)
            labels_X.append(branch_N)
            fan_in_X.append(fan_in_N)
            largest_X.append(dominant(branch_shares(rows_NC**2, branches)))
            assert (branch_N[diffuse_N] >= 0).mean() < 0.1
            assert (branch_N[~diffuse_N] == largest_X[-1][~diffuse_N]).mean() > 0.9
        x = np.flatnonzero((labels_X[0] >= 0) & (labels_X[1] >= 0))
        one = branch_agreement(
            labels_X[0][x], labels_X[1][x], x, NAMES, seed=seed, draws=300, resamples=100,
            stratum_X=halves(fan_in_X[0][x], fan_in_X[1][x]),
        )  # fmt: skip
        blind = branch_agreement(*largest_X, every_N, NAMES, seed=seed, draws=300, resamples=100)
        p.append(one.p_R[0])
        loose.append(blind.p_R[0])
        lying.append(len(x))
    assert min(lying) > 150
    assert min(p) > 0.02
    assert np.median(p) > 0.1
    assert max(loose) < 0.01


def test_what_fan_in_and_activity_make_agree_is_not_called_agreement() -> None:
    """Labels follow activity in both layers, and matches join features of like activity."""
    rng, p, blind = np.random.default_rng(14), [], []
    for seed in range(12):
        active_X = rng.permutation(600) / 600
        a_X, b_X = ((rng.random(600) < 0.2 + 0.6 * (active_X > 0.5)).astype(int) for _ in range(2))
        for stratum_X, kept in ((halves(active_X, active_X), p), (None, blind)):
            one = branch_agreement(
                a_X, b_X, np.arange(600), NAMES[:2], seed=seed, draws=200, resamples=100,
                stratum_X=stratum_X,
            )  # fmt: skip
            kept.append(one.p_R)
    assert (np.array(blind) <= 0.05).all()
    assert (np.array(p) <= 0.05).mean() < 0.2
    # What is left within the strata is still found.
    a_X = rng.integers(2, size=600)
    b_X = np.where(rng.random(600) < 0.3, a_X, rng.integers(2, size=600))
    one = branch_agreement(
        a_X, b_X, np.arange(600), NAMES[:2], seed=0, stratum_X=halves(rng.random(600))
    )  # fmt: skip
    assert (one.p_R < 0.01).all()
    assert (one.low_R > 0).all()
    assert one.strata == 2


def test_agreement_of_nothing_and_of_one_branch_says_nothing() -> None:
    none = np.zeros(0, dtype=np.int64)
    one = branch_agreement(none, none, none, NAMES, seed=0)
    assert np.isnan(one.p_R).all()
    assert np.isnan(one.log_odds_R).all()
    same = np.zeros(20, dtype=np.int64)
    assert np.isnan(branch_agreement(same, same, np.arange(20), NAMES, seed=0).p_R).all()
    assert len(tied_matches(none, none)) == 0
    # Three matches in a branch that the other layer has none in: no effect is made of halves.
    uneven = branch_agreement(same[:3], same[:3] + 1, same[:3], NAMES, seed=0)
    mixed_X = np.arange(20) % 3
    lacking = branch_agreement(np.minimum(mixed_X, 1), mixed_X, np.arange(20), NAMES, seed=0)
    assert np.isnan(uneven.log_odds_R[1:]).all()
    for values_R in (lacking.log_odds_R, lacking.low_R, lacking.p_R):
        np.testing.assert_array_equal(np.isnan(values_R), [False, False, False, True, True])
    with pytest.raises(DataError, match="branch numbers"):
        branch_agreement(same - 1, same, same, NAMES, seed=0)


def test_places_that_images_do_not_share_are_noticed() -> None:
    a_PN, b_PO = made_up(50, 5, 0.5)
    rng = np.random.default_rng(15)
    some_P = np.concatenate([i * CELLS + rng.permutation(CELLS)[:3] for i in range(IMAGES)])
    for kept_P, shared in ((np.arange(len(a_PN)), 1.0), (some_P, 3 / CELLS)):
        codes = [codes_from_dense(part[kept_P], PLACES_P3[kept_P], GRID) for part in (a_PN, b_PO)]
        assert shared_places(*codes, SPLIT, 0) == pytest.approx(shared, abs=0.06)


def test_scores_exchange_with_any_image_of_the_class() -> None:
    """A held-out image alone of its class among held-out ones has mates that were selected on."""
    class_I = np.arange(IMAGES) % 35  # of 30 scoring images no two share a class
    split = Split(SPLIT.select_I, SPLIT.score_I, class_I)
    a_PN, b_PO = made_up(51, 15, 0.6)
    one = compared(a_PN, b_PO, split)
    assert one.classes_kept
    scores, chosen = one.scores[MUTUAL], one.matches[MUTUAL].first_X < 15
    assert np.isfinite(scores.shuffled_X[chosen]).all()
    assert np.median(scores.r_X[chosen]) > 0.4 > np.median(scores.shuffled_X[chosen])
    np.testing.assert_allclose(np.nanmean(scores.r_X), np.median(scores.mean_T), atol=0.1)


def test_q_of_a_pair_does_not_borrow_from_pairs_full_of_matches() -> None:
    full = compared(*made_up(52, 45, 0.9))
    empty = [compared(*made_up(seed, 0, 0.0)) for seed in (53, 54)]
    together = match_q([full, *empty], MUTUAL)
    assert (together[0] <= 0.05).sum() > 25
    for q_X, alone in zip(together[1:], empty, strict=True):
        assert (q_X >= match_q([alone], MUTUAL)[0]).all()


def test_images_without_a_label_are_of_no_class() -> None:
    class_I, labelled = image_classes(["dog", "", None, "cat", "dog", ""])
    assert labelled.tolist() == [True, False, False, True, True, False]
    assert class_I[0] == class_I[4]
    assert len(np.unique(class_I)) == 5
    assert not exchangeable(image_classes([""] * 9)[0], np.ones(9, dtype=bool))[2]


def test_codes_and_matches_know_their_lengths() -> None:
    codes: Codes = codes_from_dense(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64), GRID)
    assert (codes.places, codes.images) == (0, 0)
    empty = Matches(*(np.zeros(0, dtype=np.int64) for _ in range(2)), np.zeros(0))
    assert len(representatives(empty, np.zeros(1), np.zeros(1))) == 0
