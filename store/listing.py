"""What `isae-store ls` and `head` show: the stores below a folder, the first rows of a layer."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from isae.config import check
from isae.errors import IsaeError, StoreCorruptError, StoreError, StoreIncompleteError
from isae.store import manifest
from isae.store.layout import BACKUP, BUILDING, COMPLETE, MANIFEST, UNFINISHED, WORK
from isae.store.places import Place, open_place
from isae.store.reader import Store, StoredLayer

WIDTH = 80
TOP_CHANNELS = 8
METADATA = "zarr.json"
_ENDS = (COMPLETE, BACKUP, MANIFEST)


def list_stores(where: str) -> list[dict[str, Any]]:
    """Every store in or below a folder or bucket address, by name.

    Each with `store` (its address), `state` (complete, building, unfinished, or damaged with
    `problem`), and, if the manifest can be read, layers, rows of all layers, images, bytes. Only
    the manifest and the sizes of files are looked at; `isae-store verify` looks at everything.

    Raises StoreError if there is no such folder.
    """
    place = open_place(where)
    if place.local is not None and not place.local.is_dir():
        raise StoreError(
            f"expected a folder, found {'a file' if place.local.exists() else 'nothing'} at "
            f"{place.url}; check the path"
        )
    return [_look(place, name) for name in sorted(_store_folders(place))]


def _store_folders(place: Place) -> Iterator[str]:
    """Folders, relative to `place`, that hold a store; stores inside stores are not looked for."""
    if place.local is not None:
        for root, folders, names in os.walk(place.local):
            there = set(names)
            if WORK in folders and Path(root, UNFINISHED).is_file():
                there.add(UNFINISHED)
            if _is_store(there):
                folders.clear()
                yield Path(root).relative_to(place.local).as_posix()
        return
    names_of: dict[str, set[str]] = defaultdict(set)
    listed = place.keys()
    for key, _ in listed:
        folder, _, name = key.rpartition("/")
        names_of[folder or "."].add(name)
    yield from (folder for folder, names in names_of.items() if _is_store(names))


def _is_store(names: set[str]) -> bool:
    ends = sum(name in names for name in _ENDS)
    return bool({BUILDING, UNFINISHED} & names) or ends > 1 or (ends == 1 and METADATA in names)


def _look(place: Place, folder: str) -> dict[str, Any]:
    url = place.url if folder == "." else f"{place.url.rstrip('/')}/{folder}"
    one = open_place(url)
    found: dict[str, Any] = {"store": url, "name": folder}
    stored = dict(one.keys())
    found["bytes"] = sum(stored.values())
    try:
        about = manifest.read(one)
    except StoreIncompleteError:
        return found | {"state": "building" if BUILDING in stored else "unfinished"}
    except (IsaeError, KeyError, ValueError) as error:
        # Without a mark and a manifest it may also be one that was never finished.
        damaged = isinstance(error, StoreCorruptError) or COMPLETE in stored
        state = "damaged" if damaged else "unfinished"
        return found | {"state": state, "problem": str(error)}
    files = about["files"]
    wrong = [name for name, entry in files.items() if stored.get(name) != entry["bytes"]]
    if wrong:
        found["problem"] = f"{len(wrong)} files are missing or of another size, first {wrong[0]}"
    layers = about["layers"]
    return found | {
        "state": "damaged" if wrong else "complete",
        "content_id": about["content_id"],
        "layers": {name: layer["rows"] for name, layer in layers.items()},
        "rows": sum(layer["rows"] for layer in layers.values()),
        "images": about["images"]["used"],
        "dtype": about["dtype"],
        "finished": about["finished"],
    }


def describe_list(stores: list[dict[str, Any]]) -> str:
    """A line for each store, within 80 columns."""
    if not stores:
        return "no stores"
    lines = [f"{'store':<27}{'state':<11}{'images':>9}{'rows':>13}{'MB':>10}  layers"]
    for one in stores:
        images = f"{one['images']:,}" if "images" in one else "-"
        rows = f"{one['rows']:,}" if "rows" in one else "-"
        size = f"{one['bytes'] / 1e6:,.1f}"
        head = f"{_cut(one['name'], 26):<27}{one['state']:<11}{images:>9}{rows:>13}{size:>10}"
        names = list(one.get("layers", {}))
        room = WIDTH - len(head) - 2
        told = ",".join(names)
        if len(told) > room:
            told = f"{len(names)} layers"
        lines.append(f"{head}  {told}".rstrip())
    return "\n".join(lines)


def first_rows(store: Store, layer: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows [start, start + count) of a layer with their image, place, and largest channels.

    UnknownNameError for a layer that the store does not have, ConfigError for rows out of range.
    """
    one = store.layer(layer)
    check(count >= 1, "-n of at least 1", count)
    check(0 <= start < one.rows, f"--row in [0, {one.rows})", start)
    stop = min(start + count, one.rows)
    values_RC = store.activations(layer)[start:stop]
    place_R3 = store.positions(layer)[start:stop]
    return [
        _row(store, one, start + number, place.tolist(), values)
        for number, (place, values) in enumerate(zip(place_R3, values_RC, strict=True))
    ]


def _row(
    store: Store, layer: StoredLayer, number: int, place: list[int], values_C: Any
) -> dict[str, Any]:
    image, y, x = place
    about = store.images.slice(image, 1).to_pylist()[0]
    largest = np.argsort(-np.abs(values_C.astype(np.float64)), kind="stable")[:TOP_CHANNELS]
    top = [
        {"channel": c, "value": float(values_C[c]), "branch": _branch(layer, c)}
        for c in largest.tolist()
        if values_C[c] != 0
    ]
    return {
        "row": number,
        "image": image,
        "name": about["name"],
        "label": about["label"],
        "split": about["split"],
        "y": y,
        "x": x,
        "nonzeros": int(np.count_nonzero(values_C)),
        "channels": layer.channels,
        "top": top,
        "values": values_C.astype(np.float64).tolist(),
    }


def _branch(layer: StoredLayer, channel: int) -> str | None:
    for name, (low, high) in layer.branches.items():
        if low <= channel < high:
            return name
    return None


def describe_rows(rows: list[dict[str, Any]]) -> str:
    """Two lines for each row, within 80 columns."""
    lines = []
    for row in rows:
        share = f"{row['nonzeros']} of {row['channels']} not 0"
        where = f"image {row['image']} y {row['y']} x {row['x']}"
        head = f"row {row['row']}  {row['split']}  {where}  {share}  "
        label = f" ({row['label']})" if row["label"] else ""
        lines.append(head + _cut(f"{row['name']}{label}", max(WIDTH - len(head), 8)))
        told = "   "
        for one in row["top"]:
            branch = f"/{one['branch']}" if one["branch"] else ""
            more = f" {one['channel']}{branch}: {one['value']:.4g}"
            if len(told) + len(more) > WIDTH:
                break
            told += more
        lines.append(told if row["top"] else "    all zero")
    return "\n".join(lines)


def _cut(text: str, room: int) -> str:
    """The end of a text that is too long: names differ there."""
    return text if len(text) <= room else f"...{text[len(text) - room + 3 :]}"
