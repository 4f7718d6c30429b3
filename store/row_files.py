"""Rows [rows, columns] in .npy and .safetensors files, read a piece at a time.

Formats: NumPy's .npy (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), C
order only; safetensors (https://github.com/huggingface/safetensors), whose tensors lie in C order.

Shapes: R rows, C columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.errors import DataError
from isae.store.tensor_header import header_text

Array = npt.NDArray[Any]
TENSOR, INDEX_TENSOR = "activations", "index"
BFLOAT16 = "bfloat16"
_SAFE = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": BFLOAT16} | {
    f"{code}{bits}": f"{name}{bits}"
    for code, name in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class RowFile:
    """One array [rows, columns] that lies in a file from byte `offset` on."""

    path: Path
    rows: int
    columns: int
    kind: str
    """NumPy's name of the dtype, or bfloat16."""
    offset: int

    def read(self, start: int, stop: int) -> Array:
        """Rows [start, stop); bfloat16 as float32, which is exact."""
        stored = np.dtype("uint16" if self.kind == BFLOAT16 else self.kind).newbyteorder("<")
        count = (stop - start) * self.columns
        with self.path.open("rb") as file:
            file.seek(self.offset + start * self.columns * stored.itemsize)
            found = np.fromfile(file, dtype=stored, count=count)
        if len(found) < count:
            raise DataError(f"expected {self.rows} rows in {self.path}, found fewer; copy it again")
        if self.kind == BFLOAT16:
            found = (found.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return found.reshape(-1, self.columns)


class RowFiles:
    """Files of one width and dtype, one after the other."""

    def __init__(self, files: Sequence[RowFile]) -> None:
        self.files = list(files)
        first = files[0]
        for one in files[1:]:
            if (one.columns, one.kind) != (first.columns, first.kind):
                raise DataError(
                    f"expected files of one width and dtype, found {first.columns} {first.kind} in "
                    f"{first.path.name} and {one.columns} {one.kind} in {one.path.name}; "
                    "give files of one layer"
                )
        self.columns, self.kind = first.columns, first.kind
        self.starts = np.cumsum([0, *(one.rows for one in files)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, stop: int) -> Array:
        """Rows [start, stop) of all files together."""
        parts = []
        while start < stop:
            number = self._holding(start)
            base = int(self.starts[number])
            last = min(stop, int(self.starts[number + 1]))
            parts.append(self.files[number].read(start - base, last - base))
            start = last
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def where(self, row: int) -> str:
        """A row by its file, for messages."""
        number = self._holding(row)
        return f"row {row - int(self.starts[number])} of {self.files[number].path.name}"

    def _holding(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1


def npy_rows(path: Path) -> RowFile:
    """The array of an .npy file; DataError unless it has two axes, in C order."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = read(file)
            offset = file.tell()
    except (ValueError, KeyError) as error:
        raise DataError(f"expected an .npy file, found {path}: {error}; write it anew") from error
    if fortran and len(shape) == 2 and min(shape) > 1:
        raise DataError(
            f"expected C order in {path}, found Fortran's; write it with np.ascontiguousarray"
        )
    return _checked(path, shape, dtype.newbyteorder("<").name, dtype.str[0] != ">", offset)


def safetensors_rows(path: Path, tensor: str | None) -> RowFile:
    """One tensor of a .safetensors file: `tensor`, or the only one that can be meant."""
    header, base = _header(path)
    name = tensor or (TENSOR if TENSOR in header else _only(path, header))
    if name not in header:
        raise DataError(
            f"expected a tensor '{name}' in {path}, found {', '.join(sorted(header)) or 'none'}; "
            "name one with --tensor"
        )
    one = header[name]
    kind = _SAFE.get(one["dtype"], str(one["dtype"]))
    begin, end = one["data_offsets"]
    found = _checked(path, tuple(one["shape"]), kind, True, base + begin)
    needed = found.rows * found.columns * _item_bytes(kind)
    if needed not in (0, end - begin):
        raise DataError(
            f"expected {needed:,} bytes of tensor '{name}' in {path}, found {end - begin:,}; "
            "write it anew"
        )
    return found


def has_tensor(path: Path, name: str) -> bool:
    """Whether a .safetensors file holds such a tensor."""
    return name in _header(path)[0]


def in_order(paths: Sequence[Path]) -> list[Path]:
    """Files by name, numbers in names by their value: part2 before part10."""

    def key(path: Path) -> list[tuple[int, str]]:
        parts = re.findall(r"\d+|\D+", path.name)
        return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]

    return sorted(paths, key=key)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Tensors by name, and where their data begin."""
    try:
        with path.open("rb") as file:
            text, base = header_text(file.fileno())
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        for name, one in header.items():
            begin, end = one["data_offsets"]
            numbers = [*one["shape"], begin, end]
            sound = all(type(n) is int and n >= 0 for n in numbers)
            if not sound or not isinstance(one.get("dtype"), str):
                raise ValueError(f"a wrong entry for tensor {name}")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
    ) as error:
        raise DataError(
            f"expected a .safetensors file, found {path}: {type(error).__name__} {error}; "
            "write it anew"
        ) from error
    return header, base


def _only(path: Path, header: dict[str, Any]) -> str:
    names = [name for name, one in header.items() if len(one["shape"]) == 2]
    if len(names) != 1:
        raise DataError(
            f"expected one tensor [rows, channels] in {path}, found {len(names)}: "
            f"{', '.join(sorted(header))[:80]}; name one with --tensor"
        )
    return names[0]


def _checked(path: Path, shape: Any, kind: str, little: bool, offset: int) -> RowFile:
    if len(shape) != 2 or shape[1] < 1 or not little:
        raise DataError(
            f"expected little-endian [rows, channels] in {path}, found shape {list(shape)}"
            f"{'' if little else ', big-endian'}; reshape it"
        )
    if path.stat().st_size < offset + shape[0] * shape[1] * _item_bytes(kind):
        raise DataError(
            f"expected {shape[0]:,} rows in {path}, found a file that ends before; copy it again"
        )
    return RowFile(path, int(shape[0]), int(shape[1]), kind, offset)


def _item_bytes(kind: str) -> int:
    """Of a number; 0 for a kind that NumPy does not know."""
    if kind == BFLOAT16:
        return 2
    try:
        return np.dtype(kind).itemsize
    except TypeError:
        return 0
