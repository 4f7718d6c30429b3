"""Pictures continued by their mirror image, through the real network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from isae.analysis.label.chance import deal_padding
from isae.analysis.label.padding import (
    Mirrored,
    margin,
    mirrored_border,
    no_padding_test,
    reached_cells,
)
from isae.analysis.patches import patch_geometry
from isae.analysis.tuning.effective_field import noise_pictures
from isae.inception import layer_table, load_model
from isae.train import SAE

LAYER, SIZE = "conv2d2", 64


def test_margins_keep_every_cell_in_step() -> None:
    for model in ("inceptionv1", "googlenet"):
        for name, info in layer_table(model).items():
            for size, field in ((112, 60), (224, 150), (112, 30)):
                added = margin(info, size, field)
                if added is None:
                    continue
                shift = added // info.stride
                for cell in range(info.grid(size)):
                    wide = info.window(cell + shift, size + 2 * added)
                    plain = info.window(cell, size)
                    assert (wide[0] - added, wide[1] - added) == plain, (name, size)
    table = layer_table("inceptionv1")
    assert margin(table["mixed3a"], 112, 30) == 16
    assert margin(table["mixed4c"], 112, 93) == 48
    assert margin(table["mixed5b"], 112, 110) == 96 or margin(table["mixed5b"], 112, 110) == 64


def test_twins_inside_are_the_plain_cells_and_padding_is_told_from_content() -> None:
    network = load_model("inceptionv1", "default", device=torch.device("cpu"), dtype=torch.float32)
    info = layer_table("inceptionv1")[LAYER]
    pictures = noise_pictures(10, SIZE, 3)
    added = margin(info, SIZE, info.receptive_field)
    assert added is not None
    cells, shift = info.grid(SIZE), added // info.stride
    wide = np.pad(pictures, ((0, 0), (added, added), (added, added), (0, 0)), "symmetric")
    with torch.inference_mode():
        plain, twins = (
            network.activations(torch.from_numpy(one).permute(0, 3, 1, 2), [LAYER])[LAYER]
            for one in (pictures, wide)
        )
    twins = twins[:, :, shift : shift + cells, shift : shift + cells]
    geometry = patch_geometry(info, SIZE)
    reached = reached_cells(geometry, info.receptive_field)
    inner = np.setdiff1d(np.arange(cells * cells), reached)
    rows, twin_rows = (
        one.permute(0, 2, 3, 1).reshape(10, cells * cells, -1).numpy() for one in (plain, twins)
    )
    assert 0 < len(inner) < cells * cells
    np.testing.assert_allclose(rows[:, inner], twin_rows[:, inner], rtol=1e-4, atol=1e-3)
    assert np.abs(rows[:, reached] - twin_rows[:, reached]).max() > 1

    lost = (rows - twin_rows)[:, reached].mean(axis=(0, 1))
    flat = rows.reshape(-1, rows.shape[-1])
    usual = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][0]
    usual *= np.sign(
        usual @ (rows[:, inner].mean(axis=(0, 1)) - rows[:, reached].mean(axis=(0, 1)))
    )
    encoder = np.stack([lost / np.linalg.norm(lost), usual]).astype(np.float32)
    level = twin_rows[:, reached].reshape(-1, len(lost)) @ encoder[0]
    bias = np.array([-np.quantile(level, 0.97), -np.quantile(flat @ encoder[1], 0.5)], np.float32)
    sae = SAE(
        *(
            torch.from_numpy(one)
            for one in (encoder, bias, encoder.copy(), np.zeros(len(lost), np.float32))
        ),
        2,
    )
    found = mirrored_border(network, sae, LAYER, pictures, added, info.stride, reached)
    p = found.p(6)
    assert found.images_N[0] == 10
    assert found.kept_N[0] < 0.35
    assert p[0] < 0.01
    assert found.kept_N[1] > 0.7
    assert p[1] > 0.5


def test_p_is_the_sign_test_and_few_pictures_give_none() -> None:
    found = Mirrored(np.array([0.1, 0.2, 0.9]), np.array([20, 5, 20]), np.array([17, 5, 2]))
    p = found.p(6)
    assert p[0] == pytest.approx(binomtest(17, 20, alternative="greater").pvalue)
    assert np.isnan(p[1])
    assert p[2] == pytest.approx(binomtest(2, 20, alternative="greater").pvalue)
    assert np.isnan(no_padding_test(3).p(1)).all()


def test_a_loss_that_is_usual_in_the_layer_speaks_for_nothing() -> None:
    """Mirrored content disturbs all alike: of such features no more than alpha pass."""
    rng = np.random.default_rng(0)
    many = np.full(400, 60)
    lost = rng.binomial(60, 0.7, 400)
    lost[0] = 60
    found = Mirrored(1 - lost / 60, many, lost)
    about = found.describe(6, 0.05)
    assert about["coin"] == pytest.approx(0.7, abs=0.01)
    assert about["features_that_keep_less_than_half"] > 390
    assert found.p(6)[0] < 1e-6
    assert (found.p(6)[1:] <= 0.05).mean() <= 0.06
    assert about["features_at_p_of_alpha"] == int((found.p(6) <= 0.05).sum())
    none = no_padding_test(3).describe(6, 0.05)
    assert none["median_kept"] is None
    assert none["coin"] == 0.5


def test_chance_deals_what_padding_does_among_tested_features_alone() -> None:
    """Dead features are on no picture: their lack of a test must not thin out chance's tests."""
    tested_N = np.arange(50) < 10
    images_N = np.where(tested_N, np.arange(50) + 20, 0)
    mirrored = Mirrored(np.where(tested_N, images_N / 50, np.nan), images_N, images_N - 5)
    dealt = [deal_padding(mirrored, tested_N, 0, draw) for draw in range(3)]
    for one in dealt:
        assert sorted(one.images_N[tested_N]) == sorted(images_N[tested_N])
        assert (one.images_N[~tested_N] == 0).all()
        assert (one.lost_N == one.images_N - 5).all(), "a feature's findings stay together"
    assert len({tuple(one.images_N) for one in dealt}) == 3
