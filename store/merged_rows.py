"""What a merged store is made of: the rows and images of several stores, one after the other.

Images are numbered through, store after store. Parts are the image sources of the stores: a store
that was built has one, a merged store those of the stores it was made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isae.config import check
from isae.errors import StoreError
from isae.images.merged import MergedSource, merged_fingerprint, merged_spec
from isae.images.opening import MOST_IMAGES
from isae.store import manifest
from isae.store.alike import joined_schema
from isae.store.assemble import Assembled
from isae.store.cuts import Ints, row_keys
from isae.store.describe import describe_units, described_grids
from isae.store.extract import Grid
from isae.store.gather import train_rows
from isae.store.images_table import GROUP_ROWS, HOLDOUT
from isae.store.plan import SEGMENT_BYTES
from isae.store.reader import Store
from isae.store.segments import GridRows, Segment
from isae.store.work import Work


class MergedRows:
    """The rows of several stores, segment by segment: store by store, each in its own order.

    `moved` are images, by their new numbers, that are held out although their store trains on them;
    `copies` are groups of images that are one photo.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        seed: int,
        codec: str,
        moved: Ints,
        copies: Sequence[Sequence[int]],
    ) -> None:
        self.stores, self.seed, self.codec = stores, seed, codec
        self.copies = copies
        counts = [store.images.num_rows for store in stores]
        self.first_images = np.cumsum([0, *counts]).tolist()
        check(
            self.first_images[-1] < MOST_IMAGES,
            f"fewer than {MOST_IMAGES:,} images in all",
            self.first_images[-1],
        )
        self.moved_I = np.zeros(self.first_images[-1], dtype=np.bool_)
        self.moved_I[moved] = True
        self.grids = described_grids(stores[0].manifest)
        self.item = np.dtype(stores[0].manifest["dtype"]).itemsize
        pieces = [max(1, -(-self._store_bytes(store) // SEGMENT_BYTES)) for store in stores]
        self.ends = np.cumsum(pieces)
        self.pieces = pieces
        self.schema = joined_schema(stores)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a merge to go on with what another one did."""
        return {
            "merged": [store.content_id for store in self.stores],
            "seed": self.seed,
            "codec": self.codec,
            "segment bytes": SEGMENT_BYTES,
            "moved to holdout": manifest.digest(self.moved_I.tobytes()),
        }

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
        """The stores' tables, one after the other, with the images numbered through.

        In groups that do not show where a store began, as a build of all sources writes them.
        """
        tables = [store.images.select(_shared(store, self.schema)) for store in self.stores]
        whole = pa.concat_tables(
            [self.schema.empty_table(), *tables], promote_options="default"
        ).select(self.schema.names)
        split = self.schema.get_field_index("split")
        with pq.ParquetWriter(path, self.schema, compression="zstd") as writer:
            for start in range(0, len(whole), GROUP_ROWS):
                group = whole.slice(start, GROUP_ROWS).combine_chunks()
                stop = start + len(group)
                numbers = pa.array(np.arange(start, stop), pa.int64())
                group = group.set_column(0, self.schema.field(0), numbers)
                sides = np.where(self.moved_I[start:stop], HOLDOUT, group.column(split).to_numpy())
                column = pa.array(sides, pa.string())
                group = group.set_column(split, self.schema.field(split), column)
                writer.write_table(group.cast(self.schema))

    def _store_bytes(self, store: Store) -> int:
        return sum(_grid_rows(store, grid) * grid.row_bytes(self.item) for grid in self.grids)

    def _rows(self, which: int, grid: Grid, start: int, stop: int) -> GridRows:
        store = self.stores[which]
        layer = store.layer(next(iter(grid.channels)))
        place_R3 = store.positions(layer.name)[start:stop]
        place_R3[:, 0] += self.first_images[which]
        held_out = (np.arange(start, stop) >= layer.train_rows) | self.moved_I[place_R3[:, 0]]
        image, y, x = place_R3.astype(np.int64).T
        key_R = row_keys(self.seed, grid.stride, image, y, x, held_out)
        layers = {name: store.activations(name)[start:stop] for name in grid.channels}
        return GridRows(key_R, place_R3, layers)

    def _describe_images(self) -> dict[str, Any]:
        images = [store.manifest["images"] for store in self.stores]
        parts = [part for store in self.stores for part in image_parts(store)]
        bad = [one.get("unreadable", {"count": 0}) for one in images]
        now, moved = np.flatnonzero(self.moved_I).tolist(), []
        for one, first in zip(images, self.first_images, strict=False):
            moved += [first + number for number in one.get("moved_to_holdout", [])]
        return {
            "spec": merged_spec(_specs(parts)),
            "title": f"{len(self.stores)} merged stores",
            "kind": MergedSource.kind,
            "seed": self.seed,
            "limit": None,
            "fingerprint": merged_fingerprint(part["fingerprint"] for part in parts),
            "count": self.first_images[-1],
            "used": sum(one["used"] for one in images),
            "held_out": sum(one["held_out"] for one in images) + len(now),
            "unreadable": {
                "count": sum(one["count"] for one in bad),
                "first": [name for one in bad for name in one.get("first", [])][:20],
            },
            "resize": images[0].get("resize"),
            "merged": [store.content_id for store in self.stores],
            "parts": parts,
            "moved_to_holdout": sorted({*moved, *now}),
            "copies": [list(group) for group in self.copies],
        }


def is_merged(about: manifest.Manifest) -> bool:
    """Whether a store was merged; its export that was converted back only says so of its images."""
    return "merged" in about.get("identity", {})


def image_parts(store: Store) -> list[dict[str, Any]]:
    """The image sources of a store: one, or those that were merged.

    Each says how its pictures are opened again, `count` of them, and for those that a build made
    rows of, `config` and `ran` (device and type of its network): what `repair` needs.
    """
    images, model = store.manifest["images"], store.manifest["model"]
    if "parts" in images:
        parts: list[dict[str, Any]] = images["parts"]
        if is_merged(store.manifest):
            return parts
        # Rows that went out and came in again may not be what those builds made.
        return [{k: v for k, v in part.items() if k not in ("config", "ran")} for part in parts]
    seed = images.get("seed", store.manifest["seed"])
    part = {
        "kind": images.get("kind", ""),
        "spec": images["spec"],
        "seed": seed,
        "limit": images.get("limit"),
        "fingerprint": images["fingerprint"],
        "count": store.images.num_rows,
    }
    if "config" in store.manifest:
        ran = {key: model.get(key) for key in ("device", "compute_dtype")}
        part |= {"config": store.manifest["config"], "ran": ran}
    return [part]


def _specs(parts: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for part in parts:
        limit = {} if part["limit"] is None else {"limit": part["limit"]}
        yield {"spec": part["spec"], "seed": part["seed"], **limit}


def _shared(store: Store, schema: pa.Schema) -> list[str]:
    there = set(store.images.schema.names)
    return [name for name in schema.names if name in there]


def _grid_rows(store: Store, grid: Grid) -> int:
    return store.layer(next(iter(grid.channels))).rows


def _counts(done: Assembled, stride: int) -> dict[str, int]:
    return {"rows": done.rows[stride], "train_rows": done.train_rows[stride]}


def _joined(models: Sequence[Mapping[str, Any]], key: str) -> str:
    return ", ".join(sorted({str(model.get(key, "unknown")) for model in models}))
