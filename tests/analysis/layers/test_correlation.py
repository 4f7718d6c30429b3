"""Correlations of sparse codes against dense float64 ones; pooling; intervals over images."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from isae.analysis.codes import MAX, MEAN, Codes, Room, codes_from_dense, pool_codes
from isae.analysis.layers.correlation import identity, inverse, score, top_correlations
from isae.analysis.layers.image_null import shuffle_images
from isae.analysis.layers.windows import pool_windows
from isae.errors import DataError
from isae.inception import layer_table

IMAGES, GRID = 14, (3, 5)


def places_of(images: int, grid: tuple[int, int]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, (images, *grid)), indexing="ij"), -1).reshape(-1, 3)


def sparse(rng: np.random.Generator, places: int, features: int) -> np.ndarray:
    active = rng.random((places, features)) < 0.25
    return np.where(active, rng.exponential(size=active.shape), 0).astype(np.float32)


def dense_r(a_PN: np.ndarray, b_PO: np.ndarray) -> np.ndarray:
    whole = np.concatenate([a_PN, b_PO], axis=1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(whole.T)[: a_PN.shape[1], a_PN.shape[1] :]


def test_the_best_partners_are_those_of_the_dense_matrix() -> None:
    rng, place_P3 = np.random.default_rng(0), places_of(IMAGES, GRID)
    a_PN, b_PO = sparse(rng, len(place_P3), 13), sparse(rng, len(place_P3), 9)
    a_PN[:, 4] = 0
    b_PO[:, 7] = 2.5  # constant: no correlation
    a_PN[:, 11] = a_PN[:, 2]  # an exact duplicate: equal r, the lower number first
    order = rng.permutation(len(place_P3))
    one = codes_from_dense(a_PN[order], place_P3[order], GRID)
    two = codes_from_dense(b_PO, place_P3, GRID)
    wanted_N, wanted_O = np.ones(13, dtype=bool), np.ones(9, dtype=bool)
    wanted_O[1] = False
    chosen_I = np.arange(IMAGES) % 3 > 0
    exchanged_I = shuffle_images(np.arange(IMAGES) % 2, chosen_I, rng)
    for image_I in (identity(IMAGES, chosen_I), exchanged_I):
        forth = top_correlations(one, two, image_I, 4, wanted_N, wanted_O)
        back = top_correlations(two, one, inverse(image_I), 13, wanted_O, wanted_N)
        kept_P = image_I[place_P3[:, 0]] >= 0
        partner_P = image_I[place_P3[kept_P, 0]] * 15 + np.flatnonzero(kept_P) % 15
        r_NO = dense_r(a_PN[kept_P], b_PO[partner_P])
        r_NO[:, [1, 7]], r_NO[4] = -2, -2
        np.testing.assert_allclose(forth.r_NK, -np.sort(-r_NO, axis=1)[:, :4], atol=1e-12)
        for i, j in np.ndindex(forth.r_NK.shape):
            if forth.feature_NK[i, j] >= 0:
                assert r_NO[i, forth.feature_NK[i, j]] == pytest.approx(forth.r_NK[i, j])
        assert (forth.feature_NK[4] == -1).all()
        assert (back.feature_NK[[1, 7]] == -1).all()
        for row in back.feature_NK:
            assert 11 not in row or list(row).index(2) < list(row).index(11)
    # Seen from both sides r is the same number to the last bit, so best partners can be compared.
    image_I = identity(IMAGES, chosen_I)
    forth = top_correlations(one, two, image_I, 9, wanted_N, wanted_O)
    back = top_correlations(two, one, image_I, 13, wanted_O, wanted_N)
    both = {
        (j, i): r for j in range(9) for i, r in zip(back.feature_NK[j], back.r_NK[j], strict=True)
    }
    for i, j in np.ndindex(forth.r_NK.shape):
        if forth.feature_NK[i, j] >= 0:
            assert both[forth.feature_NK[i, j], i] == forth.r_NK[i, j]


@pytest.mark.parametrize("keep", [1, 3, 400])
def test_rare_features_get_the_same_partners(keep: int) -> None:
    # Most features meet few of 400 others: those alone are looked at, unless more are to be kept.
    rng, place_P3 = np.random.default_rng(3), places_of(IMAGES, GRID)
    chances = [np.where(np.arange(n) % 7 == 0, 0.2, 0.012) for n in (60, 400)]
    a_PN, b_PO = (
        np.where(rng.random((len(place_P3), len(p_N))) < p_N, 0.5 + rng.random(len(p_N)), 0)
        for p_N in chances
    )
    b_PO[:, 30] = b_PO[:, 20]
    one, two = (codes_from_dense(x.astype(np.float32), place_P3, GRID) for x in (a_PN, b_PO))
    wanted_N, wanted_O = (np.arange(n) % 11 > 0 for n in (60, 400))
    together_I = identity(IMAGES, np.ones(IMAGES, dtype=bool))
    tops = top_correlations(one, two, together_I, keep, wanted_N, wanted_O)
    r_NO = dense_r(a_PN.astype(np.float32), b_PO.astype(np.float32))
    r_NO = np.where(np.isfinite(r_NO) & wanted_N[:, None] & wanted_O, r_NO, -2)
    products_N = (a_PN > 0).T.astype(int) @ (b_PO > 0).sum(axis=1)
    rare_N = (4 * products_N < 400) & (products_N > 0) & wanted_N
    assert 10 < rare_N.sum() < 50
    np.testing.assert_allclose(tops.r_NK, -np.sort(-r_NO, axis=1)[:, :keep], atol=1e-12)
    for i, k in np.argwhere(tops.feature_NK >= 0):
        assert r_NO[i, tops.feature_NK[i, k]] == pytest.approx(tops.r_NK[i, k], abs=1e-12)
    for row in tops.feature_NK:
        assert len(set(row[row >= 0])) == (row >= 0).sum()
        assert 30 not in row or list(row).index(20) < list(row).index(30)
    if keep == 400:
        assert (tops.r_NK[rare_N] < 0).any()


def in_other_form(codes: Codes, silent: int) -> Codes:
    """The same codes: each place's entries turned round, and `silent` entries of 0 behind them."""
    feature_E, value_E, start = [], [], [0]
    for begin, end in pairwise(codes.start_Q.tolist()):
        turned = slice(begin, end)
        feature_E += [*codes.feature_E[turned][::-1], *(np.arange(silent) % codes.features)]
        value_E += [*codes.value_E[turned][::-1], *np.zeros(silent)]
        start.append(len(feature_E))
    return replace(
        codes,
        start_Q=np.array(start, np.int64),
        feature_E=np.array(feature_E, np.int32),
        value_E=np.array(value_E, np.float32),
    )


