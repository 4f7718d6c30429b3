"""The convolutions of an Inception block, branch by branch, the same for both networks.

A branch is `relu(first x)`, or `relu(second relu(first x))` where a spatial convolution follows the
1x1 reduction; the pool branch takes the 3x3 maximum (stride 1) before its 1x1 convolution. All
strides are 1 and all padding is half the kernel, so a cell of the block's output lies over the cell
of its input with the same number.

Legend: C input channels, M reduced channels, O output channels, K kernel size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isae.errors import ConfigError, unknown_name
from isae.inception.googlenet import TorchvisionGoogLeNet
from isae.inception.layers import BRANCHES, GOOGLENET, INCEPTION_V1
from isae.inception.model import InceptionBlock, InceptionV1
from isae.inception.network import Network

_OPS = {"inceptionv1": INCEPTION_V1, "googlenet": GOOGLENET}


@dataclass(frozen=True)
class BranchWeights:
    """One branch: first_MC (a 1x1 convolution) with its bias, then second_OMKK or nothing.

    pooled: whether a 3x3 maximum of stride 1 is taken of the input first. Without a second
    convolution M is O. Tensors are the network's own, not copies.
    """

    first_MC: Tensor
    first_bias_M: Tensor
    second_OMKK: Tensor | None = None
    second_bias_O: Tensor | None = None
    pooled: bool = False


def block_input(model: str, block: str) -> tuple[str, str]:
    """(the layer before a block and its max pool, the operation whose map the block reads).

    The two are one where no pool lies between. Raises UnknownNameError for another name,
    ConfigError for a layer that is no block.
    """
    if model not in _OPS:
        raise unknown_name("model", model, _OPS)
    names = [op.name for op in _OPS[model]]
    if block not in names:
        raise unknown_name(f"layer of {model}", block, names)
    place = names.index(block)
    if _OPS[model][place].kind != "block":
        raise ConfigError(
            f"expected an Inception block of {model}, found '{block}'; give a mixed one"
        )
    pooled = _OPS[model][place - 1].kind == "maxpool"
    return names[place - 2 if pooled else place - 1], names[place - 1]


def block_branches(network: Network, block: str) -> dict[str, BranchWeights]:
    """The convolutions of a block by branch, in the order of its channels.

    Raises ConfigError for a network whose modules are not known.
    """
    if isinstance(network, InceptionV1):
        return inception_branches(network.trunk[block])
    if isinstance(network, TorchvisionGoogLeNet):
        return _googlenet_branches(network.net.get_submodule(block))
    raise ConfigError(
        f"expected a network of {', '.join(_OPS)}, found {type(network).__name__}; "
        "load it with isae.inception.load_model"
    )


def inception_branches(module: nn.Module) -> dict[str, BranchWeights]:
    """The branches of an `InceptionBlock`."""
    if not isinstance(module, InceptionBlock):
        raise TypeError(f"expected an InceptionBlock, found {type(module).__name__}")
    rows = list(module.widths.reduced)
    weights = torch.split(module.reduce.weight.flatten(1), rows)
    biases = torch.split(_bias(module.reduce), rows)
    parts = (
        BranchWeights(weights[0], biases[0]),
        BranchWeights(weights[1], biases[1], module.three.weight, _bias(module.three)),
        BranchWeights(weights[2], biases[2], module.five.weight, _bias(module.five)),
        BranchWeights(module.pool.weight.flatten(1), _bias(module.pool), pooled=True),
    )
    return dict(zip(BRANCHES, parts, strict=True))


def _googlenet_branches(module: nn.Module) -> dict[str, BranchWeights]:
    def convolution(name: str) -> nn.Conv2d:
        found = module.get_submodule(name)
        if not isinstance(found, nn.Conv2d):
            raise TypeError(f"expected a convolution, found {type(found).__name__}")
        return found

    one, pool = convolution("branch1.conv"), convolution("branch4.1.conv")
    parts = [BranchWeights(one.weight.flatten(1), _bias(one))]
    for branch in ("branch2", "branch3"):
        first, second = convolution(f"{branch}.0.conv"), convolution(f"{branch}.1.conv")
        parts.append(
            BranchWeights(first.weight.flatten(1), _bias(first), second.weight, _bias(second))
        )
    parts.append(BranchWeights(pool.weight.flatten(1), _bias(pool), pooled=True))
    return dict(zip(BRANCHES, parts, strict=True))


def _bias(module: nn.Conv2d) -> Tensor:
    if module.bias is None:
        raise TypeError("every convolution of a block has a bias")
    return module.bias
