"""The activation store: photos to shuffled, compressed, checksummed activations on disk.

`build_store` writes one, `open_store` reads one, `verify_store` checks every byte of one and
`repair_store` makes anew what is broken. The layout is described in `store/layout.py`, the shuffle
in `store/cuts.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isae.lazy import lazy_names

if TYPE_CHECKING:
    from isae.store.bitmap_zarr import BitmapCodec
    from isae.store.build import build_store
    from isae.store.config import BuildConfig
    from isae.store.reader import Store, StoredLayer, open_store
    from isae.store.repair import repair_store
    from isae.store.statistics import ChannelStatistics
    from isae.store.verify import verify_store

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BitmapCodec": "bitmap_zarr",
        "BuildConfig": "config",
        "ChannelStatistics": "statistics",
        "Store": "reader",
        "StoredLayer": "reader",
        "build_store": "build",
        "open_store": "reader",
        "repair_store": "repair",
        "verify_store": "verify",
    },
)
