"""Weights: round trips in every format, checks, errors, downloads, untrained networks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tensorboard.compat.proto import graph_pb2
from tensorboard.util.tensor_util import make_tensor_proto
from torch import Tensor

from isae.errors import ConfigError, UnknownNameError, WeightsError
from isae.files import sha256
from isae.inception import Network, load_model
from isae.inception import download as downloads
from isae.inception.calibrate import calibration_pixels
from isae.inception.model import InceptionV1, LocalResponseNorm
from isae.inception.weights import PACKAGED

HEAD = "softmax2_pre_activation_matmul"


@pytest.fixture(scope="module")
def state(network: Network) -> dict[str, Tensor]:
    assert isinstance(network, InceptionV1)
    return network.public_state()


def assert_same_weights(found: Network, expected: dict[str, Tensor]) -> None:
    assert isinstance(found, InceptionV1)
    state = found.public_state()
    assert state.keys() == expected.keys()
    for key, value in state.items():
        assert torch.equal(value, expected[key]), key


def load(path: Path) -> Network:
    return load_model(weights=str(path), dtype=torch.float32)


def test_the_packaged_weights(network: Network) -> None:
    assert (network.input_size, network.class_count) == (112, 200)
    assert network.classes == "tiny-imagenet-200, order of classes.tsv"
    assert network.preprocessing == "rgb, 0..255 minus 117"
    assert network.weights.spec == "default"
    assert network.weights.sha256 == sha256(PACKAGED)
    assert network.weights.metadata["val_top1"] == "0.4755"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_round_trip(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    # Auxiliary heads may be there; another number of classes is taken from the file.
    given = state | {f"{HEAD}.weight": torch.ones(7, 1024), f"{HEAD}.bias": torch.ones(7)}
    given["head0_bottleneck_pre_relu_conv.weight"] = torch.ones(128, 508, 1, 1)
    given["softmax1_pre_activation_matmul.bias"] = torch.ones(7)
    if suffix == ".safetensors":
        save_file(given, path)
    else:
        torch.save(given, path)
    found = load(path)
    expected = {key: value for key, value in given.items() if key in state}
    assert_same_weights(found, expected)
    assert (found.class_count, found.input_size, found.classes) == (7, 224, None)
    assert found.weights.path == path
    assert found.weights.sha256 == sha256(path)


def graph_of(state: dict[str, Tensor], *, depth_radius: int = 2) -> graph_pb2.GraphDef:
    """A frozen graph as TensorFlow writes one: HWIO matrices, LRN attributes, other nodes."""
    graph = graph_pb2.GraphDef()
    graph.node.add(name="input", op="Placeholder")
    for key, value in state.items():
        stem, kind = key.rsplit(".", 1)
        stem = "softmax2" if stem == HEAD else stem.removesuffix("_pre_relu_conv")
        array = value.numpy()
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        node = graph.node.add(name=f"{stem}_{'w' if kind == 'weight' else 'b'}", op="Const")
        node.attr["value"].tensor.CopyFrom(make_tensor_proto(np.ascontiguousarray(array)))
    axis = graph.node.add(name="mixed3a/axis", op="Const")
    axis.attr["value"].tensor.CopyFrom(make_tensor_proto(np.int32(3)))
    full = graph.node.add(name="localresponsenorm0", op="LRN")
    full.attr["depth_radius"].i = depth_radius
    full.attr["alpha"].f, full.attr["beta"].f, full.attr["bias"].f = 0.25, 0.75, 2.0
    # The second one leaves the operation's defaults out, as TensorFlow may.
    graph.node.add(name="localresponsenorm1", op="LRN")
    return graph


def test_frozen_graph(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph_of(state).SerializeToString())
    found = load(path)
    assert_same_weights(found, state)
    norms = [module for module in found.modules() if isinstance(module, LocalResponseNorm)]
    x = torch.rand(1, 64, 1, 1, dtype=torch.float64) * 9
    # TensorFlow's formula: x / (bias + alpha * sum over 2 r + 1 channels of x^2) ** beta
    total = float((x[0, 8:13] ** 2).sum())
    first = float(x[0, 10]) / (2.0 + 0.25 * total) ** 0.75
    assert float(norms[0](x)[0, 10]) == pytest.approx(first, rel=1e-12)
    x = torch.rand(1, 192, 1, 1, dtype=torch.float64) * 9
    default = float(x[0, 30]) / (1.0 + float((x[0, 25:36] ** 2).sum())) ** 0.5
    assert float(norms[1](x)[0, 30]) == pytest.approx(default, rel=1e-12)


def test_shared_frozen_graph_is_the_packaged_network(network: Network, shared_dir: Path) -> None:
    path = shared_dir / "weights" / "inceptionv1_tin200.pb"
    if not path.is_file():
        pytest.skip("needs the frozen graph in ../shared/weights, not part of the repository")
    assert isinstance(network, InceptionV1)
    found = load(path)
    assert_same_weights(found, network.public_state())
    pixels = calibration_pixels()[:2]
    # Only alpha differs, by float32's rounding of 1e-4 / 9.
    torch.testing.assert_close(found.logits(pixels), network.logits(pixels), rtol=1e-5, atol=1e-5)


def test_frozen_graph_without_norms(tmp_path: Path, state: dict[str, Tensor]) -> None:
    graph = graph_of(state)
    del graph.node[-1]
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(WeightsError, match=r"localresponsenorm1 in .*found localresponsenorm0"):
        load(path)


def test_one_error_lists_every_problem(tmp_path: Path, state: dict[str, Tensor]) -> None:
    bad = dict(state)
    del bad["conv2d0_pre_relu_conv.bias"], bad["mixed5b_5x5_pre_relu_conv.weight"]
    bad["conv2d1_pre_relu_conv.weight"] = torch.ones(64, 64, 3, 3)
    bad["mixed3a_1x1_pre_relu_conv.bias"] = torch.ones(65)
    bad["mixed4d_1x1_pre_relu_conv.bias"] = torch.full((112,), float("nan"))
    bad["conv2d2_pre_relu_conv.bias"] = torch.ones(192, dtype=torch.int64)
    bad["fc.weight"] = torch.ones(1)
    bad["xhead0_weight"] = torch.ones(1)
    path = tmp_path / "bad.pth"
    torch.save(bad, path)
    with pytest.raises(WeightsError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "missing keys: conv2d0_pre_relu_conv.bias, mixed5b_5x5_pre_relu_conv.weight",
        "unknown keys: fc.weight, xhead0_weight",
        "conv2d1_pre_relu_conv.weight [64, 64, 3, 3] instead of [64, 64, 1, 1]",
        "mixed3a_1x1_pre_relu_conv.bias [65] instead of [64]",
        "not finite floats in: conv2d2_pre_relu_conv.bias, mixed4d_1x1_pre_relu_conv.bias",
    ):
        assert part in message


def test_softmax_of_another_width(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "bad.safetensors"
    save_file(state | {f"{HEAD}.weight": torch.ones(9, 512), f"{HEAD}.bias": torch.ones(8)}, path)
    with pytest.raises(WeightsError, match=r"\[9, 512\] instead of \[9, 1024\].*\[8\] .* \[9\]"):
        load(path)


class Evil:
    """Unpickles by calling a function, as malware does."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("ran",))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pb"])
