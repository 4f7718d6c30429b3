"""What a build has done so far: segments of images, then units of the store, one file each.

```
work/
  plan.json                        what is built; a resumed build must agree
  segment-000012.safetensors       rows of images [12 S, 13 S), each grid sorted by key
  cuts-16.npy                      where the units of grid 16 begin in every segment
  unit-16-000003.safetensors       shards of rows [3 U, 4 U) of grid 16 are written: their hashes,
                                   and partial statistics
```

A file that is there is whole and on disk: it was flushed before it got its name. So a build killed
at any moment goes on from the files it left. Segments are in the safetensors format; tensors of a
grid are `16.key` uint64 [R], `16.place` int32 [R, 3] (image, y, x), and one [R, C] per layer under
the layer's name; `sizes` int32 [S, 2] are width and height of the images, 0 where unreadable.

Shapes: R rows, C channels, S images.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.errors import StoreCorruptError
from isae.files import atomic_path, write_json

Array = npt.NDArray[Any]
U64 = npt.NDArray[np.uint64]
HELD_OUT = np.uint64(1 << 63)
"""Bit of the keys of held-out images' rows: they come last."""
_CODES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U64": "<u8"}
_NAMES = {code: name for name, code in _CODES.items()}


@dataclass
class GridRows:
    """Rows of one grid: sort keys, places (image, y, x), values per layer."""

    key_R: U64
    place_R3: npt.NDArray[np.int32]
    layers: Mapping[str, Array]


@dataclass
class Segment:
    """What one segment holds."""

    grids: Mapping[int, GridRows]
    """By stride."""
    sizes_S2: npt.NDArray[np.int32]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is to be remembered, as JSON."""
    arrays: Mapping[str, Array] = field(default_factory=dict)
    """And as arrays."""


class Work:
    """The folder of an unfinished build."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def plan(self) -> dict[str, Any] | None:
        """What is built here, if anything."""
        path = self.folder / "plan.json"
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        return found

    def begin(self, plan: dict[str, Any]) -> None:
        """Say what is built here."""
        write_json(self.folder / "plan.json", plan)

    def segment(self, number: int) -> Path:
        """File of a segment."""
        return self.folder / f"segment-{number:06d}.safetensors"

    def unit(self, stride: int, number: int) -> Path:
        """File of a unit."""
        return self.folder / f"unit-{stride}-{number:06d}.safetensors"

    def cuts(self, stride: int) -> Path:
        """File with the cuts of a grid."""
        return self.folder / f"cuts-{stride}.npy"

    def segments_done(self) -> set[int]:
        """Numbers of the segments that are whole."""
        return {int(number) for (number,) in self._found(r"segment-(\d+)\.safetensors")}

    def units_done(self) -> set[tuple[int, int]]:
        """(stride, number) of the units that are whole."""
        return {(int(s), int(n)) for s, n in self._found(r"unit-(\d+)-(\d+)\.safetensors")}

    def _found(self, pattern: str) -> list[tuple[str, ...]]:
        if not self.folder.is_dir():
            return []
        names = [entry.name for entry in os.scandir(self.folder)]
        return [found.groups() for name in names if (found := re.fullmatch(pattern, name))]


def write_segment(path: Path, segment: Segment) -> None:
    """Sort the rows of every grid by key and write the segment, whole or not at all."""
    tensors: dict[str, Array] = {"sizes": segment.sizes_S2.astype(np.int32), **segment.arrays}
    for stride, rows in segment.grids.items():
        order = sorting(rows.key_R, rows.place_R3)
        tensors[f"{stride}.key"] = rows.key_R[order]
        tensors[f"{stride}.place"] = rows.place_R3[order]
        for name, values_RC in rows.layers.items():
            tensors[name] = np.take(values_RC, order, axis=0)
    write_tensors(path, tensors, segment.facts)


def write_tensors(path: Path, tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    """A safetensors file with `facts` as JSON in its metadata; large arrays are not copied."""
    header: dict[str, Any] = {"__metadata__": {"isae": json.dumps(dict(facts), sort_keys=True)}}
    offset = 0
    for name, value in tensors.items():
        code = _NAMES[value.dtype.newbyteorder("<").str]
        span = [offset, offset + value.nbytes]
        header[name] = {"dtype": code, "shape": list(value.shape), "data_offsets": span}
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, temporary.open("wb", buffering=0) as file:
        head = np.frombuffer(len(text).to_bytes(8, "little") + text, dtype=np.uint8)
        for part in (head, *tensors.values()):
            data = memoryview(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
            while data:
                data = data[file.write(data) :]


class SegmentFile:
    """A safetensors file read in pieces."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > os.fstat(file.fileno()).st_size:
                    raise ValueError("a header that ends behind the file")
                self.header: dict[str, Any] = json.loads(file.read(length))
            self.base = 8 + length
            self.facts: dict[str, Any] = json.loads(self.header.pop("__metadata__")["isae"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreCorruptError(
                f"expected {path} as a build wrote it, found {type(error).__name__}: {error}; "
                "remove that file and run the build again with --resume"
            ) from error

    def rows(self, name: str) -> int:
        """Length of a tensor's first axis; 0 if it is not there."""
        return int(self.header[name]["shape"][0]) if name in self.header else 0

    def dtype(self, name: str) -> np.dtype[Any]:
        """Of a tensor."""
        return np.dtype(_CODES[self.header[name]["dtype"]])

    def whole(self, name: str) -> Array:
        """A whole tensor."""
        one = self.header[name]
        found = np.empty(one["shape"], dtype=_CODES[one["dtype"]])
        self.read_into([(name, 0, found)])
        return found

    def read_into(self, wanted: Sequence[tuple[str, int, Array]]) -> None:
        """Fill each array with rows of tensor `name` from row `start`: (name, start, array)."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            for name, start, out in wanted:
                width = out.nbytes // max(len(out), 1)
                offset = self.base + self.header[name]["data_offsets"][0] + start * width
                data = as_bytes(out)
                while data:
                    count = os.preadv(descriptor, [data], offset)
                    if not count:
                        raise StoreCorruptError(
                            f"expected {self.path} as a build wrote it, found it shorter; "
                            "remove that file and run the build again with --resume"
                        )
                    data, offset = data[count:], offset + count
        finally:
            os.close(descriptor)

    @cached_property
    def sizes_S2(self) -> Array:
        """Width and height of the segment's images, 0 where unreadable."""
        return self.whole("sizes")


def as_bytes(values: Array) -> memoryview:
    """The memory of a C-contiguous array."""
    return memoryview(values.reshape(-1).view(np.uint8).data)


def sorting(key_R: U64, place_R3: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The order by key; equal keys, which are rare, by image, y, x."""
    order = np.argsort(key_R, kind="stable")
    sorted_R = key_R[order]
    if len(key_R) > 1 and (sorted_R[1:] == sorted_R[:-1]).any():
        order = np.lexsort((*place_R3.T[::-1], key_R))
    return order
