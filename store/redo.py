"""From the images again: the images table, and shards of single units of a store that is there.

The order of the rows is a matter of keys (see store/cuts.py), and the manifest has every unit's
first key. So the rows of a unit are those whose keys lie between two numbers, and they become
shards by the code that made them before (store/units.py).

Shapes: R rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from isae.errors import StoreError
from isae.files import write_bytes
from isae.images import BadImage, decode_batches
from isae.progress import Meter
from isae.store.cuts import Ints, save_cuts
from isae.store.describe import described_forms, described_grids
from isae.store.extract import Extractor
from isae.store.images_table import ImagesTable
from isae.store.layout import grid_group
from isae.store.manifest import Manifest, as_json, digest, versions
from isae.store.origin import Origin, Part
from isae.store.places import LocalPlace
from isae.store.plan import SEGMENT_BYTES
from isae.store.positions import PositionRule
from isae.store.segmenting import Rows, extracted, joined
from isae.store.segments import U64, GridRows, Segment, SegmentFile, write_segment
from isae.store.threads import in_threads
from isae.store.units import UnitMaker, make_unit
from isae.store.work import Work

Units = Mapping[int, Mapping[int, Sequence[str]]]
"""By stride and unit: the layers whose shards are wanted (the index's is always made)."""
PLAN = "repair"
"""File that tells what the segments beside it are of."""
AGAIN = "run the same repair again"
ROWS_ALONE = 1024
"""Images at a time where only places are asked for."""


def write_images(origin: Origin, path: Path) -> None:
    """The images table, all images being decoded again."""
    config, source = origin.parts[0].config, origin.source
    batches = decode_batches(source, origin.manifest["size"], config.batch_size, config.workers)
    with (
        ImagesTable(path, source, origin) as table,
        origin.reporter.task(len(source), "decoding", "images") as meter,
    ):
        for batch in batches:
            origin.stop.check()
            good = zip(batch.indices.tolist(), batch.sizes_B2.tolist(), strict=True)
            sizes = {image: (width, height) for image, (width, height) in good}
            attempted = sorted([*sizes, *(bad.index for bad in batch.bad)])
            table.add(sizes, attempted)
            meter.advance(len(attempted))


def make_shards(
    origin: Origin, wanted: Units, images: Ints, readable: Ints, folder: Path
) -> LocalPlace:
    """Shards of the wanted units in a new place inside `folder`.

    `images` are those that may have rows in these units, `readable` all that could be read when
    the store was built. Goes on with the rows that a call for the same units left in `folder` when
    it was killed. Raises StoreError if one of `images` cannot be read any more, or, having emptied
    the folder, if a unit does not get as many rows as it had.
    """
    manifest, work, made = origin.manifest, Work(folder, AGAIN), LocalPlace(folder / "made")
    forms = {form.stride: form for form in described_forms(manifest)}
    ranges = {stride: _Ranges(manifest, stride, units) for stride, units in wanted.items()}
    pieces = [_Piece.of(part, wanted, images, readable) for part in origin.parts]
    total = sum(len(piece.images) for piece in pieces)
    count, taken = _kept(origin, wanted, pieces, work)
    with origin.reporter.task(total, "extracting", "images") as meter:
        meter.skip_to(taken)
        rows = (one for piece in pieces for one in _placed_rows(origin, piece, meter))
        count = _write_segments(rows, pieces[0].extractor, ranges, work, (count, taken))
    segments = [work.open(work.segment(number)) for number in range(count)]
    todo = []
    for stride, units in wanted.items():
        cuts = ranges[stride].cuts(segments)
        save_cuts(work.cuts(stride), cuts.shape, cuts)
        for unit, names in units.items():
            form = forms[stride]
            chosen = replace(form, layers={name: form.layers[name] for name in names})
            maker = UnitMaker(made, work, segments, chosen)
            _check_rows(maker, unit, folder)
            todo.append((maker, unit))
    total = len(todo)
    with origin.reporter.task(total, "writing", "units") as meter:
        for _ in in_threads(make_unit, todo, origin.stop, torch.get_num_threads()):
            meter.advance()
    return made


@dataclass
class _Piece:
    """Images of one part whose rows are wanted, by their numbers in it."""

    part: Part
    extractor: Extractor
    images: Ints
    readable: Ints

    @classmethod
    def of(cls, part: Part, wanted: Units, images: Ints, readable: Ints) -> _Piece:
        """Those of the store's `images` that are of `part`."""
        extractor, mine = _extractor(part, wanted), part.mine(images)
        if extractor.wanted:
            mine = part.whole_batches(mine)
        return cls(part, extractor, mine, part.mine(readable))


def _kept(origin: Origin, wanted: Units, pieces: Sequence[_Piece], work: Work) -> tuple[int, int]:
    """The segments that a killed call left, and how many images they took, which are left out."""
    plan, about = work.folder / PLAN, origin.manifest
    specs = [piece.part.source.spec for piece in pieces]
    asked = digest(as_json([about["content_id"], wanted, specs, versions()])).encode()
    if not plan.is_file() or plan.read_bytes() != asked:
        shutil.rmtree(work.folder, ignore_errors=True)
        write_bytes(plan, asked)
        return 0, 0
    there = work.whole_segments(work.segments_done(), origin.reporter.warn)
    count = next(number for number in range(len(there) + 1) if number not in there)
    taken = int(work.open(work.segment(count - 1)).facts["images"]) if count else 0
    left = taken
    for piece in pieces:
        mine = min(left, len(piece.images))
        piece.images, left = piece.images[mine:], left - mine
    return count, taken


class _Ranges:
    """Which rows belong to the wanted units of a grid."""

    def __init__(self, manifest: Manifest, stride: int, units: Mapping[int, object]) -> None:
        keys = manifest["units"][grid_group(stride)]["first_keys"]
        self.stride = stride
        self.first_keys: U64 = np.asarray([int(key, 16) for key in keys], dtype=np.uint64)
        self.wanted = np.zeros(len(keys), dtype=np.bool_)
        self.wanted[list(units)] = True

    def of(self, rows: GridRows) -> GridRows:
        """Those of `rows` that are of the wanted units."""
        unit = np.searchsorted(self.first_keys, rows.key_R, side="right") - 1
        mine = np.flatnonzero(self.wanted[unit] & (unit >= 0))
        layers = {name: values[mine] for name, values in rows.layers.items()}
        return GridRows(rows.key_R[mine], rows.place_R3[mine], layers)

    def cuts(self, segments: Sequence[SegmentFile]) -> Ints:
        """Where each unit begins in every segment (see store/cuts.py)."""
        cuts = np.zeros((len(self.first_keys) + 1, len(segments)), dtype=np.int64)
        for number, segment in enumerate(segments):
            key_R = segment.whole(f"{self.stride}.key")
            cuts[:-1, number] = np.searchsorted(key_R, self.first_keys)
            cuts[-1, number] = len(key_R)
        return cuts


def _extractor(part: Part, wanted: Units) -> Extractor:
    """Makes rows as the build did, but only of the layers that are wanted."""
    names = {name for units in wanted.values() for layers in units.values() for name in layers}
    grids = [
        replace(grid, channels={n: c for n, c in grid.channels.items() if n in names})
        for grid in described_grids(part.manifest)
    ]
    config = part.config
    rule = PositionRule.parse(config.positions)
    kept = torch.float32 if config.dtype == "float32" else torch.float16
    return Extractor(part.network, grids, rule, config.seed, part.split, kept)


def _placed_rows(
    origin: Origin, piece: _Piece, meter: Meter
) -> Iterator[tuple[int, Mapping[int, GridRows]]]:
    """Some images' count, and their rows with the keys and places that they have in the store."""
    for count, rows in _rows(origin, piece, meter):
        placed = {stride: origin.placed(piece.part, stride, one) for stride, one in rows.items()}
        yield count, placed


def _rows(
    origin: Origin, piece: _Piece, meter: Meter
) -> Iterator[tuple[int, Mapping[int, GridRows]]]:
    """Rows of the images, batch by batch; without a forward pass where no map is needed."""
    part, extractor, images = piece.part, piece.extractor, piece.images
    if not extractor.wanted:
        for start in range(0, len(images), ROWS_ALONE):
            some = images[start : start + ROWS_ALONE]
            yield len(some), extractor.rows(some, {})
            meter.advance(len(some))
        return
    config, size = part.config, part.manifest["size"]
    batches = decode_batches(part.source, size, config.batch_size, config.workers, indices=images)
    stages = extracted(extractor, batches)
    try:
        for batch, pieces in stages:
            origin.stop.check()
            _check_readable(batch.bad, piece.readable)
            count = len(batch.indices) + len(batch.bad)
            yield count, _whole(extractor, pieces)
            meter.advance(count)
    finally:
        stages.close()  # type: ignore[attr-defined]


def _whole(extractor: Extractor, pieces: Rows) -> Mapping[int, GridRows]:
    return {
        grid.stride: joined([one[grid.stride] for one in pieces], grid.channels, extractor.dtype)
        for grid in extractor.grids
    }


def _write_segments(
    parts: Iterator[tuple[int, Mapping[int, GridRows]]],
    extractor: Extractor,
    ranges: Mapping[int, _Ranges],
    work: Work,
    done: tuple[int, int],
) -> int:
    """Write the rows of the wanted units as segments; how many.

    `done` are the segments that are there, and the images of which these are.
    """
    grids = {grid.stride: grid for grid in extractor.grids}
    held: list[dict[int, GridRows]] = []
    count, taken = done
    size = 0

    def write() -> None:
        segment = {
            stride: joined([one[stride] for one in held], grids[stride].channels, extractor.dtype)
            for stride in ranges
        }
        sizes_S2: npt.NDArray[np.int32] = np.empty((0, 2), dtype=np.int32)
        write_segment(work.segment(count), Segment(segment, sizes_S2, {"images": taken}))

    for images, part in parts:
        taken += images
        if not part:
            continue
        mine = {stride: one.of(part[stride]) for stride, one in ranges.items()}
        held.append(mine)
        item = extractor.dtype.itemsize
        size += sum(len(one.key_R) * grids[stride].row_bytes(item) for stride, one in mine.items())
        if size >= SEGMENT_BYTES:
            write()
            held, size, count = [], 0, count + 1
    write()
    return count + 1


def _check_rows(maker: UnitMaker, unit: int, folder: Path) -> None:
    form = maker.form
    found = int((maker.cuts[unit + 1] - maker.cuts[unit]).sum())
    expected = min(form.rows - unit * form.index.shard_rows, form.index.shard_rows)
    if found != expected:
        shutil.rmtree(folder, ignore_errors=True)
        raise StoreError(
            f"expected {expected:,} rows of the images in unit {unit} of "
            f"{grid_group(form.stride)}, found {found:,}: these are not the images, or not the "
            "places, that the store was built from"
        )


def _check_readable(bad: Sequence[BadImage], readable: Ints) -> None:
    for one in bad:
        at = int(np.searchsorted(readable, one.index))
        if at < len(readable) and readable[at] == one.index:
            raise StoreError(
                f"expected '{one.name}' to be readable, as when the store was built, found: "
                f"{one.reason}; bring the same images back"
            )
