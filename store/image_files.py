"""Which file each image of a store is, as far as can be told: one file may have several names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pyarrow as pa

from isae.store.images_table import GROUP_ROWS
from isae.store.merged_rows import image_parts
from isae.store.reader import Store


def image_files(store: Store) -> Iterator[tuple[Any, ...]]:
    """What stands for the file of each image, in order: equal in all stores that know it alike.

    Of folders that is the path, links followed where they are on this machine.
    """
    start, names = 0, store.images.column("name")
    for part in image_parts(store):
        origin = _origin(part)
        for name in _file_names(part, texts(names.slice(start, part["count"]))):
            yield origin, name
        start += part["count"]


def texts(column: pa.ChunkedArray) -> Iterator[str]:
    """The values of a column of text, a group at a time."""
    for start in range(0, len(column), GROUP_ROWS):
        yield from column.slice(start, GROUP_ROWS).to_pylist()


def _origin(part: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names of this part are names in; () where names are whole paths."""
    if part["kind"] == "folder":
        return ()
    if part["kind"] == "synthetic":
        return (part["kind"], part["seed"])
    seed = part["seed"] if part["kind"] in ("merge", "imported") else None
    return (part["kind"], part["spec"], seed)


def _file_names(part: Mapping[str, Any], names: Iterator[str]) -> Iterator[str]:
    if part["kind"] != "folder":
        yield from names
        return
    look = cache(_folder)
    for name in names:
        folder, _, file = f"{part['spec']}/{name}".rpartition("/")
        real, links = look(folder)
        yield os.path.realpath(f"{folder}/{file}") if file in links else f"{real}/{file}"


def _folder(path: str) -> tuple[str, frozenset[str]]:
    """Where a folder really is, and the links among its files."""
    try:
        with os.scandir(path) as entries:
            links = frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:  # on another machine
        links = frozenset()
    return os.path.realpath(path), links
