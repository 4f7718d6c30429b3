"""The shuffle: sort all rows by a random key, in memory that does not grow with their number.

Every row gets a 63-bit key, a hash of (seed, grid, image, y, x). The stored order is the order of
the keys, so it is one uniformly random permutation that depends on the seed and on the images
alone: not on batch sizes, on workers, or on the bucket size. Rows of held-out images come last:
their keys have the top bit set.

Phase 1 scatters rows to bucket files by the key's leading bits as they are computed. Phase 2
reads the buckets in order, sorts each by key, and hands its rows on. In memory at once: the
scatter's buffers (`BUFFER_BYTES`), or one bucket (about `BUCKET_BYTES`). On disk: the raw rows.

A row of a grid is one record: key, image, y, x, and the activations of all layers of the grid.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isae.randomness import hash64, keyed_seed

Records = npt.NDArray[np.void]
BUCKET_BYTES = 48 << 20
BUFFER_BYTES = 96 << 20
_HELD_OUT = np.uint64(1 << 63)


def record_type(channels: Mapping[str, int], dtype: str) -> np.dtype[np.void]:
    """The record of one row of a grid: key, image, y, x, then [C] values of each layer."""
    head = [("key", "<u8"), ("image", "<i4"), ("y", "<i2"), ("x", "<i2")]
    layers = [(name, np.dtype(dtype).newbyteorder("<"), (size,)) for name, size in channels.items()]
    return np.dtype([*head, *layers])


def row_keys(
    seed: int,
    stride: int,
    image: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    x: npt.NDArray[np.int64],
    held_out: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint64]:
    """Sort keys [R]: 63 random bits by (seed, grid, image, y, x), top bit set if held out."""
    keys = hash64(keyed_seed(seed, "shuffle", stride), image, y, x) >> np.uint64(1)
    return np.where(held_out, keys | _HELD_OUT, keys)


class Buckets:
    """Rows of one grid on their way through the shuffle."""

    def __init__(
        self, folder: Path, record: np.dtype[np.void], rows: int, *, share: float = 1.0
    ) -> None:
        """Buckets for about `rows` rows in a new folder; `share` of the buffer memory."""
        self.folder, self.record = folder, record
        count = max(1, -(-rows * record.itemsize // BUCKET_BYTES))
        self.count = 1 << (count - 1).bit_length()
        self.buffer_bytes = int(BUFFER_BYTES * share)
        self.pending: list[Records] = []
        self.pending_bytes = 0
        folder.mkdir(parents=True)

    def scatter(self, records: Records) -> None:
        """Take rows in any order; write them to their bucket files when the buffer is full."""
        self.pending.append(records)
        self.pending_bytes += records.nbytes
        if self.pending_bytes >= self.buffer_bytes:
            self._flush()

    def drain(self) -> Iterator[Records]:
        """Give the rows in key order, a bucket at a time, deleting each bucket's file after it."""
        self._flush()
        for held_out in (0, 1):
            for bucket in range(self.count):
                path = self._file(held_out, bucket)
                if path.exists():
                    records = np.fromfile(path, dtype=self.record)
                    order = np.lexsort(
                        (records["x"], records["y"], records["image"], records["key"])
                    )
                    yield records[order]
                    path.unlink()
        shutil.rmtree(self.folder)

    def _file(self, held_out: int, bucket: int) -> Path:
        return self.folder / f"{held_out}-{bucket:06d}"

    def _flush(self) -> None:
        if not self.pending:
            return
        records = np.concatenate(self.pending)
        self.pending, self.pending_bytes = [], 0
        bits = self.count.bit_length() - 1
        keys = records["key"]
        held_out = (keys >> np.uint64(63)).astype(np.int64)
        leading = (keys & ~_HELD_OUT) >> np.uint64(63 - bits)
        slot = held_out * self.count + leading.astype(np.int64)
        order = np.argsort(slot, kind="stable")
        bounds = np.searchsorted(slot[order], np.arange(2 * self.count + 1))
        for number in np.flatnonzero(np.diff(bounds)):
            rows = order[bounds[number] : bounds[number + 1]]
            with self._file(*divmod(int(number), self.count)).open("ab", buffering=0) as file:
                # Not ndarray.tofile, which says no errno when the disk is full.
                data = memoryview(records[rows].tobytes())
                while data:
                    data = data[file.write(data) :]