@pytest.mark.parametrize("keep", [1, 3, 150])
@pytest.mark.parametrize("same_layer", [False, True])
def test_looking_at_all_sums_gives_the_same_bits(keep: int, same_layer: bool) -> None:
    # Silent entries count as products, so that no feature seems rare; they change no sum.
    rng, place_P3 = np.random.default_rng(5), places_of(IMAGES, GRID)
    a_PN = rng.integers(1, 3, (len(place_P3), 150)) * (rng.random((len(place_P3), 150)) < 0.015)
    a_PN[:, 100] = a_PN[:, 7]
    one = codes_from_dense(a_PN.astype(np.float32), place_P3, GRID)
    few, many = in_other_form(one, 0), in_other_form(one, 600)
    order = rng.permutation(150)
    b_PN = a_PN[:, order]
    two = one if same_layer else codes_from_dense(b_PN.astype(np.float32), place_P3, GRID)
    image_I = identity(IMAGES, np.arange(IMAGES) % 5 > 0)
    wanted_N = np.arange(150) % 11 > 0
    pairs = [(few, few), (many, many)] if same_layer else [
        (few, in_other_form(two, 0)), (many, in_other_form(two, 600))]  # fmt: skip
    rare, common = (
        top_correlations(*pair, image_I, keep, wanted_N, wanted_N, same_layer=same_layer)
        for pair in pairs
    )
    np.testing.assert_array_equal(rare.r_NK, common.r_NK)
    np.testing.assert_array_equal(rare.feature_NK, common.feature_NK)
    for row, r in zip(rare.feature_NK, rare.r_NK, strict=True):
        kept = np.flatnonzero(row >= 0)
        assert (np.lexsort((row[kept], -r[kept])) == np.arange(len(kept))).all()  # ties: the lower


