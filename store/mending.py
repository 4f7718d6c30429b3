"""Which files of a store are broken, and how each is made anew, to the very same bytes.

Nothing is written that has another hash than the manifest states, and every file is replaced in
one step, so readers in other processes see the damaged file or the right one.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from isae.errors import IsaeError, StoreCorruptError, StoreError
from isae.interrupts import Interrupts
from isae.progress import Reporter
from isae.store import manifest
from isae.store.array import StoredArray
from isae.store.assemble import metadata_files
from isae.store.cuts import Ints
from isae.store.describe import described_forms, described_grids
from isae.store.file_hash import fits
from isae.store.images_table import UNREADABLE
from isae.store.layout import (
    ARITHMETIC,
    BACKUP,
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
from isae.store.locks import machine_name
from isae.store.origin import Origin, open_origin
from isae.store.places import Place
from isae.store.plan import work_folder
from isae.store.redo import Units, make_shards, write_images
from isae.store.statistics import PART_ROWS, Accumulator, ChannelStatistics, save_statistics
from isae.store.trust import check_can_repair, differences, trusted_manifest
from isae.store.verify import damaged_files

SCRATCH = "repair"
"""Folder of rows, inside the work folder that a build has in the store's own."""


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


def _rows_folder(place: Place, scratch: str | None, about: manifest.Manifest) -> Path:
    """Where rows are kept meanwhile.

    Outside the store it is a folder beside that of a build, for this content, machine and place
    alone: two machines may repair stores of one path, with one --scratch.
    """
    work = work_folder(place, scratch)
    if place.local is not None and work == place.local / WORK:
        return work / SCRATCH
    where = [] if place.local is None else [place.local.stat().st_dev, place.local.stat().st_ino]
    name = manifest.digest(manifest.as_json([about["content_id"], *machine_name(), *where]))
    return work.with_name(f"{work.name}-{SCRATCH}-{name[:16]}")


class Mending:
    """One repair of one store: what is broken in it, and how it is made anew."""

    def __init__(
        self, place: Place, reporter: Reporter, stop: Interrupts, scratch: str | None
    ) -> None:
        self.place, self.reporter, self.stop = place, reporter, stop
        self.data, self.roots = trusted_manifest(place)
        self.manifest: manifest.Manifest = json.loads(self.data)
        self.files: manifest.Files = self.manifest["files"]
        self.scratch = _rows_folder(place, scratch, self.manifest)
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
        """Make all broken files anew: first what needs no images, the mark last.

        Rows that were extracted stay where it is ended on the way: the next repair goes on.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        finished = False
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
            finished = True
        finally:
            self._tidy(finished)

    def _tidy(self, finished: bool) -> None:
        if not finished and next(self.scratch.rglob("segment-*"), None) is not None:
            self.reporter.say(f"kept rows in {self.scratch}; run the same repair to go on")
            return
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self.place.local == self.scratch.parent.parent:
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
            self.origin.check_networks()

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
        stated = self.manifest["versions"].get("arithmetic")
        # A store that states none was summed in one of two ways.
        for arithmetic in (1, 2) if stated is None else (ARITHMETIC,):
            path = self.scratch / STATISTICS
            save_statistics(path, self._summed(arithmetic))
            data = path.read_bytes()
            if fits(data, self.files[STATISTICS]):
                break
        self._write(STATISTICS, data)

    def _summed(self, arithmetic: int) -> dict[str, ChannelStatistics]:
        """The statistics of all layers, from their rows."""
        found: dict[str, ChannelStatistics] = {}
        layers = self.manifest["layers"]
        total = sum(layer["train_rows"] for layer in layers.values())
        with self.reporter.task(total, "summing", "rows") as meter:
            for name, layer in layers.items():
                array = StoredArray(self.place, layer["array"], self.files)
                sums = Accumulator(layer["channels"], arithmetic)
                for start in range(0, layer["train_rows"], PART_ROWS):
                    self.stop.check()
                    rows = array[start : min(start + PART_ROWS, layer["train_rows"])]
                    sums.add_part(rows)
                    meter.advance(len(rows))
                found[name] = sums.finish()
        return found

    def _shards(self) -> None:
        """Shards of the index first: they say which images the layers' shards are of."""
        for layers in (False, True):
            wanted = self._shards_broken(layers)
            if wanted:
                readable = self._readable()
                images = self._images_of(wanted) if layers else readable
                folder = self.scratch / ("layers" if layers else "index")
                made = make_shards(self.origin, wanted, images, readable, folder)
                self._write_right(self._keys(wanted, layers), made)
                shutil.rmtree(folder)

    def _write_right(self, keys: Sequence[str], made: Place) -> None:
        """Write all that are what they were, then raise for the first that is not.

        One image that changed must not cost the hours that the others took. But the rows are no
        good then, so that they are not kept.
        """
        wrong: StoreError | None = None
        for key in keys:
            data = made.read(key)
            try:
                self._check(key, data)
            except StoreError as error:
                wrong = wrong or error
                continue
            self._put(key, data)
        if wrong is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise wrong

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
        if fits(data, self.files[key]):
            return
        others = differences(self.manifest["versions"], manifest.versions())
        raise StoreError(
            f"expected {key} made anew to have the hash that {MANIFEST} states, found another "
            f"one and wrote nothing of it; {others}; repair it where the store was built, or build "
            "the store again with --overwrite"
        )
