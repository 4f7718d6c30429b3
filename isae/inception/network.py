"""What every network of isae offers: checked pixels in, named activations and logits out.

On a CPU the network runs on chunks of exactly CHUNK images, the last one filled up with black
pictures: the convolution library picks its order of summation by the shape of the batch, so only
one fixed shape gives an image the same bits whatever batch it comes in. (Small chunks also stay in
the cache: 8 or 16 images a time are 25 % faster than 64.) Chunks run side by side, each on one
thread, so the number of threads does not change the order of summation either, and no thread
waits for another inside a layer. On a GPU the whole batch runs at once.

Legend: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from isae.errors import DataError, unknown_name
from isae.inception.layers import LayerInfo, Op, layer_table

T = TypeVar("T")
CHUNK = 8


@dataclass(frozen=True)
class WeightsInfo:
    """Where weights came from: the spec as asked for, the file if any, its SHA-256, its header.

    Weights without a file (random:SEED) carry the SHA-256 of their names, shapes and values.
    """

    spec: str
    path: Path | None
    sha256: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class Network(nn.Module):
    """A frozen image network with named layers; made by `isae.inception.load_model`.

    Attributes: `name`, `layers` (the layer table, in network order), `weights` (WeightsInfo),
    `input_size` (pixels per side that the weights were made for; other sizes work too),
    `preprocessing` (what is done to the pixels, in words), `classes` (the order of the logits in
    words, None where the weights do not say), `class_count`.
    """

    def __init__(
        self,
        name: str,
        weights: WeightsInfo,
        *,
        input_size: int,
        preprocessing: str,
        classes: str | None,
        class_count: int,
    ) -> None:
        super().__init__()
        self.name = name
        self.layers: Mapping[str, LayerInfo] = layer_table(name)
        self.weights = weights
        self.input_size = input_size
        self.preprocessing = preprocessing
        self.classes = classes
        self.class_count = class_count

    def activations(self, images_BCHW: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """The maps of `layers` for RGB pixels [B, 3, H, W] -> {layer: [B, C, H', W']}.

        Pixels are uint8, or floating point in 0..255; any height and width. The network stops
        after the last layer asked for. Maps are float32 (float64 for a float64 network) whatever
        the dtype inside, and lie in memory channels last, so that
        `.permute(0, 2, 3, 1).reshape(-1, C)` copies nothing. Gradients flow to `images_BCHW` where
        it requires them. On a CPU an image's maps are the same bits whatever the batch, the layers
        asked for and the number of threads; on a GPU they agree to the rounding of the dtype
        inside. Raises UnknownNameError for a layer,
        DataError for pixels of the wrong shape, dtype or range.
        """
        wanted = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
        for layer in wanted:
            if layer not in self.layers:
                raise unknown_name(f"layer of {self.name}", layer, self.layers)
        check_pixels(images_BCHW)
        chunks = self._run(lambda chunk: self._maps(chunk, wanted), images_BCHW)
        return {
            layer: _joined([maps[layer] for maps in chunks], len(images_BCHW)) for layer in wanted
        }

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """Class scores before the softmax for pixels as in `activations` -> float [B, classes]."""
        check_pixels(images_BCHW)
        chunks = self._run(self._logits, images_BCHW)
        return _joined(chunks, len(images_BCHW))

    def activations_from(
        self, layer: str, map_BCHW: Tensor, layers: Iterable[str]
    ) -> dict[str, Tensor]:
        """The maps of `layers` when `layer` has the map given -> {layer: [B, C', H', W']}.

        The network goes on from `layer`, whose map (after the ReLU, as `activations` gives it) may
        be a changed one; `layers` come after it. Dtypes, memory and bits are as for `activations`:
        an unchanged map gives the very maps of the pictures. Gradients flow to `map_BCHW`. Raises
        UnknownNameError for a layer, DataError for a map that cannot be of `layer`.
        """
        wanted = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
        self._check_map(layer, map_BCHW)
        later = list(self.layers)[list(self.layers).index(layer) + 1 :]
        for name in wanted:
            if name not in later:
                raise unknown_name(f"layer of {self.name} after {layer}", name, later)
        chunks = self._run(lambda one: self._maps(one, wanted, layer), map_BCHW, self._laid_out)
        return {name: _joined([maps[name] for maps in chunks], len(map_BCHW)) for name in wanted}

    def logits_from(self, layer: str, map_BCHW: Tensor) -> Tensor:
        """Class scores when `layer` has the map given, as in `activations_from` -> [B, classes]."""
        self._check_map(layer, map_BCHW)
        chunks = self._run(lambda one: self._logits(one, layer), map_BCHW, self._laid_out)
        return _joined(chunks, len(map_BCHW))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The same as `logits`."""
        return self.logits(images_BCHW)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the convolutions."""
        return next(self.parameters()).dtype

    @abstractmethod
    def _ops(self) -> Sequence[Op]:
        """The operations of the trunk, in order."""

    @abstractmethod
    def _apply_op(self, op: Op, x_BCHW: Tensor) -> Tensor:
        """One operation of the trunk."""

    @abstractmethod
    def _head(self, x_BC: Tensor) -> Tensor:
        """The logits of the last map's mean over its places."""

    def _maps(
        self, x_BCHW: Tensor, wanted: list[str], after: str | None = None
    ) -> dict[str, Tensor]:
        """The maps of `wanted` for prepared pixels, or for the map of layer `after`."""
        ops = list(self._ops())
        if after is not None:
            ops = ops[[op.name for op in ops].index(after) + 1 :]
        maps: dict[str, Tensor] = {}
        for op in ops:
            if len(maps) == len(wanted):
                break
            x_BCHW = self._apply_op(op, x_BCHW)
            if op.name in wanted:
                maps[op.name] = x_BCHW
        return maps

    def _logits(self, x_BCHW: Tensor, after: str | None = None) -> Tensor:
        """The logits for prepared pixels, or for the map of layer `after`."""
        last = self._ops()[-1].name
        if after != last:
            x_BCHW = self._maps(x_BCHW, [last], after)[last]
        return self._head(x_BCHW.mean(dim=(2, 3)))

    def _check_map(self, layer: str, map_BCHW: Tensor) -> None:
        if layer not in self.layers:
            raise unknown_name(f"layer of {self.name}", layer, self.layers)
        channels = self.layers[layer].channels
        shape = tuple(map_BCHW.shape)
        if len(shape) != 4 or shape[1] != channels or 0 in shape or map_BCHW.dtype.is_complex:
            raise DataError(
                f"expected a map of '{layer}' [batch, {channels}, height, width], found "
                f"{map_BCHW.dtype} of shape {shape}; give one as `activations` returns it"
            )

    @abstractmethod
    def _preprocess(self, pixels_BCHW: Tensor) -> Tensor:
        """The network's own input for float pixels 0..255, fp32 or fp64."""

    def _run(
        self,
        function: Callable[[Tensor], T],
        images_BCHW: Tensor,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> list[T]:
        """`function` of every chunk, in order; on a CPU on as many threads as torch uses.

        prepare: what makes a chunk fit for `function` (default: the preparation of pixels).
        """
        prepared = prepare or self._prepared
        if self.device.type != "cpu":
            return [function(prepared(chunk)) for chunk in self._chunks(images_BCHW)]
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

        def work(chunk: Tensor) -> T:
            # Gradient modes belong to a thread, and the thread of the caller has its own.
            with torch.inference_mode(modes[1]), torch.set_grad_enabled(modes[0]):
                return function(prepared(chunk))

        threads = torch.get_num_threads()
        if threads == 1:  # the caller has threads of its own
            return [work(chunk) for chunk in self._chunks(images_BCHW)]
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, self._chunks(images_BCHW)))

    def _prepared(self, pixels_BCHW: Tensor) -> Tensor:
        exact = torch.float64 if self.dtype == torch.float64 else torch.float32
        return self._laid_out(self._preprocess(pixels_BCHW.to(self.device).to(exact)))

    def _laid_out(self, x_BCHW: Tensor) -> Tensor:
        # Channels last is 2 to 15 times as fast as planes on a CPU (pools gain most).
        moved = x_BCHW.to(self.device).to(self.dtype)
        return moved.contiguous(memory_format=torch.channels_last)

    def _chunks(self, images_BCHW: Tensor) -> Iterator[Tensor]:
        count = CHUNK if self.device.type == "cpu" else len(images_BCHW)
        for pixels in torch.split(images_BCHW, count):
            if len(pixels) < count:
                black = pixels.new_zeros((count - len(pixels), *pixels.shape[1:]))
                pixels = torch.cat([pixels, black])
            yield pixels


def check_pixels(images: Any) -> None:
    """Raise DataError unless `images` is [B >= 1, 3, H, W], uint8 or floating point in 0..255."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        found = tuple(images.shape) if hasattr(images, "shape") else type(images).__name__
        raise DataError(
            f"expected pixels as a torch tensor [batch, 3, height, width] in RGB, found {found}; "
            "move the colour axis to the second place"
        )
    if 0 in images.shape:
        raise DataError(
            f"expected at least one image of at least 1 x 1 pixel, found shape "
            f"{tuple(images.shape)}; leave empty batches out"
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise DataError(
            f"expected pixels as uint8 or floating point, found {images.dtype}; convert them with "
            ".to(torch.uint8)"
        )
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    # Written so that NaN, for which every comparison is false, is refused too.
    if not (low >= 0 and high <= 255):
        raise DataError(
            f"expected pixels between 0 and 255, found {low:g} to {high:g}; undo any "
            "normalisation, the network does its own"
        )
    if 0 < high <= 1 and not bool(((images == 0) | (images == 1)).all()):
        raise DataError(
            f"expected pixels between 0 and 255, found {low:g} to {high:g}, which looks like "
            "0..1; multiply by 255"
        )


def _joined(chunks: list[Tensor], count: int) -> Tensor:
    values = torch.cat(chunks) if len(chunks) > 1 else chunks[0]
    values = values[:count]
    return values if values.dtype == torch.float64 else values.float()
