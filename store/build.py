"""Build a store: decode, forward pass, scatter; then sort bucket by bucket, compress, hash.

Memory does not grow with the images: a batch in flight, the scatter's buffers, later one bucket
and one shard per layer. What grows is the source's own list of names (see isae.images).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isae.config import to_json
from isae.device import resolve_device
from isae.errors import ImageError, StoreError
from isae.files import atomic_path
from isae.images import (
    RESIZE_RULE,
    BadImageTally,
    ImageSource,
    decode_batches,
    default_max_bad,
    open_source,
)
from isae.inception import LayerInfo, Network, layer_table, load_model
from isae.interrupts import Interrupts, deferred_interrupts
from isae.progress import QUIET, Reporter
from isae.store import manifest
from isae.store.config import BuildConfig
from isae.store.extract import Extractor, Grid, plan_grids
from isae.store.images_table import ImagesTable, Split
from isae.store.layout import IMAGES, SCATTER, STATISTICS, grid_group
from isae.store.positions import PositionRule
from isae.store.shuffle import Buckets
from isae.store.statistics import ChannelStatistics, save_statistics
from isae.store.writer import GridWriter, open_group

DISK_MARGIN = 1.05
INDEX_ROW_BYTES = 12


@dataclass
class _Plan:
    """What a build works with."""

    config: BuildConfig
    root: Path
    source: ImageSource
    network: Network
    size: int
    grids: Sequence[Grid]
    split: Split
    extractor: Extractor


@dataclass
class _Counts:
    """What phase 1 counted."""

    images: int
    unreadable: BadImageTally
    rows: dict[int, int]
    train_rows: dict[int, int]
    held_out: int
    seconds: float


def build_store(
    config: BuildConfig, *, overwrite: bool = False, reporter: Reporter = QUIET
) -> manifest.Manifest:
    """Build the store that `config` describes; its manifest.

    Raises a subclass of IsaeError for everything that a user can mend, KeyboardInterrupt for SIGINT
    and SIGTERM; both remove what was written. A killed build leaves a folder without the completion
    mark, which every reader refuses and `overwrite` replaces.
    """
    plan = _plan(config)
    _check_disk(plan, overwrite)
    claim = manifest.Claim(plan.root)
    with deferred_interrupts() as stop:
        try:
            claim.take(overwrite=overwrite)
            found = _build(plan, reporter, stop)
        except BaseException:
            claim.abandon()
            raise
    claim.release()
    return found


def _plan(config: BuildConfig) -> _Plan:
    rule = PositionRule.parse(config.positions)
    plan_grids(layer_table(config.model), config.layers, config.size or 224, config.dtype)
    source = open_source(config.images, seed=config.seed, limit=config.limit)
    device = resolve_device(config.device)
    exact = torch.float32 if config.dtype == "float32" else None
    network = load_model(config.model, config.weights, device=device, dtype=exact)
    size = config.size or network.input_size
    grids = plan_grids(network.layers, config.layers, size, config.dtype)
    split = Split(config.seed, len(source), config.holdout)
    extractor = Extractor(network, grids, rule, config.seed, split)
    return _Plan(config, Path(config.out), source, network, size, grids, split, extractor)


def _raw_bytes(plan: _Plan) -> int:
    """Upper bound of the raw rows of all grids: what the scatter files take."""
    per_image = (plan.extractor.rows_per_image(g) * g.record.itemsize for g in plan.grids)
    return len(plan.source) * sum(per_image)


def _check_disk(plan: _Plan, overwrite: bool) -> None:
    needed = int(_raw_bytes(plan) * DISK_MARGIN)
    folder = plan.root.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if overwrite and manifest.is_store(plan.root):
        free += sum(path.stat().st_size for path in manifest.data_files(plan.root))
    if needed > free:
        raise StoreError(
            f"expected {needed / 1e9:.2f} GB of free disk for {plan.root} (the raw rows on their "
            f"way through the shuffle), found {free / 1e9:.2f} GB; free some space, or use fewer "
            "--positions, --layers or images"
        )


def _build(plan: _Plan, reporter: Reporter, stop: Interrupts) -> manifest.Manifest:
    group = open_group(plan.root, "a")
    buckets = _make_buckets(plan)
    counts = _scatter(plan, buckets, reporter, stop)
    if counts.images == 0:
        raise ImageError(
            f"expected readable pictures in {plan.source.spec}, found none: "
            f"{counts.unreadable.names()}; give another --images"
        )
    started = time.monotonic()
    statistics: dict[str, ChannelStatistics] = {}
    total = sum(counts.rows.values())
    with reporter.task(total, "writing", "rows") as meter:
        for grid in plan.grids:
            rows, train_rows = counts.rows[grid.stride], counts.train_rows[grid.stride]
            attributes = {"stride": grid.stride, "grid": list(grid.shape)}
            child = group.create_group(grid_group(grid.stride), attributes=attributes)
            writer = GridWriter(child, dict(grid.channels), plan.config.dtype, rows, train_rows)
            for records in buckets[grid.stride].drain():
                stop.check()
                writer.add(records)
                meter.advance(len(records))
            statistics |= writer.finish()
    save_statistics(plan.root / STATISTICS, statistics)
    (plan.root / SCATTER).rmdir()
    found = _describe(plan, counts, time.monotonic() - started)
    return manifest.finish(plan.root, found, stop.check)


def _make_buckets(plan: _Plan) -> dict[int, Buckets]:
    raw = {g.stride: plan.extractor.rows_per_image(g) * g.record.itemsize for g in plan.grids}
    whole = sum(raw.values())
    return {
        grid.stride: Buckets(
            plan.root / SCATTER / grid_group(grid.stride),
            grid.record,
            len(plan.source) * plan.extractor.rows_per_image(grid),
            share=raw[grid.stride] / whole,
        )
        for grid in plan.grids
    }


def _scatter(
    plan: _Plan, buckets: Mapping[int, Buckets], reporter: Reporter, stop: Interrupts
) -> _Counts:
    config = plan.config
    tally = BadImageTally(
        default_max_bad(len(plan.source)) if config.max_bad is None else config.max_bad
    )
    counts = _Counts(0, tally, dict.fromkeys(buckets, 0), dict.fromkeys(buckets, 0), 0, 0.0)
    started = time.monotonic()
    batches = decode_batches(plan.source, plan.size, config.batch_size, config.workers)
    with (
        atomic_path(plan.root / IMAGES) as table_path,
        ImagesTable(table_path, plan.source, plan.split) as table,
        reporter.task(len(plan.source), "extracting", "images") as meter,
    ):
        for batch in batches:
            stop.check()
            tally.add(batch.bad)
            for bad in batch.bad:
                reporter.warn(f"skipped {bad.name}: {bad.reason}")
            good = [int(index) for index in batch.indices]
            sizes = [(int(width), int(height)) for width, height in batch.sizes_B2]
            attempted = sorted([*good, *(bad.index for bad in batch.bad)])
            table.add(dict(zip(good, sizes, strict=True)), attempted)
            if good:
                for grid, records in plan.extractor.records(batch):
                    buckets[grid.stride].scatter(records)
                    counts.rows[grid.stride] += len(records)
                    held_out = int((records["key"] >> np.uint64(63)).sum())
                    counts.train_rows[grid.stride] += len(records) - held_out
            counts.images += len(good)
            counts.held_out += int(plan.split.held_out(np.asarray(good, dtype=np.int64)).sum())
            meter.advance(len(attempted))
    counts.seconds = time.monotonic() - started
    if config.holdout > 0 and not counts.held_out:
        reporter.warn("no image is held out: the readable ones are too few for --holdout")
    return counts


def _describe(plan: _Plan, counts: _Counts, write_seconds: float) -> manifest.Manifest:
    config, network, source = plan.config, plan.network, plan.source
    return {
        "config": to_json(config),
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
            "spec": _found_from_anywhere(source),
            "kind": source.kind,
            "seed": config.seed,
            "limit": config.limit,
            "fingerprint": source.fingerprint(),
            "count": len(source),
            "used": counts.images,
            "held_out": counts.held_out,
            "unreadable": counts.unreadable.summary(),
            "resize": RESIZE_RULE,
        },
        "size": plan.size,
        "seed": config.seed,
        "positions": config.positions,
        "dtype": config.dtype,
        "layers": {
            name: _describe_layer(network.layers[name], grid, counts)
            for grid in plan.grids
            for name in grid.channels
        },
        "measured": {
            "extract_seconds": counts.seconds,
            "images_per_second": counts.images / max(counts.seconds, 1e-9),
            "write_seconds": write_seconds,
        },
    }


def _found_from_anywhere(source: ImageSource) -> str:
    """The source's spec with its path absolute: analyses reopen it from other folders."""
    if source.kind not in ("folder", "shards"):
        return source.spec
    mark = "@" if source.spec.startswith("@") else ""
    return mark + str(Path(source.spec.removeprefix("@")).absolute())


def _describe_layer(info: LayerInfo, grid: Grid, counts: _Counts) -> dict[str, Any]:
    return {
        "array": f"{grid_group(grid.stride)}/{info.name}",
        "channels": info.channels,
        "stride": info.stride,
        "receptive_field": info.receptive_field,
        "grid": list(grid.shape),
        "rows": counts.rows[grid.stride],
        "train_rows": counts.train_rows[grid.stride],
        "branches": {name: list(bounds) for name, bounds in info.branches.items()},
        "note": info.note,
    }
