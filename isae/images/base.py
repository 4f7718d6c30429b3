"""What an image source is: names, labels and columns of pictures, and how a worker reads one.

A source holds the list; its `reader` is small and knows how to turn one address into pixels. Worker
processes get the reader once and the addresses batch by batch, never the whole list, so their
memory does not grow with the number of pictures.
"""

from __future__ import annotations

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from isae.errors import ImageError
from isae.randomness import hash64

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


class UnreadableError(Exception):
    """A reader could not make pixels of one address; the message is the reason alone."""


class BadImage(ImageError):  # noqa: N818 (also a record)
    """One picture that cannot be read: its `index` in the source, its `name` and the `reason`."""

    def __init__(self, index: int, name: str, reason: str) -> None:
        super().__init__(f"expected a readable picture, found '{name}' (number {index}): {reason}")
        self.index, self.name, self.reason = index, name, reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[int, str, str]]:
        return type(self), (self.index, self.name, self.reason)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BadImage) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((self.index, self.name, self.reason))


class Reader(Protocol):
    """Turns an address of its source into pixels; small, picklable, importable in a new process."""

    def read(self, address: Any) -> U8:
        """Pixels uint8 [H, W, 3] in RGB of one address; raises UnreadableError with the reason."""
        ...


class ImageSource(ABC):
    """An ordered, immutable list of pictures.

    `spec` is the text it was opened with, `kind` the sort of source. The order and `fingerprint`
    are the same on every machine. `columns` names the extra table columns and their types.
    """

    kind: str = ""
    spec: str = ""
    columns: Mapping[str, str]
    reader: Reader

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures, readable or not."""

    @abstractmethod
    def row(self, index: int) -> dict[str, Any]:
        """'name' (unique), 'label' ('' where unknown) and the extra `columns` of one picture."""

    @abstractmethod
    def address(self, index: int) -> Any:
        """What `reader` needs to read one picture; small and picklable."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the list holds: equal lists of equal files, equal fingerprints."""

    def file_times(self) -> I64:
        """When each file of the source was last changed, in ns, int64 [files].

        As found when the source was opened. Empty where pictures lie in no files, or in files
        that are not known.
        """
        return np.empty(0, dtype=np.int64)

    def file_name(self, number: int) -> str:
        """The name of a file of `file_times`."""
        raise IndexError(f"expected the number of a file, found {number} in a source without files")

    def load(self, index: int) -> U8:
        """Pixels uint8 [H, W, 3] in RGB of one picture; raises BadImage if it cannot be read."""
        position = self.checked(index)
        try:
            return self.reader.read(self.address(position))
        except UnreadableError as error:
            raise BadImage(position, str(self.row(position)["name"]), str(error)) from error

    def checked(self, index: int) -> int:
        """`index` as an int; raises IndexError outside [0, len): negative numbers do not count."""
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"expected a picture number in [0, {len(self)}), found {position}")
        return position


class SubsetSource(ImageSource):
    """`count` pictures of another source, drawn by a seed and kept in their order.

    The pictures with the smallest keys hash64(seed, index) are taken: a fair sample of all classes
    although a folder is listed class by class, and a smaller sample is part of a larger one.
    """

    def __init__(self, source: ImageSource, count: int, seed: int) -> None:
        self.source, self.seed = source, seed
        self.kind, self.spec = source.kind, source.spec
        self.columns, self.reader = source.columns, source.reader
        keys = hash64(seed, np.arange(len(source)))
        self.chosen: I64 = np.sort(np.argsort(keys, kind="stable")[:count]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.chosen)

    def row(self, index: int) -> dict[str, Any]:
        """The row of one chosen picture."""
        return self.source.row(int(self.chosen[self.checked(index)]))

    def address(self, index: int) -> Any:
        """The address of one chosen picture."""
        return self.source.address(int(self.chosen[self.checked(index)]))

    def fingerprint(self) -> str:
        """Hash of the whole source's fingerprint, the number taken and the seed."""
        return digest(["subset", self.source.fingerprint(), len(self), self.seed])

    def file_times(self) -> I64:
        """Of the files of the whole source."""
        return self.source.file_times()

    def file_name(self, number: int) -> str:
        """As the whole source names it."""
        return self.source.file_name(number)


class Names:
    """Many names in one byte string: their length plus 8 bytes each, instead of about 90 more."""

    def __init__(self, names: Iterable[bytes]) -> None:
        listed = list(names)
        self.blob = b"".join(listed)
        self.ends: I64 = np.cumsum([len(name) for name in listed], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def raw(self, index: int) -> bytes:
        """The bytes of one name."""
        start = int(self.ends[index - 1]) if index else 0
        return self.blob[start : int(self.ends[index])]

    def text(self, index: int) -> str:
        """One name as valid Unicode; bytes that are not UTF-8 become escapes."""
        return self.raw(index).decode("utf-8", "backslashreplace")

    @property
    def nbytes(self) -> int:
        """Bytes that the table holds."""
        return len(self.blob) + self.ends.nbytes


def digest(parts: Iterable[object]) -> str:
    """SHA-256 (hex) of a list of numbers, texts and byte strings, with their boundaries."""
    state = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "backslashreplace")
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()
