"""InceptionV1's forward pass against a plain float64 rendering written from the paper's table.

The reference shares no code with the model: it pads explicitly, by the brute-force meaning of
TensorFlow's SAME, and walks the frozen graph's names.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from isae.errors import DataError, UnknownNameError
from isae.inception import Network, load_model
from isae.inception.model import InceptionV1, LocalResponseNorm, LrnConstants
from isae.inception.network import CHUNK

BLOCKS = ["mixed3a", "mixed3b", "mixed4a", "mixed4b", "mixed4c", "mixed4d", "mixed4e"]
BLOCKS += ["mixed5a", "mixed5b"]
POOL_BEFORE = {"mixed4a": "maxpool4", "mixed5a": "maxpool10"}


def padded(x: Tensor, kernel: int, stride: int, value: float) -> Tensor:
    """Pad rows and columns so that windows starting every `stride` cells all end inside."""
    for axis in (2, 3):
        n = x.shape[axis]
        cells = len(range(0, n, stride))
        total = max((cells - 1) * stride + kernel - n, 0)
        shape = list(x.shape)
        shape[axis] = total // 2
        before = torch.full(shape, value, dtype=x.dtype)
        shape[axis] = total - total // 2
        x = torch.cat([before, x, torch.full(shape, value, dtype=x.dtype)], dim=axis)
    return x


def lrn_by_formula(x: Tensor, c: LrnConstants = LrnConstants()) -> Tensor:  # noqa: B008
    out = torch.empty_like(x)
    reach = c.size // 2
    for channel in range(x.shape[1]):
        window = x[:, max(channel - reach, 0) : channel + reach + 1]
        out[:, channel] = x[:, channel] / ((c.k + c.alpha / c.size * (window**2).sum(1)) ** c.beta)
    return out


class Reference:
    """The whole network, one operation after the other, in float64."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {key: value.double() for key, value in state.items()}

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}_pre_relu_conv.weight"]
        x = padded(x, weight.shape[2], stride, 0.0)
        y = F.conv2d(x, weight, self.state[f"{name}_pre_relu_conv.bias"], stride)
        return torch.where(y > 0, y, 0.0)

    def pool(self, x: Tensor, stride: int) -> Tensor:
        return F.max_pool2d(padded(x, 3, stride, -np.inf), 3, stride)

    def block(self, x: Tensor, name: str) -> Tensor:
        three = self.conv(self.conv(x, f"{name}_3x3_bottleneck"), f"{name}_3x3")
        five = self.conv(self.conv(x, f"{name}_5x5_bottleneck"), f"{name}_5x5")
        pool = self.conv(self.pool(x, 1), f"{name}_pool_reduce")
        return torch.cat([self.conv(x, f"{name}_1x1"), three, five, pool], dim=1)

    def maps(self, pixels: Tensor) -> dict[str, Tensor]:
        maps = {"conv2d0": self.conv(pixels.double() - 117, "conv2d0", 2)}
        maps["maxpool0"] = self.pool(maps["conv2d0"], 2)
        maps["localresponsenorm0"] = lrn_by_formula(maps["maxpool0"])
        maps["conv2d1"] = self.conv(maps["localresponsenorm0"], "conv2d1")
        maps["conv2d2"] = self.conv(maps["conv2d1"], "conv2d2")
        maps["localresponsenorm1"] = lrn_by_formula(maps["conv2d2"])
        maps["maxpool1"] = x = self.pool(maps["localresponsenorm1"], 2)
        for name in BLOCKS:
            if name in POOL_BEFORE:
                maps[POOL_BEFORE[name]] = x = self.pool(x, 2)
            maps[name] = x = self.block(x, name)
        return maps

    def logits(self, pixels: Tensor) -> Tensor:
        features = self.maps(pixels)["mixed5b"].flatten(2).mean(2)
        return (
            features @ self.state["softmax2_pre_activation_matmul.weight"].T
            + self.state["softmax2_pre_activation_matmul.bias"]
        )


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 9, 9, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear") * 255
    return smooth.round().to(torch.uint8)


