"""The one table of both networks: channels, strides, receptive fields, branches, convolutions.

Everything else (the modules, the weight check, stores, analyses) reads it. The numbers typed in
here are kernel sizes, strides and channel counts only; receptive fields, grids and branch slices
are computed from them.

InceptionV1: Szegedy et al. 2015, "Going deeper with convolutions", in the version of the circuits
literature (inception5h: LRN, a real 5x5 branch, TensorFlow SAME padding). Its layer names are
those of the frozen graph and mean the tensor after the ReLU. GoogLeNet: torchvision's network of
the same paper (batch norm, a "5x5" branch that is a 3x3 convolution), under torchvision's names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from isae.errors import ConfigError, unknown_name

BRANCHES = ("1x1", "3x3", "5x5", "pool")
MODELS = ("inceptionv1", "googlenet")
GOOGLENET_NOTE = "torchvision's branch '5x5' is a 3x3 convolution (its kernel is 3, not 5)"


@dataclass(frozen=True)
class Step:
    """One sliding window along one spatial axis.

    `padding` None is TensorFlow SAME: the output has ceil(n / stride) cells, the total padding is
    max((ceil(n / stride) - 1) * stride + kernel - n, 0), and the odd cell goes to the end. A number
    pads both ends by it; `ceil_mode` then lets the last window reach beyond the end, as PyTorch's
    pools do.
    """

    kernel: int
    stride: int = 1
    padding: int | None = None
    ceil_mode: bool = False

    def cells(self, n: int) -> int:
        """The number of output cells for `n` input cells."""
        if self.padding is None:
            return -(-n // self.stride)
        free = n + 2 * self.padding - self.kernel
        if not self.ceil_mode:
            return free // self.stride + 1
        cells = -(-free // self.stride) + 1
        # PyTorch drops a last window that would start behind the input.
        return cells - int((cells - 1) * self.stride >= n + self.padding)

    def pads(self, n: int) -> tuple[int, int]:
        """Padding before and after `n` cells, in cells."""
        if self.padding is not None:
            return self.padding, self.padding
        total = max((self.cells(n) - 1) * self.stride + self.kernel - n, 0)
        return total // 2, total - total // 2


@dataclass(frozen=True)
class LayerInfo:
    """What is known about a layer without running the network.

    `stride` and `receptive_field` are in input pixels; the field is the theoretical one, of the
    largest branch. `branches` maps a branch to its channel slice (start, stop) and is empty for
    layers without branches; `branch_kernels` gives each branch's largest spatial kernel.
    """

    name: str
    channels: int
    stride: int
    receptive_field: int
    branches: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    branch_kernels: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    steps: tuple[Step, ...] = field(default=(), repr=False)

    def grid(self, size: int) -> int:
        """Cells per side for a square input of `size` pixels; ConfigError below one cell."""
        cells = size
        for step in self.steps:
            cells = step.cells(cells)
        if size < 1 or cells < 1:
            raise ConfigError(
                f"expected a size that gives layer '{self.name}' at least one cell, found {size} "
                "pixels; ask for larger images"
            )
        return cells

    def window(self, cell: int, size: int) -> tuple[int, int]:
        """Pixels [start, stop) along one axis that cell `cell` sees in an input of `size` pixels.

        Not clipped: the start may be negative and the stop beyond `size`, where the window covers
        padding; stop - start is always `receptive_field`.
        """
        first = last = cell
        sizes = [size]
        for step in self.steps:
            sizes.append(step.cells(sizes[-1]))
        for step, n in zip(reversed(self.steps), reversed(sizes[:-1]), strict=True):
            before = step.pads(n)[0]
            first = first * step.stride - before
            last = last * step.stride - before + step.kernel - 1
        return first, last + 1

    def branch_receptive_field(self, branch: str) -> int:
        """The theoretical receptive field of one branch, in pixels."""
        if branch not in self.branches:
            raise unknown_name(f"branch of layer {self.name}", branch, self.branches)
        largest = max(self.branch_kernels.values())
        return self.receptive_field - (largest - self.branch_kernels[branch]) * self.stride


@dataclass(frozen=True)
class Widths:
    """Channels of an Inception block: the columns of the paper's table 1."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int

    @property
    def branches(self) -> tuple[int, int, int, int]:
        """Output channels in the order 1x1 | 3x3 | 5x5 | pool."""
        return self.one, self.three, self.five, self.pool

    @property
    def reduced(self) -> tuple[int, int, int]:
        """Channels of the three 1x1 convolutions that read the block's input."""
        return self.one, self.three_reduce, self.five_reduce


@dataclass(frozen=True)
class Op:
    """One operation of the trunk; `channels` of a convolution, `widths` of a block."""

    name: str
    kind: str
    step: Step = Step(1)
    channels: int = 0
    widths: Widths | None = None
    five_kernel: int = 5

    @property
    def block_widths(self) -> Widths:
        """The widths of a block."""
        if self.widths is None:
            raise TypeError(f"{self.name} is no Inception block")
        return self.widths

    def out_channels(self, channels: int) -> int:
        """Output channels for `channels` input channels."""
        return sum(self.widths.branches) if self.widths else self.channels or channels


