"""What the manifest says of how a store was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isae.config import to_json
from isae.errors import StoreError
from isae.images import RESIZE_RULE, BadImageTally, ImageSource, with_paths
from isae.inception import LayerInfo
from isae.store.assemble import INDEX_CODEC, Assembled, grid_form
from isae.store.extract import Grid
from isae.store.layout import SHARD_ROWS, grid_group
from isae.store.manifest import Manifest
from isae.store.plan import Plan
from isae.store.quantise import QUANTISED, Quantiser
from isae.store.units import GridForm


@dataclass
class Counts:
    """What a build counted and how long it took."""

    images: int = 0
    held_out: int = 0
    unreadable: BadImageTally | None = None
    extracted: int = 0
    """Images of this run, which may have resumed another one."""
    extract_seconds: float = 0.0
    write_seconds: float = 0.0


def describe(plan: Plan, counts: Counts, done: Assembled) -> Manifest:
    """The manifest of a store built from images, but for its files."""
    config, network, source = plan.config, plan.network, plan.source
    layers = {
        name: describe_layer(network.layers[name], grid, done)
        for grid in plan.grids
        for name in grid.channels
    }
    return {
        "config": to_json(config),
        "identity": plan.identity(),
        "model": {
            "name": network.name,
            "weights": network.weights.spec,
            "weights_sha256": network.weights.sha256,
            "weights_metadata": dict(network.weights.metadata),
            "preprocessing": network.preprocessing,
            "device": str(network.device),
            "compute_dtype": str(network.dtype).removeprefix("torch."),
        },
        "images": {
            "spec": found_from_anywhere(source),
            "kind": source.kind,
            "seed": config.seed,
            "limit": config.limit,
            "fingerprint": source.fingerprint(),
            "count": len(source),
            "used": counts.images,
            "held_out": counts.held_out,
            "unreadable": counts.unreadable.summary() if counts.unreadable else {"count": 0},
            "resize": RESIZE_RULE,
        },
        "size": plan.size,
        "seed": config.seed,
        "positions": config.positions,
        "dtype": config.dtype,
        "codec": config.codec,
        "layers": layers,
        "units": describe_units(done),
        "measured": {
            "extract_seconds": counts.extract_seconds,
            "images_per_second": counts.extracted / max(counts.extract_seconds, 1e-9),
            "write_seconds": counts.write_seconds,
        },
    }


def describe_units(done: Assembled) -> dict[str, Any]:
    """Units by grid, with the first key of each: what `repair` needs to make one anew."""
    return {
        grid_group(stride): {"rows": SHARD_ROWS, "first_keys": keys}
        for stride, keys in done.first_keys.items()
    }


def describe_layer(info: LayerInfo, grid: Grid, done: Assembled) -> dict[str, Any]:
    """One layer of the manifest."""
    found = {
        "array": f"{grid_group(grid.stride)}/{info.name}",
        "channels": info.channels,
        "stride": info.stride,
        "receptive_field": info.receptive_field,
        "grid": list(grid.shape),
        "rows": done.rows[grid.stride],
        "train_rows": done.train_rows[grid.stride],
        "branches": {name: list(bounds) for name, bounds in info.branches.items()},
        "note": info.note,
    }
    if info.name in done.errors:
        errors = done.errors[info.name]
        found["quantisation"] = {
            "relative_error": errors.relative_error,
            "fvu_floor": errors.fvu_floor(done.exact_variance[info.name]),
            "scale": [float(scale) for scale in done.quantisers[info.name].scale_C],
        }
    return found


def described_grids(manifest: Manifest) -> list[Grid]:
    """The grids of a store, coarsest first, as its manifest tells."""
    grids: dict[int, Grid] = {}
    for name, layer in manifest["layers"].items():
        stride = layer["stride"]
        before = grids[stride].channels if stride in grids else {}
        shape = (layer["grid"][0], layer["grid"][1])
        grids[stride] = Grid(stride, shape, {**before, name: layer["channels"]})
    return [grids[stride] for stride in sorted(grids, reverse=True)]


def described_forms(manifest: Manifest) -> list[GridForm]:
    """How the arrays of each of `described_grids` lie in their files.

    Raises StoreError if the manifest does not tell the scales of quantised layers.
    """
    layers, dtype, forms = manifest["layers"], manifest["dtype"], []
    for grid in described_grids(manifest):
        first = layers[next(iter(grid.channels))]
        quantisers = {
            name: _described_quantiser(dtype, name, layers[name])
            for name in grid.channels
            if dtype in QUANTISED
        }
        rows = (first["rows"], first["train_rows"])
        shard_rows = manifest["units"][grid_group(grid.stride)]["rows"]
        codecs = (manifest["codec"], manifest.get("index_codec", INDEX_CODEC))
        forms.append(grid_form(grid, rows, dtype, codecs, quantisers, shard_rows))
    return forms


def _described_quantiser(dtype: str, name: str, layer: Mapping[str, Any]) -> Quantiser:
    scale = layer.get("quantisation", {}).get("scale")
    if scale is None:
        raise StoreError(
            f"expected the scales of {name} in the manifest, found none: another version of isae "
            "wrote it; build the store again"
        )
    return Quantiser(dtype, np.asarray(scale, dtype=np.float32))


def found_from_anywhere(source: ImageSource) -> str:
    """The source's spec with its paths absolute: analyses reopen it from other folders."""
    return with_paths(source.spec, lambda path: str(Path(path).absolute()))
