"""Pictures to rows: one forward pass, the chosen places, one row per place and grid.

Shapes: B images, C channels, H W a grid's cells, R rows (places of all images of a batch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from isae.errors import ConfigError, DataError, unknown_name
from isae.images import ImageBatch
from isae.inception import CHUNK, LayerInfo, Network
from isae.store.cuts import row_keys
from isae.store.extrema import all_finite
from isae.store.images_table import Split
from isae.store.positions import (
    Ints,
    PositionRule,
    draw_cells,
    most_refined,
    pool_norms,
    refine_cells,
)
from isae.store.segments import GridRows

ROW_HEAD = 28
"""Bytes of a row's key and place, with a checksum of each."""
GPU_THREADS = 2
ROW_SUM = 4
"""And of a checksum of each layer's numbers."""


@dataclass(frozen=True)
class Grid:
    """A spatial grid of a build: layers of one stride."""

    stride: int
    """Pixels of the input per cell."""
    shape: tuple[int, int]
    """Cells (H, W)."""
    channels: Mapping[str, int]
    """Channels of each layer, in network order."""

    def row_bytes(self, item: int) -> int:
        """Bytes of a row while it is built, a number taking `item` bytes."""
        return ROW_HEAD + sum(item * count + ROW_SUM for count in self.channels.values())


def plan_grids(table: Mapping[str, LayerInfo], layers: Sequence[str], size: int) -> list[Grid]:
    """The grids of `layers` for square inputs of `size` pixels, coarsest first.

    Raises UnknownNameError for a layer that the network does not have.
    """
    for name in layers:
        if name not in table:
            raise unknown_name("layer", name, table)
    strides = sorted({table[name].stride for name in layers}, reverse=True)
    grids = []
    for stride in strides:
        here = [name for name in table if name in layers and table[name].stride == stride]
        side = table[here[0]].grid(size)
        channels = {name: table[name].channels for name in here}
        grids.append(Grid(stride, (side, side), channels))
    return grids


class Extractor:
    """Turns batches of pictures into rows, by the rules of one build."""

    def __init__(
        self,
        network: Network,
        grids: Sequence[Grid],
        rule: PositionRule,
        seed: int,
        split: Split,
        dtype: torch.dtype,
    ) -> None:
        self.network, self.grids, self.rule = network, grids, rule
        self.seed, self.split, self.dtype = seed, split, dtype
        self.layers = [name for grid in grids for name in grid.channels]
        self.wanted = list(self.layers)
        if rule.norm_layer is not None:
            self._check_norm_layer(rule.norm_layer)
            if rule.norm_layer not in self.wanted:
                self.wanted.append(rule.norm_layer)
        self.cells_per_image = rule.places_per_image(grids[0].shape[0] * grids[0].shape[1])

    def rows_per_image(self, grid: Grid) -> int:
        """At most so many rows an image has on `grid` (fewer at the edge of odd grids)."""
        coarse = self.grids[0]
        ratio = coarse.stride // grid.stride
        return most_refined(self.cells_per_image, coarse.shape, grid.shape, ratio)

    def bytes_per_image(self) -> int:
        """At most so many bytes all rows of an image take, with keys and places."""
        return sum(self.rows_per_image(g) * g.row_bytes(self.dtype.itemsize) for g in self.grids)

    @property
    def threads(self) -> int:
        """Threads that extract pieces at the same time; each has one thread of torch's.

        On a GPU one copies its rows out while the pass of the other runs.
        """
        return torch.get_num_threads() if self.network.device.type == "cpu" else GPU_THREADS

    def pieces(self, batch: ImageBatch) -> list[tuple[Ints, torch.Tensor]]:
        """(indices [P], pixels [P, 3, H, W]) of what one thread takes at once."""
        images_B = np.asarray(batch.indices, dtype=np.int64)
        size = CHUNK if self.network.device.type == "cpu" else max(len(images_B), 1)
        return [
            (images_B[at : at + size], batch.pixels_BCHW[at : at + size])
            for at in range(0, len(images_B), size)
        ]

    def maps(self, pixels_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """The forward pass: maps [B, C, H, W] of the layers that `rows` needs."""
        return self.network.activations(pixels_BCHW, self.wanted)

    def rows(self, images_B: Ints, maps: Mapping[str, torch.Tensor]) -> dict[int, GridRows]:
        """The rows of one batch by the grid's stride, in order of image, y, x."""
        coarse = self.grids[0]
        norms = None
        if self.rule.norm_layer is not None:
            norms = self._norms(maps[self.rule.norm_layer])
        cells = draw_cells(self.rule, images_B, coarse.shape, self.seed, norms)
        found = {}
        for grid in self.grids:
            ratio = coarse.stride // grid.stride
            place = refine_cells(cells, coarse.shape, grid.shape, ratio)
            found[grid.stride] = self._grid_rows(grid, maps, images_B, place)
        return found

    def _grid_rows(
        self,
        grid: Grid,
        maps: Mapping[str, torch.Tensor],
        images_B: Ints,
        place: tuple[Ints, Ints, Ints],
    ) -> GridRows:
        row, y, x = place
        image = images_B[row]
        held_out = self.split.held_out(images_B)[row]
        key_R = row_keys(self.seed, grid.stride, image, y, x, held_out)
        place_R3 = np.stack([image, y, x], axis=1).astype(np.int32)
        flat = (row * grid.shape[0] + y) * grid.shape[1] + x
        everything = len(flat) == len(images_B) * grid.shape[0] * grid.shape[1]
        chosen = None if everything else torch.from_numpy(flat)
        layers = {name: self._values(name, maps[name], chosen, image) for name in grid.channels}
        return GridRows(key_R, place_R3, layers)

    def _values(
        self, name: str, map_BCHW: torch.Tensor, chosen_R: torch.Tensor | None, image_R: Ints
    ) -> npt.NDArray[np.generic]:
        values = map_BCHW.permute(0, 2, 3, 1).reshape(-1, map_BCHW.shape[1])
        if chosen_R is not None:
            values = values.index_select(0, chosen_R.to(values.device))
        stored = values.to(self.dtype).cpu()
        rows: npt.NDArray[np.generic] = stored.numpy()
        if not all_finite(rows):
            bad = int(torch.nonzero(~torch.isfinite(stored).all(dim=1))[0])
            raise _not_finite(name, int(image_R[bad]), values[bad].float())
        return rows

    def _norms(self, map_BCHW: torch.Tensor) -> npt.NDArray[np.float64]:
        coarse = self.grids[0]
        stride = self.network.layers[self.rule.norm_layer or ""].stride
        squares = map_BCHW.double().square().sum(dim=1).cpu().numpy()
        return pool_norms(squares, coarse.shape, coarse.stride // stride)

    def _check_norm_layer(self, name: str) -> None:
        if name not in self.network.layers:
            raise unknown_name("layer", name, self.network.layers)
        stride = self.network.layers[name].stride
        if stride > self.grids[0].stride:
            raise ConfigError(
                f"expected a layer for the norm whose cells are {self.grids[0].stride} pixels or "
                f"finer (the coarsest layer stored), found {name} with {stride}; "
                "take one of the stored layers"
            )


def _not_finite(layer: str, image: int, values_C: torch.Tensor) -> DataError:
    largest = float(values_C.abs().max())
    if np.isfinite(largest):
        return DataError(
            f"expected activations of {layer} within float16's 65504, found {largest:g} in image "
            f"{image}; store them with --dtype float32"
        )
    return DataError(
        f"expected finite activations of {layer}, found NaN or infinity in image {image}; "
        "check the weights (isae-store build --weights) and that image"
    )
