"""The activation store: photos to shuffled, compressed, checksummed activations on disk.

`build_store` writes one, `open_store` reads one, `verify_store` checks every byte of one. The
layout is described in `store/layout.py`, the shuffle in `store/shuffle.py`.
"""

from isae.store.bitmap_zarr import BitmapCodec
from isae.store.build import build_store
from isae.store.config import BuildConfig
from isae.store.reader import Store, StoredLayer, open_store
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
    "verify_store",
]