def test_a_feature_is_not_its_own_partner_within_a_layer() -> None:
    rng, place_P3 = np.random.default_rng(1), places_of(IMAGES, GRID)
    a_PN = sparse(rng, len(place_P3), 6)
    a_PN[:, 5] = 2 * a_PN[:, 0]
    codes, every = codes_from_dense(a_PN, place_P3, GRID), np.ones(6, dtype=bool)
    image_I = identity(IMAGES, np.ones(IMAGES, dtype=bool))
    tops = top_correlations(codes, codes, image_I, 1, every, every, same_layer=True)
    assert tops.feature_NK[0, 0] == 5
    assert tops.r_NK[0, 0] == pytest.approx(1)
    assert (tops.feature_NK[:, 0] != np.arange(6)).all()


WINDOWS = (  # of pools of size 3 and stride 2 over 7 and 5 cells; the ends lie outside
    np.array([[-1, 2], [1, 4], [3, 6], [5, 8]]),
    np.array([[-1, 2], [1, 4], [3, 6]]),
)


def pooled_by_hand(value_PN: np.ndarray, place_P3: np.ndarray, how: str) -> dict:
    groups: dict[tuple, list] = {}
    for place, row in zip(place_P3, value_PN.astype(np.float64), strict=True):
        for y, (top, bottom) in enumerate(WINDOWS[0]):
            for x, (left, right) in enumerate(WINDOWS[1]):
                if top <= place[1] < bottom and left <= place[2] < right:
                    groups.setdefault((place[0], y * 3 + x), []).append(row)
    return {key: getattr(np, how)(rows, axis=0) for key, rows in groups.items()}


def unfold(codes: Codes) -> dict:
    found = {}
    for p in range(codes.places):
        row, span = np.zeros(codes.features), slice(codes.start_Q[p], codes.start_Q[p + 1])
        np.add.at(row, codes.feature_E[span], codes.value_E[span])
        found[int(codes.image_P[p]), int(codes.cell_P[p])] = row
    return found


@pytest.mark.parametrize("how", [MAX, MEAN])
def test_coarser_cells_hold_the_maximum_or_mean_of_the_finer_ones(how: str, tmp_path: Path) -> None:
    rng, place_P3 = np.random.default_rng(2), places_of(4, (7, 5))
    place_P3 = place_P3[rng.random(len(place_P3)) < 0.7]  # not every place is stored
    value_PN = sparse(rng, len(place_P3), 11)
    codes = codes_from_dense(value_PN, place_P3, (7, 5))
    room = Room(tmp_path)
    filed = Codes(**{**vars(codes), "room": room})
    expected = pooled_by_hand(value_PN, place_P3, how)
    for held in (codes, filed):
        pooled = unfold(pool_codes(held, (4, 3), WINDOWS, how))
        assert list(pooled) == sorted(expected)
        for key, row in expected.items():
            np.testing.assert_allclose(pooled[key], row, rtol=1e-6)
    profile = unfold(pool_codes(codes, (1, 1), None, MAX))
    for image in range(4):
        highest = value_PN[place_P3[:, 0] == image].max(axis=0)
        np.testing.assert_array_equal(profile[image, 0], highest)


def test_a_room_gives_its_files_back_and_says_when_the_disk_is_full(tmp_path: Path) -> None:
    room = Room(tmp_path)
    inner = room.beside("pair")
    held = inner.empty(1000, np.float32)
    held[:] = 7
    assert [path.stat().st_size for path in (tmp_path / "pair").iterdir()] == [4000]
    inner.clear()
    assert not (tmp_path / "pair").exists()
    assert held.sum() == 7000
    with pytest.raises(DataError, match="--max-images"):
        room.empty(1 << 58, np.float64)


