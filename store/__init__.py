"""The activation store: photos to shuffled, compressed, checksummed activations on disk.

`build_store` writes one, `open_store` reads one, `verify_store` checks every byte of one and
`repair_store` makes anew what is broken. The layout is described in `store/layout.py`, the shuffle
in `store/cuts.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isae.store.bitmap_zarr import BitmapCodec
from isae.store.config import BuildConfig
from isae.store.reader import Store, StoredLayer, open_store
from isae.store.repair import repair_store
from isae.store.statistics import ChannelStatistics
from isae.store.verify import verify_store

if TYPE_CHECKING:
    from isae.store.build import build_store

__all__ = [
    "BitmapCodec",
    "BuildConfig",
    "ChannelStatistics",
    "Store",
    "StoredLayer",
    "build_store",
    "open_store",
    "repair_store",
    "verify_store",
]


def __getattr__(name: str) -> Any:
    # `python -m isae.store.build` warns about a module that its package has imported already.
    if name == "build_store":
        from isae.store.build import build_store

        return build_store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
