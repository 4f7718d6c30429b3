"""Weights that are fetched on first use and kept in the cache folder."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from isae.errors import WeightsError
from isae.files import atomic_path

INCEPTION5H_URL = (
    "https://github.com/ProGamerGov/pytorch-old-tensorflow-models/raw/master/inception5h.pth"
)
TIMEOUT_SECONDS = 30


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/isae, or ~/.cache/isae."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "isae"


def inception5h_path() -> Path:
    """The public conversion in the cache, downloaded if it is not there yet."""
    return fetch(INCEPTION5H_URL, cache_folder() / "inception5h.pth")


def fetch(url: str, path: Path) -> Path:
    """`path`, downloaded from `url` first if it is not there; whole or not at all.

    Raises WeightsError, with the address and the place to put the file, if the download fails.
    """
    if path.is_file():
        return path
    # Not urlopen: it would keep the proxies that were set at its first call.
    opener = urllib.request.build_opener()
    try:
        with (
            opener.open(url, timeout=TIMEOUT_SECONDS) as response,
            atomic_path(path) as temporary,
        ):
            with temporary.open("wb") as file:
                shutil.copyfileobj(response, file)
            _check_length(temporary.stat().st_size, response.headers.get("Content-Length"))
    except (OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise WeightsError(
            f"expected to download {url}, found no way to ({error}); download it elsewhere and "
            f"put it at {path}"
        ) from None
    return path


def _check_length(received: int, stated: str | None) -> None:
    # http.client ends quietly when the connection drops.
    if received == 0 or (stated is not None and received != int(stated)):
        raise OSError(f"the connection ended after {received:,} of {stated or '?'} bytes")
