"""Read InceptionV1's weights from a frozen TensorFlow graph (.pb), without TensorFlow.

Format: a serialised GraphDef (tensorflow/core/framework/graph.proto), whose Const nodes
'<convolution>_w' [height, width, in, out] and '<convolution>_b' [out] hold the weights, and whose
LRN nodes state depth_radius r, alpha, beta and bias of
y = x / (bias + alpha * sum over 2r + 1 channels of x^2) ** beta.
PyTorch divides alpha by the window's size, so alpha_torch = alpha * (2r + 1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isae.errors import WeightsError
from isae.inception.layers import INCEPTION_V1
from isae.inception.model import SOFTMAX, LrnConstants

# TensorFlow leaves attributes out that have the operation's default value.
LRN_DEFAULTS = {"depth_radius": 5, "alpha": 1.0, "beta": 0.5, "bias": 1.0}


def read_frozen_graph(path: Path) -> tuple[dict[str, Tensor], dict[str, LrnConstants]]:
    """(tensors under the public conversion's keys, LRN constants by layer) of a .pb file.

    Convolutions become [out, in, height, width], the matrix of softmax2 [classes, 1024]. Raises
    WeightsError for a file that is no GraphDef with such nodes.
    """
    from isae.inception.weights import readable

    nodes = readable(path, "a frozen TensorFlow graph (GraphDef)", lambda: _parse(path))
    state = readable(
        path,
        "a frozen TensorFlow graph with tensors that can be decoded",
        lambda: {_key(node.name): _tensor(node) for node in nodes if _is_weight(node)},
    )
    lrn = {node.name: _lrn(node) for node in nodes if node.op == "LRN"}
    missing = [op.name for op in INCEPTION_V1 if op.kind == "lrn" and op.name not in lrn]
    if state and missing:
        raise WeightsError(
            f"expected LRN nodes named {' and '.join(missing)} in {path}, found "
            f"{', '.join(lrn) or 'none'}; use a frozen graph of InceptionV1 (inception5h)"
        )
    return state, lrn


def _parse(path: Path) -> list[Any]:
    from tensorboard.compat.proto import graph_pb2

    graph = graph_pb2.GraphDef()
    graph.ParseFromString(path.read_bytes())
    if not len(graph.node):
        raise ValueError("it has no nodes")
    return list(graph.node)


def _is_weight(node: Any) -> bool:
    return bool(node.op == "Const" and node.name.endswith(("_w", "_b")))


def _key(name: str) -> str:
    stem, kind = name[:-2], "weight" if name.endswith("_w") else "bias"
    layer = SOFTMAX if stem == "softmax2" else f"{stem}_pre_relu_conv"
    return f"{layer}.{kind}"


def _tensor(node: Any) -> Tensor:
    from tensorboard.util.tensor_util import make_ndarray

    values = np.asarray(make_ndarray(node.attr["value"].tensor))
    if values.ndim == 4:
        values = values.transpose(3, 2, 0, 1)
    elif values.ndim == 2:
        values = values.T
    return torch.from_numpy(np.array(values))


def _lrn(node: Any) -> LrnConstants:
    stated = {
        name: (node.attr[name].i if name == "depth_radius" else node.attr[name].f)
        if name in node.attr
        else default
        for name, default in LRN_DEFAULTS.items()
    }
    size = 2 * int(stated["depth_radius"]) + 1
    return LrnConstants(size, stated["alpha"] * size, stated["beta"], stated["bias"])
