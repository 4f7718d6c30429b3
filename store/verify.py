"""Check every file and every chunk of a store, and that its parts agree with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from isae.errors import IsaeError, StoreError
from isae.files import sha256
from isae.progress import QUIET, Reporter
from isae.store import manifest
from isae.store.images_table import HOLDOUT, TRAIN
from isae.store.layout import ROOT_FILES
from isae.store.reader import Store, StoredArray, StoredLayer
from isae.store.statistics import FIELDS, Accumulator

READ_CHUNKS = 4


def verify_store(path: str | Path, *, reporter: Reporter = QUIET) -> list[str]:
    """Every problem found in a store, one line each; an empty list means that it is whole.

    Checked: the completion mark; the size and SHA-256 of every file; files that should not be
    there; that every chunk decodes; shapes and counts; that the index names images of the right
    split and cells of the grid, each once; finite activations; the statistics, computed anew.

    Raises StoreError if there is no store at `path`; all else is in the list.
    """
    root = Path(path)
    manifest.check_is_store(root)
    try:
        store = Store(root)
    except (IsaeError, KeyError, ValueError, OSError) as error:
        return [str(error)]
    problems = _check_files(store, reporter)
    if not problems:
        problems = _check_contents(store, reporter)
    return problems


def _check_files(store: Store, reporter: Reporter) -> list[str]:
    files: dict[str, Any] = store.manifest["files"]
    problems = []
    with reporter.task(len(files), "hashing", "files") as meter:
        for name, expected in files.items():
            path = store.path / name
            if not path.is_file():
                problems.append(f"{name}: missing")
            elif path.stat().st_size != expected["bytes"]:
                problems.append(
                    f"{name}: {path.stat().st_size} bytes instead of {expected['bytes']}"
                )
            elif sha256(path) != expected["sha256"]:
                problems.append(f"{name}: contents changed (SHA-256 differs)")
            meter.advance()
    found = {path.relative_to(store.path).as_posix() for path in manifest.data_files(store.path)}
    problems += [f"{name}: not part of the store" for name in sorted(found - set(files))]
    if manifest.content_id(files) != store.content_id:
        problems.append(f"{ROOT_FILES[0]}: the content id does not fit the list of files")
    return problems


def _check_contents(store: Store, reporter: Reporter) -> list[str]:
    problems: list[str] = []
    splits = np.asarray(store.images.column("split").to_pylist())
    if not np.array_equal(store.images.column("image").to_numpy(), np.arange(len(splits))):
        problems.append("images.parquet: the image column does not count from 0")
    total = sum(layer.rows for layer in store.layers.values())
    grids: set[str] = set()
    with reporter.task(total, "decoding", "rows") as meter:
        for layer in store.layers.values():
            try:
                group = layer.array.rpartition("/")[0]
                if group not in grids:
                    grids.add(group)
                    problems += _check_index(store, layer, splits)
                problems += _check_layer(store, layer)
            except (StoreError, ValueError) as error:
                problems.append(f"{layer.array}: {error}")
            meter.advance(layer.rows)
    return problems


def _check_index(store: Store, layer: StoredLayer, splits: np.ndarray[Any, Any]) -> list[str]:
    array = store.positions(layer.name)
    if array.shape != (layer.rows, 3):
        return [f"{array.name}: shape {array.shape} instead of {(layer.rows, 3)}"]
    problems = []
    index = array[:].astype(np.int64)
    image, y, x = index.T
    height, width = layer.grid
    inside = (image >= 0) & (image < len(splits)) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    if not inside.all():
        return [f"{array.name}: {int((~inside).sum())} rows outside the images or the grid"]
    cell = (image * height + y) * width + x
    if len(np.unique(cell)) != len(cell):
        problems.append(f"{array.name}: some places are there more than once")
    for split, rows in (
        (TRAIN, slice(0, layer.train_rows)),
        (HOLDOUT, slice(layer.train_rows, None)),
    ):
        wrong = int((splits[image[rows]] != split).sum())
        if wrong:
            problems.append(f"{array.name}: {wrong} rows among the {split} rows are not {split}")
    return problems


def _check_layer(store: Store, layer: StoredLayer) -> list[str]:
    array = store.activations(layer.name)
    if array.shape != (layer.rows, layer.channels) or str(array.dtype) != layer.dtype:
        expected = f"{(layer.rows, layer.channels)} {layer.dtype}"
        return [f"{array.name}: {array.shape} {array.dtype} instead of {expected}"]
    return _check_values(array, layer, store)


def _check_values(array: StoredArray, layer: StoredLayer, store: Store) -> list[str]:
    accumulator = Accumulator(layer.channels)
    bad_rows = 0
    step = array.chunk_rows * READ_CHUNKS
    for start in range(0, layer.rows, step):
        rows = array[start : start + step]
        bad_rows += int((~np.isfinite(rows).all(axis=1)).sum())
        training = max(0, min(layer.train_rows - start, len(rows)))
        if training:
            accumulator.add(rows[:training])
    problems = []
    if bad_rows:
        problems.append(f"{array.name}: {bad_rows} rows are not finite")
    stored, anew = store.statistics(layer.name), accumulator.finish()
    if stored.count != anew.count:
        problems.append(f"statistics of {layer.name}: {stored.count} rows instead of {anew.count}")
    # The sums are the same float64 sums over the same blocks; a last-bit difference between
    # processors is all that may remain.
    problems += [
        f"statistics of {layer.name}: {field} does not fit the rows"
        for field in FIELDS
        if not np.allclose(getattr(stored, field), getattr(anew, field), rtol=1e-9, atol=1e-12)
    ]
    return problems
