"""What is measured through the network: drops of logits, cut kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from isae.analysis.branches.logits import logit_effects
from isae.analysis.branches.rings import BRANCH, FiveBranch, ring_effects, why_not
from isae.inception import Network, layer_table, load_model
from isae.inception.model import InceptionV1
from isae.train import SAE

N, SIDE = 24, 48


@pytest.fixture(scope="module")
def network() -> InceptionV1:
    found = load_model("inceptionv1", "default", dtype=torch.float32)
    assert isinstance(found, InceptionV1)
    return found


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, size=(9, 6, 6, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2))


def random_sae(network: Network, layer: str, k: int = 6) -> SAE:
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(N, network.layers[layer].channels, generator=generator)
    W /= W.norm(dim=1, keepdim=True)
    return SAE(W, torch.zeros(N), W.clone(), torch.zeros(W.shape[1]), k)


def test_behind_the_last_layer_first_order_is_exact(
    network: InceptionV1, pixels: np.ndarray
) -> None:
    # mixed5b's mean goes into a linear layer: every splice must be what first order says.
    layer = "mixed5b"
    sae, branches = random_sae(network, layer), network.layers[layer].branches
    found = logit_effects(network, sae, layer, pixels, branches, spliced=5, batch_size=4)
    check = found.check()
    assert check["features"] == 5
    assert check["splices"] >= 5 * len(branches)
    np.testing.assert_allclose(found.true_S, found.first_S, atol=2e-5)
    assert check["correlation"] > 0.999
    # By hand: mean over pictures of code times decoder row times the class's weights.
    map_PCHW = network.activations(torch.from_numpy(pixels).permute(0, 3, 1, 2), [layer])[layer]
    own_P = network.logits_from(layer, map_PCHW).argmax(dim=1)
    rows_PGC = map_PCHW.flatten(2).permute(0, 2, 1)
    expected: dict[int, list[np.ndarray]] = {}
    for p, rows_GC in enumerate(rows_PGC):
        values_GK, indices_GK = sae.encode(rows_GC.contiguous())
        for i in range(N):
            code = float(torch.where(indices_GK == i, values_GK.clamp(min=0), 0.0).sum())
            if code > 0:
                away_C = code * sae.W_dec_ND[i] * network.softmax2.weight[own_P[p]] / len(rows_GC)
                part_B = [float(away_C[a:z].sum()) for a, z in branches.values()]
                expected.setdefault(i, []).append(np.array(part_B))
    for i, drops in expected.items():
        got_B = [one.value_N[i] for one in found.drop_B]
        np.testing.assert_allclose(got_B, np.mean(drops, axis=0), atol=1e-5)
        size_B = np.abs(drops).sum(axis=0)
        share_B = [one.value_N[i] for one in found.share_B]
        np.testing.assert_allclose(share_B, size_B / size_B.sum(), atol=1e-3)
    silent = np.setdiff1d(np.arange(N), list(expected))
    assert np.isnan(found.drop_B[0].value_N[silent]).all()


def test_splices_through_the_real_network_agree_with_first_order(
    network: InceptionV1, pixels: np.ndarray
) -> None:
    layer = "mixed5a"
    sae, branches = random_sae(network, layer), network.layers[layer].branches
    with torch.no_grad():
        sae.W_dec_ND *= 0.05  # small steps, for which first order must hold
    found = logit_effects(network, sae, layer, pixels, branches, spliced=6)
    assert found.check()["correlation"] > 0.95
    assert found.check()["slope"] == pytest.approx(1, abs=0.15)


def test_the_branch_computed_again_is_the_networks_own(
    network: InceptionV1, pixels: np.ndarray
) -> None:
    maps = network.activations(torch.from_numpy(pixels).permute(0, 3, 1, 2), ["mixed3a", "mixed3b"])
    branch = FiveBranch.of(network, "mixed3b")
    start, stop = network.layers["mixed3b"].branches[BRANCH]
    again = branch.maps(maps["mixed3a"], "full")
    torch.testing.assert_close(again, maps["mixed3b"][:, start:stop], rtol=1e-4, atol=1e-4)
    # Without its ring a 5x5 convolution is a 3x3 one.
    reduced = F.relu(F.conv2d(maps["mixed3a"], branch.reduce, branch.reduce_bias))
    small = F.relu(
        F.conv2d(reduced, branch.kernels["full"][:, :, 1:4, 1:4], branch.bias, padding=1)
    )
    torch.testing.assert_close(branch.maps(maps["mixed3a"], "ring"), small, rtol=1e-4, atol=1e-4)
    zeros = (branch.kernels["random"] == 0).flatten(2).sum(dim=2)
    assert (zeros == 16).all()


def neurons(channels: int) -> SAE:
    eye = torch.eye(channels)
    return SAE(eye, torch.zeros(channels), eye.clone(), torch.zeros(channels), channels)


def test_features_of_other_branches_keep_all_and_those_of_5x5_lose_by_their_ring(
    pixels: np.ndarray,
) -> None:
    # Two networks: one whose 5x5 kernels have nothing in the ring, one with nothing but the ring.
    layer = "mixed3a"
    for inner in (True, False):
        network = load_model("inceptionv1", "default", dtype=torch.float32)
        assert isinstance(network, InceptionV1)
        weight = network.get_submodule(f"trunk.{layer}.five").weight
        assert isinstance(weight, torch.Tensor)
        with torch.no_grad():
            ring = torch.ones_like(weight)
            ring[:, :, 1:4, 1:4] = 0
            weight *= 1 - ring if inner else ring
        channels = network.layers[layer].channels
        start, stop = network.layers[layer].branches[BRANCH]
        found = ring_effects(network, neurons(channels), layer, pixels, cap=50)
        five_N = (np.arange(channels) >= start) & (np.arange(channels) < stop)
        kept_N = found.kept["ring"].value_N
        measured_N = np.isfinite(kept_N)
        assert (five_N & measured_N).sum() > 5
        np.testing.assert_allclose(kept_N[~five_N & measured_N], 1.0, rtol=1e-5)
        np.testing.assert_allclose(found.share.value_N[~five_N & measured_N], 0.0, atol=1e-5)
        if inner:
            assert found.energy["ring"] == pytest.approx(0, abs=1e-6)
            np.testing.assert_allclose(kept_N[five_N & measured_N], 1.0, rtol=1e-3)
            both_N = measured_N & five_N
            np.testing.assert_allclose(
                found.share_after["ring"].value_N[both_N], found.share.value_N[both_N], atol=1e-3
            )
            # The control cuts real taps, and must be seen.
            assert np.abs(found.kept["random"].value_N[both_N] - 1).max() > 0.1
        else:
            assert found.energy["ring"] == pytest.approx(1, abs=1e-6)
            # What is left is the bias, the same everywhere: no picture differs from another.
            left_N = five_N & measured_N & (kept_N > 0)
            after_N = found.share_after["ring"].value_N[left_N]
            np.testing.assert_allclose(after_N, 0.0, atol=1e-5)


def test_other_networks_and_layers_are_not_applicable() -> None:
    layers, google = layer_table("inceptionv1"), layer_table("googlenet")
    assert why_not("inceptionv1", layers["mixed4c"]) is None
    assert "no branch" in str(why_not("inceptionv1", layers["conv2d2"]))
    assert "not applicable" in str(why_not("googlenet", google["inception4b"]))
    assert "3x3" in str(why_not("googlenet", google["inception4b"]))
