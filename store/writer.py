"""Phase 2 of a build: rows in their final order to index, arrays and statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from isae.errors import IsaeError, StoreError
from isae.store.layout import INDEX, create_array
from isae.store.shuffle import Records
from isae.store.statistics import Accumulator, ChannelStatistics

Rows = npt.NDArray[Any]


class ShardWriter:
    """Collects rows for one array and writes each shard once, when it is full."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array = array
        self.shard_rows: int = (array.shards or array.chunks)[0]
        self.pending: list[Rows] = []
        self.held = 0
        self.start = 0

    def add(self, rows_RC: Rows) -> None:
        """Take the next rows [R, C]."""
        while len(rows_RC):
            take = min(self.shard_rows - self.held, len(rows_RC))
            self.pending.append(np.ascontiguousarray(rows_RC[:take]))
            self.held += take
            rows_RC = rows_RC[take:]
            if self.held == self.shard_rows:
                self._write()

    def finish(self) -> int:
        """Write the last shard; the number of rows written in all."""
        if self.held:
            self._write()
        return self.start

    def _write(self) -> None:
        rows = np.concatenate(self.pending)
        try:
            self._write_rows(rows)
        except (OSError, IsaeError):
            raise
        except Exception as error:  # the compiled pipeline has no errno to say
            raise StoreError(
                f"expected to write a shard of {self.array.path}, found: {error}; is the disk full "
                "or the folder gone? free some space, then build again"
            ) from error
        self.pending, self.held = [], 0

    def _write_rows(self, rows: Rows) -> None:
        self.array[self.start : self.start + len(rows)] = rows
        self.start += len(rows)


class GridWriter:
    """Writes all arrays of one grid from records in final order, training rows first."""

    def __init__(
        self, group: zarr.Group, channels: dict[str, int], dtype: str, rows: int, train_rows: int
    ) -> None:
        self.train_left = train_rows
        self.index = ShardWriter(create_array(group, INDEX, rows, 3, "int32"))
        self.layers = {
            name: ShardWriter(create_array(group, name, rows, size, dtype))
            for name, size in channels.items()
        }
        self.statistics = {name: Accumulator(size) for name, size in channels.items()}

    def add(self, records: Records) -> None:
        """Take the next records."""
        index = np.stack([records[name].astype(np.int32) for name in ("image", "y", "x")], axis=1)
        self.index.add(index)
        training = min(self.train_left, len(records))
        self.train_left -= training
        for name, writer in self.layers.items():
            rows = np.ascontiguousarray(records[name])
            writer.add(rows)
            if training:
                self.statistics[name].add(rows[:training])

    def finish(self) -> dict[str, ChannelStatistics]:
        """Write what is left; the statistics of the training rows by layer."""
        self.index.finish()
        for writer in self.layers.values():
            writer.finish()
        return {name: one.finish() for name, one in self.statistics.items()}


def open_group(root: Path, mode: str) -> zarr.Group:
    """The store's root group; mode 'w-' creates it, 'r' reads it."""
    return zarr.open_group(root, mode=mode, zarr_format=3)  # type: ignore[arg-type]
