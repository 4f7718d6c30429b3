"""Where everything lies in a store, and how its arrays are coded.

```
STORE/
  zarr.json                   Zarr v3 group
  stride16/zarr.json          one group per spatial grid, named by the grid's stride in pixels
  stride16/index/             int32 [rows, 3]: image, y, x of every row
  stride16/mixed4a/           float16 or float32 [rows, channels], one array per layer
  images.parquet              one row an image: name, label, split, width, height, factors
  statistics.safetensors      per-channel statistics of the training images' rows
  manifest.json               how the store was made, and size and SHA-256 of every file above
  COMPLETE                    SHA-256 of manifest.json; without it the store is unfinished
```

Rows of training images come first ([0, train_rows)), then those of held-out images, each part in
one random order that all layers of a grid share.

Arrays are sharded (one file per shard); inner chunks are zstd-1 frames that carry zstd's own
content checksum, then crc32c. Both are needed: the `zarrs` pipeline does not check a crc32c when
it reads a part of a shard, while a zstd frame is checked whenever it is decoded. Any Zarr v3
reader opens such an array. It must look after missing shards itself: Zarr reads them as the fill
value, which here is NaN for activations and -1 for the index, never a plausible number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

FORMAT, FORMAT_VERSION = "isae-store", 1
MANIFEST, COMPLETE, BUILDING = "manifest.json", "COMPLETE", "building.json"
IMAGES, STATISTICS, INDEX = "images.parquet", "statistics.safetensors", "index"
SCATTER = "scatter.tmp"
ROOT_FILES = (MANIFEST, COMPLETE, BUILDING)
"""Files that the manifest cannot list."""

CHUNK_BYTES = 1 << 20
SHARD_CHUNKS = 16


def grid_group(stride: int) -> str:
    """Name of the group of a grid."""
    return f"stride{stride}"


def chunk_rows(row_bytes: int) -> int:
    """Rows of an inner chunk: a power of two of about a MiB, the unit of checked reading."""
    return int(max(64, min(65536, 2 ** ((CHUNK_BYTES // row_bytes).bit_length() - 1))))


@contextmanager
def zarrs_pipeline() -> Iterator[None]:
    """Open or create arrays in here to have them coded by `zarrs`, which is the faster one.

    A context, not a global switch: importing isae must not change other users of zarr.
    """
    import zarrs  # noqa: F401  registers the pipeline

    settings = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}
    with zarr.config.set(settings):
        yield


def create_array(
    group: zarr.Group, name: str, rows: int, columns: int, dtype: str
) -> zarr.Array[Any]:
    """An empty sharded, compressed, checksummed array [rows, columns]."""
    import numpy as np

    kind = np.dtype(dtype)
    chunk = chunk_rows(columns * kind.itemsize)
    with zarrs_pipeline():
        return group.create_array(
            name,
            shape=(rows, columns),
            dtype=kind,
            chunks=(chunk, columns),
            shards=(chunk * SHARD_CHUNKS, columns),
            compressors=[ZstdCodec(level=1, checksum=True), Crc32cCodec()],
            fill_value=-1 if kind.kind == "i" else float("nan"),
            config={"write_empty_chunks": True},
        )


def shard_file(array_path: Path, shard: int) -> Path:
    """File of shard number `shard` (along rows) of an array folder."""
    return array_path / "c" / str(shard) / "0"


def shard_count(rows: int, shard_rows: int) -> int:
    """Number of shards of `rows` rows."""
    return -(-rows // shard_rows)
