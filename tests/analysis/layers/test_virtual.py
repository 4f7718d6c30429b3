"""Virtual weights: mean paths against autograd, matches by weights, planted truth, nulls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.pairs import Nearest
from isae.analysis.layers.virtual_pairs import adjacent, partner_agreement
from isae.analysis.layers.virtual_paths import PathMeter
from isae.analysis.layers.virtual_weights import (
    RowCloud,
    Virtual,
    effective_channels,
    strongest_partners,
    weight_nulls,
)
from isae.inception import load_model
from isae.inception.blocks import block_branches, block_input, inception_branches
from isae.inception.layers import Step, Widths
from isae.inception.model import InceptionBlock, same_max_pool

WIDTHS = Widths(3, 4, 5, 2, 3, 4)
CHANNELS, SLICES = 6, {"1x1": (0, 3), "3x3": (3, 8), "5x5": (8, 11), "pool": (11, 15)}


def tiny_block(seed: int) -> InceptionBlock:
    torch.manual_seed(seed)
    block = InceptionBlock(CHANNELS, WIDTHS).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return block.requires_grad_(False)


def mean_jacobian(
    function: Callable[[torch.Tensor], torch.Tensor], maps_BCHW: torch.Tensor, margin: int
) -> np.ndarray:
    """Mean over pictures and inner places p of the sum over q of dy_o(p) / dx_c(q), by autograd."""
    leaf_BCHW = maps_BCHW.clone().requires_grad_()
    out_BOHW = function(leaf_BCHW)
    height, width = out_BOHW.shape[2:]
    inner = out_BOHW[:, :, margin : height - margin, margin : width - margin]
    rows = []
    for o in range(inner.shape[1]):
        (gradient,) = torch.autograd.grad(inner[:, o].mean(), leaf_BCHW, retain_graph=True)
        rows.append(gradient.sum(dim=(0, 2, 3)).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("size", [(7, 9), (4, 3)])
def test_mean_paths_are_the_mean_of_autograd_jacobians(pooled: bool, size: tuple[int, int]) -> None:
    """With a max pool before the block the whole of both is differentiated."""
    block, step = tiny_block(1), Step(3, 2)
    generator = torch.Generator().manual_seed(2)
    sides = [2 * n - 1 for n in size] if pooled else list(size)
    maps = torch.randn((3, CHANNELS, *sides), generator=generator, dtype=torch.float64).relu()
    through = (lambda x: block(same_max_pool(x, step))) if pooled else block
    meter = PathMeter(inception_branches(block))
    for some in (maps[:2], maps[2:]):
        meter.add(same_max_pool(some, step) if pooled else some)
    # A map of 4 x 3 cells has no place that a 5x5 kernel's padding spares: then all are used.
    assert meter.whole_map == (min(size) < 5)
    expected_OC = mean_jacobian(through, maps, 0 if meter.whole_map else 2)
    for name, (start, stop) in SLICES.items():
        np.testing.assert_allclose(
            meter.matrices()[name], expected_OC[start:stop], rtol=1e-10, atol=1e-12
        )
    assert meter.pictures == 3
    assert 0 < meter.reliability() < 1


@pytest.mark.parametrize("model", ["inceptionv1", "googlenet"])
def test_branches_of_both_networks_make_up_the_block(model: str) -> None:
    network = load_model(
        model, "default" if model == "inceptionv1" else "random:3", dtype=torch.float32
    )
    names = {"inceptionv1": ("mixed4a", "mixed3b", "maxpool4")}
    block, before, reads = names.get(model, ("inception4a", "inception3b", "maxpool3"))
    assert block_input(model, block) == (before, reads)
    assert adjacent(model, (before, block)) == reads
    assert adjacent(model, (reads, before)) is None
    pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(4))
    maps = network.activations(pixels.to(torch.uint8), [reads, block])
    meter = PathMeter(block_branches(network, block))
    meter.add(maps[reads])
    # The 1x1 and the pool branch's mean path is the share of open gates times the weights.
    info = network.layers[block]
    margin = 0 if meter.whole_map else 1
    inner = slice(margin, maps[block].shape[2] - margin)
    assert meter.places == len(range(maps[block].shape[2])[inner]) ** 2
    for name in ("1x1", "pool"):
        start, stop = info.branches[name]
        open_O = (maps[block][:, start:stop, inner, inner] > 0).double().mean(dim=(0, 2, 3)).numpy()
        weights_OC = block_branches(network, block)[name].first_MC.double().numpy()
        np.testing.assert_allclose(
            meter.matrices()[name], open_O[:, None] * weights_OC, rtol=1e-6, atol=1e-7
        )
    for name, (start, stop) in info.branches.items():
        assert meter.matrices()[name].shape == (stop - start, network.layers[reads].channels)


SOURCE = {"1x1": (0, 30), "3x3": (30, 60), "pool": (60, 70)}
TARGET = {"1x1": (0, 20), "3x3": (20, 60)}
N, M, PLANTED = 400, 300, 40


def made_up(seed: int, strength: float, concentrated: bool = False) -> Virtual:
    """Features whose encoder row j tells, for the first PLANTED, decoder row j from the others.

    Both layers' rows have channels of unlike scale, and a mean that all share.
    """
    rng = np.random.default_rng(seed)
    scale_C, scale_D = rng.lognormal(sigma=0.7, size=70), rng.lognormal(sigma=0.7, size=60)
    decoder_NC = (rng.normal(size=(N, 70)) + 0.3) * scale_C
    if concentrated:
        decoder_NC *= rng.random((N, 70)) ** 8
    decoder_NC /= np.linalg.norm(decoder_NC, axis=1, keepdims=True)
    whole_DC = rng.normal(size=(60, 70)) * scale_D[:, None]
    passed_ND = decoder_NC @ whole_DC.T
    covariance_DD = np.cov(passed_ND, rowvar=False)

    def scaled(rows_MD: np.ndarray) -> np.ndarray:
        return rows_MD / np.sqrt(((rows_MD @ covariance_DD) * rows_MD).sum(axis=1, keepdims=True))

    encoder_OD = scaled((rng.normal(size=(M, 60)) + 0.3) * scale_D)
    apart_PD = passed_ND[:PLANTED] - passed_ND.mean(axis=0)
    encoder_OD[:PLANTED] += strength * scaled(np.linalg.solve(covariance_DD, apart_PD.T).T)
    paths = {name: whole_DC[start:stop] for name, (start, stop) in TARGET.items()}
    return Virtual(paths, decoder_NC, encoder_OD, SOURCE, TARGET)


def weight_p(virtual: Virtual, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(best partner of each feature of the later layer, its p, p of the earlier layer's)."""
    every_N, every_O = np.ones(N, dtype=bool), np.ones(M, dtype=bool)
    forth, back = strongest_partners(virtual, every_N, every_O, 3, "cpu")
    nulls = weight_nulls(virtual, every_N, every_O, 8, seed, "cpu").values()
    p_N, p_O = (
        np.max([null[side].p(np.arange(len(r_N)), r_N) for null in nulls], axis=0)
        for side, r_N in enumerate((forth.r_NK[:, 0], back.r_NK[:, 0]))
    )
    return back.feature_NK[:, 0], p_O, p_N


