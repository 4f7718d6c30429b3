"""One builder at a time in one place.

On a local disk the lock is the kernel's (flock): it ends with the process, however that ends. In a
bucket it is an object that exists from `take` to `release`; that of a dead process on this machine
is taken over, that of another machine is not, since nobody here can know whether it still runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import secrets
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from time import sleep
from typing import Any

from isae.errors import ConfigError, StoreError
from isae.store.object_place import ObjectPlace
from isae.store.place import Place, check_key

Holder = dict[str, Any]
NO_CONTAINER = "pid:[4026531836]"
"""The kernel's number for the processes of a machine itself (PROC_PID_INIT_INO)."""
_ATTEMPTS = 20
_PAUSE = 0.05  # seconds; a holder writes its name right after it has the lock


class PlaceLock:
    """The right to build in a place; `key` is the file that tells who has it.

    work: what is locked, for messages.
    """

    def __init__(self, place: Place, key: str = "building.json", work: str = "build") -> None:
        self.place = place
        self.key = check_key(key)
        self._lock: _LocalLock | _ObjectLock
        if place.local is not None:
            self._lock = _LocalLock(place.local / key, place.url, work)
        elif isinstance(place, ObjectPlace):
            self._lock = _ObjectLock(place, key, work)
        else:
            raise ConfigError(f"expected a folder or a bucket to build in, found {place!r}")

    @property
    def held(self) -> bool:
        """Whether this lock was taken, by this process, and not released since."""
        return self._lock.held

    def take(self, info: Mapping[str, Any]) -> None:
        """Take the lock and write `info` (anything JSON) with this process's name into its file.

        Raises StoreError with host, process and time where another one holds it.
        """
        if self.held:
            raise StoreError(f"expected to take the lock of {self.place.url} once, found it taken")
        self._lock.take({**info, **_this_process()})

    def release(self) -> None:
        """Give the lock back and remove its file; nothing to do where it is not held."""
        if self.held:
            self._lock.release()


class _LocalLock:
    """An flock on a file. The file of a dead process is locked by nobody, and simply used."""

    def __init__(self, path: Path, url: str, work: str) -> None:
        self.path, self.url, self.work = path, url, work
        self._file: FileIO | None = None
        _local_locks.add(self)

    @property
    def held(self) -> bool:
        return self._file is not None

    def take(self, holder: Holder) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found: Holder = {}
        for _ in range(_ATTEMPTS):
            file = self.path.open("ab", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                found = self._read_holder()
                # A child that its killed parent was just starting holds the lock for a moment.
                if not _is_gone(found):
                    raise _refused(self.work, self.url, found) from None
                sleep(_PAUSE)
                continue
            # A releasing process may have removed the file between our two calls.
            if self._is_current(file):
                self._file = file
                self._write_holder(file, holder)
                return
            file.close()
        if found:
            raise _refused(self.work, self.url, found)
        raise StoreError(f"expected to lock {self.path}, found it come and go; run again")

    def _write_holder(self, file: FileIO, holder: Holder) -> None:
        try:
            file.truncate(0)
            file.write(json.dumps(holder).encode())
            os.fsync(file.fileno())
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_current(self, file: FileIO) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        return False

    def _read_holder(self) -> Holder:
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(OSError):
                if holder := _parsed(self.path.read_bytes()):
                    return holder
            sleep(_PAUSE)
        return {}


# flock belongs to the open file, which forked children share: one that outlives its parent would
# keep the lock of a dead process.
_local_locks: weakref.WeakSet[_LocalLock] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_local_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)


class _ObjectLock:
    """An object made on the condition that none is there."""

    def __init__(self, place: ObjectPlace, key: str, work: str) -> None:
        self.place, self.key, self.work = place, key, work
        self._token: str | None = None
        self._owner = 0

    @property
    def held(self) -> bool:
        return self._token is not None and self._owner == os.getpid()

    def take(self, holder: Holder) -> None:
        token = secrets.token_hex(16)
        data = json.dumps({**holder, "token": token}).encode()
        for _ in range(_ATTEMPTS):
            if self._try(token, data):
                self._token, self._owner = token, os.getpid()
                return
        raise StoreError(f"expected to lock {self._name()}, found it come and go; run again")

    def release(self) -> None:
        token, self._token = self._token, None
        with contextlib.suppress(FileNotFoundError):
            if _parsed(self.place.read(self.key)).get("token") == token:
                self.place.delete(self.key)

    def _try(self, token: str, data: bytes) -> bool:
        """Make the object, or replace a dead holder's; reading it back shows whose it is.

        Reading back also sees a request that was repeated after its answer got lost, and a server
        that does not keep to conditions.
        """
        created = self.place.create(self.key, data)
        try:
            found = self.place.read(self.key)
        except FileNotFoundError:
            return False
        holder = _parsed(found)
        if holder.get("token") == token:
            return True
        if created or not _is_gone(holder):
            raise _refused(self.work, self.place.url, holder, self._name())
        self.place.replace(self.key, found, data)
        return False  # the next attempt reads who won

    def _name(self) -> str:
        return f"{self.place.url}/{self.key}"


def _refused(work: str, url: str, holder: Holder, object_name: str | None = None) -> StoreError:
    shown = (
        f"host {holder.get('host', 'unknown')}, process {holder.get('pid', 'unknown')}, "
        f"since {holder.get('since', 'unknown')}"
    )
    remedy = "wait for it or end it, or choose another place"
    if object_name is not None:
        remedy += f"; if that process is surely dead, delete {object_name}"
    return StoreError(f"expected no running {work} in {url}, found one ({shown}); {remedy}")


def _parsed(data: bytes) -> Holder:
    """The holder that a lock's file names; empty where it is not what a lock writes."""
    with contextlib.suppress(ValueError):
        value = json.loads(data)
        if isinstance(value, dict):
            return value
    return {}


@dataclass(frozen=True)
class _Machine:
    """What tells this machine, its start, and its numbering of processes from others."""

    host: str
    machine: str
    boot: str
    numbering: str


def _this_machine() -> _Machine:
    return _Machine(
        platform.node(),
        _text_of("/etc/machine-id"),
        _text_of("/proc/sys/kernel/random/boot_id"),
        _numbering(),
    )


def machine_name() -> tuple[str, str]:
    """Name and id of this machine."""
    here = _this_machine()
    return here.host, here.machine


def _numbering() -> str:
    """Among which processes this one's number is."""
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _this_process() -> Holder:
    return {
        **vars(_this_machine()),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _is_gone(holder: Holder) -> bool:
    """Whether a holder was a process of this machine and is surely no more.

    Two machines may bear one name, and containers number their processes by themselves, and may
    take name and id along to another machine: then nothing is known, and the answer is no.
    """
    here = _this_machine()
    if holder.get("host") != here.host or not isinstance(holder.get("pid"), int):
        return False
    if holder.get("boot") != here.boot:  # started again since, if it is the same machine
        known = here.machine != "" and holder.get("machine") == here.machine
        return known and holder.get("numbering") == here.numbering == NO_CONTAINER
    if holder.get("numbering") != here.numbering:
        return False
    return not _is_alive(holder["pid"], holder.get("process_start"))


def _is_alive(pid: int, start: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody's process; no number of a process
        pass
    found = _process_start(pid)
    return found is None or start is None or found == start


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks (proc(5), stat, field 22); None if unknown.

    A process that ended but was not waited for has the start "ended".
    """
    text = _text_of(f"/proc/{pid}/stat")
    # Field 2, the program's name, is in brackets and may hold spaces and brackets.
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return "ended" if fields[0] in "ZX" else fields[19]


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
