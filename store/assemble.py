"""Segments to a finished store: cuts, units, tables, manifest, completion mark.

What rows are of does not matter here: pictures (store/build.py), other stores (store/merge.py) and
arrays made elsewhere (store/convert.py) all become segments first.

Shapes: C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isae.errors import StoreCorruptError, StoreError
from isae.interrupts import Interrupts
from isae.progress import QUIET, Reporter
from isae.store import file_hash, manifest
from isae.store.codecs import CodecChoice, named_codec
from isae.store.cuts import Runs, read_cuts, write_cuts
from isae.store.error_sums import ErrorSums
from isae.store.extract import Grid
from isae.store.layout import (
    IMAGES,
    INDEX,
    SHARD_ROWS,
    STATISTICS,
    chunk_rows,
    grid_group,
    is_data,
    metadata_file,
)
from isae.store.ownership import forget
from isae.store.places import Place
from isae.store.quantise import QUANTISED, Quantiser, scales
from isae.store.ranks import Ranks
from isae.store.segments import SegmentFile
from isae.store.shards import ShardFormat
from isae.store.statistics import Accumulator, ChannelStatistics, save_statistics
from isae.store.threads import in_threads
from isae.store.units import GridForm, UnitMaker, make_unit
from isae.store.work import Work, open_segments

INDEX_CODEC = "small"


@dataclass
class Assembly:
    """A store that is being put together from the segments of `work`."""

    place: Place
    work: Work
    grids: Sequence[Grid]
    dtype: str
    codec: str
    ranks: Ranks = field(default_factory=Ranks)
    reporter: Reporter = QUIET
    stop: Interrupts = field(default_factory=Interrupts)
    threads: int = field(default_factory=torch.get_num_threads)


@dataclass(frozen=True)
class Assembled:
    """What `write_arrays` wrote."""

    files: manifest.Files
    statistics: Mapping[str, ChannelStatistics]
    rows: Mapping[int, int]
    """By stride."""
    train_rows: Mapping[int, int]
    errors: Mapping[str, ErrorSums]
    """Of quantised layers."""
    exact_variance: Mapping[str, float]
    """Of the same layers: the total variance of the rows before they were quantised."""
    quantisers: Mapping[str, Quantiser]
    """Of the same layers."""
    first_keys: Mapping[int, list[str]]
    """The first key of every unit, by stride: enough to make one unit anew."""


def write_arrays(assembly: Assembly, count: int) -> Assembled | None:
    """All units that are missing, spread over ranks and threads; the result in the first rank.

    Raises StoreError unless all of `count` segments are there.
    """
    segments = open_segments(assembly.work, count)
    forms = _forms(assembly, segments)
    if assembly.ranks.first:
        for form in forms:
            path = assembly.work.cuts(form.stride)
            if not _are_whole(path, (form.units + 1, count)):
                write_cuts(path, Runs(segments, form.stride), SHARD_ROWS)
    assembly.ranks.barrier("cuts")
    assembly.work.check_there()
    _make_units(assembly, [UnitMaker(assembly.place, assembly.work, segments, f) for f in forms])
    assembly.ranks.barrier("units")
    return _collect(assembly, forms) if assembly.ranks.first else None


def _are_whole(cuts: Path, shape: tuple[int, int]) -> bool:
    try:
        return read_cuts(cuts).shape == shape
    except (FileNotFoundError, StoreCorruptError):
        return False


def commit(
    assembly: Assembly,
    done: Assembled,
    described: manifest.Manifest,
    write_images: Callable[[Path], None],
) -> manifest.Manifest:
    """Tables, manifest and mark; then what only a build needs is removed.

    `write_images` makes the images table at a path.
    """
    place, files = assembly.place, dict(done.files)
    for key, make in (
        (IMAGES, write_images),
        (STATISTICS, lambda path: save_statistics(path, dict(done.statistics))),
    ):
        path = assembly.work.folder / key
        make(path)
        data = path.read_bytes()
        place.write(key, data)
        files[key] = file_hash.entry(data)
    assembly.stop.check()
    assembly.work.check_there()
    # What a killed --overwrite had not removed yet.
    stored = place.keys()
    for key, _ in stored:
        if is_data(key) and key not in files:
            place.delete(key)
    found = manifest.finish(place, described, files)
    with suppress(OSError, StoreError):  # the store is complete
        forget(place, assembly.work)
    return found


def array_form(
    rows: int, columns: int, dtype: str, codec: CodecChoice, shard_rows: int = SHARD_ROWS
) -> ShardFormat:
    """How an array of a store lies in its files."""
    kind = np.dtype(np.uint8 if dtype in QUANTISED else dtype)
    chunk = chunk_rows(columns * kind.itemsize)
    return ShardFormat(rows, columns, kind, chunk, shard_rows, codec.for_array(kind, columns))


def _forms(assembly: Assembly, segments: Sequence[SegmentFile]) -> list[GridForm]:
    forms = []
    for grid in assembly.grids:
        stride = grid.stride
        rows = sum(one.rows(f"{stride}.key") for one in segments)
        training = sum(int(one.facts["train_rows"][str(stride)]) for one in segments)
        quantisers = {}
        if assembly.dtype in QUANTISED:
            quantisers = {n: _quantiser(assembly.dtype, n, segments) for n in grid.channels}
        codecs = (assembly.codec, INDEX_CODEC)
        forms.append(grid_form(grid, (rows, training), assembly.dtype, codecs, quantisers))
    return forms


def grid_form(
    grid: Grid,
    rows: tuple[int, int],
    dtype: str,
    codecs: tuple[str, str],
    quantisers: Mapping[str, Quantiser],
    shard_rows: int = SHARD_ROWS,
) -> GridForm:
    """How the arrays of a grid lie in their files.

    `rows` are all and the training rows, `codecs` those of the layers and of the index.
    """
    choice, plain = (named_codec(codec) for codec in codecs)
    layers = {
        name: array_form(rows[0], channels, dtype, choice, shard_rows)
        for name, channels in grid.channels.items()
    }
    index = array_form(rows[0], 3, "int32", plain, shard_rows)
    return GridForm(grid.stride, *rows, index, layers, quantisers)


def _quantiser(dtype: str, layer: str, segments: Sequence[SegmentFile]) -> Quantiser:
    largest_C = np.max([one.whole(f"{layer}/largest") for one in segments], axis=0)
    return Quantiser(dtype, scales(dtype, largest_C.astype(np.float32)))


def _make_units(assembly: Assembly, makers: Sequence[UnitMaker]) -> None:
    every = [(maker, number) for maker in makers for number in range(maker.form.units)]
    mine = every[assembly.ranks.rank :: assembly.ranks.size]
    with ThreadPoolExecutor(assembly.threads) as pool:
        done = list(pool.map(lambda one: one[0].is_done(one[1]), mine))
    todo = [one for one, whole in zip(mine, done, strict=True) if not whole]
    total = sum(_unit_rows(maker, number) for maker, number in mine)

    def make(one: tuple[UnitMaker, int]) -> int:
        assembly.work.check_there()
        return make_unit(one)

    with assembly.reporter.task(total, "writing", "rows") as meter:
        meter.skip_to(total - sum(_unit_rows(maker, number) for maker, number in todo))
        for rows in in_threads(make, todo, assembly.stop, assembly.threads):
            meter.advance(rows)


def _unit_rows(maker: UnitMaker, number: int) -> int:
    rows = maker.form.rows
    return min((number + 1) * SHARD_ROWS, rows) - number * SHARD_ROWS


def _collect(assembly: Assembly, forms: Sequence[GridForm]) -> Assembled:
    """Join what the units left behind, in their order, and write the metadata files."""
    files: manifest.Files = {}
    statistics: dict[str, ChannelStatistics] = {}
    errors: dict[str, ErrorSums] = {}
    exact_variance: dict[str, float] = {}
    first_keys: dict[int, list[str]] = {}
    for form in forms:
        work = assembly.work
        units = [work.open(work.unit(form.stride, n)) for n in range(form.units)]
        first_keys[form.stride] = [unit.facts["first_key"] for unit in units]
        for unit in units:
            files |= unit.facts["files"]
        for name in form.layers:
            statistics[name] = _joined(units, f"{name}/sums")
        for name in form.quantisers:
            exact_variance[name] = _joined(units, f"{name}/exact").total_variance
            errors[name] = ErrorSums(form.layers[name].columns)
            for unit in units:
                errors[name].merge(ErrorSums.from_arrays(_arrays(unit, f"{name}/errors")))
    files |= _write_metadata(assembly, forms)
    rows = {form.stride: form.rows for form in forms}
    training = {form.stride: form.train_rows for form in forms}
    quantisers = {name: one for form in forms for name, one in form.quantisers.items()}
    return Assembled(
        files, statistics, rows, training, errors, exact_variance, quantisers, first_keys
    )


def _joined(units: Sequence[SegmentFile], prefix: str) -> ChannelStatistics:
    parts = [Accumulator.from_arrays(_arrays(unit, prefix)) for unit in units]
    whole = Accumulator(len(parts[0].mean_C))
    for part in parts:
        whole.merge(part)
    return whole.finish()


def _arrays(unit: SegmentFile, prefix: str) -> dict[str, Any]:
    names = [name for name in unit.header if name.startswith(f"{prefix}/")]
    return {name.removeprefix(f"{prefix}/"): unit.whole(name) for name in names}


def _write_metadata(assembly: Assembly, forms: Sequence[GridForm]) -> manifest.Files:
    files = {}
    for key, value in metadata_files(assembly.grids, forms).items():
        data = manifest.as_json(value)
        assembly.place.write(key, data)
        files[key] = file_hash.entry(data)
    return files


def metadata_files(grids: Sequence[Grid], forms: Sequence[GridForm]) -> dict[str, Any]:
    """Every zarr.json of a store."""
    found: dict[str, Any] = {metadata_file(""): _group({})}
    for grid, form in zip(grids, forms, strict=True):
        name = grid_group(form.stride)
        found[metadata_file(name)] = _group({"stride": form.stride, "grid": list(grid.shape)})
        found[metadata_file(f"{name}/{INDEX}")] = form.index.metadata({})
        for layer, one in form.layers.items():
            quantiser = form.quantisers.get(layer)
            attributes = {} if quantiser is None else quantiser.attributes()
            found[metadata_file(f"{name}/{layer}")] = one.metadata(attributes)
    return found


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}
