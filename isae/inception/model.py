"""InceptionV1 as a PyTorch module, with TensorFlow's padding.

A convolution computes y = relu(W * x + b); a block concatenates relu of 1x1 | 3x3 | 5x5 | pool
branches along the channels. Source: Szegedy et al. 2015, and the frozen graph "inception5h".

The three 1x1 convolutions that read a block's input are one convolution here (their rows stacked):
the input is read once. `public_state` gives the separate tensors back.

Legend: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isae.inception.layers import INCEPTION_V1, Op, Step, Widths
from isae.inception.network import Network, WeightsInfo

PIXEL_OFFSET = 117.0
PREPROCESSING = "rgb, 0..255 minus 117"
DEFAULT_SIZE = 224
SOFTMAX = "softmax2_pre_activation_matmul"
POOL = Step(3)


@dataclass(frozen=True)
class LrnConstants:
    """Constants of y_c = x_c / (k + alpha / size * sum over the window of x^2) ** beta.

    The window is the `size` channels around c, cut at the ends; PyTorch's terms. TensorFlow
    writes size = 2 * depth_radius + 1, alpha_tf = alpha / size, bias = k.
    """

    size: int = 9
    alpha: float = 1e-4
    beta: float = 0.5
    k: float = 1.0


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding and bias, without activation."""

    def __init__(self, in_channels: int, out_channels: int, step: Step) -> None:
        super().__init__(in_channels, out_channels, step.kernel, stride=step.stride)
        self.step = step

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, out, ceil(H / stride), ceil(W / stride)]."""
        (top, bottom), (left, right) = (self.step.pads(n) for n in x_BCHW.shape[2:])
        padding = (top, left)
        if (top, left) != (bottom, right):
            x_BCHW, padding = F.pad(x_BCHW, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x_BCHW, self.weight, self.bias, self.stride, padding)


def same_max_pool(x_BCHW: Tensor, step: Step) -> Tensor:
    """Max pool with TensorFlow's SAME padding; cells outside the input never win."""
    before = tuple(step.pads(n)[0] for n in x_BCHW.shape[2:])
    # ceil_mode lets the last window reach over the end, which is the padding after it.
    return F.max_pool2d(x_BCHW, step.kernel, step.stride, before, ceil_mode=True)