def test_best_partners_and_weights_are_those_of_the_dense_product() -> None:
    virtual = made_up(0, 0.0)
    tested_N, tested_O = np.arange(N) % 7 > 0, np.arange(M) % 5 > 0
    forth, back = strongest_partners(virtual, tested_N, tested_O, 4, "cpu")
    # Rows of another length are the same features.
    scaled = replace(virtual, decoder_NC=virtual.decoder_NC * np.arange(1, N + 1)[:, None])
    weight_NO = virtual.decoder_NC @ virtual.whole_DC.T @ virtual.encoder_OD.T
    z_NO = weight_NO - weight_NO[tested_N].mean(axis=0)
    z_NO /= weight_NO[tested_N].std(axis=0)
    z_NO[~tested_N], z_NO[:, ~tested_O] = -np.inf, -np.inf
    again, _ = strongest_partners(scaled, tested_N, tested_O, 4, "cpu")
    for found in (forth, again):
        np.testing.assert_allclose(found.r_NK, -np.sort(-z_NO, axis=1)[:, :4], atol=1e-5)
    np.testing.assert_allclose(back.r_NK, -np.sort(-z_NO.T, axis=1)[:, :4], atol=1e-5)
    np.testing.assert_array_equal(forth.feature_NK[tested_N, 0], z_NO[tested_N].argmax(1))
    assert (forth.feature_NK[~tested_N] == -1).all()
    first, second = np.array([3, 5, 399]), np.array([0, 7, 299])
    parts_XB = virtual.of(first, second)
    np.testing.assert_allclose(parts_XB.sum(axis=1), weight_NO[first, second], rtol=1e-10)
    assert parts_XB.shape == (3, len(TARGET))


