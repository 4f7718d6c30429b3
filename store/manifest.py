"""The manifest: how a store was made, every file's size and hash, and the completion mark.

The mark `COMPLETE` holds the SHA-256 of `manifest.json` and is written last, after everything
else was flushed to disk. A store without it is unfinished, one whose mark does not fit its
manifest is damaged; readers refuse both.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import isae
from isae.errors import StoreCorruptError, StoreError, StoreIncompleteError
from isae.files import fsync, sha256, write_bytes, write_json
from isae.store.layout import (
    BUILDING,
    COMPLETE,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    ROOT_FILES,
)

Manifest = dict[str, Any]
PACKAGES = ("torch", "torchvision", "zarr", "zarrs", "numpy", "pillow", "pyarrow")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions that may matter for the contents."""
    found = {"python": platform.python_version(), "isae": isae.__version__}
    return found | {name: version(name) for name in PACKAGES}


def data_files(root: Path) -> list[Path]:
    """Every file of a store but the manifest and the marks, sorted by relative path."""
    found = [path for path in root.rglob("*") if path.is_file()]
    found = [path for path in found if path.relative_to(root).as_posix() not in ROOT_FILES]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def hash_files(
    root: Path, between_files: Callable[[], None] = lambda: None
) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every data file, by relative path; flushes each to disk."""

    def one(path: Path) -> tuple[str, dict[str, Any]]:
        between_files()
        fsync(path)
        return path.relative_to(root).as_posix(), {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(pool.map(one, data_files(root)))


def content_id(files: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over all data files' paths and hashes: equal ids are equal contents."""
    text = "\n".join(f"{path} {files[path]['sha256']}" for path in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()


def finish(
    root: Path, manifest: Manifest, between_files: Callable[[], None] = lambda: None
) -> Manifest:
    """Add files, hashes and content id to `manifest`, write it and the completion mark.

    `between_files` is called before each file is hashed and may raise to stop.
    """
    files = hash_files(root, between_files)
    whole = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "content_id": content_id(files),
        "finished": now(),
        **manifest,
        "versions": versions(),
        "files": files,
    }
    write_json(root / MANIFEST, whole)
    for folder in {path.parent for path in data_files(root)}:
        fsync(folder)
    write_bytes(root / COMPLETE, (sha256(root / MANIFEST) + "\n").encode())
    (root / BUILDING).unlink()
    return whole


def read(root: Path) -> Manifest:
    """The manifest of a complete store.

    Raises StoreError (no store there), StoreIncompleteError (no completion mark) or
    StoreCorruptError (the manifest is not the one the mark was written for).
    """
    check_is_store(root)
    mark, path = root / COMPLETE, root / MANIFEST
    if not mark.exists():
        raise StoreIncompleteError(
            f"expected a complete store in {root}, found one whose build did not finish; "
            "build it again with isae-store build ... --overwrite"
        )
    whole = mark.is_file() and path.is_file()
    if not whole or mark.read_bytes().strip() != sha256(path).encode():
        raise StoreCorruptError(
            f"expected {path} to have the SHA-256 that {mark} states, found that one of the two "
            "changed; restore it from a copy, or build the store again with --overwrite"
        )
    manifest: Manifest = json.loads(path.read_text())
    if manifest["format_version"] != FORMAT_VERSION:
        raise StoreError(
            f"expected store format {FORMAT_VERSION} in {root}, found "
            f"{manifest['format_version']}; use the isae version that wrote it"
        )
    return manifest


def check_is_store(root: Path) -> None:
    """Raise StoreError unless `root` is a folder that isae wrote as a store, finished or not."""
    if not root.exists():
        raise StoreError(
            f"expected a store in {root}, found nothing there; "
            "check the path, or build it with isae-store build"
        )
    if not is_store(root):
        raise StoreError(
            f"expected a store in {root}, found something else (no {MANIFEST} or {BUILDING}); "
            "give the folder that isae-store build wrote"
        )


def is_store(root: Path) -> bool:
    """Whether `root` is a store, finished or not."""
    return root.is_dir() and any((root / name).is_file() for name in ROOT_FILES)


class Claim:
    """A folder that this process builds in; holds a lock until `release` or the process's end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made_folder = not root.exists()
        self.lock: IO[str] | None = None

    def take(self, *, overwrite: bool) -> None:
        """Make the folder an empty one with the building mark, or raise StoreError.

        Only an empty folder, or with `overwrite` a store, is taken; a store loses its completion
        mark before anything else, so that a kill on the way leaves an unfinished store.
        """
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            _check_may_replace(self.root, overwrite)
        self.root.mkdir(parents=True, exist_ok=True)
        self.lock = _locked(self.root)
        _clear(self.root)

    def release(self) -> None:
        """End the claim on a finished store."""
        if self.lock is not None:
            self.lock.close()

    def abandon(self) -> None:
        """Remove what an ended build left, so that nothing half-written stays behind.

        Never raises: the error that ended the build is what the user must see.
        """
        if self.lock is None:
            return
        with contextlib.suppress(OSError):
            if not (self.root / COMPLETE).exists():
                _clear(self.root)
                (self.root / BUILDING).unlink()
                if self.made_folder:
                    self.root.rmdir()
        self.lock.close()


def _check_may_replace(root: Path, overwrite: bool) -> None:
    if not is_store(root):
        raise StoreError(
            f"expected {root} to be absent, empty or a store, found other files there; "
            "choose another --out (isae deletes nothing that it did not write)"
        )
    if not overwrite:
        kind = "a store" if (root / COMPLETE).exists() else "an unfinished store"
        raise StoreError(
            f"expected no store in {root}, found {kind}; "
            "choose another --out, or replace it with --overwrite"
        )


def _locked(root: Path) -> IO[str]:
    """The building mark, open and locked. The lock ends with the process, however it ends."""
    file = (root / BUILDING).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StoreError(
            f"expected no running build in {root}, found one ({owner}); "
            "wait for it or end it, or choose another --out"
        ) from None
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": platform.node(), "started": now()}))
    file.flush()
    return file


def _clear(root: Path) -> None:
    (root / COMPLETE).unlink(missing_ok=True)
    for entry in root.iterdir():
        if entry.name != BUILDING:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
