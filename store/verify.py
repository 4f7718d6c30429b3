"""Check every file and every chunk of a store, and that its parts agree with each other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.errors import IsaeError, StoreCorruptError, StoreError, StoreIncompleteError
from isae.progress import QUIET, Reporter
from isae.store import manifest
from isae.store.array import StoredArray
from isae.store.file_hash import hash_name, new_hasher, stated_hash
from isae.store.images_table import HOLDOUT, TRAIN
from isae.store.layout import BACKUP, COMPLETE, IMAGES, INDEX, MANIFEST, READABLE, is_data
from isae.store.places import Place, open_place
from isae.store.positions import parent_cells
from isae.store.quantise import QUANTISED
from isae.store.reader import Store, StoredLayer
from isae.store.statistics import FIELDS, PART_ROWS, Accumulator
from isae.store.trust import check_finished, sound_manifest

HASH_BLOCK = 8 << 20
IMPORTED = "imported"
"""Places of rows that were made elsewhere: images may have any number of them."""


def verify_store(path: str | Path, *, reporter: Reporter = QUIET) -> list[str]:
    """Every problem found in a store, one line each; an empty list means that it is whole.

    Checked: the completion mark; both copies of the manifest; the size and hash of every file;
    files that should not be there; that every chunk decodes; shapes and counts; that the index
    names images of the right split and cells of the grid, each once, the same in all grids; finite
    activations; the statistics, computed anew. A damaged mark or manifest hides nothing: the rest
    is compared with the copy that is left. Takes a byte of memory per cell of a grid and image, no
    more.

    Raises StoreError if there is no store at `path`; all else is in the list.
    """
    place = open_place(path)
    manifest.check_is_store(place)
    try:
        store, roots = _opened(path, place)
    except (IsaeError, KeyError, ValueError, OSError) as error:
        return [str(error)]
    problems = _check_files(store, reporter)
    if not problems:
        problems = _check_contents(store, reporter)
    return [*(f"{name}: {found}" for name, found in roots.items()), *problems]


def _opened(path: str | Path, place: Place) -> tuple[Store, dict[str, str]]:
    """The store, and what is wrong with its mark and manifests; an error if nothing is left."""
    try:
        store = Store(path)
    except (StoreCorruptError, StoreIncompleteError):
        data, roots = sound_manifest(place)
        found: manifest.Manifest = json.loads(data)
        if found["format_version"] not in READABLE:
            raise
        check_finished(place, found, roots)
        if roots.get(COMPLETE) == "missing":
            roots[COMPLETE] = "missing: the build did not finish, or the mark was lost"
        store = Store(path, (found, manifest.maybe(place, COMPLETE)))
    else:
        copy = manifest.maybe(place, BACKUP)
        state = "missing" if copy is None else f"not the same as {MANIFEST}"
        roots = {} if copy == place.read(MANIFEST) else {BACKUP: state}
    if store.manifest["format_version"] == 1:
        roots.pop(BACKUP, None)
    return store, roots


def _check_files(store: Store, reporter: Reporter) -> list[str]:
    files: dict[str, Any] = store.manifest["files"]
    damage = damaged_files(store.place, files, reporter)
    problems = [f"{name}: {found}" for name, found in damage.items()]
    stored = store.place.keys()
    there = {key for key, _ in stored if is_data(key)}
    problems += [f"{name}: not part of the store" for name in sorted(there - set(files))]
    if manifest.content_id(files) != store.content_id:
        problems.append(f"{MANIFEST}: the content id does not fit the list of files")
    return problems


def damaged_files(
    place: Place, files: Mapping[str, Mapping[str, Any]], reporter: Reporter
) -> dict[str, str]:
    """What is wrong with each file of the manifest's list that is not what was written."""
    found = {}
    with (
        reporter.task(len(files), "hashing", "files") as meter,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        damage = pool.map(lambda one: _file_damage(place, *one), files.items())
        for name, what in zip(files, damage, strict=True):
            if what is not None:
                found[name] = what
            meter.advance()
    return found


def _file_damage(place: Place, name: str, expected: Mapping[str, Any]) -> str | None:
    try:
        size, found = hashed(place, name, hash_name(expected))
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return error.strerror or str(error)
    if size != expected["bytes"]:
        return f"{size} bytes instead of {expected['bytes']}"
    if found != stated_hash(expected):
        return "contents changed (its hash differs)"
    return None


def hashed(place: Place, name: str, kind: str) -> tuple[int, str]:
    """Length and hash of a file, in bounded memory; FileNotFoundError if there is none."""
    hasher, size = new_hasher(kind), 0
    while True:
        block = place.read(name, size, size + HASH_BLOCK)
        hasher.update(block)
        size += len(block)
        if len(block) < HASH_BLOCK:
            return size, hasher.hexdigest()


def _check_contents(store: Store, reporter: Reporter) -> list[str]:
    problems: list[str] = []
    table = store.images
    if not np.array_equal(table.column("image").to_numpy(), np.arange(len(table))):
        problems.append(f"{IMAGES}: the image column does not count from 0")
    codes = np.asarray(table.column("split").dictionary_encode().combine_chunks().indices)
    names = table.column("split").dictionary_encode().combine_chunks().dictionary.to_pylist()
    splits = codes.astype(np.int8)
    coarsest: Places | None = None
    grids: set[str] = set()
    layers = sorted(store.layers.values(), key=lambda layer: -layer.stride)
    with reporter.task(sum(layer.rows for layer in layers), "decoding", "rows") as meter:
        for layer in layers:
            try:
                group = layer.array.rpartition("/")[0]
                if group not in grids:
                    grids.add(group)
                    found, places = _check_index(store, layer, splits, names)
                    problems += found
                    coarsest = coarsest or places
                    ruled = store.manifest["positions"] != IMPORTED
                    if ruled and not found and coarsest is not None and places is not None:
                        problems += _check_same_places(group, places, coarsest)
                problems += _check_layer(store, layer)
            except (StoreError, ValueError) as error:
                problems.append(f"{layer.array}: {error}")
            meter.advance(layer.rows)
    return problems


@dataclass(frozen=True)
class Places:
    """Which cells of which images a grid's rows are of: one byte a cell."""

    stride: int
    taken_NHW: npt.NDArray[np.bool_]


def _check_index(
    store: Store, layer: StoredLayer, splits: npt.NDArray[np.int8], names: list[str]
) -> tuple[list[str], Places | None]:
    array = store.positions(layer.name)
    if array.shape != (layer.rows, 3):
        return [f"{array.name}: shape {array.shape} instead of {(layer.rows, 3)}"], None
    height, width = layer.grid
    taken = np.zeros((len(splits), height, width), dtype=np.bool_)
    outside, wrong = 0, 0
    code = {name: number for number, name in enumerate(names)}
    for start in range(0, layer.rows, array.chunk_rows):
        image, y, x = array[start : start + array.chunk_rows].T
        inside = (image >= 0) & (image < len(splits)) & (y >= 0) & (y < height) & (x >= 0)
        inside &= x < width
        outside += int((~inside).sum())
        image, y, x = image[inside], y[inside], x[inside]
        training = (start + np.flatnonzero(inside)) < layer.train_rows
        expected = np.where(training, code.get(TRAIN, -1), code.get(HOLDOUT, -1))
        wrong += int((splits[image] != expected).sum())
        taken[image, y, x] = True
    problems = []
    if outside:
        problems.append(f"{array.name}: {outside} rows outside the images or the grid")
    elif int(taken.sum()) != layer.rows:
        problems.append(f"{array.name}: some places are there more than once")
    if wrong:
        problems.append(f"{array.name}: {wrong} rows are not of the split they lie in")
    return problems, Places(layer.stride, taken)


def _check_same_places(group: str, fine: Places, coarse: Places) -> list[str]:
    """A finer grid has exactly the cells inside the coarsest grid's, image by image."""
    ratio = coarse.stride // fine.stride
    y = parent_cells(fine.taken_NHW.shape[1], coarse.taken_NHW.shape[1], ratio)
    x = parent_cells(fine.taken_NHW.shape[2], coarse.taken_NHW.shape[2], ratio)
    different = sum(
        not np.array_equal(mine, parent[y[:, None], x[None, :]])
        for mine, parent in zip(fine.taken_NHW, coarse.taken_NHW, strict=True)
    )
    counts = set(fine.taken_NHW.sum(axis=(1, 2)).tolist()) - {0} if fine is coarse else set()
    problems = []
    if different:
        problems.append(f"{group}/{INDEX}: {different} images have other places than the coarsest")
    if len(counts) > 1:
        problems.append(
            f"{group}/{INDEX}: images have different numbers of places {sorted(counts)}"
        )
    return problems


def _check_layer(store: Store, layer: StoredLayer) -> list[str]:
    array = store.activations(layer.name)
    dtype = "float16" if layer.dtype in QUANTISED else layer.dtype
    if array.shape != (layer.rows, layer.channels) or str(array.dtype) != dtype:
        expected = f"{(layer.rows, layer.channels)} {dtype}"
        return [f"{array.name}: {array.shape} {array.dtype} instead of {expected}"]
    return _check_values(array, layer, store)


def _check_values(array: StoredArray, layer: StoredLayer, store: Store) -> list[str]:
    sums = Accumulator(layer.channels)
    bad_rows = 0
    for start in range(0, layer.rows, PART_ROWS):
        rows = array[start : start + PART_ROWS]
        bad_rows += int((~np.isfinite(rows).all(axis=1)).sum())
        training = max(0, min(layer.train_rows - start, len(rows)))
        sums.add_part(rows[:training])
    problems = []
    if bad_rows:
        problems.append(f"{array.name}: {bad_rows} rows are not finite")
    stored, anew = store.statistics(layer.name), sums.finish()
    if stored.count != anew.count:
        problems.append(f"statistics of {layer.name}: {stored.count} rows instead of {anew.count}")
    # The sums are the same float64 sums over the same parts; a last-bit difference between
    # processors is all that may remain.
    problems += [
        f"statistics of {layer.name}: {field} does not fit the rows"
        for field in FIELDS
        if not np.allclose(getattr(stored, field), getattr(anew, field), rtol=1e-9, atol=1e-12)
    ]
    return problems
