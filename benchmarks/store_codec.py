"""The store's codec, one chunk of rows at a time."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.store import BuildConfig

Array = npt.NDArray[Any]
CODECS = "isae.store.codecs"


def chunk_encoder(
    codec: str | None, dtype: np.dtype[Any], columns: int
) -> Callable[[Array], bytes]:
    """A function that codes one chunk [R, C] as a build with --codec `codec` (None: default)."""
    if not has_codecs():
        from numcodecs import CRC32C, Zstd

        zstd, check = Zstd(level=1, checksum=True), CRC32C(location="end")
        return lambda rows_RC: bytes(check.encode(zstd.encode(rows_RC)))
    codecs: Any = importlib.import_module(CODECS)
    chosen: Any = codecs.named_codec(codec or default_codec()).for_array(dtype, columns)
    encode: Callable[[Array], bytes] = chosen.encode
    return encode


def has_codecs() -> bool:
    """Whether this version of the store can be asked for a codec."""
    return "codec" in {field.name for field in dataclasses.fields(BuildConfig)}


def default_codec() -> str:
    """The codec of a build that is not told which."""
    return str(getattr(BuildConfig, "codec", "small"))
