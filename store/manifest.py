"""The manifest: how a store was made, every file's size and hash, and the completion mark.

The mark `COMPLETE` holds the SHA-256 of `manifest.json` and is written last, after everything
else was flushed to disk. A store without it is unfinished, one whose mark does not fit its
manifest is damaged; readers refuse both.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import isae
from isae.errors import StoreCorruptError, StoreError, StoreIncompleteError
from isae.store.file_hash import stated_hash
from isae.store.layout import (
    ARITHMETIC,
    BACKUP,
    COMPLETE,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    READABLE,
    ROOT_FILES,
    UNFINISHED,
)
from isae.store.places import Place

Manifest = dict[str, Any]
Files = dict[str, dict[str, Any]]
PACKAGES = ("torch", "torchvision", "zarr", "numcodecs", "numpy", "pillow", "pyarrow")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions that may matter for the contents."""
    found = {"python": platform.python_version(), "isae": isae.__version__}
    found["arithmetic"] = str(ARITHMETIC)
    return found | {name: version(name) for name in PACKAGES}


def digest(data: bytes) -> str:
    """SHA-256 as hex."""
    return hashlib.sha256(data).hexdigest()


def as_json(value: Any) -> bytes:
    """Indented JSON; NaN and infinity are refused (not JSON)."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def content_id(files: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over all data files' paths and hashes: equal ids are equal contents."""
    text = "\n".join(f"{path} {stated_hash(files[path])}" for path in sorted(files))
    return digest(text.encode())


def finish(place: Place, manifest: Manifest, files: Files) -> Manifest:
    """Complete `manifest` with the files, their content id and versions; write it and the mark.

    Every file must be written, and durable, before. Raises StoreError if somebody else completed
    the store meanwhile.
    """
    whole = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "content_id": content_id(files),
        "finished": now(),
        **manifest,
        "versions": versions(),
        "files": dict(sorted(files.items())),
    }
    data = as_json(whole)
    place.write(MANIFEST, data)
    place.write(BACKUP, data)
    # The answer to a put may be lost and the put repeated: then the mark is there, and ours.
    if not place.create(COMPLETE, mark_of(data)) and place.read(COMPLETE) != mark_of(data):
        raise StoreError(
            f"expected {place.url} to be unfinished, found that another build completed it "
            "meanwhile; check which one is right with isae-store verify"
        )
    return whole


def mark_of(data: bytes) -> bytes:
    """The completion mark for a manifest."""
    return (digest(data) + "\n").encode()


def read(place: Place) -> Manifest:
    """The manifest of a complete store; errors as those of `read_marked`."""
    return read_marked(place)[0]


def check_mark(place: Place, mark: bytes | None) -> None:
    """Raise StoreError unless the store in `place` is still the one that has this mark.

    A build takes the mark away before it touches anything else.
    """
    if maybe(place, COMPLETE) != mark:
        raise StoreError(
            f"expected the store in {place.url} to stay while it is read, found that it was "
            "removed, damaged or built again; open it again"
        )


def read_marked(place: Place) -> tuple[Manifest, bytes]:
    """The manifest of a complete store, and its completion mark.

    Raises StoreError (no store there), StoreIncompleteError (no completion mark) or
    StoreCorruptError (the manifest is not the one the mark was written for).
    """
    check_is_store(place)
    mark, data = maybe(place, COMPLETE), maybe(place, MANIFEST)
    if mark is None and not _is_folder(place, COMPLETE):
        raise StoreIncompleteError(
            f"expected a complete store in {place.url}, found none ({COMPLETE} is not there): its "
            "build did not finish; go on with isae-store build ... --resume, or build it again "
            "with --overwrite"
        )
    if mark is None or data is None or mark != mark_of(data):
        raise StoreCorruptError(
            f"expected {place.url}/{MANIFEST} to have the SHA-256 that {COMPLETE} states, found "
            "that one of the two changed; run isae-store repair, restore it from a copy, or build "
            "the store again with --overwrite"
        )
    manifest: Manifest = json.loads(data)
    if manifest["format_version"] not in READABLE:
        raise StoreError(
            f"expected a store of format {' or '.join(map(str, READABLE))} in {place.url}, found "
            f"{manifest['format_version']}; use the isae version that wrote it"
        )
    return manifest, mark


def maybe(place: Place, key: str) -> bytes | None:
    """A file's bytes, None if there is none."""
    try:
        return place.read(key)
    except FileNotFoundError:
        return None


def check_is_store(place: Place) -> None:
    """Raise StoreError unless isae wrote a store at `place`, finished or not."""
    if is_store(place):
        return
    there = place.local.exists() if place.local is not None else bool(place.keys())
    if not there:
        raise StoreError(
            f"expected a store in {place.url}, found nothing there; "
            "check the path, or build it with isae-store build"
        )
    raise StoreError(
        f"expected a store in {place.url}, found something else (no {MANIFEST} or building.json); "
        "give what isae-store build wrote"
    )


def is_store(place: Place) -> bool:
    """Whether there is a store, finished or not."""
    return any(place.size(name) is not None for name in (*ROOT_FILES, UNFINISHED))


def _is_folder(place: Place, key: str) -> bool:
    return place.local is not None and (place.local / key).is_dir()
