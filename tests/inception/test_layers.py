"""The layer table against FACTS, brute-force definitions, and the real network's gradients."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from isae.errors import ConfigError, UnknownNameError
from isae.inception import Network, layer_table
from isae.inception.layers import BRANCHES, Step, convolutions

# Columns: output channels, 5x5 slice (first and last channel), grid at 224. From the paper's table
# and the circuits literature.
BLOCKS = {
    "mixed3a": (256, 192, 223, 28),
    "mixed3b": (480, 320, 415, 28),
    "mixed4a": (508, 396, 443, 14),
    "mixed4b": (512, 384, 447, 14),
    "mixed4c": (512, 384, 447, 14),
    "mixed4d": (528, 400, 463, 14),
    "mixed4e": (832, 576, 703, 14),
    "mixed5a": (832, 576, 703, 7),
    "mixed5b": (1024, 768, 895, 7),
}


@pytest.mark.parametrize(("name", "row"), BLOCKS.items())
def test_blocks_are_those_of_the_literature(name: str, row: tuple[int, int, int, int]) -> None:
    info = layer_table("inceptionv1")[name]
    start, stop = info.branches["5x5"]
    assert (info.channels, start, stop - 1, info.grid(224)) == row
    assert info.branch_kernels == {"1x1": 1, "3x3": 3, "5x5": 5, "pool": 3}
    assert not info.note


@pytest.mark.parametrize("model", ["inceptionv1", "googlenet"])
def test_branches_tile_the_channels_in_order(model: str) -> None:
    for info in layer_table(model).values():
        if not info.branches:
            continue
        assert tuple(info.branches) == BRANCHES
        ends = [0, *(stop for _, stop in info.branches.values())]
        assert list(info.branches.values()) == list(itertools.pairwise(ends))
        assert ends[-1] == info.channels


def test_convolution_shapes_chain() -> None:
    shapes = dict(convolutions())
    assert len(shapes) == 3 + 9 * 6
    for name, info in layer_table("inceptionv1").items():
        if info.branches:
            outs = [shapes[f"{name}_{part}"][0] for part in ("1x1", "3x3", "5x5", "pool_reduce")]
            assert outs == [stop - start for start, stop in info.branches.values()]


def brute_force_same(n: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """(cells, before, after) from the meaning of SAME, by counting.

    One output per stride that begins inside the input; as little padding as lets the last window
    end, split evenly with the odd one after the end.
    """
    starts = list(range(0, n, stride))
    total = max(starts[-1] + kernel - n, 0)
    before = after = 0
    for turn in range(total):
        if turn % 2 == 0:
            after += 1
        else:
            before += 1
    return len(starts), before, after


@given(n=st.integers(1, 300), kernel=st.integers(1, 9), stride=st.integers(1, 4))
def test_same_padding_is_tensorflows(n: int, kernel: int, stride: int) -> None:
    step = Step(kernel, stride)
    assert (step.cells(n), *step.pads(n)) == brute_force_same(n, kernel, stride)


@given(
    n=st.integers(1, 60),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    ceil_mode=st.booleans(),
)
def test_explicit_padding_is_pytorchs(
    n: int, kernel: int, stride: int, padding: int, ceil_mode: bool
) -> None:
    padding = min(padding, kernel // 2)  # PyTorch's pools refuse more
    if n + 2 * padding < kernel:
        return
    pooled = F.max_pool1d(torch.zeros(1, 1, n), kernel, stride, padding, ceil_mode=ceil_mode)
    assert Step(kernel, stride, padding, ceil_mode).cells(n) == pooled.shape[-1]


def positive_network(network: Network) -> Network:
    """A copy with weights that are all positive: no cancellation, no dead unit.

    Gradients are then sums of positive terms, so fp32 cannot round one to zero.
    """
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.copy_((torch.rand(parameter.shape, generator=generator) + 0.5) / fan_in)
        else:
            parameter.fill_(0.1)
    return network


def seen_pixels(
    network: Network, layer: str, size: int, cell: int, channels: slice
) -> tuple[int, int, int, int]:
    """(first row, last row, first column, last column) of pixels with a gradient to one cell.

    A max pool passes the gradient to its largest cell only, so the extents of several random
    pictures are united. Pictures are 128 to 255, above the networks' zero, which with positive
    weights keeps every ReLU open.
    """
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(8, 3, size, size, generator=generator) * 127 + 128
    pixels.requires_grad_()
    network.activations(pixels, [layer])[layer][:, channels, cell, cell].sum().backward()
    assert pixels.grad is not None
    seen = (pixels.grad.abs() > 0).any(1).any(0)
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@pytest.fixture(scope="module", params=["inceptionv1", "googlenet"])
def positive(request: pytest.FixtureRequest, networks: dict[str, Network]) -> Network:
    return positive_network(networks[request.param])


@pytest.mark.parametrize("size", [96, 97])
def test_receptive_fields_are_where_gradients_are(positive: Network, size: int) -> None:
    """Gradients never leave the window; max pools leave few of its outermost pixels unseen."""
    first_blocks = list(positive.layers)[: 9 if positive.name == "inceptionv1" else 7]
    for layer in first_blocks:
        info = positive.layers[layer]
        cell = info.grid(size) // 2
        start, stop = info.window(cell, size)
        assert stop - start == info.receptive_field
        top, bottom, left, right = seen_pixels(positive, layer, size, cell, slice(None))
        low, high = max(start, 0), min(stop, size) - 1
        assert min(top, left) >= low
        assert max(bottom, right) <= high
        # One max pool chooses 1 of 9 cells, so 8 pictures times many channels reach the border,
        # except for the few pixels that only one corner cell of the last pool sees.
        slack = 2 if info.stride == 1 or layer.startswith("conv") else info.stride
        assert max(top, left) - low <= slack
        assert high - min(bottom, right) <= slack


def test_field_of_one_branch(positive: Network) -> None:
    layer = next(name for name, info in positive.layers.items() if info.branches)
    info = positive.layers[layer]
    cell = info.grid(128) // 2
    extents = {}
    for branch, (start, stop) in info.branches.items():
        top, bottom, _, _ = seen_pixels(positive, layer, 128, cell, slice(start, stop))
        extents[branch] = bottom - top + 1
        field = info.branch_receptive_field(branch)
        assert field - 2 * info.stride <= extents[branch] <= field
    assert extents["1x1"] < extents["3x3"]
    wide = info.branch_kernels["5x5"] == 5
    assert (info.branch_receptive_field("5x5") > info.branch_receptive_field("3x3")) == wide
    assert info.branch_receptive_field("pool") == info.branch_receptive_field("3x3")
    with pytest.raises(UnknownNameError, match="branch"):
        info.branch_receptive_field("7x7")


# torchvision's pools have no cell below 15 pixels.
SIZES = {"inceptionv1": (1, 2, 31, 64, 97, 113), "googlenet": (15, 64, 97)}
CASES = [(model, size) for model, sizes in SIZES.items() for size in sizes]


@pytest.mark.parametrize(("model", "size"), CASES)
def test_grid_and_channels_are_the_networks(
    model: str, size: int, networks: dict[str, Network]
) -> None:
    network = networks[model]
    pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    for name, maps in network.activations(pixels, network.layers).items():
        info = network.layers[name]
        assert maps.shape == (1, info.channels, info.grid(size), info.grid(size))


def test_first_fields_by_hand() -> None:
    table = layer_table("inceptionv1")
    # 7; +2*2; conv2d2 +2*4; maxpool1 +2*4; mixed3a's 5x5 +4*8
    fields = [table[n].receptive_field for n in ("conv2d0", "maxpool0", "conv2d2", "maxpool1")]
    assert fields == [7, 11, 19, 27]
    assert table["mixed3a"].receptive_field == 59
    assert table["mixed3a"].branch_receptive_field("1x1") == 27


def test_googlenet_says_that_its_5x5_is_3x3() -> None:
    info = layer_table("googlenet")["inception4a"]
    assert info.branch_kernels["5x5"] == 3
    assert "3x3" in info.note


def test_unknown_model_and_empty_grid() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown model 'inceptionv3': nearest: inceptionv1"
    ):
        layer_table("inceptionv3")
    with pytest.raises(ConfigError, match="at least one cell, found 0 pixels"):
        layer_table("inceptionv1")["mixed4a"].grid(0)