@pytest.mark.parametrize(
    ("model", "finer", "coarser", "size"),
    [
        ("inceptionv1", "mixed3b", "maxpool4", 112),
        ("inceptionv1", "mixed4e", "maxpool10", 112),
        ("inceptionv1", "mixed3b", "maxpool10", 96),
        ("googlenet", "inception3b", "maxpool3", 112),
    ],
)
def test_windows_are_those_of_the_networks_pools(
    model: str, finer: str, coarser: str, size: int
) -> None:
    """The centre of a window is the centre of its cell: both through the real paddings."""
    table = layer_table(model)
    window_G2 = pool_windows(table[finer], table[coarser], size)
    assert len(window_G2) == table[coarser].grid(size)
    assert (window_G2[1:] > window_G2[:-1]).all()
    for cell, (first, behind) in enumerate(window_G2):
        seen = [table[finer].window(int(f), size) for f in (first, behind - 1)]
        centre = (seen[0][0] + seen[1][1]) / 2
        assert centre == sum(table[coarser].window(cell, size)) / 2
    with pytest.raises(DataError, match="finer layer first"):
        pool_windows(table[coarser], table[finer], size)


def test_scores_are_of_the_pairs_asked_for_and_images_are_what_is_resampled() -> None:
    rng, place_P3 = np.random.default_rng(3), places_of(IMAGES, GRID)
    a_PN, b_PO = sparse(rng, len(place_P3), 7), sparse(rng, len(place_P3), 5)
    b_PO[:, 3] += a_PN[:, 6]
    chosen_I = np.arange(IMAGES) != 5
    image_I, kept_P = identity(IMAGES, chosen_I), place_P3[:, 0] != 5
    exchanged_I = shuffle_images(np.zeros(IMAGES, dtype=np.int64), chosen_I, rng)
    first_X, second_X = np.array([6, 0, 2]), np.array([3, 1, 1])

    def scored(copies: int) -> object:
        rows = [np.repeat(part, copies, axis=0) for part in (a_PN, b_PO)]
        place = np.repeat(place_P3, copies, axis=0)
        place[:, 2] = place[:, 2] * copies + np.arange(len(place)) % copies
        grid = (GRID[0], GRID[1] * copies)
        codes = [codes_from_dense(part, place, grid) for part in rows]
        return score(*codes, image_I, [exchanged_I], first_X, second_X, resamples=400, seed=7)

    found, copied = scored(1), scored(4)
    r_NO = dense_r(a_PN[kept_P], b_PO[kept_P])
    np.testing.assert_allclose(found.r_X, r_NO[first_X, second_X])
    partner_P = exchanged_I[place_P3[kept_P, 0]] * 15 + np.flatnonzero(kept_P) % 15
    np.testing.assert_allclose(
        found.shuffled_X, dense_r(a_PN[kept_P], b_PO[partner_P])[first_X, second_X]
    )
    assert (found.low_X < found.r_X).all()
    assert (found.r_X < found.high_X).all()
    # Four copies of each place say nothing new, and leave every interval as it was.
    for name in ("r_X", "low_X", "high_X", "shuffled_X"):
        np.testing.assert_allclose(getattr(copied, name), getattr(found, name))


def test_grids_and_places_that_do_not_serve_are_refused() -> None:
    rng = np.random.default_rng(4)
    one = codes_from_dense(sparse(rng, 30, 3), places_of(2, GRID), GRID)
    two = codes_from_dense(sparse(rng, 12, 3), places_of(2, (2, 3)), (2, 3))
    every, image_I = np.ones(3, dtype=bool), np.arange(2)
    with pytest.raises(DataError, match="pool the finer one"):
        top_correlations(one, two, image_I, 1, every, every)
    with pytest.raises(DataError, match="at least 2 places"):
        top_correlations(one, one, np.full(2, -1), 1, every, every)
    with pytest.raises(DataError, match="'max' or 'mean'"):
        pool_codes(one, (1, 1), None, "median")