@pytest.mark.parametrize("content", [b"", b"no weights\n", b"\x80\x02}q\x00.", bytes(range(256))])
def test_foreign_files_give_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"foreign{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"expected .* found") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_truncated_copies(tmp_path: Path, state: dict[str, Tensor]) -> None:
    whole = {".safetensors": PACKAGED.read_bytes(), ".pb": graph_of(state).SerializeToString()}
    torch.save(state, tmp_path / "whole.pth")
    whole[".pth"] = (tmp_path / "whole.pth").read_bytes()
    for suffix, content in whole.items():
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(WeightsError) as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_pickles_do_not_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"conv2d0_pre_relu_conv.weight": Evil()}, path)
    with pytest.raises(WeightsError, match="PyTorch state dict"):
        load(path)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "resnet"}, "expected architecture 'inception_v1'.*found 'resnet'"),
        ({"preprocess": "bgr"}, "expected preprocess 'rgb, 0..255 minus 117'.*found 'bgr'"),
        ({"input_size": "big"}, "positive whole number as input_size.*found 'big'"),
        ({"input_size": "0"}, "positive whole number as input_size.*found '0'"),
    ],
)
def test_header_of_another_network(
    tmp_path: Path, state: dict[str, Tensor], metadata: dict[str, str], message: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(state, path, metadata=metadata)
    with pytest.raises(WeightsError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("defalt", "expected --weights as default, inception5h, random:SEED"),
        ("weights.onnx", "expected --weights as"),
        ("missing.pth", "found none; check the path"),
        ("random:", "whole number of at least 0 after 'random:'"),
        ("random:-1", "whole number of at least 0"),
        ("random:x", "whole number of at least 0"),
    ],
)
def test_specs_that_name_nothing(spec: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_model(weights=spec)


def test_a_folder_is_no_weights(tmp_path: Path) -> None:
    folder = tmp_path / "folder.pth"
    folder.mkdir()
    with pytest.raises(WeightsError, match="found a folder"):
        load(folder)


def test_unknown_model_device_and_dtype() -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'googlnet': nearest: googlenet"):
        load_model("googlnet")
    with pytest.raises(ConfigError, match="expected --device"):
        load_model(device="abacus")
    with pytest.raises(ConfigError, match="expected dtype float32, bfloat16 or float64"):
        load_model(dtype=torch.int8)


def test_loading_leaves_the_random_stream_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model()
    assert torch.equal(torch.rand(3), expected)


def test_untrained_weights_follow_the_seed(untrained: Network) -> None:
    again = load_model(weights="random:3", dtype=torch.float32)
    other = load_model(weights="random:4", dtype=torch.float32)
    assert again.weights == untrained.weights
    assert again.weights.path is None
    assert other.weights.sha256 != untrained.weights.sha256
    assert isinstance(untrained, InceptionV1)
    assert_same_weights(again, untrained.public_state())


@pytest.mark.parametrize("model", ["inceptionv1", "googlenet"])
def test_untrained_activations_have_unit_scale(
    model: str, untrained: Network, googlenet: Network
) -> None:
    network = untrained if model == "inceptionv1" else googlenet
    blocks = [name for name, info in network.layers.items() if info.branches]
    first = next(iter(network.layers))
    maps = network.activations(calibration_pixels(), [first, *blocks])
    for name, values in maps.items():
        rms = values.double().square().mean(dim=(0, 2, 3)).sqrt()
        # 16-bit scales and shifts, fp32 against float64 in up to 20 layers: below 1e-3 in all.
        assert float((rms - 1).abs().max()) < 1e-3, name
    # Other pictures: noise of another seed differs from the calibration batch, not by orders.
    rows = torch.flip(calibration_pixels(), dims=(2,))
    deep = network.activations(rows, [blocks[-1]])[blocks[-1]]
    assert 0.5 < float(deep.square().mean().sqrt()) < 2
    dead = float((deep.amax(dim=(0, 2, 3)) == 0).double().mean())
    assert dead < 0.01


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real web server on this machine: (address, folder)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()
        thread.join()


def test_inception5h_is_downloaded_once(
    tmp_path: Path,
    server: tuple[str, Path],
    state: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, folder = server
    torch.save(state, folder / "inception5h.pth")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "INCEPTION5H_URL", f"{address}/inception5h.pth")
    found = load_model(weights="inception5h", dtype=torch.float32)
    assert_same_weights(found, state)
    assert found.input_size == 224
    cached = tmp_path / "cache" / "isae" / "inception5h.pth"
    assert [entry.name for entry in cached.parent.iterdir()] == [cached.name]
    (folder / "inception5h.pth").unlink()
    assert load_model(weights="inception5h").weights.path == cached


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/inception5h.pth", "served"])
def test_no_network_says_what_to_download_and_where_to_put_it(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    url = f"{server[0]}/not-there.pth" if url == "served" else url
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "INCEPTION5H_URL", url)
    target = tmp_path / "cache" / "isae" / "inception5h.pth"
    with pytest.raises(WeightsError) as caught:
        load_model(weights="inception5h")
    message = str(caught.value)
    assert url in message
    assert f"put it at {target}" in message
    assert "\n" not in message
    assert not target.exists()


def test_the_real_address_is_the_public_one() -> None:
    assert "ProGamerGov/pytorch-old-tensorflow-models" in downloads.INCEPTION5H_URL
    assert downloads.INCEPTION5H_URL.endswith("master/inception5h.pth")
