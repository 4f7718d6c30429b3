"""Several image sources, one after the other: what a merged store is of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from isae.errors import ImageError
from isae.images.base import I64, U8, ImageSource, Reader, digest

PREFIX = "merge:"
FORM = 'merge:["SPEC", {"spec": "SPEC", "seed": 0, "limit": 100}, ...]'


class MergedReader:
    """Reads (number of the source, address in it)."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers = tuple(readers)

    def read(self, address: tuple[int, Any]) -> U8:
        """Pixels uint8 [H, W, 3]; raises UnreadableError with the reason."""
        part, inner = address
        return self.readers[part].read(inner)


class MergedSource(ImageSource):
    """The pictures of `parts` in their order, numbered through.

    Names are those in the parts, so that one may come in two of them. A column that only some parts
    have is None in the rows of the others. Raises ImageError where parts disagree about the type of
    a column.
    """

    kind = "merge"

    def __init__(self, parts: Sequence[ImageSource], spec: str) -> None:
        self.parts, self.spec = tuple(parts), spec
        self.ends: I64 = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self.reader = MergedReader([part.reader for part in parts])
        self.columns = merged_columns([part.columns for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def row(self, index: int) -> dict[str, Any]:
        """The row of a picture in its part, with every column."""
        part, inner = self._find(index)
        return {**dict.fromkeys(self.columns), **self.parts[part].row(inner)}

    def address(self, index: int) -> tuple[int, Any]:
        """The part's number, and the address there."""
        part, inner = self._find(index)
        return part, self.parts[part].address(inner)

    def fingerprint(self) -> str:
        """Hash of the parts' fingerprints."""
        return merged_fingerprint(part.fingerprint() for part in self.parts)

    def file_times(self) -> I64:
        """Of the files of all parts, one after the other."""
        return np.concatenate([np.empty(0, np.int64), *(part.file_times() for part in self.parts)])

    def file_name(self, number: int) -> str:
        """As the part names it."""
        for part in self.parts:
            if number < (count := len(part.file_times())):
                return part.file_name(number)
            number -= count
        raise IndexError("expected the number of a file of a part, found one beyond them all")

    def _find(self, index: int) -> tuple[int, int]:
        position = self.checked(index)
        part = int(np.searchsorted(self.ends, position, side="right"))
        return part, position - (int(self.ends[part - 1]) if part else 0)


def merged_fingerprint(parts: Iterable[str]) -> str:
    """The fingerprint of a MergedSource from its parts'."""
    return digest([MergedSource.kind, *parts])


def merged_columns(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The columns of all parts; ImageError where one has two types."""
    columns: dict[str, str] = {}
    for part in parts:
        for name, kind in part.items():
            if columns.setdefault(name, kind) != kind:
                raise ImageError(
                    f"expected column '{name}' of one type in all sources, found {columns[name]} "
                    f"and {kind}; leave one of them out"
                )
    return columns


def merged_spec(parts: Iterable[Mapping[str, Any]]) -> str:
    """The text that `parse_merged` reads: spec, seed and limit of each part."""
    return PREFIX + json.dumps([dict(part) for part in parts], ensure_ascii=False)


def parse_merged(spec: str, seed: int) -> list[tuple[str, int, int | None]]:
    """(spec, seed, limit) of each part of `merge:[...]`; `seed` where a part states none.

    Raises ImageError for any other text.
    """
    try:
        listed = json.loads(spec.removeprefix(PREFIX))
        found: list[dict[str, Any]] = [
            {"spec": one} if isinstance(one, str) else dict(one) for one in listed
        ]
        parts = [(str(one["spec"]), one.get("seed", seed), one.get("limit")) for one in found]
    except (ValueError, TypeError, KeyError) as error:
        raise _refused(spec) from error
    known = all(set(one) <= {"spec", "seed", "limit"} for one in found)
    numbers = all(type(s) is int and type(n) in (int, type(None)) for _, s, n in parts)
    if not parts or not known or not numbers:
        raise _refused(spec)
    return parts


def with_parts(spec: str, change: Callable[[str], str]) -> str:
    """`merge:[...]` with `change` made to the spec of every part; other text stays as it is."""
    try:
        parse_merged(spec, 0)
    except ImageError:
        return spec
    parts = json.loads(spec.removeprefix(PREFIX))
    changed = [
        change(one) if isinstance(one, str) else {**one, "spec": change(str(one["spec"]))}
        for one in parts
    ]
    return PREFIX + json.dumps(changed, ensure_ascii=False)


def _refused(spec: str) -> ImageError:
    return ImageError(f"expected {FORM}, found '{spec[:100]}'; give a JSON list of image sources")