def state_of(network: Network) -> dict[str, Tensor]:
    assert isinstance(network, InceptionV1)
    return network.public_state()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 65), (97, 112), (50, 33)])
def test_every_layer_against_float64_reference(network: Network, height: int, width: int) -> None:
    pixels = pictures(2, height, width)
    expected = Reference(state_of(network)).maps(pixels)
    found = network.activations(pixels, network.layers)
    assert list(found) == list(expected)
    for name, maps in found.items():
        assert maps.dtype == torch.float32
        # fp32: 22 roundings in a row of relative size 6e-8, each sum of up to 1,728 products;
        # errors grow like the root of the sum's length, so 22 * 40 * 6e-8 bounds them.
        assert relative_error(maps, expected[name]) < 5e-5, name


def test_float64_network_is_the_reference(exact_network: Network) -> None:
    pixels = pictures(1, 113, 64)
    reference = Reference(state_of(exact_network))
    found = exact_network.activations(pixels, ["mixed3b", "mixed5b"])
    expected = reference.maps(pixels)
    for name, maps in found.items():
        assert maps.dtype == torch.float64
        # The same bound as above with float64's 1.1e-16.
        assert relative_error(maps, expected[name]) < 1e-13
    assert relative_error(exact_network.logits(pixels), reference.logits(pixels)) < 1e-13


def test_bf16_stays_near_fp32(network: Network) -> None:
    half = load_model(dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    pixels = pictures(1, 64, 64)
    layers = ["conv2d0", "localresponsenorm1", "mixed4a", "mixed4e"]
    found, expected = half.activations(pixels, layers), network.activations(pixels, layers)
    for depth, name in zip((1, 3, 7, 11), layers, strict=True):
        assert found[name].dtype == torch.float32
        error = (found[name] - expected[name]).norm() / expected[name].norm()
        # Weights, inputs and outputs of each layer are rounded by up to 2^-9; independent
        # errors of three roundings a layer add like roots, doubled for the chain through blocks.
        assert error < 2 * 2**-9 * (3 * depth) ** 0.5, (name, float(error))
        assert error > 0


def test_lrn_is_its_formula_and_stays_fp32_for_bf16() -> None:
    # Values large enough for the norm to matter: alpha 1e-4 does nothing to values of order one.
    x = torch.linspace(-400, 900, 2 * 21 * 3 * 5, dtype=torch.float64).reshape(2, 21, 3, 5)
    for constants in (LrnConstants(), LrnConstants(5, 2e-2, 0.75, 2.0), LrnConstants(3, 1.0, 1.0)):
        layer = LocalResponseNorm(21, constants)
        torch.testing.assert_close(layer(x), lrn_by_formula(x, constants), rtol=1e-13, atol=0)
        library = F.local_response_norm(
            x, constants.size, constants.alpha, constants.beta, constants.k
        )
        torch.testing.assert_close(layer(x), library, rtol=1e-12, atol=1e-12)
        coarse = x.bfloat16()
        expected = lrn_by_formula(coarse.double(), constants).bfloat16()
        # One rounding at the end only; 1 ulp (2^-8) where fp32's own error crosses a midpoint.
        torch.testing.assert_close(layer(coarse), expected, rtol=2**-8, atol=0)


@pytest.mark.parametrize("model", ["inceptionv1", "googlenet"])
def test_same_bits_whatever_batch_and_layers(model: str, networks: dict[str, Network]) -> None:
    network = networks[model]
    names = list(network.layers)
    few = [names[8], names[-5]]
    pixels = pictures(2 * CHUNK + 3, 65, 65)
    whole = network.activations(pixels, few)
    for start, count in ((0, 1), (5, 1), (CHUNK - 2, 7), (3, CHUNK), (0, 2 * CHUNK)):
        part = network.activations(pixels[start : start + count], few)
        for name in few:
            assert torch.equal(part[name], whole[name][start : start + count]), (name, start, count)
    every = network.activations(pixels[:4], names)
    for name in names[::4]:
        assert torch.equal(network.activations(pixels[:4], [name])[name], every[name]), name
    assert torch.equal(network.logits(pixels)[3:5], network.logits(pixels[3:5]))


@pytest.mark.parametrize("model", ["inceptionv1", "googlenet"])
def test_same_bits_whatever_the_threads(model: str, networks: dict[str, Network]) -> None:
    network = networks[model]
    names = list(network.layers)[::5]
    pixels = pictures(2 * CHUNK + 1, 64, 64)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(network.activations(pixels, names))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in names)


