"""Where the files of a store lie: a local folder, or a bucket of an object store."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from isae.errors import ConfigError
from isae.store.local_place import LocalPlace
from isae.store.object_place import ObjectPlace
from isae.store.place import Place

__all__ = ["LocalPlace", "ObjectPlace", "Place", "open_place"]

BUCKET_SCHEMES = ("s3", "gs", "az", "memory")
KNOWN = "a folder, file:///folder, s3://bucket/folder, gs://, az:// or memory://"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://")
# What pathlib makes of "s3://bucket": it would silently become a local folder "s3:".
_ONE_SLASH = re.compile(rf"(file|{'|'.join(BUCKET_SCHEMES)}):(?!//)")


def open_place(where: str | Path) -> Place:
    """The place of a local path, or of a file://, s3://, gs://, az:// or memory:// address.

    Credentials and endpoints of buckets come from the environment alone. memory:// is kept by
    the process, and is the same one at every call. No request is sent.

    Raises ConfigError (unknown kind of address, credentials or a query in it) or StoreError (a
    bucket's settings in the environment are incomplete).
    """
    text = str(where)
    if not text:
        raise ConfigError(f"expected a place, found empty text; give {KNOWN}")
    scheme = _SCHEME.match(text)
    if scheme is None:
        if found := _ONE_SLASH.match(text):
            raise ConfigError(
                f"expected '{found[1]}://', found one slash or none after '{found[1]}:'; give the "
                "address as text (a pathlib.Path drops a slash)"
            )
        return LocalPlace(text)
    name, rest = scheme[1].lower(), text[scheme.end() :]
    _check_address(name, rest)
    if name == "file":
        return LocalPlace(_file_path(rest))
    return ObjectPlace(name, rest)


def _check_address(scheme: str, rest: str) -> None:
    """No message shows `rest`: a wrong address may hold a password."""
    if scheme not in (*BUCKET_SCHEMES, "file"):
        raise ConfigError(f"unknown kind of place '{scheme}://'; give {KNOWN}")
    # A password may hold slashes; a file's name may hold an at sign.
    if "@" in (rest.partition("/")[0] if scheme == "file" else rest):
        raise ConfigError(
            f"expected no user or password in a {scheme}:// address, found '@'; set "
            "credentials in the environment instead"
        )
    if found := next((sign for sign in "?#" if sign in rest), None):
        raise ConfigError(
            f"expected {scheme}:// with a bucket and a folder only, found '{found}'; leave out "
            "what follows it (settings come from the environment)"
        )


def _file_path(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise ConfigError(
            "expected file:///folder (three slashes), found a machine's name or no path after "
            "file://; leave it out"
        )
    return unquote(slash + path)
