"""Pictures to rows: one forward pass, the chosen places, one record per place and grid.

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
from isae.inception import LayerInfo, Network
from isae.store.images_table import Split
from isae.store.positions import (
    Ints,
    PositionRule,
    draw_cells,
    most_refined,
    pool_norms,
    refine_cells,
)
from isae.store.shuffle import Records, record_type, row_keys


@dataclass(frozen=True)
class Grid:
    """A spatial grid of a build: layers of one stride."""

    stride: int
    """Pixels of the input per cell."""
    shape: tuple[int, int]
    """Cells (H, W)."""
    channels: Mapping[str, int]
    """Channels of each layer, in network order."""
    record: np.dtype[np.void]
    """One row of all layers (see store/shuffle.py)."""


def plan_grids(
    table: Mapping[str, LayerInfo], layers: Sequence[str], size: int, dtype: str
) -> list[Grid]:
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
        grids.append(Grid(stride, (side, side), channels, record_type(channels, dtype)))
    return grids


class Extractor:
    """Turns batches of pictures into records, by the rules of one build."""

    def __init__(
        self, network: Network, grids: Sequence[Grid], rule: PositionRule, seed: int, split: Split
    ) -> None:
        self.network, self.grids, self.rule = network, grids, rule
        self.seed, self.split = seed, split
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

    def records(self, batch: ImageBatch) -> list[tuple[Grid, Records]]:
        """The records of one batch, by grid."""
        maps = self.network.activations(batch.pixels_BCHW, self.wanted)
        images = np.asarray(batch.indices, dtype=np.int64)
        coarse = self.grids[0]
        norms = None
        if self.rule.norm_layer is not None:
            norms = self._norms(maps[self.rule.norm_layer])
        cells = draw_cells(self.rule, images, coarse.shape, self.seed, norms)
        found = []
        for grid in self.grids:
            ratio = coarse.stride // grid.stride
            place = refine_cells(cells, coarse.shape, grid.shape, ratio)
            found.append((grid, self._grid_records(grid, maps, images, place)))
        return found

    def _grid_records(
        self,
        grid: Grid,
        maps: Mapping[str, torch.Tensor],
        images: Ints,
        place: tuple[Ints, Ints, Ints],
    ) -> Records:
        row, y, x = place
        records = np.empty(len(row), dtype=grid.record)
        image = images[row]
        held_out = self.split.held_out(images)[row]
        records["key"] = row_keys(self.seed, grid.stride, image, y, x, held_out)
        records["image"], records["y"], records["x"] = image, y, x
        flat = torch.from_numpy((row * grid.shape[0] + y) * grid.shape[1] + x)
        for name in grid.channels:
            records[name] = self._rows(name, maps[name], flat, grid, image)
        return records

    def _rows(
        self, name: str, map_BCHW: torch.Tensor, flat: torch.Tensor, grid: Grid, image: Ints
    ) -> npt.NDArray[np.generic]:
        channels = map_BCHW.shape[1]
        every_BHWC = map_BCHW.permute(0, 2, 3, 1).reshape(-1, channels)
        values = every_BHWC.index_select(0, flat.to(every_BHWC.device))
        stored = values.to(_torch_type(grid.record[name].base)).cpu()
        finite_R = torch.isfinite(stored).all(dim=1)
        if not bool(finite_R.all()):
            bad = int(torch.nonzero(~finite_R)[0])
            raise _not_finite(name, int(image[bad]), values[bad].float())
        rows: npt.NDArray[np.generic] = stored.numpy()
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


def _torch_type(kind: np.dtype[np.generic]) -> torch.dtype:
    return torch.float16 if kind.itemsize == 2 else torch.float32


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
