"""A folder tree of photos; the class of a photo is the first folder below the root."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from isae.errors import ImageError
from isae.images.base import I64, U8, ImageSource, Names, UnreadableError, digest
from isae.images.pixels import decode_rgb

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
"""Endings (in either case) that make a file a photo; other files are not looked at."""


class FileReader:
    """Reads photo files by their path (bytes, in '/' form) below a root folder."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def read(self, address: bytes) -> U8:
        """Pixels uint8 [H, W, 3] of one file; raises UnreadableError with the reason."""
        try:
            with open(os.path.join(self.root, address), "rb") as file:  # noqa: PTH118 (bytes path)
                data = file.read()
        except OSError as error:
            raise UnreadableError(os.strerror(error.errno or 0)) from error
        return decode_rgb(data)


class FolderSource(ImageSource):
    """All photos below `root`, sorted by the bytes of their relative path with '/' between parts.

    Linked folders are followed, each real folder at most once on the way down from the root, so a
    loop of links ends. Hidden files and folders (a leading dot) are not looked at. Memory: the
    length of the relative path plus 24 bytes a photo. Raises ImageError where there is no photo.
    """

    kind = "folder"

    def __init__(self, root: Path, spec: str | None = None) -> None:
        self.spec = str(root) if spec is None else spec
        self.columns = {}
        self.reader = FileReader(root)
        found, others = _list_photos(os.fsencode(root))
        if not found:
            raise ImageError(
                f"expected photos ({', '.join(EXTENSIONS[:5])}, ...) in '{root}' or its folders, "
                f"found none among {others:,} other files; give a folder that holds photos"
            )
        found.sort()
        self.names = Names(name for name, _, _ in found)
        self.sizes: I64 = np.array([size for _, size, _ in found], dtype=np.int64)
        self.times: I64 = np.array([time for _, _, time in found], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def row(self, index: int) -> dict[str, Any]:
        """'name' is the path below the root, 'label' its first folder, '' without one."""
        name = self.names.text(self.checked(index))
        return {"name": name, "label": name.split("/", 1)[0] if "/" in name else ""}

    def address(self, index: int) -> bytes:
        """The path below the root."""
        return self.names.raw(self.checked(index))

    def fingerprint(self) -> str:
        """Hash of relative paths and file sizes, not of times: a copied folder is the same."""
        ends, sizes = self.names.ends.astype("<i8"), self.sizes.astype("<i8")
        return digest([self.kind, self.names.blob, ends.tobytes(), sizes.tobytes()])

    def file_times(self) -> I64:
        """Of every photo."""
        return self.times

    def file_name(self, number: int) -> str:
        """The path below the root."""
        return self.names.text(self.checked(number))


def _list_photos(root: bytes) -> tuple[list[tuple[bytes, int, int]], int]:
    """(relative path, size, time of change in ns) of every photo, and the number of other files."""
    endings = tuple(ending.encode() for ending in EXTENSIONS)
    found: list[tuple[bytes, int, int]] = []
    others = 0
    pending = [(root, b"", frozenset({_identity(root)}))]
    while pending:
        folder, prefix, above = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                if entry.is_dir():
                    identity = _identity(entry.path)
                    if identity not in above:
                        pending.append((entry.path, prefix + entry.name + b"/", above | {identity}))
                elif entry.name.lower().endswith(endings) and (about := _about(entry)) is not None:
                    found.append((prefix + entry.name, *about))
                else:
                    others += 1
    return found, others


def _identity(path: bytes) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 (bytes path)
    return status.st_dev, status.st_ino


def _about(entry: os.DirEntry[bytes]) -> tuple[int, int] | None:
    """Bytes and time of change of a file.

    None for pipes, sockets and devices, which reading could wait for.
    """
    try:
        status = entry.stat()
    except OSError:
        # A dangling link stays in the list, and is reported as a bad picture when it is read.
        return -1, 0
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
