"""Hashes of a store's files: BLAKE3, and SHA-256 in stores of formats 1 and 2.

Without instructions for it SHA-256 takes longer than compressing the rows; BLAKE3 (O'Connor,
Aumasson, Neves and Wilcox-O'Hearn 2020), as collision-resistant, is about 20 times as fast there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from blake3 import blake3

HASH = "blake3"
"""Of the files that are written now."""
_OLD = "sha256"


class Hasher(Protocol):
    """A hash that is being computed."""

    def update(self, data: bytes, /) -> Any:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """The hash of all so far, as hex."""


def new_hasher(name: str) -> Hasher:
    """A hasher by its name in the manifest: blake3 or sha256."""
    return blake3() if name == HASH else hashlib.sha256()


def entry(data: bytes) -> dict[str, Any]:
    """What the manifest says of a file."""
    return {"bytes": len(data), HASH: blake3(data).hexdigest()}


def hash_name(stated: Mapping[str, Any]) -> str:
    """Which hash the manifest states of a file."""
    return HASH if HASH in stated else _OLD


def stated_hash(stated: Mapping[str, Any]) -> str:
    """The hash that the manifest states of a file."""
    return str(stated[hash_name(stated)])


def fits(data: bytes, stated: Mapping[str, Any]) -> bool:
    """Whether bytes are those of which the manifest states this."""
    hasher = new_hasher(hash_name(stated))
    hasher.update(data)
    return len(data) == stated["bytes"] and hasher.hexdigest() == stated_hash(stated)
