"""`isae-store merge`: one new store with the rows of several, of the same network and options.

Images are numbered through, store after store, and keep their names and their side of the held-out
split. All rows are shuffled anew by the order of their keys (store/cuts.py), as in a build: the
permutation depends on the seed, the stores and their order alone.

Shapes: R rows of a segment, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isae.config import check
from isae.errors import ConfigError, StoreError
from isae.images.merged import MergedSource, merged_fingerprint, merged_spec
from isae.images.opening import MOST_IMAGES
from isae.progress import QUIET, Reporter
from isae.store import manifest
from isae.store.assemble import Assembled
from isae.store.codecs import named_codec
from isae.store.cuts import row_keys
from isae.store.describe import describe_units, described_grids
from isae.store.extract import Grid
from isae.store.gather import Gathering, check_apart, gather, train_rows
from isae.store.images_table import GROUP_ROWS
from isae.store.plan import SEGMENT_BYTES
from isae.store.quantise import QUANTISED
from isae.store.reader import Store, open_store
from isae.store.segments import GridRows, Segment, Work

PATHS = ("folder", "shards", "torchvision")
"""Kinds of image sources whose spec names pictures on a disk."""


@dataclass(frozen=True)
class MergeConfig:
    """Options of `isae-store merge`."""

    stores: tuple[str, ...]
    """Folders or addresses of the stores, in the order in which images are numbered."""
    out: str
    """Folder or address of the new store."""
    seed: int = 0
    """Seed of the shuffle."""
    codec: str | None = None
    """As for a build; None is the stores' own if they agree, else small."""
    scratch: str | None = None
    """Folder for what is done so far; as for a build."""

    def __post_init__(self) -> None:
        """Check ranges; raise ConfigError."""
        check(len(self.stores) > 1, "at least two stores to merge", list(self.stores))
        check(0 <= self.seed < 2**63, "--seed in [0, 2^63)", self.seed)
        if self.codec is not None:
            named_codec(self.codec)


def merge_stores(
    config: MergeConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    reporter: Reporter = QUIET,
) -> manifest.Manifest:
    """Merge the stores that `config` names; the manifest of the new one.

    Raises ConfigError where the stores differ in what makes rows comparable (network, weights,
    preprocessing, input size, places, dtype, layers), are quantised, or hold an image twice, and
    whatever `build_store` raises for a place that cannot be written.
    """
    stores = [open_store(path) for path in config.stores]
    check_apart(config.out, [store.place for store in stores])
    _check_alike(stores)
    _check_different_images(stores)
    kinds = {store.manifest["model"].get("compute_dtype") for store in stores}
    if len(kinds) > 1:
        reporter.warn(f"the stores' networks ran in {', '.join(sorted(map(str, kinds)))}")
    codecs = {str(store.manifest.get("codec", "small")) for store in stores}
    codec = config.codec or (codecs.pop() if len(codecs) == 1 else "small")
    origin = MergedRows(stores, config.seed, codec)
    asked = {
        "merged": [store.content_id for store in stores],
        "seed": config.seed,
        "codec": codec,
        "segment bytes": SEGMENT_BYTES,
    }
    dtype = str(stores[0].manifest["dtype"])
    job = Gathering.begin(config.out, config.scratch, origin.grids, dtype, codec, origin, asked)
    return gather(job, overwrite=overwrite, resume=resume, reporter=reporter)


