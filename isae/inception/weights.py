"""Weights of InceptionV1: from a spec to checked fp32 tensors and a record of where they came from.

Specs: 'default' (the packaged file), 'inception5h' (the public conversion, from the cache or
downloaded), 'random:SEED', or the path of a .safetensors, .pth, .pt or .pb file. Keys are those of
the public PyTorch conversion of inception5h: '<convolution>_pre_relu_conv.weight/.bias' and
'softmax2_pre_activation_matmul.weight/.bias'.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from isae.errors import WeightsError
from isae.files import sha256
from isae.inception.layers import convolutions
from isae.inception.model import DEFAULT_SIZE, PREPROCESSING, SOFTMAX, LrnConstants
from isae.inception.network import WeightsInfo

PACKAGED = Path(__file__).with_name("inceptionv1_tin200.safetensors")
FEATURES = 1024
# The original training graph's auxiliary classifiers; the network here does not have them.
AUXILIARY = ("head0_", "head1_", "nn0_", "nn1_", "softmax0_", "softmax1_")
SPECS = "default, inception5h, random:SEED, or a .safetensors, .pth, .pt or .pb file"
State = dict[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class LoadedWeights:
    """Checked fp32 tensors under the public keys, their origin, and LRN constants if stated."""

    state: State
    info: WeightsInfo
    lrn: Mapping[str, LrnConstants] = field(default_factory=dict)

    @property
    def class_count(self) -> int:
        """The number of logits."""
        return self.state[f"{SOFTMAX}.weight"].shape[0]

    @property
    def input_size(self) -> int:
        """Pixels per side: the header's `input_size`, else 224; WeightsError if it is no size."""
        text = self.info.metadata.get("input_size", str(DEFAULT_SIZE))
        if not text.isdecimal() or int(text) < 1:
            raise WeightsError(
                f"expected a positive whole number as input_size in the header of "
                f"{self.info.path}, found '{text}'; write the file again with a proper header"
            )
        return int(text)


def random_seed(spec: str) -> int | None:
    """The seed of 'random:SEED'; None for another spec; WeightsError for a bad seed."""
    if not spec.startswith("random:"):
        return None
    text = spec.removeprefix("random:")
    if not text.isdecimal():
        raise WeightsError(
            f"expected a whole number of at least 0 after 'random:', found '{spec}'; "
            "write for example random:0"
        )
    return int(text)


def load_file(path: Path, spec: str) -> LoadedWeights:
    """Read and check a weights file; every problem of the file is named in one WeightsError."""
    state, metadata, lrn = _read(path)
    _check_header(path, metadata)
    _check_state(path, state)
    kept = {key: state[key].float() for key in _expected_shapes(state)}
    return LoadedWeights(kept, WeightsInfo(spec, path, sha256(path), metadata), lrn)


def existing_file(spec: str, suffixes: tuple[str, ...]) -> Path:
    """The file that `spec` names; WeightsError if it is not there or has another suffix."""
    path = Path(spec).expanduser()
    if path.suffix.lower() not in suffixes:
        raise WeightsError(
            f"expected --weights as {SPECS}, found '{spec}'; check the spelling or the suffix"
        )
    if not path.is_file():
        raise WeightsError(
            f"expected a weights file at {path}, found {'a folder' if path.is_dir() else 'none'}; "
            "check the path"
        )
    return path


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and fp32 values, in the order of names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        values = state[key].detach().float().contiguous().numpy()
        digest.update(f"{key}:{values.shape};".encode())
        digest.update(values.astype("<f4").tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[State, dict[str, str], dict[str, LrnConstants]]:
    suffix = path.suffix.lower()
    if suffix == ".pb":
        from isae.inception.frozen_graph import read_frozen_graph

        state, lrn = read_frozen_graph(path)
        return state, {}, lrn
    if suffix == ".safetensors":
        return *read_safetensors(path), {}
    return read_pickle(path), {}, {}


def read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors and header metadata of a .safetensors file; WeightsError if it is none."""
    from safetensors import safe_open

    def read() -> tuple[State, dict[str, str]]:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return state, dict(file.metadata() or {})

    return readable(path, "a safetensors file", read)


def read_pickle(path: Path) -> State:
    """The state dict of a .pth or .pt file, read without running code in it; else WeightsError."""

    def read() -> State:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        ):
            raise ValueError(f"it holds a {type(state).__name__} that is no state dict")
        return dict(state)

    return readable(path, "a PyTorch state dict (names to tensors)", read)


def readable(path: Path, what: str, read: Callable[[], T]) -> T:
    """`read()`, whose errors of whatever kind (the readers raise many) become one WeightsError."""
    try:
        return read()
    except Exception as error:
        reason = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
        size = path.stat().st_size
        raise WeightsError(
            f"expected {what} at {path}, found {size:,} bytes that cannot be read as one "
            f"({reason[:160]}); copy or download the file again"
        ) from None


def _check_header(path: Path, metadata: Mapping[str, str]) -> None:
    expected = {"architecture": "inception_v1", "preprocess": PREPROCESSING}
    for key, value in expected.items():
        if metadata.get(key, value) != value:
            raise WeightsError(
                f"expected {key} '{value}' in the header of {path}, found '{metadata[key]}'; "
                "these weights are for another network"
            )


def _expected_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in convolutions():
        shapes[f"{name}_pre_relu_conv.weight"] = shape
        shapes[f"{name}_pre_relu_conv.bias"] = shape[:1]
    head = state.get(f"{SOFTMAX}.weight")
    # As many classes as the file says, but at least one.
    classes = max(head.shape[0], 1) if head is not None and head.ndim else 1
    shapes[f"{SOFTMAX}.weight"] = (classes, FEATURES)
    shapes[f"{SOFTMAX}.bias"] = (classes,)
    return shapes


def _check_state(path: Path, state: Mapping[str, Tensor]) -> None:
    check_tensors(path, "InceptionV1", state, _expected_shapes(state), AUXILIARY)


def check_tensors(
    path: Path,
    network: str,
    state: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    ignored: tuple[str, ...],
) -> None:
    """Raise one WeightsError that lists all missing and unknown keys, wrong shapes and values.

    Keys that begin with one of `ignored` may be there or not.
    """
    unknown = sorted(key for key in state if key not in expected and not key.startswith(ignored))
    missing = [key for key in expected if key not in state]
    shared = [key for key in expected if key in state]
    shapes = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key])}"
        for key in shared
        if tuple(state[key].shape) != tuple(expected[key])
    ]
    values = [
        key
        for key in shared
        if not state[key].is_floating_point() or not bool(torch.isfinite(state[key]).all())
    ]
    if not shared:
        missing = [f"all {len(expected)}, such as {missing[0]}"]
    kinds = {
        "missing keys": missing,
        "unknown keys": unknown,
        "wrong shapes": shapes,
        "values that are not finite floats in": values,
    }
    found = "; ".join(f"{kind}: {', '.join(items)}" for kind, items in kinds.items() if items)
    if found:
        raise WeightsError(
            f"expected the weights of {network} in {path}, found {found}; use weights of exactly "
            "this network"
        )
