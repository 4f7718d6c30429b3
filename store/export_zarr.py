"""`isae-store convert --to zarr`: the same rows in the same order, in codecs that every Zarr v3
reader knows.

What comes out is a complete store of isae, and at the same time a Zarr v3 hierarchy whose chunks
are [bytes, zstd, crc32c] inside [sharding_indexed]. Without isae:

    import zarr
    group = zarr.open_group("out.store", mode="r")
    rows = group["stride16/mixed4a"][:1000]     # rows [0, train_rows) are of training images
    places = group["stride16/index"][:1000]     # image (row of images.parquet), y, x

A missing shard file is read by Zarr as fill values: NaN for activations, -1 for the index.
Layers of int8 or float8_e4m3 are uint8 there; the attribute `isae_quantisation` of the array has
the scales and the formula.

Shapes: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from isae.errors import StoreError
from isae.interrupts import Interrupts, deferred_interrupts
from isae.progress import QUIET, Reporter
from isae.store import file_hash, manifest
from isae.store.array import StoredArray
from isae.store.assemble import Assembled, Assembly, commit, metadata_files
from isae.store.claim import claimed
from isae.store.codecs import named_codec
from isae.store.describe import described_forms, described_grids
from isae.store.gather import check_apart, few_threads
from isae.store.images_table import GROUP_ROWS
from isae.store.layout import (
    BUILDING,
    COMPLETE,
    INDEX,
    SHARD_ROWS,
    grid_group,
    may_be_ours,
    shard_key,
)
from isae.store.places import Place, open_place
from isae.store.plan import work_folder
from isae.store.reader import Store
from isae.store.shards import ShardFormat, encode_shard
from isae.store.threads import in_threads
from isae.store.units import GridForm
from isae.store.work import Work

PLAIN = (
    '[{"name": "bytes", "configuration": {"endian": "little"}}, '
    '{"name": "zstd", "configuration": {"level": 3, "checksum": false}}]'
)
_MADE_ANEW = (
    "format",
    "format_version",
    "content_id",
    "finished",
    "versions",
    "files",
    "config",
    "identity",
)


class StoredNumbers(StoredArray):
    """The numbers as they are in the files: codes, where the array is quantised."""

    def __init__(self, place: Place, name: str, files: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(place, name, files)
        self.quantiser = None
        self.dtype = self.form.dtype
        self.check_sizes()


@dataclass
class Recoding:
    """The new store, as `claimed` takes it; nothing of it is kept when it is ended."""

    place: Place
    work: Work
    described: manifest.Manifest
    bytes: int

    @property
    def segments(self) -> int:
        """None."""
        return 0

    def identity(self) -> dict[str, Any]:
        """What it is made of, and how."""
        about = self.described
        return {
            "converted": about["converted"],
            "codec": about["codec"],
            "layers": list(about["layers"]),
        }

    def expected_bytes(self) -> tuple[int, int]:
        """No rows on their way; about as much as was read."""
        return 0, self.bytes


@dataclass(frozen=True)
class _Task:
    array: StoredArray
    name: str
    form: ShardFormat
    shard: int


def export_zarr(
    store: Store,
    out: str,
    *,
    layers: Sequence[str] = (),
    codec: str = PLAIN,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> manifest.Manifest:
    """Write `layers` (all if none are named) of a store with another codec; the new manifest.

    Raises UnknownNameError for a layer that the store does not have, ConfigError for a codec,
    StoreCorruptError if the store is damaged, StoreError for a place that cannot be written.
    """
    named_codec(codec)
    check_apart(out, [store.place])
    described = _describe(store, [store.layer(name).name for name in layers], codec)
    place = open_place(out)
    size = sum(one["bytes"] for one in store.manifest["files"].values())
    job = Recoding(place, Work(work_folder(place, None)), described, size)
    with deferred_interrupts() as stop, claimed(job, overwrite, False, reporter):
        try:
            return _write(store, job, reporter, stop)
        except BaseException:
            _remove(place)
            raise


def _remove(place: Place) -> None:
    """Leave nothing that a store without its mark would be made of."""
    with suppress(OSError, StoreError):
        written = place.keys() if place.size(COMPLETE) is None else []
        for key, _ in written:
            if key != BUILDING and may_be_ours(key):
                place.delete(key)


def _write(store: Store, job: Recoding, reporter: Reporter, stop: Interrupts) -> manifest.Manifest:
    grids, forms = described_grids(job.described), described_forms(job.described)
    tasks = [task for form in forms for task in _tasks(store, form)]
    files: manifest.Files = {}

    def put(key: str, data: bytes) -> None:
        job.place.write(key, data)
        files[key] = file_hash.entry(data)

    def recode(task: _Task) -> int:
        start = task.shard * task.form.shard_rows
        rows_RC = task.array[start : start + task.form.shard_rows]
        put(shard_key(task.name, task.shard), encode_shard(task.form, rows_RC))
        return len(rows_RC)

    total = sum(len(task.array) for task in tasks if task.shard == 0)
    with reporter.task(total, "writing", "rows") as meter:
        for rows in in_threads(recode, tasks, stop, few_threads()):
            meter.advance(rows)
    for key, value in metadata_files(grids, forms).items():
        put(key, manifest.as_json(value))
    statistics = {name: store.statistics(name) for name in job.described["layers"]}
    done = Assembled(files, statistics, {}, {}, {}, {}, {}, {})
    assembly = Assembly(job.place, job.work, grids, store.manifest["dtype"], "", stop=stop)
    if manifest.read(store.place)["content_id"] != store.content_id:
        raise StoreError(
            f"expected {store.path} to stay as it was while it was read, found another store "
            "there; convert again"
        )
    return commit(
        assembly,
        done,
        {"identity": job.identity(), **job.described},
        lambda path: pq.write_table(
            store.images, path, compression="zstd", row_group_size=GROUP_ROWS
        ),
    )


def _tasks(store: Store, form: GridForm) -> list[_Task]:
    group, files = grid_group(form.stride), store.manifest["files"]
    arrays = {f"{group}/{name}": one for name, one in {**form.layers, INDEX: form.index}.items()}
    opened = {name: StoredNumbers(store.place, name, files) for name in arrays}
    return [
        _Task(opened[name], name, one, shard)
        for name, one in arrays.items()
        for shard in range(one.shards)
    ]


def _describe(store: Store, layers: Sequence[str], codec: str) -> manifest.Manifest:
    about = store.manifest
    chosen = {
        name: one for name, one in about["layers"].items() if name in (layers or about["layers"])
    }
    for name, one in chosen.items():
        quantiser = store.activations(name).quantiser
        if quantiser is not None:
            scale = [float(scale) for scale in quantiser.scale_C]
            known = one.get("quantisation", {})
            chosen[name] = {**one, "quantisation": {**known, "scale": scale}}
    strides = {grid_group(one["stride"]) for one in chosen.values()}
    units = {name: {**about.get("units", {}).get(name, {}), "rows": SHARD_ROWS} for name in strides}
    return {
        **{key: value for key, value in about.items() if key not in _MADE_ANEW},
        "made": {"of": [store.location]},
        "converted": store.content_id,
        "codec": codec,
        "index_codec": codec,
        "layers": chosen,
        "units": dict(sorted(units.items())),
    }