class MergedRows:
    """The rows of several stores, segment by segment: store by store, each in its own order."""

    def __init__(self, stores: Sequence[Store], seed: int, codec: str) -> None:
        self.stores, self.seed, self.codec = stores, seed, codec
        counts = [store.images.num_rows for store in stores]
        self.first_images = np.cumsum([0, *counts]).tolist()
        check(
            self.first_images[-1] < MOST_IMAGES,
            f"fewer than {MOST_IMAGES:,} images in all",
            self.first_images[-1],
        )
        self.grids = described_grids(stores[0].manifest)
        self.item = np.dtype(stores[0].manifest["dtype"]).itemsize
        pieces = [max(1, -(-self._store_bytes(store) // SEGMENT_BYTES)) for store in stores]
        self.ends = np.cumsum(pieces)
        self.pieces = pieces
        self.schema = _schema(stores)

    @property
    def segments(self) -> int:
        """Number of segments."""
        return int(self.ends[-1])

    @property
    def raw_bytes(self) -> int:
        """Bytes of all rows with keys and places."""
        return sum(self._store_bytes(store) for store in self.stores)

    def segment(self, number: int) -> Segment:
        """One piece of one store: the same share of every grid's rows."""
        which = int(np.searchsorted(self.ends, number, side="right"))
        count = self.pieces[which]
        piece = number - (int(self.ends[which]) - count)
        grids = {}
        for grid in self.grids:
            rows = _grid_rows(self.stores[which], grid)
            span = rows * piece // count, rows * (piece + 1) // count
            grids[grid.stride] = self._rows(which, grid, *span)
        segment = Segment(grids, np.empty((0, 2), dtype=np.int32))
        segment.facts = {"train_rows": train_rows(segment)}
        return segment

    def check_unchanged(self) -> None:
        """Raise StoreError if a store was replaced meanwhile."""
        for store in self.stores:
            if manifest.read(store.place)["content_id"] != store.content_id:
                raise StoreError(
                    f"expected {store.path} to stay as it was while it was read, found another "
                    "store there; merge again with --overwrite"
                )

    def describe(self, done: Assembled, work: Work) -> manifest.Manifest:
        """The manifest, but for files and times."""
        first = self.stores[0].manifest
        layers = {
            name: {**first["layers"][name], **_counts(done, grid.stride)}
            for grid in self.grids
            for name in grid.channels
        }
        models = [store.manifest["model"] for store in self.stores]
        ran = {key: _joined(models, key) for key in ("device", "compute_dtype")}
        return {
            "made": {"of": [store.location for store in self.stores]},
            "model": {**first["model"], **ran},
            "images": self._describe_images(),
            "size": first["size"],
            "seed": self.seed,
            "positions": first["positions"],
            "dtype": first["dtype"],
            "codec": self.codec,
            "layers": layers,
            "units": describe_units(done),
        }

    def write_images(self, path: Path, work: Work) -> None:
        """The stores' tables, one after the other, with the images numbered through."""
        with pq.ParquetWriter(path, self.schema, compression="zstd") as writer:
            for store, first in zip(self.stores, self.first_images, strict=False):
                table = pa.concat_tables(
                    [self.schema.empty_table(), store.images], promote_options="default"
                )
                table = table.select(self.schema.names)
                numbers = pa.array(np.arange(first, first + len(table)), pa.int64())
                table = table.set_column(0, self.schema.field(0), numbers)
                writer.write_table(table.cast(self.schema), row_group_size=GROUP_ROWS)

    def _store_bytes(self, store: Store) -> int:
        return sum(_grid_rows(store, grid) * grid.row_bytes(self.item) for grid in self.grids)

    def _rows(self, which: int, grid: Grid, start: int, stop: int) -> GridRows:
        store = self.stores[which]
        layer = store.layer(next(iter(grid.channels)))
        place_R3 = store.positions(layer.name)[start:stop]
        place_R3[:, 0] += self.first_images[which]
        held_out = np.arange(start, stop) >= layer.train_rows
        image, y, x = place_R3.astype(np.int64).T
        key_R = row_keys(self.seed, grid.stride, image, y, x, held_out)
        layers = {name: store.activations(name)[start:stop] for name in grid.channels}
        return GridRows(key_R, place_R3, layers)

    def _describe_images(self) -> dict[str, Any]:
        images = [store.manifest["images"] for store in self.stores]
        parts = [part for store in self.stores for part in image_parts(store)]
        bad = [one.get("unreadable", {"count": 0}) for one in images]
        return {
            "spec": merged_spec(_specs(parts)),
            "title": f"{len(self.stores)} merged stores",
            "kind": MergedSource.kind,
            "seed": self.seed,
            "limit": None,
            "fingerprint": merged_fingerprint(part["fingerprint"] for part in parts),
            "count": self.first_images[-1],
            "used": sum(one["used"] for one in images),
            "held_out": sum(one["held_out"] for one in images),
            "unreadable": {
                "count": sum(one["count"] for one in bad),
                "first": [name for one in bad for name in one.get("first", [])][:20],
            },
            "resize": images[0].get("resize"),
            "merged": [store.content_id for store in self.stores],
            "parts": parts,
        }


def image_parts(store: Store) -> list[dict[str, Any]]:
    """The image sources of a store: one, or those that were merged."""
    images = store.manifest["images"]
    if "parts" in images:
        parts: list[dict[str, Any]] = images["parts"]
        return parts
    seed = images.get("seed", store.manifest["seed"])
    return [
        {
            "kind": images.get("kind", ""),
            "spec": images["spec"],
            "seed": seed,
            "limit": images.get("limit"),
            "fingerprint": images["fingerprint"],
            "count": store.images.num_rows,
        }
    ]


def _specs(parts: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for part in parts:
        limit = {} if part["limit"] is None else {"limit": part["limit"]}
        yield {"spec": part["spec"], "seed": part["seed"], **limit}


def _grid_rows(store: Store, grid: Grid) -> int:
    return store.layer(next(iter(grid.channels))).rows


def _counts(done: Assembled, stride: int) -> dict[str, int]:
    return {"rows": done.rows[stride], "train_rows": done.train_rows[stride]}


def _joined(models: Sequence[Mapping[str, Any]], key: str) -> str:
    return ", ".join(sorted({str(model.get(key, "unknown")) for model in models}))


def _schema(stores: Sequence[Store]) -> pa.Schema:
    try:
        return pa.unify_schemas([store.images.schema.remove_metadata() for store in stores])
    except pa.ArrowException as error:
        raise ConfigError(
            f"expected images tables whose columns have the same types, found {error}; "
            "build the stores from sources of one kind"
        ) from error


def _check_alike(stores: Sequence[Store]) -> None:
    """Raise ConfigError unless the rows of all stores mean the same."""
    for store in stores:
        if store.manifest["dtype"] in QUANTISED:
            raise ConfigError(
                f"expected stores of float16 or float32, found {store.manifest['dtype']} in "
                f"{store.path}; merging would round its numbers twice: build one store of all "
                "images, or merge float16 stores"
            )
    first = _what_counts(stores[0])
    for store in stores[1:]:
        other = _what_counts(store)
        for name in first:
            if first[name] != other[name]:
                raise ConfigError(
                    f"expected stores with the same {name}, found {_short(first[name])} in "
                    f"{stores[0].path} and {_short(other[name])} in {store.path}; build them alike"
                )


def _what_counts(store: Store) -> dict[str, Any]:
    about = store.manifest
    facts: dict[str, Any] = {
        "model": about["model"]["name"],
        "weights": about["model"].get("weights_sha256"),
        "preprocessing": about["model"].get("preprocessing"),
        "input size": about["size"],
        "resizing": about["images"].get("resize"),
        "dtype": about["dtype"],
        "positions": about["positions"],
        "layers": sorted(store.layers),
    }
    for name in sorted(store.layers):
        one = store.layers[name]
        geometry = (one.channels, one.stride, one.grid, one.receptive_field, dict(one.branches))
        facts[f"channels and cells of {name}"] = geometry
    return facts


def _short(value: Any) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_different_images(stores: Sequence[Store]) -> None:
    """Raise ConfigError if an image is there twice: its rows would count twice, on either side."""
    listed = [(store, part) for store in stores for part in image_parts(store)]
    counted = Counter(part["fingerprint"] for _, part in listed)
    twice = [(store, part) for store, part in listed if counted[part["fingerprint"]] > 1]
    if twice:
        raise ConfigError(
            f"expected each image once, found those of {_short(twice[0][1]['spec'])} in "
            f"{twice[0][0].path} and in {twice[1][0].path}; leave one of them out"
        )
    by_path = Counter(part["spec"] for _, part in listed if part["kind"] in PATHS)
    for spec in [spec for spec, count in by_path.items() if count > 1]:
        _check_names(spec, stores)


def _check_names(spec: str, stores: Sequence[Store]) -> None:
    """Different samples of one source: no name may come twice."""
    seen: set[str] = set()
    for store in stores:
        names, start = store.images.column("name"), 0
        for part in image_parts(store):
            mine = names.slice(start, part["count"])
            start += part["count"]
            if part["spec"] != spec:
                continue
            here = set(mine.to_pylist())
            if both := seen & here:
                raise ConfigError(
                    f"expected each image once, found {len(both):,} images of {_short(spec)} "
                    f"twice, such as {min(both)}; merge stores of other images"
                )
            seen |= here
