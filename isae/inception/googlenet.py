"""The GoogLeNet of torchvision behind the interface of `Network`.

The same paper as InceptionV1 (Szegedy et al. 2015), another network: batch norm after every
convolution, no LRN, symmetric padding, and a branch named "5x5" whose convolution is 3x3 (a known
slip of torchvision's, kept for its weights' sake; `LayerInfo.note` says so). Batch norm is folded
into the convolutions: W' = W * g / sqrt(v + eps), b' = beta - m * g / sqrt(v + eps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import GoogLeNet, GoogLeNet_Weights
from torchvision.models.googlenet import BasicConv2d

from isae.errors import unknown_name
from isae.files import sha256
from isae.inception.calibrate import calibrate_batch_norm, calibration_pixels, he_normal
from isae.inception.download import fetch
from isae.inception.layers import GOOGLENET, Op
from isae.inception.network import Network, WeightsInfo
from isae.inception.weights import (
    State,
    check_tensors,
    existing_file,
    random_seed,
    read_pickle,
    read_safetensors,
    state_sha256,
)

INPUT_SIZE = 224
PREPROCESSING = "rgb, 0..255 divided by 127.5 minus 1"
AUXILIARY = ("aux1.", "aux2.")
RANDOM_CLASSES = 1000
SUFFIXES = (".safetensors", ".pth", ".pt")


class TorchvisionGoogLeNet(Network):
    """The GoogLeNet of torchvision without auxiliary heads; made by `load_model`.

    Preprocessing is torchvision's for its own weights: pixels are scaled to 0..1 and normalised
    with ImageNet's mean and deviation, which `transform_input` then turns into (x - 0.5) / 0.5.
    The two steps together are x / 127.5 - 1, and that is what is computed.
    """

    def __init__(self, module: GoogLeNet, weights: WeightsInfo, classes: str | None) -> None:
        super().__init__(
            "googlenet",
            weights,
            input_size=INPUT_SIZE,
            preprocessing=PREPROCESSING,
            classes=classes,
            class_count=module.fc.out_features,
        )
        self.net = module
        self.requires_grad_(False).eval()

    def _preprocess(self, pixels_BCHW: Tensor) -> Tensor:
        return pixels_BCHW / 127.5 - 1.0

    def _ops(self) -> Sequence[Op]:
        return GOOGLENET

    def _apply_op(self, op: Op, x_BCHW: Tensor) -> Tensor:
        y: Tensor = self.net.get_submodule(op.name)(x_BCHW)
        return y

    def _head(self, x_BC: Tensor) -> Tensor:
        scores: Tensor = self.net.fc(x_BC)
        return scores


def load_googlenet(spec: str) -> TorchvisionGoogLeNet:
    """The GoogLeNet of torchvision with weights `spec`, in fp32 on the CPU.

    Specs: a member of torchvision's GoogLeNet_Weights ('IMAGENET1K_V1'; 'default' is its default),
    a .safetensors, .pth or .pt file with torchvision's keys, or 'random:SEED' (normal weights;
    batch norm statistics from one pass over fixed procedural pictures, so that activations have
    unit scale, see isae.inception.calibrate). Raises UnknownNameError or WeightsError.
    """
    seed = random_seed(spec)
    if seed is not None:
        return _random(spec, seed)
    classes = None
    if "." in spec or "/" in spec:
        path, metadata = existing_file(spec, SUFFIXES), {}
    else:
        member = _enum_member(spec)
        path, metadata = _enum_file(member), {"weights": str(member)}
        classes = "ImageNet-1k, order of the categories in torchvision's weights"
    if path.suffix == ".safetensors":
        state, metadata = read_safetensors(path)
    else:
        state = read_pickle(path)
    module = _checked_module(path, state)
    return TorchvisionGoogLeNet(
        _folded(module), WeightsInfo(spec, path, sha256(path), metadata), classes
    )


def _enum_member(spec: str) -> GoogLeNet_Weights:
    members = GoogLeNet_Weights.__members__
    name = spec.upper().removeprefix("GOOGLENET_WEIGHTS.")
    if name not in members:
        raise unknown_name("weights of googlenet", spec, ["default", *members, "random:SEED"])
    return members[name]


def _enum_file(member: GoogLeNet_Weights) -> Path:
    # torchvision's own cache, so that a file it has downloaded before is found.
    return fetch(
        member.url, Path(torch.hub.get_dir()) / "checkpoints" / member.url.rsplit("/", 1)[-1]
    )


def _empty(class_count: int) -> GoogLeNet:
    return GoogLeNet(num_classes=class_count, aux_logits=False, init_weights=False).eval()


def _checked_module(path: Path, state: State) -> GoogLeNet:
    head = state.get("fc.weight")
    module = _empty(max(head.shape[0], 1) if head is not None and head.ndim else 1)
    # Counters that only training reads; files written before they existed lack them.
    counters = {key for key in module.state_dict() if key.endswith("num_batches_tracked")}
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items() if k not in counters}
    weights = {key: value for key, value in state.items() if key not in counters}
    check_tensors(path, "torchvision's GoogLeNet", weights, wanted, AUXILIARY)
    module.load_state_dict({key: weights[key] for key in wanted}, strict=False)
    return module


def _folded(module: GoogLeNet) -> GoogLeNet:
    for block in module.modules():
        if isinstance(block, BasicConv2d):
            block.conv = fuse_conv_bn_eval(block.conv, block.bn)
            block.bn = nn.Identity()
    return module


def _random(spec: str, seed: int) -> TorchvisionGoogLeNet:
    module = _empty(RANDOM_CLASSES)
    drawn: Mapping[str, Tensor] = {
        key: he_normal(seed, key, tuple(value.shape))
        for key, value in module.state_dict().items()
        if value.ndim > 1
    }
    module.load_state_dict(drawn, strict=False)
    nn.init.zeros_(module.fc.bias)
    module.double()
    network = TorchvisionGoogLeNet(module, WeightsInfo(spec, None, ""), None)
    hooks = [
        layer.register_forward_pre_hook(calibrate_batch_norm)
        for layer in module.modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    network.activations(calibration_pixels(), [GOOGLENET[-1].name])
    for hook in hooks:
        hook.remove()
    _folded(module).float()
    network.requires_grad_(False)
    network.weights = WeightsInfo(spec, None, state_sha256(module.state_dict()))
    return network
