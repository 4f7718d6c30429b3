"""Make anew just those files of a store that are missing or damaged, to the very same bytes.

Every file's SHA-256 is in the manifest, of which there are two copies, and the completion mark is
the manifest's own SHA-256: any two of these three that agree are taken for right. Nothing is
written that has another hash than the manifest states, and every file is replaced in one step, so
readers in other processes see the damaged file or the right one.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from isae.errors import IsaeError, StoreCorruptError, StoreError
from isae.interrupts import Interrupts, deferred_interrupts
from isae.progress import QUIET, Reporter
from isae.store import manifest
from isae.store.array import StoredArray
from isae.store.assemble import metadata_files
from isae.store.cuts import Ints
from isae.store.describe import described_forms, described_grids
from isae.store.images_table import UNREADABLE
from isae.store.layout import (
    BACKUP,
    BUILDING,
    COMPLETE,
    IMAGES,
    INDEX,
    MANIFEST,
    ROOT_FILES,
    STATISTICS,
    WORK,
    grid_group,
    shard_key,
)
from isae.store.locks import PlaceLock
from isae.store.places import Place, open_place
from isae.store.plan import work_folder
from isae.store.redo import Origin, Units, make_shards, open_origin, write_images
from isae.store.statistics import PART_ROWS, Accumulator, ChannelStatistics, save_statistics
from isae.store.trust import check_can_repair, differences, trusted_manifest
from isae.store.verify import damaged_files

SCRATCH = "repair"
"""Folder inside the build's own work folder."""


@dataclass
class Repaired:
    """What `repair_store` found and did."""

    store: str
    content_id: str
    dry_run: bool
    broken: dict[str, str] = field(default_factory=dict)
    """What is, or was, wrong with each file."""
    images: int = 0
    """At most so many images have to be decoded for it."""
    repaired: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    """Files that are not part of the store, or left over from a build."""
    removed: list[str] = field(default_factory=list)
    obstacle: str | None = None
    """In a dry run: why the repair would fail."""

    def results(self) -> dict[str, object]:
        """As JSON types."""
        return asdict(self)

    def describe(self) -> str:
        """For a person."""
        done = "would be repaired" if self.dry_run else "repaired"
        lines = [f"{key}: {what}, {done}" for key, what in self.broken.items()]
        for key in self.strangers:
            kept = "removed" if key in self.removed else "not part of the store, left as it is"
            lines.append(f"{key}: {kept}")
        if self.images:
            lines.append(f"images to decode: at most {self.images:,}")
        if self.obstacle:
            lines.append(f"this would fail: {self.obstacle}")
        if not self.broken:
            lines.append(f"{self.store}: every file is as it was written")
        return "\n".join(lines)


def repair_store(
    path: str | Path,
    *,
    images: str | None = None,
    weights: str | None = None,
    scratch: str | None = None,
    remove_strangers: bool = False,
    dry_run: bool = False,
    reporter: Reporter = QUIET,
) -> Repaired:
    """Mend the store at `path`; `images` and `weights` say where they are now, if elsewhere.

    Raises StoreError if there is no store, if a build or another repair is at work in it, if
    manifest and mark are beyond repair, if the images are not the same any more, or if what was
    made anew has another SHA-256 (other versions or another processor): such a file is not written.
    Files that were mended before the error stay mended. With `dry_run` nothing is written.
    """
    place = open_place(path)
    manifest.check_is_store(place)
    with deferred_interrupts() as stop, _held(place, dry_run) as left_over:
        known = _Repair(place, reporter, stop, scratch)
        known.sources = (images, weights)
        done = known.done
        done.dry_run = dry_run
        done.strangers = [*left_over, *known.strangers()]
        known.look()
        if dry_run:
            with known.told():
                known.rehearse()
            return done
        known.mend()
        done.removed = list(left_over)
        if remove_strangers:
            for key in known.strangers():
                place.delete(key)
                done.removed.append(key)
        return done


@contextmanager
def _held(place: Place, dry_run: bool) -> Iterator[list[str]]:
    """Hold the place's lock; yields the name of the lock's file if a dead process left it."""
    left_over = [BUILDING] if place.size(BUILDING) is not None else []
    if dry_run:
        yield left_over
        return
    lock = PlaceLock(place, BUILDING)
    lock.take({"command": "repair"})
    try:
        place.sweep()
        yield left_over
    finally:
        with suppress(OSError, StoreError):
            lock.release()


