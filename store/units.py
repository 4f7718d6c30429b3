"""A unit: SHARD_ROWS rows of one grid in their final order, from segments to shard files.

Units need nothing of each other, so any thread, process or machine may make any of them, and a
killed build goes on with those that are missing. In memory at once, by each thread: one layer's
rows of the unit, twice, and their encoded form.

Shapes: R rows of the unit, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.errors import StoreCorruptError, StoreError
from isae.store.cuts import Ints, read_cuts
from isae.store.error_sums import ErrorSums
from isae.store.file_hash import entry, fits
from isae.store.layout import INDEX, grid_group, shard_key
from isae.store.places import Place
from isae.store.quantise import Quantiser
from isae.store.scratch import Scratch
from isae.store.segments import SegmentFile, sorting, write_tensors
from isae.store.shards import ShardFormat, chunk_sums, encode_shard
from isae.store.statistics import Accumulator
from isae.store.work import Work

Array = npt.NDArray[Any]


_scratch = Scratch()


@dataclass(frozen=True)
class GridForm:
    """One grid of a store that is being written."""

    stride: int
    rows: int
    train_rows: int
    index: ShardFormat
    layers: Mapping[str, ShardFormat]
    quantisers: Mapping[str, Quantiser]
    """Of layers that are quantised."""

    @property
    def units(self) -> int:
        """Number of units."""
        return self.index.shards


class UnitMaker:
    """Makes units of one grid."""

    def __init__(
        self, place: Place, work: Work, segments: Sequence[SegmentFile], form: GridForm
    ) -> None:
        self.place, self.work, self.segments, self.form = place, work, segments, form
        self.cuts = read_cuts(work.cuts(form.stride))

    def is_done(self, number: int) -> bool:
        """Whether a unit is marked as done, and its files are still what was written.

        Files on a disk are read. Those in a bucket must be the very objects that were sent, by
        the ETag that the bucket then gave them.
        """
        if not self.work.unit(self.form.stride, number).exists():
            return False
        try:
            unit = self.work.open(self.work.unit(self.form.stride, number))
            unit.check()
            stamps = unit.facts.get("stamps", {})
            files = unit.facts["files"].items()
            return all(self._is_there(key, one, stamps.get(key)) for key, one in files)
        except (StoreCorruptError, FileNotFoundError):
            return False

    def _is_there(self, key: str, expected: Mapping[str, Any], stamp: str | None) -> bool:
        if self.place.local is None:
            return bool(stamp) and self.place.stamp(key) == (int(expected["bytes"]), stamp)
        return fits(self.place.read(key), expected)

    def make(self, number: int) -> int:
        """Write all files of a unit, then the mark that it is done; its rows."""
        stride = self.form.stride
        low, high = np.asarray(self.cuts[number]), np.asarray(self.cuts[number + 1])
        rows = int((high - low).sum())
        key_R = self._read(f"{stride}.key", low, high, np.empty(rows, dtype=np.uint64))
        place_R3 = self._read(f"{stride}.place", low, high, np.empty((rows, 3), dtype=np.int32))
        order = sorting(key_R, place_R3)
        group = grid_group(stride)
        files = self._write(f"{group}/{INDEX}", self.form.index, number, place_R3[order])
        tensors: dict[str, Array] = {}
        for name, form in self.form.layers.items():
            files |= self._layer(name, form, number, (low, high, order), tensors)
        first = int(key_R[order[0]])
        facts = {"files": files, "rows": rows, "first_key": f"{first:016x}"}
        facts["raw_bytes"] = rows * sum(self.segments[0].row_bytes(name) for name in self._names())
        if self.place.local is None:
            facts["stamps"] = {key: self._stamp(key, one) for key, one in files.items()}
        write_tensors(self.work.unit(stride, number), tensors, self.work.signed(facts))
        return rows

    def _names(self) -> list[str]:
        """Tensors of the segments that hold this grid's rows."""
        return [f"{self.form.stride}.key", f"{self.form.stride}.place", *self.form.layers]

    def _stamp(self, key: str, expected: Mapping[str, Any]) -> str:
        """What the bucket calls an object that was just sent."""
        found = self.place.stamp(key)
        if found is None or found.size != expected["bytes"]:
            size = "nothing" if found is None else f"{found.size:,} bytes"
            raise StoreError(
                f"expected {expected['bytes']:,} bytes in {self.place.url}/{key}, which were just "
                f"sent there, found {size}; check the bucket, and go on with --resume"
            )
        return found.identity

    def _layer(
        self,
        name: str,
        form: ShardFormat,
        number: int,
        where: tuple[Ints, Ints, Ints],
        tensors: dict[str, Array],
    ) -> dict[str, Any]:
        low, high, order = where
        kept = self.segments[0].dtype(name)
        rows_RC = _scratch.take("rows", (len(order), form.columns), kept)
        self._read(name, low, high, rows_RC)
        exact_RC = _scratch.sorted("sorted", rows_RC, order)
        training = max(0, min(len(order), self.form.train_rows - number * form.shard_rows))
        quantiser = self.form.quantisers.get(name)
        stored_RC = shown_RC = exact_RC
        if quantiser is not None:
            stored_RC = quantiser.encode(exact_RC)
            shown_RC = np.empty(exact_RC.shape, dtype=np.float16)
            quantiser.decode(stored_RC, shown_RC)
            errors = ErrorSums(form.columns)
            errors.add(exact_RC[:training], shown_RC[:training])
            tensors |= {f"{name}/errors/{key}": one for key, one in errors.arrays().items()}
            exact = Accumulator(form.columns)
            exact.add(exact_RC[:training])
            tensors |= {f"{name}/exact/{key}": one for key, one in exact.arrays().items()}
        sums = Accumulator(form.columns)
        sums.add(shown_RC[:training])
        tensors |= {f"{name}/sums/{key}": one for key, one in sums.arrays().items()}
        array = f"{grid_group(self.form.stride)}/{name}"
        return self._write(array, form, number, stored_RC)

    def _read(self, name: str, low: Ints, high: Ints, out: Array) -> Array:
        """Rows of all segments of the unit, one after the other."""
        start = 0
        for segment in np.flatnonzero(high > low).tolist():
            first, count = int(low[segment]), int(high[segment] - low[segment])
            self.segments[segment].read_into([(name, first, out[start : start + count])])
            start += count
        return out

    def _write(self, array: str, form: ShardFormat, number: int, rows_RC: Array) -> dict[str, Any]:
        key, data = shard_key(array, number), encode_shard(form, rows_RC)
        self.place.write(key, data)
        return {key: entry(data) | {"chunks": chunk_sums(form, data)}}


def make_unit(one: tuple[UnitMaker, int]) -> int:
    """Make a unit by its number; its rows."""
    return one[0].make(one[1])
