"""torchvision's GoogLeNet: our forward pass against torchvision's own, hooks and all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import GoogLeNet, GoogLeNet_Weights
from torchvision.models.googlenet import Inception

from isae.errors import UnknownNameError, WeightsError
from isae.files import sha256
from isae.inception import Network, load_model


def torchvision_module(seed: int = 0, classes: int = 13) -> GoogLeNet:
    """torchvision's own network as its pretrained one is made, with lively batch norms."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = GoogLeNet(classes, aux_logits=True, transform_input=True, init_weights=False)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_(std=0.3)
                layer.running_var.uniform_(0.2, 1.5)
                layer.weight.data.uniform_(0.8, 2.0)
                layer.bias.data.normal_(std=0.5)
    return module.eval()


@pytest.mark.parametrize(("suffix", "size"), [(".pth", 64), (".safetensors", 97)])
def test_every_layer_is_torchvisions(tmp_path: Path, suffix: str, size: int) -> None:
    module = torchvision_module()
    path = tmp_path / f"googlenet{suffix}"
    if suffix == ".pth":
        torch.save(module.state_dict(), path)
    else:
        save_file(module.state_dict(), path)
    network = load_model("googlenet", str(path), dtype=torch.float64)
    assert (network.class_count, network.weights.sha256) == (13, sha256(path))

    expected: dict[str, Tensor] = {}
    for name in network.layers:

        def keep(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
            expected[name] = output.detach()

        module.get_submodule(name).register_forward_hook(keep)
    pixels = torch.randint(
        0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    # torchvision's recipe for its weights (GoogLeNet_Weights.transforms): 0..1, mean, deviation.
    transforms = GoogLeNet_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(v)[:, None, None].double() for v in (transforms.mean, transforms.std))
    with torch.no_grad():
        logits = module.double()((pixels.double() / 255 - mean) / std)
    found = network.activations(pixels, network.layers)
    assert list(found) == list(expected)
    for name, maps in found.items():
        # float64 throughout; folding the batch norm reorders a few roundings a layer. The folded
        # weights are rounded to fp32 once (they are loaded as fp32): 6e-8 times 20 layers.
        scale = float(expected[name].abs().max())
        assert float((maps - expected[name]).abs().max()) < 5e-6 * scale, name
    torch.testing.assert_close(network.logits(pixels), logits, rtol=1e-4, atol=1e-5)


def test_branch_table_is_torchvisions(googlenet: Network) -> None:
    module = GoogLeNet(10, aux_logits=False, init_weights=False)
    blocks = {n: m for n, m in module.named_children() if isinstance(m, Inception)}
    assert list(blocks) == [name for name, info in googlenet.layers.items() if info.branches]
    for name, block in blocks.items():
        info = googlenet.layers[name]
        branches = (block.branch1, block.branch2, block.branch3, block.branch4)
        for (start, stop), branch in zip(info.branches.values(), branches, strict=True):
            last = [layer for layer in branch.modules() if isinstance(layer, nn.Conv2d)][-1]
            assert stop - start == last.out_channels
        third = [layer for layer in block.branch3.modules() if isinstance(layer, nn.Conv2d)][-1]
        assert third.kernel_size == (3, 3)
        assert info.branch_kernels["5x5"] == 3
        assert "3x3 convolution" in info.note


def test_random_follows_the_seed(googlenet: Network) -> None:
    again = load_model("googlenet", "random:3")
    assert again.weights == googlenet.weights
    assert (googlenet.class_count, googlenet.input_size) == (1000, 224)


@pytest.mark.parametrize("spec", ["default", "IMAGENET1K_V1"])
def test_download_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # A proxy that refuses at once: the same as no network, also on a machine that has one.
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(WeightsError) as caught:
        load_model("googlenet", spec)
    url = GoogLeNet_Weights.IMAGENET1K_V1.url
    target = tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[-1]
    assert url in str(caught.value)
    assert f"put it at {target}" in str(caught.value)


def test_torchvisions_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = GoogLeNet_Weights.IMAGENET1K_V1.url
    torch.save(torchvision_module(classes=1000).state_dict(), folder / url.rsplit("/", 1)[-1])
    network = load_model("googlenet", "default")
    assert network.weights.path == folder / url.rsplit("/", 1)[-1]
    assert network.weights.metadata == {"weights": "GoogLeNet_Weights.IMAGENET1K_V1"}
    assert network.classes is not None


def test_wrong_weights_and_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown weights of googlenet 'IMAGENET1K_V9'"):
        load_model("googlenet", "IMAGENET1K_V9")
    state = torchvision_module().state_dict()
    del state["conv1.bn.running_mean"]
    state["extra"] = torch.ones(1)
    state["conv2.conv.weight"] = torch.ones(1, 1, 1, 1)
    path = tmp_path / "bad.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError) as caught:
        load_model("googlenet", str(path))
    for part in ("missing keys: conv1.bn.running_mean", "unknown keys: extra", "conv2.conv.weight"):
        assert part in str(caught.value)
