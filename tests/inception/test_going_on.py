"""A network that goes on from a layer's map: `activations_from` and `logits_from`."""

from __future__ import annotations

import pytest
import torch

from isae.errors import DataError, UnknownNameError
from isae.inception import Network
from isae.inception.network import CHUNK


def pictures(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("model", ["inceptionv1", "googlenet"])
def test_an_unchanged_map_gives_the_pictures_own_maps(
    model: str, networks: dict[str, Network]
) -> None:
    network = networks[model]
    pixels = pictures(CHUNK + 2, 65)
    names = list(network.layers)
    maps, logits = network.activations(pixels, names), network.logits(pixels)
    for number in (0, 4, len(names) - 3):
        later = names[number + 1 :: 3]
        found = network.activations_from(names[number], maps[names[number]], later)
        assert list(found) == later
        assert all(torch.equal(found[name], maps[name]) for name in later)
    for name in (names[2], names[-2], names[-1]):
        assert torch.equal(network.logits_from(name, maps[name]), logits), name


def test_a_change_of_one_cell_moves_what_sees_it(network: Network) -> None:
    before = network.activations(pictures(1, 128), ["mixed4a", "mixed4b"])
    changed = before["mixed4a"].clone()
    changed[0, :, 4, 4] += 1
    after = network.activations_from("mixed4a", changed, ["mixed4b"])["mixed4b"]
    moved = (after != before["mixed4b"]).any(dim=1)[0]
    assert moved[4, 4]
    seen = torch.zeros_like(moved)
    seen[2:7, 2:7] = True  # the largest kernel of a block is 5 x 5
    assert not (moved & ~seen).any()


def test_gradients_reach_the_map(exact_network: Network) -> None:
    pixels = pictures(1, 48)
    x = exact_network.activations(pixels, ["mixed4d"])["mixed4d"]
    # Zeros of the ReLU are ties for the pools, where no gradient is.
    x = (x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    exact_network.logits_from("mixed4d", x)[0, 3].backward()
    assert x.grad is not None
    direction = torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    with torch.no_grad():
        up, down = (
            exact_network.logits_from("mixed4d", x + step * direction)[0, 3]
            for step in (1e-6, -1e-6)
        )
    # Central differences: an error of about 1e-12 relative, and kinks of the ReLU between.
    torch.testing.assert_close((x.grad * direction).sum(), (up - down) / 2e-6, rtol=1e-5, atol=1e-9)


def test_wrong_maps_and_layers(network: Network) -> None:
    good = network.activations(pictures(1, 64), ["mixed4a"])["mixed4a"]
    with pytest.raises(UnknownNameError, match="layer of inceptionv1 after mixed4a"):
        network.activations_from("mixed4a", good, ["mixed3b"])
    with pytest.raises(UnknownNameError, match="layer of inceptionv1"):
        network.logits_from("mixed9z", good)
    for wrong in (good[:, 1:], good[0], good[:0], good.to(torch.complex64)):
        with pytest.raises(DataError, match=r"expected a map of 'mixed4a' \[batch, 508"):
            network.logits_from("mixed4a", wrong)