class _Repair:
    """One repair of one store."""

    def __init__(
        self, place: Place, reporter: Reporter, stop: Interrupts, scratch: str | None
    ) -> None:
        self.place, self.reporter, self.stop = place, reporter, stop
        self.data, self.roots = trusted_manifest(place)
        self.manifest: manifest.Manifest = json.loads(self.data)
        self.files: manifest.Files = self.manifest["files"]
        self.scratch = work_folder(place, scratch) / SCRATCH
        self.sources: tuple[str | None, str | None] = (None, None)
        self.done = Repaired(place.url, self.manifest["content_id"], False)
        check_can_repair(place, self.manifest, self.roots)

    def look(self) -> None:
        """Find what is broken, and how many images it takes."""
        damage = damaged_files(self.place, self.files, self.reporter)
        self.done.broken = {**self.roots, **damage}
        self.done.images = self._images_needed()

    def strangers(self) -> list[str]:
        """Files that the manifest does not know, but for the lock that we hold."""
        mine = f"{WORK}/{SCRATCH}/"
        stored = self.place.keys()
        known = {*self.files, *ROOT_FILES}
        return [key for key, _ in stored if key not in known and not key.startswith(mine)]

    def mend(self) -> None:
        """Make all broken files anew: first what needs no images, the mark last."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        try:
            for key in (MANIFEST, BACKUP):
                if key in self.roots:
                    self._put(key, self.data)
            self._metadata()
            self._write_images()
            self._shards()
            self._statistics()
            if COMPLETE in self.roots:
                self._put(COMPLETE, manifest.mark_of(self.data))
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
            with suppress(OSError):
                self.scratch.parent.rmdir()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Note an error instead of raising it."""
        try:
            yield
        except IsaeError as error:
            self.done.obstacle = str(error)

    def rehearse(self) -> None:
        """Check what can be checked without making anything."""
        if self.done.images:
            _ = self.origin
        if self._shards_broken(layers=True):
            _ = self.origin.network

    @cached_property
    def origin(self) -> Origin:
        """The images, opened where they are first needed."""
        return open_origin(self.manifest, *self.sources, self.reporter, self.stop)

    def _metadata(self) -> None:
        broken = [key for key in self.done.broken if key.endswith("zarr.json")]
        if broken:
            made = metadata_files(described_grids(self.manifest), described_forms(self.manifest))
            for key in broken:
                self._write(key, manifest.as_json(made[key]))

    def _write_images(self) -> None:
        if IMAGES in self.done.broken:
            self._from_file(IMAGES, lambda path: write_images(self.origin, path))

    def _statistics(self) -> None:
        if STATISTICS not in self.done.broken:
            return
        found: dict[str, ChannelStatistics] = {}
        layers = self.manifest["layers"]
        total = sum(layer["train_rows"] for layer in layers.values())
        with self.reporter.task(total, "summing", "rows") as meter:
            for name, layer in layers.items():
                array = StoredArray(self.place, layer["array"], self.files)
                sums = Accumulator(layer["channels"])
                for start in range(0, layer["train_rows"], PART_ROWS):
                    self.stop.check()
                    rows = array[start : min(start + PART_ROWS, layer["train_rows"])]
                    sums.add_part(rows)
                    meter.advance(len(rows))
                found[name] = sums.finish()
        self._from_file(STATISTICS, lambda path: save_statistics(path, found))

    def _shards(self) -> None:
        """Shards of the index first: they say which images the layers' shards are of."""
        for layers in (False, True):
            wanted = self._shards_broken(layers)
            if wanted:
                readable = self._readable()
                images = self._images_of(wanted) if layers else readable
                folder = self.scratch / ("layers" if layers else "index")
                made = make_shards(self.origin, wanted, images, readable, folder)
                for key in self._keys(wanted, layers):
                    self._check(key, made.read(key))
                for key in self._keys(wanted, layers):
                    self._write(key, made.read(key))
                shutil.rmtree(folder)

    def _shards_broken(self, layers: bool) -> Units:
        """Units with broken shards of layers, or of the index."""
        found: dict[int, dict[int, list[str]]] = {}
        for form in described_forms(self.manifest):
            group = grid_group(form.stride)
            for name in form.layers if layers else [INDEX]:
                for unit in range(form.units):
                    if shard_key(f"{group}/{name}", unit) in self.done.broken:
                        names = found.setdefault(form.stride, {}).setdefault(unit, [])
                        names += [name] if layers else []
        return found

    def _keys(self, wanted: Units, layers: bool) -> list[str]:
        return [
            shard_key(f"{grid_group(stride)}/{name}", unit)
            for stride, units in wanted.items()
            for unit, names in units.items()
            for name in (names if layers else [INDEX])
        ]

    def _images_of(self, wanted: Units) -> Ints:
        """The images that have rows in these units."""
        found = [np.empty(0, dtype=np.int64)]
        for stride, units in wanted.items():
            index = StoredArray(self.place, f"{grid_group(stride)}/{INDEX}", self.files)
            for unit in units:
                rows = slice(unit * index.shard_rows, (unit + 1) * index.shard_rows)
                found.append(np.unique(index[rows, 0]).astype(np.int64))
        return np.unique(np.concatenate(found))

    def _readable(self) -> Ints:
        table = pq.read_table(io.BytesIO(self.place.read(IMAGES)), columns=["split"])
        split = table.column("split").to_numpy()
        return np.flatnonzero(split != UNREADABLE).astype(np.int64)

    def _images_needed(self) -> int:
        """At most so many images have to be decoded."""
        if IMAGES in self.done.broken:
            return int(self.manifest["images"]["count"])
        by_norm = ":norm:" in self.manifest["positions"]
        wanted, index = self._shards_broken(layers=True), self._shards_broken(layers=False)
        if by_norm and index:
            return int(self.manifest["images"]["used"])
        try:
            return len(self._images_of(wanted))
        except StoreCorruptError:  # an index is broken too
            return int(self.manifest["images"]["used"])

    def _from_file(self, key: str, make: Callable[[Path], None]) -> None:
        path = self.scratch / key
        make(path)
        self._write(key, path.read_bytes())

    def _write(self, key: str, data: bytes) -> None:
        self._check(key, data)
        self._put(key, data)

    def _put(self, key: str, data: bytes) -> None:
        self.stop.check()
        self.place.write(key, data)
        self.done.repaired.append(key)
        self.reporter.say(f"repaired {key}")

    def _check(self, key: str, data: bytes) -> None:
        if manifest.digest(data) == self.files[key]["sha256"]:
            return
        others = differences(self.manifest["versions"], manifest.versions())
        raise StoreError(
            f"expected {key} made anew to have the SHA-256 that {MANIFEST} states, found another "
            f"one and wrote nothing of it; {others}; repair it where the store was built, or build "
            "the store again with --overwrite"
        )
