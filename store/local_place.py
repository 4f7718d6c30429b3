"""A place on a local disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from isae.files import fsync, is_temporary, temporary_beside, write_bytes
from isae.store.place import Place, Stamp, check_key, check_range

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_ATTEMPTS = 20

T = TypeVar("T")


class LocalPlace(Place):
    """A folder on a local disk; made at the first write."""

    local: Path

    def __init__(self, folder: str | Path) -> None:
        self.url = str(folder)
        self.local = Path(folder).absolute()
        self._folder = str(self.local)
        self._durable: set[Path] = set()
        self._durable_lock = threading.Lock()

    def __reduce__(self) -> tuple[type[LocalPlace], tuple[Path]]:
        return LocalPlace, (self.local,)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes [start, stop) of a file."""
        return self.read_stamped(key, start, stop)[0]

    def read_stamped(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> tuple[bytes, Stamp]:
        """One open, stat and pread: no buffer of Python's, no lock held while the disk works."""
        check_range(start, stop)
        path = f"{self._folder}/{check_key(key)}"  # pathlib costs more than the disk's cache
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                about = os.fstat(descriptor)
                if stop is None:
                    stop = max(start, about.st_size)
                # A folder can be opened, and is found out by reading at least a byte.
                data = _read_fully(descriptor, start, max(stop, start + 1))[: stop - start]
                return data, _stamp(about)
            finally:
                os.close(descriptor)
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error

    def stamp(self, key: str) -> Stamp | None:
        """Which file is there, or None where none is (or a folder is)."""
        try:
            about = self._path(key).stat()
        except _ABSENT:
            return None
        return _stamp(about) if stat.S_ISREG(about.st_mode) else None

    def write(self, key: str, data: bytes) -> None:
        """Write beside, flush, rename, flush the folder."""
        path = self._path(key)
        self._in_folder(path.parent, lambda: write_bytes(path, data))

    def create(self, key: str, data: bytes) -> bool:
        """Write beside, flush, then give the whole file its name, which fails where one is."""
        path = self._path(key)
        if os.path.lexists(path):
            return False
        return self._in_folder(path.parent, lambda: _create(path, data))

    def keys(self, prefix: str = "") -> list[tuple[str, int]]:
        """(key, bytes) of all files below `prefix`; files still being written are not listed."""
        folder = self._path(prefix) if prefix else self.local
        found = []
        for path in _files(folder):
            if not is_temporary(path.name):
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    found.append((path.relative_to(self.local).as_posix(), path.stat().st_size))
        return sorted(found)

    def delete(self, key: str) -> None:
        """Remove a file, and the folders that became empty, but never the place's own folder."""
        path = self._path(key)
        try:
            path.unlink()
        except _ABSENT:
            return
        except PermissionError:
            if path.is_dir():  # what some systems say where a folder stands
                return
            raise
        folder = path.parent
        with contextlib.suppress(OSError):
            while folder != self.local:
                folder.rmdir()
                with self._durable_lock:
                    self._durable.discard(folder)
                folder = folder.parent
        with contextlib.suppress(FileNotFoundError):
            fsync(folder)

    def sweep(self) -> int:
        """Remove the temporary files that killed writers left; how many."""
        left = [path for path in _files(self.local) if is_temporary(path.name)]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def _path(self, key: str) -> Path:
        return self.local / check_key(key)

    def _in_folder(self, folder: Path, action: Callable[[], T]) -> T:
        """Run `action` in an existing `folder`, also while `delete` removes it as an empty one."""
        for _ in range(_ATTEMPTS):
            # FileExistsError: pathlib's mkdir found the folder there, and then gone.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                self._make(folder)
                return action()
            with self._durable_lock:
                self._durable.discard(folder)
        self._make(folder)
        return action()

    def _make(self, folder: Path) -> None:
        """Make a folder and its parents, with their names flushed to the disk once a process."""
        with self._durable_lock:
            if folder in self._durable:
                return
        folder.mkdir(parents=True, exist_ok=True)
        parents = [folder, *folder.parents]
        inside = parents[: parents.index(self.local) + 1]
        for made in inside:
            fsync(made.parent)
        with self._durable_lock:
            self._durable.update(inside)


def _stamp(about: os.stat_result) -> Stamp:
    return Stamp(about.st_size, f"{about.st_ino}-{about.st_mtime_ns}")


def _read_fully(descriptor: int, start: int, stop: int) -> bytes:
    """Call pread until `stop` or the end: Linux gives at most 2 GiB a call."""
    data = os.pread(descriptor, stop - start, start)
    parts = [data]
    done = len(data)
    while data and done < stop - start:
        data = os.pread(descriptor, stop - start - done, start + done)
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _create(path: Path, data: bytes) -> bool:
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(data)
        fsync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not _rename_unless_there(temporary, path):
                return False
        fsync(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _rename_unless_there(temporary: Path, path: Path) -> bool:
    """For file systems without hard links; safe among those that come here, by a lock."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return False
        temporary.rename(path)
        return True
    finally:
        os.close(folder)


def _files(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        if not isinstance(error, _ABSENT):
            raise error

    for root, _, names in os.walk(folder, onerror=fail):
        yield from (Path(root, name) for name in names)
