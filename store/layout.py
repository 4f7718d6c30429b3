"""Where everything lies in a store.

```
STORE/
  zarr.json                   Zarr v3 group
  stride16/zarr.json          one group per spatial grid, named by the grid's stride in pixels
  stride16/index/             int32 [rows, 3]: image, y, x of every row
  stride16/mixed4a/           [rows, channels], one array per layer; c/0/0, c/1/0, ... its shards
  images.parquet              one row an image: name, label, split, width, height, factors
  statistics.safetensors      per-channel statistics of the training images' rows
  manifest.json               how the store was made, and size and BLAKE3 of every file above
  manifest.backup.json        the same again, for `isae-store repair`
  COMPLETE                    SHA-256 of manifest.json; without it the store is unfinished
  building.json               while it is built: who does
  work/                       while it is built: what is done so far (see store/work.py)
```

Rows of training images come first ([0, train_rows)), then those of held-out images, each part in
one random order that all layers of a grid share.

Arrays are sharded (one file per SHARD_ROWS rows); how inner chunks are coded is a choice (see
store/codecs.py), but each ends in a CRC-32C. A Zarr v3 reader that knows the codecs opens such an
array. It must look after missing shards itself: Zarr reads them as the fill value, which is NaN for
float16 and float32, -1 for the index, never a plausible number; and 0 for quantised numbers.
"""

from __future__ import annotations

import re

FORMAT, FORMAT_VERSION = "isae-store", 3
READABLE = (1, 2, 3)
REPAIRABLE = (2, 3)
"""Format versions that can be read, and repaired. 1 has no backup of the manifest and no units in
it; 1 and 2 have SHA-256 instead of BLAKE3.
"""
ARITHMETIC = 2
"""Raised whenever the same rows would give other bytes; `versions` of the manifest states it.

In stores that state none, statistics may have been summed a row at a time (store/statistics.py).
"""
MANIFEST, BACKUP, COMPLETE = "manifest.json", "manifest.backup.json", "COMPLETE"
BUILDING, WORK = "building.json", "work"
IMAGES, STATISTICS, INDEX = "images.parquet", "statistics.safetensors", "index"
UNFINISHED = f"{WORK}/plan.json"
"""There while a build is unfinished: its plan, or with --scratch where that is."""
ROOT_FILES = (MANIFEST, BACKUP, COMPLETE, BUILDING)
"""Files that the manifest cannot list."""

_OURS = re.compile(
    r"zarr\.json|stride\d+/zarr\.json|stride\d+/[^/]+/(zarr\.json|c/\d+/0)"
    r"|work/(repair/.+|plan\.json|times\.safetensors|segment-\d+\.safetensors"
    r"|unit-\d+-\d+\.safetensors|cuts-[^/]+|images\.parquet|statistics\.safetensors)"
)

CHUNK_BYTES = 1 << 20
SHARD_ROWS = 16384


def grid_group(stride: int) -> str:
    """Name of the group of a grid."""
    return f"stride{stride}"


def chunk_rows(row_bytes: int) -> int:
    """Rows of an inner chunk: a power of two of about a MiB, the unit of checked reading."""
    return int(max(64, min(SHARD_ROWS, 2 ** ((CHUNK_BYTES // row_bytes).bit_length() - 1))))


def metadata_file(name: str) -> str:
    """Key of the metadata of a group or array."""
    return f"{name}/zarr.json" if name else "zarr.json"


def shard_key(array: str, shard: int) -> str:
    """Key of shard number `shard` (along rows) of an array."""
    return f"{array}/c/{shard}/0"


def may_be_ours(key: str) -> bool:
    """Whether isae writes files of this name into a store's folder."""
    return key in (*ROOT_FILES, IMAGES, STATISTICS) or bool(_OURS.fullmatch(key))


def is_data(key: str) -> bool:
    """Whether a file of a store's folder is one that the manifest lists."""
    return key not in ROOT_FILES and not key.startswith(f"{WORK}/")
