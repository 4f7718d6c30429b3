"""`load_model`: from a model name and a weights spec to a network that is ready to run."""

from __future__ import annotations

import torch

from isae.device import has_fast_bf16, resolve_device
from isae.errors import ConfigError, unknown_name
from isae.inception.calibrate import calibrate_convolution, calibration_pixels, he_normal
from isae.inception.download import inception5h_path
from isae.inception.layers import MODELS
from isae.inception.model import InceptionV1, SameConv2d
from isae.inception.network import Network, WeightsInfo
from isae.inception.weights import (
    PACKAGED,
    LoadedWeights,
    existing_file,
    load_file,
    random_seed,
    state_sha256,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
RANDOM_CLASSES = 1008


def load_model(
    name: str = "inceptionv1",
    weights: str = "default",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Network:
    """The network `name` ('inceptionv1' or 'googlenet') with `weights`, frozen, on `device`.

    Weights of inceptionv1: 'default' (packaged: trained on Tiny ImageNet's 200 classes),
    'inception5h' (the circuits literature's; downloaded on first use), 'random:SEED' (untrained,
    calibrated to unit scale), or a .safetensors, .pth, .pt or .pb file. Weights of googlenet: a
    member of torchvision's GoogLeNet_Weights ('default' is its default), a file, 'random:SEED'.
    `dtype` is that of the convolutions: float32, bfloat16 or float64; None takes bfloat16 where
    the processor is fast at it, else float32. Activations come out as float32 in either case.

    Raises UnknownNameError for a model, WeightsError for weights, ConfigError for a device or
    dtype that cannot be had.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    place = resolve_device(str(device))
    if dtype is None:
        dtype = torch.bfloat16 if has_fast_bf16(place) else torch.float32
    if dtype not in DTYPES:
        raise ConfigError(
            f"expected dtype float32, bfloat16 or float64, found {dtype}; use one of those"
        )
    # PyTorch's modules draw initial values that are overwritten: leave the caller's stream alone.
    with torch.random.fork_rng(devices=[]):
        network = _load_googlenet(weights) if name == "googlenet" else _load_inception(weights)
    return network.to(place, dtype).to(memory_format=torch.channels_last)


def _load_googlenet(spec: str) -> Network:
    # Imported here since torchvision takes a second to import.
    from isae.inception.googlenet import load_googlenet

    return load_googlenet(spec)


def _load_inception(spec: str) -> Network:
    seed = random_seed(spec)
    if seed is not None:
        return _random_inception(spec, seed)
    if spec == "default":
        loaded = load_file(PACKAGED, spec)
    elif spec == "inception5h":
        loaded = load_file(inception5h_path(), spec)
    else:
        loaded = load_file(existing_file(spec, (".safetensors", ".pth", ".pt", ".pb")), spec)
    return _network(loaded)


def _network(loaded: LoadedWeights) -> InceptionV1:
    network = InceptionV1(
        loaded.info,
        class_count=loaded.class_count,
        input_size=loaded.input_size,
        classes=loaded.info.metadata.get("classes"),
        lrn=loaded.lrn,
    )
    network.load_public_state(loaded.state)
    return network


def _random_inception(spec: str, seed: int) -> InceptionV1:
    network = InceptionV1(WeightsInfo(spec, None, ""), class_count=RANDOM_CLASSES)
    network.load_public_state(
        {
            key: he_normal(seed, key, tuple(tensor.shape))
            if tensor.ndim > 1
            else torch.zeros_like(tensor)
            for key, tensor in network.public_state().items()
        }
    )
    network.double()
    hooks = [
        module.register_forward_pre_hook(calibrate_convolution)
        for module in network.modules()
        if isinstance(module, SameConv2d)
    ]
    network.activations(calibration_pixels(), ["mixed5b"])
    for hook in hooks:
        hook.remove()
    network.float()
    network.weights = WeightsInfo(spec, None, state_sha256(network.public_state()))
    return network