def _block(name: str, *widths: int, five_kernel: int = 5) -> Op:
    return Op(name, "block", Step(five_kernel), widths=Widths(*widths), five_kernel=five_kernel)


INCEPTION_V1: tuple[Op, ...] = (
    Op("conv2d0", "conv", Step(7, 2), 64),
    Op("maxpool0", "maxpool", Step(3, 2)),
    Op("localresponsenorm0", "lrn"),
    Op("conv2d1", "conv", Step(1), 64),
    Op("conv2d2", "conv", Step(3), 192),
    Op("localresponsenorm1", "lrn"),
    Op("maxpool1", "maxpool", Step(3, 2)),
    _block("mixed3a", 64, 96, 128, 16, 32, 32),
    _block("mixed3b", 128, 128, 192, 32, 96, 64),
    Op("maxpool4", "maxpool", Step(3, 2)),
    _block("mixed4a", 192, 96, 204, 16, 48, 64),
    _block("mixed4b", 160, 112, 224, 24, 64, 64),
    _block("mixed4c", 128, 128, 256, 24, 64, 64),
    _block("mixed4d", 112, 144, 288, 32, 64, 64),
    _block("mixed4e", 256, 160, 320, 32, 128, 128),
    Op("maxpool10", "maxpool", Step(3, 2)),
    _block("mixed5a", 256, 160, 320, 48, 128, 128),
    _block("mixed5b", 384, 192, 384, 48, 128, 128),
)

_POOL = Step(3, 2, padding=0, ceil_mode=True)
GOOGLENET: tuple[Op, ...] = (
    Op("conv1", "conv", Step(7, 2, padding=3), 64),
    Op("maxpool1", "maxpool", _POOL),
    Op("conv2", "conv", Step(1, padding=0), 64),
    Op("conv3", "conv", Step(3, padding=1), 192),
    Op("maxpool2", "maxpool", _POOL),
    _block("inception3a", 64, 96, 128, 16, 32, 32, five_kernel=3),
    _block("inception3b", 128, 128, 192, 32, 96, 64, five_kernel=3),
    Op("maxpool3", "maxpool", _POOL),
    _block("inception4a", 192, 96, 208, 16, 48, 64, five_kernel=3),
    _block("inception4b", 160, 112, 224, 24, 64, 64, five_kernel=3),
    _block("inception4c", 128, 128, 256, 24, 64, 64, five_kernel=3),
    _block("inception4d", 112, 144, 288, 32, 64, 64, five_kernel=3),
    _block("inception4e", 256, 160, 320, 32, 128, 128, five_kernel=3),
    Op("maxpool4", "maxpool", Step(2, 2, padding=0, ceil_mode=True)),
    _block("inception5a", 256, 160, 320, 32, 128, 128, five_kernel=3),
    _block("inception5b", 384, 192, 384, 48, 128, 128, five_kernel=3),
)
_TRUNKS = {"inceptionv1": INCEPTION_V1, "googlenet": GOOGLENET}


def layer_table(name: str) -> Mapping[str, LayerInfo]:
    """The layers of network `name` ('inceptionv1' or 'googlenet'), in network order.

    Raises UnknownNameError for another name.
    """
    if name not in _TRUNKS:
        raise unknown_name("model", name, MODELS)
    table: dict[str, LayerInfo] = {}
    channels, stride, receptive = 3, 1, 1
    steps: tuple[Step, ...] = ()
    for op in _TRUNKS[name]:
        channels = op.out_channels(channels)
        steps = (*steps, op.step)
        receptive += (op.step.kernel - 1) * stride
        stride *= op.step.stride
        table[op.name] = LayerInfo(
            op.name,
            channels,
            stride,
            receptive,
            _slices(op),
            _kernels(op),
            GOOGLENET_NOTE if op.widths and name == "googlenet" else "",
            steps,
        )
    return table


def _slices(op: Op) -> dict[str, tuple[int, int]]:
    slices, start = {}, 0
    for branch, width in zip(BRANCHES, op.widths.branches if op.widths else (), strict=False):
        slices[branch] = (start, start + width)
        start += width
    return slices


def _kernels(op: Op) -> dict[str, int]:
    return {"1x1": 1, "3x3": 3, "5x5": op.five_kernel, "pool": 3} if op.widths else {}


def convolutions() -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """InceptionV1's convolutions in network order: (name, shape [out, in, kernel, kernel]).

    Names are the frozen graph's: 'conv2d0', 'mixed4a_3x3_bottleneck', 'mixed4a_pool_reduce', ...
    """
    channels = 3
    for op in INCEPTION_V1:
        if op.kind == "conv":
            yield op.name, (op.channels, channels, op.step.kernel, op.step.kernel)
        elif op.widths:
            w = op.widths
            yield f"{op.name}_1x1", (w.one, channels, 1, 1)
            yield f"{op.name}_3x3_bottleneck", (w.three_reduce, channels, 1, 1)
            yield f"{op.name}_3x3", (w.three, w.three_reduce, 3, 3)
            yield f"{op.name}_5x5_bottleneck", (w.five_reduce, channels, 1, 1)
            yield f"{op.name}_5x5", (w.five, w.five_reduce, 5, 5)
            yield f"{op.name}_pool_reduce", (w.pool, channels, 1, 1)
        channels = op.out_channels(channels)