def test_returned_maps_are_not_overwritten_by_later_layers(network: Network) -> None:
    pixels = pictures(1, 64, 64)
    first = {name: network.activations(pixels, [name])[name] for name in list(network.layers)[::4]}
    kept = copy.deepcopy(first)
    network.activations(pixels, network.layers)
    assert all(torch.equal(first[name], kept[name]) for name in first)


def test_maps_lie_channels_last(network: Network) -> None:
    for count in (1, 3, CHUNK + 1):
        maps = network.activations(pictures(count, 64, 64), ["mixed4a"])["mixed4a"]
        rows = maps.permute(0, 2, 3, 1)
        assert rows.is_contiguous()


def test_float_pixels_are_the_same_pixels(network: Network) -> None:
    pixels = pictures(2, 64, 64)
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert torch.equal(network.logits(pixels), network.logits(pixels.to(dtype)))
    contiguous = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(network.logits(contiguous), network(pixels))


def test_gradients_reach_the_pixels(exact_network: Network) -> None:
    pixels = pictures(1, 33, 33).double().requires_grad_()
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(2)).double()

    def objective(x: Tensor) -> Tensor:
        return exact_network.activations(x, ["mixed3b"])["mixed3b"].square().mean()

    objective(pixels).backward()
    assert pixels.grad is not None
    step = 1e-5
    with torch.no_grad():
        inside = pixels.clamp(1, 254)
        moved = [objective(inside + sign * step * direction) for sign in (1, -1)]
    inside.requires_grad_()
    objective(inside).backward()
    assert inside.grad is not None
    slope = float((inside.grad * direction).sum())
    # Central differences: error step^2 plus float64 rounding / step; kinks of ReLUs cost more.
    assert float(moved[0] - moved[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)


WRONG_PIXELS = {
    "no batch": (torch.zeros(3, 8, 8), r"\[batch, 3, height, width\].*found \(3, 8, 8\)"),
    "channels last": (torch.zeros(1, 8, 8, 3), "colour axis to the second place"),
    "numpy": (np.zeros((1, 3, 8, 8)), r"torch tensor.*found \(1, 3, 8, 8\)"),
    "list": ([[1]], "found list"),
    "empty batch": (torch.zeros(0, 3, 8, 8), "at least one image"),
    "no rows": (torch.zeros(1, 3, 0, 8), "at least one image of at least 1 x 1"),
    "int64": (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "found torch.int64"),
    "negative": (torch.full((1, 3, 8, 8), -1.0), "found -1 to -1"),
    "too large": (torch.full((1, 3, 8, 8), 256.0), "found 256 to 256"),
    "nan": (torch.full((1, 3, 8, 8), float("nan")), "found nan"),
    "0..1": (torch.full((1, 3, 8, 8), 0.5), "multiply by 255"),
}


@pytest.mark.parametrize("case", WRONG_PIXELS)
def test_wrong_pixels(network: Network, case: str) -> None:
    pixels, message = WRONG_PIXELS[case]
    with pytest.raises(DataError, match=message) as caught:
        network.activations(pixels, ["conv2d0"])  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_unknown_layer_names_the_nearest(network: Network) -> None:
    pixels = pictures(1, 8, 8)
    with pytest.raises(UnknownNameError, match=r"unknown layer of inceptionv1 'mixed4f': nearest"):
        network.activations(pixels, ["mixed4a", "mixed4f"])
    assert network.activations(pixels, []) == {}
