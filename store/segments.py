"""The files of a work folder (store/work.py): sorted rows of some images, checked at every reading.

A file that is there is whole and on disk: it was flushed before it got its name. So a build killed
at any moment goes on from the files it left. Segments are in the safetensors format; tensors of a
grid are `16.key` uint64 [R], `16.place` int32 [R, 3] (image, y, x), and one [R, C] per layer under
the layer's name; `sizes` int32 [S, 2] are width and height of the images, 0 where unreadable.

Beside every tensor lies `NAME.crc`, uint32 [rows]: the CRC-32C of each of its rows, checked at
every reading. A store's own checksums are made of rows that were read here: a row that changed on
the way would look right for ever. The header has a CRC-32C of its own.

Shapes: R rows, C channels, S images.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.errors import StoreCorruptError, StoreError
from isae.files import atomic_path
from isae.store.checksum import crc32c, row_checksums
from isae.store.scratch import Scratch
from isae.store.tensor_header import HEADER_START, header_text

Array = npt.NDArray[Any]
U64 = npt.NDArray[np.uint64]
HELD_OUT = np.uint64(1 << 63)
"""Bit of the keys of held-out images' rows: they come last."""
PIECE_BYTES = 8 << 20
SUM_BYTES = 4
AGAIN = "run the build again with --resume"
_CODES = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I32": "<i4",
    "I64": "<i8",
    "U32": "<u4",
    "U64": "<u8",
}
_SUMS = ".crc"
_NO_SUM = "00000000"
_SUM_PLACE = re.compile(rb'("crc32c": ")[0-9a-f]{8}')
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


_scratch = Scratch()


def write_segment(path: Path, segment: Segment) -> None:
    """Sort the rows of every grid by key and write the segment, whole or not at all."""
    tensors: dict[str, Array] = {"sizes": segment.sizes_S2.astype(np.int32), **segment.arrays}
    for stride, rows in segment.grids.items():
        order = sorting(rows.key_R, rows.place_R3)
        tensors[f"{stride}.key"] = rows.key_R[order]
        tensors[f"{stride}.place"] = rows.place_R3[order]
        for name, values_RC in rows.layers.items():
            tensors[name] = _scratch.sorted(name, values_RC, order)
    write_tensors(path, tensors, segment.facts)


def write_tensors(path: Path, tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    """A safetensors file with `facts` as JSON in its metadata; large arrays are not copied."""
    about = {"isae": json.dumps(dict(facts), sort_keys=True), "crc32c": _NO_SUM}
    header: dict[str, Any] = {"__metadata__": about}
    offset = 0
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    tensors |= {name + _SUMS: row_checksums(value) for name, value in tensors.items()}
    for name, value in tensors.items():
        code = _NAMES[value.dtype.newbyteorder("<").str]
        span = [offset, offset + value.nbytes]
        header[name] = {"dtype": code, "shape": list(value.shape), "data_offsets": span}
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    about["crc32c"] = _header_sum(text)
    text = json.dumps(header).encode().ljust(len(text))
    with atomic_path(path) as temporary, temporary.open("wb", buffering=0) as file:
        head = np.frombuffer(len(text).to_bytes(8, "little") + text, dtype=np.uint8)
        for part in (head, *tensors.values()):
            data = as_bytes(part)
            while data:
                data = data[file.write(data) :]


class SegmentFile:
    """A safetensors file of `write_tensors` read in pieces.

    Raises StoreCorruptError where it is not what was written, StoreError where it is gone; `again`
    is what the user can do about it.
    """

    def __init__(self, path: Path, again: str = AGAIN) -> None:
        self.path, self.again = path, again
        descriptor = self._open()
        try:
            size = os.fstat(descriptor).st_size
            text, self.base = header_text(descriptor)
            self._text = text
        finally:
            os.close(descriptor)
        try:
            self.header: dict[str, Any] = json.loads(text)
            about = self.header.pop("__metadata__")
            whole = _header_sum(text) == about["crc32c"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            whole = False
        if not whole:
            raise self.damaged("a header that is damaged")
        ends = [one["data_offsets"][1] for one in self.header.values()]
        if size != self.base + max(ends, default=0):
            raise self.damaged(f"{size} bytes")
        self.facts: dict[str, Any] = json.loads(about["isae"])
        sums = [name for name in self.header if name.endswith(_SUMS)]
        self._sums = {name.removesuffix(_SUMS): self.header.pop(name) for name in sums}

    def check(self) -> None:
        """Read everything; raises what reading raises."""
        for name, one in self.header.items():
            rows, *shape = one["shape"]
            dtype = self.dtype(name)
            step = max(1, PIECE_BYTES // max(math.prod(shape) * dtype.itemsize, 1))
            for start in range(0, rows, step):
                piece = np.empty((min(step, rows - start), *shape), dtype)
                self.read_into([(name, start, piece)])

    def rows(self, name: str) -> int:
        """Length of a tensor's first axis; 0 if it is not there."""
        return int(self.header[name]["shape"][0]) if name in self.header else 0

    def dtype(self, name: str) -> np.dtype[Any]:
        """Of a tensor."""
        return np.dtype(_CODES[self.header[name]["dtype"]])

    def row_bytes(self, name: str) -> int:
        """Bytes that each row of a tensor takes here, with its checksum."""
        numbers: int = math.prod(self.header[name]["shape"][1:])
        return numbers * self.dtype(name).itemsize + SUM_BYTES

    def whole(self, name: str) -> Array:
        """A whole tensor."""
        one = self.header[name]
        found = np.empty(one["shape"], dtype=_CODES[one["dtype"]])
        self.read_into([(name, 0, found)])
        return found

    def read_into(self, wanted: Sequence[tuple[str, int, Array]]) -> None:
        """Fill each array with rows of tensor `name` from row `start`: (name, start, array)."""
        descriptor = self._open()
        try:
            # The rows of another file of this name would fit their checksums as well.
            if os.pread(descriptor, len(self._text), HEADER_START) != self._text:
                raise self.damaged("another file of this name")
            for name, start, out in wanted:
                sums = np.empty(len(out), dtype=np.uint32)
                self._read(descriptor, self.header[name], start, out)
                self._read(descriptor, self._sums[name], start, sums)
                if not np.array_equal(row_checksums(out), sums):
                    raise self.damaged(f"rows of {name} whose CRC-32C does not fit")
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreError(
                f"expected {self.path} to stay while it is used, found it gone; bring it back, or "
                f"leave it out, and {self.again}"
            ) from error

    def _read(self, descriptor: int, entry: Mapping[str, Any], start: int, out: Array) -> None:
        width = out.nbytes // max(len(out), 1)
        offset, data = self.base + entry["data_offsets"][0] + start * width, as_bytes(out)
        while data:
            count = os.preadv(descriptor, [data], offset)
            if not count:
                raise self.damaged("it shorter")
            data, offset = data[count:], offset + count

    def damaged(self, found: str) -> StoreCorruptError:
        """The error to raise where `found` is there instead of what was written."""
        return StoreCorruptError(
            f"expected {self.path} as it was written, found {found}; {self.again}, which makes it "
            "anew"
        )

    @cached_property
    def sizes_S2(self) -> Array:
        """Width and height of the segment's images, 0 where unreadable."""
        return self.whole("sizes")


def _header_sum(text: bytes) -> str:
    """CRC-32C of a header, the place of its own sum filled with zeros."""
    plain = _SUM_PLACE.sub(rb"\g<1>" + _NO_SUM.encode(), text, count=1)
    return f"{crc32c(np.frombuffer(plain, dtype=np.uint8)):08x}"


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
