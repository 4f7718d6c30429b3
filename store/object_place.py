"""Stores in buckets: S3 and its like, Google Cloud, Azure, or the memory of this process.

Requests go through obstore. Credentials, regions and endpoints come from the environment alone,
and appear in no message: of what a server answers, only its status and its error code are shown.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import MemoryStore, from_url

from isae.errors import ConfigError, IsaeError, StoreError
from isae.store.object_errors import SETTINGS, bucket_is_absent, explained, is_past_the_end
from isae.store.place import Place, Stamp, check_key, check_range

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

# A wrong endpoint must be told in about 20 s, yet a slow line must be able to send a part of
# PART bytes. So a reading request fails after SILENCE without a byte, a sending one after SENDING.
CONNECT = timedelta(seconds=4)
SILENCE = timedelta(seconds=8)
SENDING = timedelta(seconds=120)
READING = timedelta(minutes=10)
RETRY: RetryConfig = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(seconds=0.2),
        "max_backoff": timedelta(seconds=3),
        "base": 2,
    },
}
PART = 8 << 20
PARTS_AT_ONCE = 4
# obstore forgets these settings of the environment where a client is configured in code.
_SWITCHES = ("allow_http", "allow_invalid_certificates")
_MEMORY = MemoryStore()
_ERRORS = (BaseError, OSError, NotImplementedError, ValueError)
_runtime_owner: int | None = None


class ObjectPlace(Place):
    """A folder of a bucket. Reads of a range are one ranged request.

    Files beyond `PART` bytes are sent in parts, and appear whole when the last one is there.
    """

    local = None

    def __init__(self, scheme: str, address: str) -> None:
        bucket, _, folder = address.rstrip("/").partition("/")
        if scheme != "memory" and not bucket:
            raise ConfigError(f"expected {scheme}://bucket/folder, found no bucket's name")
        parts = [part for part in (bucket, folder) if part]
        self.url = f"{scheme}://{'/'.join(parts)}"
        self._scheme = scheme
        root = "/".join(parts) if scheme == "memory" else folder
        self._root = f"{check_key(root)}/" if root else ""
        self._bucket_seen = scheme == "memory"
        with self._explained(""):
            self._reading = _client(scheme, bucket, {"timeout": READING, "read_timeout": SILENCE})
            self._sending = _client(scheme, bucket, {"timeout": SENDING})

    def __reduce__(self) -> tuple[type[ObjectPlace], tuple[str, str]]:
        return ObjectPlace, (self._scheme, self.url.partition("://")[2])

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes [start, stop) of an object, by one request."""
        return self.read_stamped(key, start, stop)[0]

    def read_stamped(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> tuple[bytes, Stamp]:
        """As `read`; the stamp is the object's ETag."""
        check_range(start, stop)
        path = self._path(key)
        options: Any = {"range": {"offset": start}} if start else {}
        if stop is not None:
            options = {"range": (start, stop)}
        with contextlib.suppress(_PastTheEndError), self._explained(key):
            if stop == start:
                return b"", _stamp(obstore.head(self._reading, path))
            found = obstore.get(self._reading, path, options=options)
            return found.bytes().to_bytes(), _stamp(found.meta)
        with self._explained(key):
            return b"", _stamp(obstore.head(self._reading, path))

    def stamp(self, key: str) -> Stamp | None:
        """Size and ETag of an object, or None where it is not there."""
        path = self._path(key)
        try:
            with self._explained(key):
                return _stamp(obstore.head(self._reading, path))
        except FileNotFoundError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """Make or replace an object."""
        path = self._path(key)
        self._see_bucket()
        with self._explained(key):
            obstore.put(self._sending, path, data, chunk_size=PART, max_concurrency=PARTS_AT_ONCE)

    def create(self, key: str, data: bytes) -> bool:
        """A put on the condition that nothing is there.

        If the answer to a put that succeeded is lost on the way, its repetition finds the object
        there and False is returned: who must know, reads what is there.
        """
        path = self._path(key)
        self._see_bucket()
        with self._explained(key):
            try:
                obstore.put(self._sending, path, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Put `new` in the place of `old`; False, and nothing done, where something else is.

        A put on the condition that the object is still the one that was read.
        """
        path = self._path(key)
        with self._explained(key):
            try:
                found = obstore.get(self._reading, path)
                if found.bytes().to_bytes() != old:
                    return False
                seen = {name: found.meta[name] for name in ("e_tag", "version")}
                mode: Any = {name: value for name, value in seen.items() if value is not None}
                obstore.put(self._sending, path, new, mode=mode, use_multipart=False)
            except (FileNotFoundError, AlreadyExistsError, PreconditionError):
                return False
        return True

    def keys(self, prefix: str = "") -> list[tuple[str, int]]:
        """(key, bytes) of all objects below `prefix`."""
        folder = self._path(prefix) if prefix else self._root.rstrip("/")
        with self._explained(prefix):
            pages = obstore.list(self._reading, prefix=folder or None, chunk_size=1000)
            found = [(meta["path"], meta["size"]) for page in pages for meta in page]
        return sorted((path.removeprefix(self._root), size) for path, size in found)

    def delete(self, key: str) -> None:
        """Remove an object; no error where it is not there."""
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError), self._explained(key):
            obstore.delete(self._reading, path)

    def _path(self, key: str) -> str:
        return self._root + check_key(key)

    def _absent(self, key: str) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{key}")

    def _see_bucket(self) -> None:
        """Make sure once that bucket and server are there.

        "Not found" is the answer for an absent bucket as well as for an absent object, and a
        request that sends data waits long for a server that never answers.
        """
        if self._bucket_seen:
            return
        with self._explained("", seeing=True):
            next(iter(obstore.list(self._reading, prefix=self._root.rstrip("/") or None)), None)
        self._bucket_seen = True

    @contextlib.contextmanager
    def _explained(self, key: str, *, seeing: bool = False) -> Iterator[None]:
        """Turn what obstore raises into FileNotFoundError or a StoreError that says what to do."""
        _check_same_process(self.url)
        try:
            yield
        except IsaeError:
            raise
        except _ERRORS as error:
            name = f"{self.url}/{key}".rstrip("/")
            if is_past_the_end(error):
                raise _PastTheEndError from None
            if isinstance(error, FileNotFoundError) and not bucket_is_absent(error):
                if not seeing:
                    self._see_bucket()
                raise self._absent(key) from None
            # Not chained: what obstore says may hold the key id and the text that was signed.
            raise explained(self._scheme, self.url, name, error) from None


class _PastTheEndError(Exception):
    """A range starts at or beyond the end of an object."""


def _stamp(meta: ObjectMeta) -> Stamp:
    told = [meta["e_tag"], meta["version"]]
    return Stamp(meta["size"], f"{told[0]} {told[1]}" if any(told) else "")


def _client(scheme: str, bucket: str, options: ClientConfig) -> ObjectStore:
    if scheme == "memory":
        return _MEMORY
    client: dict[str, Any] = {**options, "connect_timeout": CONNECT}
    prefix = SETTINGS[scheme].prefix
    for switch in _SWITCHES:
        if value := os.environ.get(f"{prefix}{switch.upper()}"):
            client[switch] = value.strip().lower() in ("1", "true", "yes", "on")
    return from_url(f"{scheme}://{bucket}", client_options=client, retry_config=RETRY)  # type: ignore[call-overload,no-any-return]


def _check_same_process(url: str) -> None:
    """The threads of obstore do not live on in a forked process: a request would panic there."""
    global _runtime_owner
    if _runtime_owner is None:
        _runtime_owner = os.getpid()
    elif _runtime_owner != os.getpid():
        raise StoreError(
            f"expected {url} to be used by the process that first used a bucket, found one forked "
            "from it; start worker processes by 'spawn'"
        )