@pytest.mark.parametrize("concentrated", [False, True])
def test_rows_without_a_tie_are_not_called_tied(concentrated: bool) -> None:
    found = [weight_p(made_up(s, 0.0, concentrated), s)[1:] for s in range(3)]
    for side in (0, 1):
        p = np.concatenate([one[side] for one in found])
        for level in (0.05, 0.01):
            assert (p <= level).mean() < 1.5 * level
        assert p.mean() > 0.4


def test_planted_weights_are_found_the_stronger_the_more() -> None:
    recall = []
    for strength in (0.2, 0.8, 3.0):
        best_O, p_O, _ = weight_p(made_up(9, strength), 9)
        found = (p_O <= 0.01) & (best_O == np.arange(M))
        recall.append(found[:PLANTED].mean())
        assert (p_O[PLANTED:] <= 0.01).mean() < 0.03
    assert recall[0] < recall[1] <= recall[2]
    assert recall[2] > 0.95


def test_drawn_rows_keep_mean_covariance_and_distance() -> None:
    rng = np.random.default_rng(5)
    rows_nC = rng.exponential(size=(3000, 8)) @ rng.normal(size=(8, 8)) + 2
    rows_nC[:, 7] = 1.0  # a channel without variance
    cloud = RowCloud.of(rows_nC)
    drawn_nC = cloud.draw(rng)
    np.testing.assert_allclose(drawn_nC.mean(axis=0), rows_nC.mean(axis=0), atol=0.3)
    np.testing.assert_allclose(np.cov(drawn_nC.T), np.cov(rows_nC.T), atol=1.5)
    white_nR = (drawn_nC - cloud.mean_C) @ np.linalg.pinv(cloud.root_CR).T
    np.testing.assert_allclose(np.linalg.norm(white_nR, axis=1), cloud.distance_n, rtol=1e-3)
    # As unusual as their originals, in other directions.
    assert abs(np.corrcoef(drawn_nC[:, 0], rows_nC[:, 0])[0, 1]) < 0.1


def test_effective_channels() -> None:
    rows = np.array([[0, 3.0, 0, 0], [1, -1, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(effective_channels(rows), [1, 4, np.nan])


def test_partners_agree_by_chance_as_popularity_says() -> None:
    """Two ways that name partners at random, some of them often, agree as often as `chance`."""
    rng, config = np.random.default_rng(6), LayersConfig(resamples=200)
    chance_O = rng.dirichlet(np.full(50, 0.3))
    by_r = rng.choice(50, 4000, p=chance_O)
    tops = np.stack([rng.choice(50, 4000, p=chance_O) for _ in range(2)], axis=1)
    nearest = Nearest(np.ones(4000, dtype=bool), by_r, np.ones(4000), np.ones(4000))

    class Named:
        feature_NK = tops.copy()

    found = partner_agreement(nearest, Named, np.arange(4000), config)  # type: ignore[arg-type]
    assert found.low < found.chance < found.high
    assert abs(found.shared - found.chance) < 0.02
    Named.feature_NK[:2000, 0] = by_r[:2000]
    found = partner_agreement(nearest, Named, np.arange(4000), config)  # type: ignore[arg-type]
    assert found.low > found.chance
    assert found.among_best >= found.shared > 0.5
