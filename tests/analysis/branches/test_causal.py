"""Causal shares on made-up dictionaries and rows: planted branches, the trap, brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isae.analysis.branches.causal import WAYS, causal_shares
from isae.analysis.branches.heldout import Rows, choose_pairs, coded_rows, donors
from isae.analysis.branches.resampling import LEAST_IMAGES
from isae.train import SAE

BRANCHES = {"1x1": (0, 12), "3x3": (12, 26), "5x5": (26, 32)}
C, N, IMAGES, GRID = 32, 30, 40, 2


def places(images: int = IMAGES, grid: int = GRID) -> np.ndarray:
    axes = np.meshgrid(np.arange(images), np.arange(grid), np.arange(grid), indexing="ij")
    place_R3 = np.stack([one.ravel() for one in axes], axis=1).astype(np.int32)
    return np.random.default_rng(1).permutation(place_R3)


def make_sae(W_NC: np.ndarray, k: int, bias: float = 0.0) -> SAE:
    W = torch.from_numpy(W_NC.astype(np.float32))
    W_dec = W / W.norm(dim=1, keepdim=True)
    b_enc, b_dec = torch.full((len(W),), bias), torch.zeros(W.shape[1])
    return SAE(W, b_enc, W_dec, b_dec, k)


def rows_of(sae: SAE, x_RC: np.ndarray, place_R3: np.ndarray) -> Rows:
    return coded_rows(sae, x_RC.astype(np.float32), place_R3, 64)


def planted(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(encoder rows that each read one branch, the branch of each)."""
    W_NC, branch_N = np.zeros((N, C)), rng.integers(3, size=N)
    for i, j in enumerate(branch_N):
        start, stop = list(BRANCHES.values())[j]
        W_NC[i, start:stop] = rng.normal(size=stop - start)
    return W_NC, branch_N


def test_features_that_read_one_branch_lose_their_code_there_and_nowhere_else() -> None:
    rng = np.random.default_rng(3)
    W_NC, branch_N = planted(rng)
    sae, place_R3 = make_sae(W_NC, k=N), places()
    x_RC = rng.normal(size=(len(place_R3), C))
    found = causal_shares(sae, rows_of(sae, x_RC, place_R3), BRANCHES, np.zeros(C), draws=2)
    mine = np.eye(3, dtype=bool)[branch_N]
    for measure in ("share", "part", "pre", "lost"):
        values_NB = found.values("other", measure)
        # `lost` is over what a feature's code explains of its rows at all, little for some.
        assert (values_NB[mine] > 0.1).mean() >= (0.9 if measure == "lost" else 1.0)
        np.testing.assert_allclose(values_NB[~mine], 0.0, atol=1e-5)
    # All of them are found, and nothing else is: intervals of the other branches hold 0.
    np.testing.assert_array_equal(found.strongest_N, branch_N)
    for j, one in enumerate(found.measures["other"]["share"]):
        low_N, high_N = one.interval()
        assert (low_N[branch_N == j] > 0).all()
        assert (high_N[branch_N != j] < 1e-5).all()
    # x_hat follows the code, so residuals rise where the code falls.
    assert found.values("other", "rise")[mine].mean() > 0


def test_false_discoveries_where_a_feature_reads_all_branches_alike() -> None:
    # Each channel counts the same, so a branch's share of the fall is its share of the channels;
    # a 95 % interval of a share misses its true value in about 5 % of the features.
    rng = np.random.default_rng(5)
    sae, place_R3 = make_sae(rng.choice([-1.0, 1.0], size=(200, C)), k=200), places(200, 1)
    x_RC = rng.normal(size=(len(place_R3), C))
    found = causal_shares(
        sae, rows_of(sae, x_RC, place_R3), BRANCHES, np.zeros(C), draws=4, resamples=200
    )
    part_NB = found.values("other", "part")
    truth_B = np.array([12, 14, 6]) / C
    missed = []
    for j, one in enumerate(found.measures["other"]["part"]):
        low_N, high_N = one.interval()
        missed.append((low_N > truth_B[j]) | (high_N < truth_B[j]))
    assert part_NB.mean(axis=0) == pytest.approx(truth_B, abs=0.03)
    # First-order intervals are somewhat narrow: up to 10 % instead of 5 %.
    assert np.mean(missed) < 0.1


def test_channels_that_differ_between_places_only_have_no_causal_share() -> None:
    # The trap: encoder weights, and the mean, make such a branch look important.
    rng = np.random.default_rng(7)
    W_NC = 0.2 * rng.normal(size=(N, C))
    W_NC[:, 12:26] = np.abs(rng.normal(size=(N, 14)))
    sae, place_R3 = make_sae(W_NC, k=N), places()
    x_RC = rng.normal(size=(len(place_R3), C))
    place = place_R3[:, 1] * GRID + place_R3[:, 2]
    x_RC[:, 12:26] = (np.array([0.0, 1.0, 2.0, 4.0])[place])[:, None]
    found = causal_shares(sae, rows_of(sae, x_RC, place_R3), BRANCHES, x_RC.mean(axis=0))
    assert np.abs(found.values("other", "share")[:, 1]).max() < 1e-6
    assert np.abs(found.values("mean", "share")[:, 1]).mean() > 0.1


