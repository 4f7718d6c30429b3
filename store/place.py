"""What every place of a store's files can do.

A `Place` holds files by keys, which are relative POSIX paths such as "stride16/mixed4a/c/0/0". A
file is there whole or not at all, and is durable when `write` or `create` returns. Every method
may be called from many threads at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

from isae.errors import ConfigError
from isae.files import is_temporary

LONGEST_KEY = 1024  # bytes: the limit of S3


class Stamp(NamedTuple):
    """What tells a file from another one that took its name."""

    size: int
    identity: str
    """Empty where the place does not tell."""


class Place(ABC):
    """Files by keys, in a folder or a bucket.

    Errors: ConfigError where a key is no relative path, FileNotFoundError where a file is not
    there, OSError (local) or StoreError (bucket) where the place cannot be used.
    """

    url: str
    """The place as a person would write it; holds no credentials."""
    local: Path | None
    """The folder, where the place is on a local disk."""

    @abstractmethod
    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes [start, stop) of a file; fewer where it ends before `stop`."""

    @abstractmethod
    def read_stamped(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> tuple[bytes, Stamp]:
        """As `read`, and which file it was."""

    @abstractmethod
    def stamp(self, key: str) -> Stamp | None:
        """Which file is there, or None where none is."""

    def size(self, key: str) -> int | None:
        """The bytes of a file, or None where it is not there."""
        found = self.stamp(key)
        return None if found is None else found.size

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Make or replace a file. Other readers see the old one or the new one, each whole."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Make a file where none is; False, and nothing done, where one is there already.

        Of many that call it for one key at once, exactly one gets True.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> list[tuple[str, int]]:
        """(key, bytes) of all files below the folder `prefix`, sorted by key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file; no error where it is not there."""

    def sweep(self) -> int:
        """Remove what killed writers left half-written; call it while nobody writes; how many.

        Nothing to do in a bucket: unfinished uploads are not files there, and the bucket's own
        rule for them (lifecycle) frees their space.
        """
        return 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def check_key(key: str) -> str:
    """`key`, or ConfigError where it is no plain relative POSIX path."""
    parts = key.split("/")
    if (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in key
        or not key.isprintable()
        or len(key.encode(errors="replace")) > LONGEST_KEY
        or is_temporary(parts[-1])
    ):
        raise ConfigError(
            f"expected a key like 'folder/file', found {key!r}; no empty parts, '.', '..', "
            f"backslashes, control characters, or more than {LONGEST_KEY} bytes"
        )
    return key


def check_range(start: int, stop: int | None) -> None:
    """Raise ConfigError unless 0 <= start <= stop."""
    if start < 0 or (stop is not None and stop < start):
        raise ConfigError(f"expected 0 <= start <= stop, found start {start} and stop {stop}")