class LocalResponseNorm(nn.Module):
    """Local response normalisation over channels, in fp32 at least (see LrnConstants).

    The window sums are a 1x1 convolution with a band of ones: F.local_response_norm goes through
    a 3D average pool, which took 16 times as long on a CPU.
    """

    def __init__(self, channels: int, constants: LrnConstants) -> None:
        super().__init__()
        self.constants = constants
        index = torch.arange(channels)
        distance = index[None, :] - index[:, None]
        # torch and TensorFlow agree for odd sizes; for even ones torch's window starts early.
        inside = (distance >= -(constants.size // 2)) & (distance <= (constants.size - 1) // 2)
        self.band: Tensor
        self.register_buffer("band", inside.float()[:, :, None, None], persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape and dtype."""
        c = self.constants
        exact = x_BCHW if x_BCHW.dtype == torch.float64 else x_BCHW.float()
        if exact.is_cuda:  # there a convolution may round its inputs to TF32
            size, alpha = c.size, c.alpha
            return F.local_response_norm(exact, size, alpha, c.beta, c.k).to(x_BCHW.dtype)
        sums = F.conv2d(exact * exact, self.band.to(exact.dtype))
        base = sums.mul_(c.alpha / c.size).add_(c.k)
        scale = base.rsqrt_() if c.beta == 0.5 else base.pow(-c.beta)
        return (exact * scale).to(x_BCHW.dtype)


class InceptionBlock(nn.Module):
    """One mixed block: relu of 1x1 | 3x3 | 5x5 | pool branches, concatenated."""

    def __init__(self, channels: int, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.reduce = SameConv2d(channels, sum(widths.reduced), Step(1))
        self.three = SameConv2d(widths.three_reduce, widths.three, Step(3))
        self.five = SameConv2d(widths.five_reduce, widths.five, Step(5))
        self.pool = SameConv2d(channels, widths.pool, Step(1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, sum of the branches' widths, H, W]."""
        reduced = F.relu_(self.reduce(x_BCHW))
        one, three, five = torch.split(reduced, list(self.widths.reduced), dim=1)
        branches = (self.three(three), self.five(five), self.pool(same_max_pool(x_BCHW, POOL)))
        return torch.cat([one, *(F.relu_(branch) for branch in branches)], dim=1)


class InceptionV1(Network):
    """InceptionV1 (inception5h); see Network for its public methods.

    With dtype bfloat16 the convolutions and pools run in bf16 and the LRN in fp32.
    """

    def __init__(
        self,
        weights: WeightsInfo,
        *,
        class_count: int,
        input_size: int = DEFAULT_SIZE,
        classes: str | None = None,
        lrn: Mapping[str, LrnConstants] | None = None,
    ) -> None:
        super().__init__(
            "inceptionv1",
            weights,
            input_size=input_size,
            preprocessing=PREPROCESSING,
            classes=classes,
            class_count=class_count,
        )
        self.trunk = nn.ModuleDict()
        channels = 3
        for op in INCEPTION_V1:
            module = _module(op, channels, (lrn or {}).get(op.name, LrnConstants()))
            if module is not None:
                self.trunk[op.name] = module
            channels = op.out_channels(channels)
        self.softmax2 = nn.Linear(channels, class_count)
        self.requires_grad_(False).eval()

    def _preprocess(self, pixels_BCHW: Tensor) -> Tensor:
        return pixels_BCHW - PIXEL_OFFSET

    def _ops(self) -> Sequence[Op]:
        return INCEPTION_V1

    def _apply_op(self, op: Op, x_BCHW: Tensor) -> Tensor:
        if op.kind == "maxpool":
            return same_max_pool(x_BCHW, op.step)
        y: Tensor = self.trunk[op.name](x_BCHW)
        return F.relu_(y) if op.kind == "conv" else y

    def _head(self, x_BC: Tensor) -> Tensor:
        scores: Tensor = self.softmax2(x_BC)
        return scores

    def load_public_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy weights under the public conversion's keys into the modules (already checked)."""
        with torch.no_grad():
            for key, target in self._public_views().items():
                target.copy_(state[key])

    def public_state(self) -> dict[str, Tensor]:
        """The weights under the public conversion's keys, as copies."""
        return {
            key: view.detach().clone(memory_format=torch.contiguous_format)
            for key, view in self._public_views().items()
        }

    def _public_views(self) -> dict[str, Tensor]:
        views = {f"{SOFTMAX}.weight": self.softmax2.weight, f"{SOFTMAX}.bias": self.softmax2.bias}
        for name, module in self.trunk.items():
            if isinstance(module, SameConv2d):
                views |= _views(name, module)
            elif isinstance(module, InceptionBlock):
                parts = (f"{name}_1x1", f"{name}_3x3_bottleneck", f"{name}_5x5_bottleneck")
                rows = list(module.widths.reduced)
                weights = torch.split(module.reduce.weight, rows)
                biases = torch.split(_bias(module.reduce), rows)
                for part, weight, bias in zip(parts, weights, biases, strict=True):
                    views[f"{part}_pre_relu_conv.weight"] = weight
                    views[f"{part}_pre_relu_conv.bias"] = bias
                views |= _views(f"{name}_3x3", module.three)
                views |= _views(f"{name}_5x5", module.five)
                views |= _views(f"{name}_pool_reduce", module.pool)
        return views


def _module(op: Op, channels: int, lrn: LrnConstants) -> nn.Module | None:
    if op.kind == "conv":
        return SameConv2d(channels, op.channels, op.step)
    if op.kind == "lrn":
        return LocalResponseNorm(channels, lrn)
    return InceptionBlock(channels, op.block_widths) if op.kind == "block" else None


def _views(name: str, module: SameConv2d) -> dict[str, Tensor]:
    return {
        f"{name}_pre_relu_conv.weight": module.weight,
        f"{name}_pre_relu_conv.bias": _bias(module),
    }


def _bias(module: nn.Conv2d) -> Tensor:
    if module.bias is None:
        raise TypeError("every convolution of InceptionV1 has a bias")
    return module.bias