def test_every_measure_is_the_one_of_the_docstring() -> None:
    rng = np.random.default_rng(11)
    sae, place_R3 = make_sae(rng.normal(size=(N, C)), k=5, bias=0.1), places(12)
    x_RC, mean_C = rng.normal(size=(len(place_R3), C)).astype(np.float32), rng.normal(size=C)
    rows = rows_of(sae, x_RC, place_R3)
    found = causal_shares(sae, rows, BRANCHES, mean_C, cap=7, draws=2, seed=4, batch_size=17)
    donor_TR = donors(place_R3, 2, 4)
    W_NC, D_NC = sae.W_enc_ND.numpy().astype(float), sae.W_dec_ND.numpy().astype(float)

    def coded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pre = x @ W_NC.T + 0.1
        kept = pre >= np.sort(pre, axis=1)[:, -5][:, None]
        return np.maximum(np.where(kept, pre, 0.0), 0.0), pre

    z_RN, pre_RN = coded(x_RC.astype(float))
    error_RC = x_RC - z_RN @ D_NC
    pairs = found.pairs
    for way in WAYS:
        for j, (start, stop) in enumerate(BRANCHES.values()):
            sums, parts = np.zeros((8, N)), found.values(way, "part")
            for draw in range(2 if way == "other" else 1):
                y_RC = x_RC.astype(float)
                y_RC[:, start:stop] = (
                    x_RC[donor_TR[draw], start:stop] if way == "other" else mean_C[start:stop]
                )
                after_RN, pre_after_RN = coded(y_RC)
                for r, i in zip(pairs.row_E, pairs.feature_E, strict=True):
                    change = after_RN[r, i] - z_RN[r, i]
                    base = (error_RC[r] ** 2).sum()
                    sums[:, i] += (
                        -change,
                        pre_RN[r, i] - pre_after_RN[r, i],
                        ((x_RC[r] - after_RN[r] @ D_NC) ** 2).sum() - base,
                        ((error_RC[r] - change * D_NC[i]) ** 2).sum() - base,
                        z_RN[r, i],
                        pre_RN[r, i],
                        ((x_RC[r] - mean_C) ** 2).sum(),
                        ((error_RC[r] + z_RN[r, i] * D_NC[i]) ** 2).sum() - base,
                    )
            measured = pairs.counts_N > 0
            pre_NB = found.values(way, "pre")[measured]
            np.testing.assert_allclose(
                parts[measured][:, j], pre_NB[:, j] / pre_NB.sum(axis=1), rtol=1e-3, atol=1e-4
            )
            for number, measure in enumerate(("share", "pre", "rise", "lost")):
                expected_N = sums[number, measured] / sums[4 + number, measured]
                values_N = found.values(way, measure)[:, j]
                np.testing.assert_allclose(values_N[measured], expected_N, rtol=1e-3, atol=1e-4)
                assert np.isnan(values_N[~measured]).all()


def test_intervals_count_images_and_not_rows() -> None:
    # Four places with the same values say no more than one: the interval must not shrink.
    rng = np.random.default_rng(13)
    W_NC, _ = planted(rng)
    sae, width = make_sae(W_NC, k=N), {}
    image_IC = rng.normal(size=(IMAGES, C))
    for grid in (1, 2):
        place_R3 = places(IMAGES, grid)
        rows = rows_of(sae, image_IC[place_R3[:, 0]], place_R3)
        one = causal_shares(sae, rows, BRANCHES, np.zeros(C), cap=1000).measures["other"]["share"]
        low_N, high_N = one[0].interval()
        width[grid] = np.nanmean(high_N - low_N)
    assert width[2] == pytest.approx(width[1], rel=0.15)


def test_donors_are_other_images_at_the_same_cell() -> None:
    place_R3 = places(9, 3)
    donor_TR = donors(place_R3, 3, seed=2)
    for donor_R in donor_TR:
        np.testing.assert_array_equal(place_R3[donor_R, 1:], place_R3[:, 1:])
        assert (place_R3[donor_R, 0] != place_R3[:, 0]).all()
        # All places of an image take the same other image.
        given = {(a, b) for a, b in zip(place_R3[:, 0], place_R3[donor_R, 0], strict=True)}
        assert len(given) == 9
    assert (donor_TR[0] != donor_TR[1]).any()
    np.testing.assert_array_equal(donor_TR, donors(place_R3, 3, seed=2))
    alone_R3 = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 1], [2, 0, 1]], dtype=np.int32)
    assert donors(alone_R3, 1, 0)[0].tolist() == [-1, -1, 3, 2]


def test_pairs_are_capped_and_spread_over_images() -> None:
    rng = np.random.default_rng(17)
    sae, place_R3 = make_sae(np.abs(rng.normal(size=(4, C))), k=4), places(6, 3)
    rows = rows_of(sae, np.abs(rng.normal(size=(54, C))), place_R3)
    usable_R = place_R3[:, 0] != 5
    pairs = choose_pairs(rows, usable_R, 4, cap=7, seed=0)
    assert pairs.counts_N.tolist() == [7] * 4
    for i in range(4):
        mine = slice(pairs.first_M[i], pairs.first_M[i + 1])
        assert (pairs.feature_E[mine] == i).all()
        images, times = np.unique(place_R3[pairs.row_E[mine], 0], return_counts=True)
        assert images.tolist() == [0, 1, 2, 3, 4]
        assert times.max() == 2
    assert (pairs.code_E > 0).all()


def test_features_on_few_images_have_no_interval() -> None:
    rng = np.random.default_rng(19)
    W_NC, _ = planted(rng)
    sae, place_R3 = make_sae(W_NC, k=N), places(LEAST_IMAGES - 1)
    rows = rows_of(sae, rng.normal(size=(len(place_R3), C)), place_R3)
    found = causal_shares(sae, rows, BRANCHES, np.zeros(C))
    assert np.isfinite(found.values("other", "share")).any()
    assert (found.strongest_N == -1).all()
    assert np.isnan(found.measures["other"]["share"][0].interval()[0]).all()
    assert found.measures["other"]["share"][0].mean() == {"features": 0}
