"""The images of imported rows: numbered, or those of an export's images table.

Shapes: I images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from isae.errors import DataError
from isae.store.images_table import GROUP_ROWS, HOLDOUT, TRAIN, UNREADABLE, Split
from isae.store.import_index import Span

Flags = npt.NDArray[np.bool_]
HEAD = pa.schema(
    [
        ("image", pa.int64()),
        ("name", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


class ImportedImages(ABC):
    """Which images there are, and which are held out."""

    count: int

    @abstractmethod
    def held_out(self, image_R: npt.NDArray[np.int64]) -> Flags:
        """Whether each image is held out."""

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the images table."""

    @property
    @abstractmethod
    def splits(self) -> Counter[str]:
        """Images of each split."""


class NumberedImages(ImportedImages):
    """Images of which only the numbers are known; those without rows count as unreadable."""

    def __init__(self, span: Span, seed: int, share: float) -> None:
        self.span, self.count = span, span.images
        self.split = Split(seed, span.images, share)

    def held_out(self, image_R: npt.NDArray[np.int64]) -> Flags:
        """By hash, as in a build."""
        return self.split.held_out(image_R)

    def write(self, path: Path) -> None:
        """A row group at a time."""
        with pq.ParquetWriter(path, HEAD, compression="zstd") as writer:
            for start in range(0, self.count, GROUP_ROWS):
                numbers = np.arange(start, min(start + GROUP_ROWS, self.count))
                columns = {
                    "image": numbers,
                    "name": [f"image {number}" for number in numbers.tolist()],
                    "label": [""] * len(numbers),
                    "split": self._names(numbers),
                    "width": pa.nulls(len(numbers), pa.int32()),
                    "height": pa.nulls(len(numbers), pa.int32()),
                }
                writer.write_table(pa.table(columns, schema=HEAD))

    @property
    def splits(self) -> Counter[str]:
        """Counted, a group at a time."""
        found: Counter[str] = Counter()
        for start in range(0, self.count, GROUP_ROWS):
            found.update(self._names(np.arange(start, min(start + GROUP_ROWS, self.count))))
        return found

    def _names(self, numbers: npt.NDArray[np.int64]) -> list[str]:
        names = np.where(self.held_out(numbers), HOLDOUT, TRAIN)
        return np.where(self.span.present_I[numbers], names, UNREADABLE).tolist()  # type: ignore[no-any-return]


class TableImages(ImportedImages):
    """The images of an export, with its split, or a new one of `share`.

    `copies` are groups of images that are one photo: a new split keeps each on one side.
    """

    def __init__(
        self,
        path: Path,
        span: Span,
        seed: int,
        share: float | None,
        copies: Sequence[Sequence[int]] = (),
    ) -> None:
        try:
            self.table = pq.read_table(path)
            split = np.asarray(self.table.column("split").to_pylist(), dtype=object)
            numbers = self.table.column("image").to_numpy()
        except (pa.ArrowException, KeyError, FileNotFoundError) as error:
            raise DataError(
                f"expected the images table of an export in {path}, found {error}; copy the whole "
                "folder, or export again"
            ) from error
        self.count = len(self.table)
        known = set(split.tolist()) <= {TRAIN, HOLDOUT, UNREADABLE}
        if not known or not np.array_equal(numbers, np.arange(self.count)):
            raise DataError(
                f"expected images numbered from 0 on, each with a split of {TRAIN}, {HOLDOUT} or "
                f"{UNREADABLE} in {path}, found others; export again"
            )
        if span.images > self.count or (split[: span.images][span.present_I] == UNREADABLE).any():
            raise DataError(
                f"expected rows of the readable images in {path}, found rows of others; "
                "the folder mixes two exports: export again"
            )
        if share is not None:
            made = Split(seed, self.count, share).held_out(np.arange(self.count))
            for group in copies:
                made[list(group)] = made[group[0]]
            chosen = np.where(made, HOLDOUT, TRAIN)
            split = np.where(split == UNREADABLE, UNREADABLE, chosen).astype(object)
            column = self.table.schema.get_field_index("split")
            self.table = self.table.set_column(column, "split", pa.array(split, pa.string()))
        self.split = split
        self.out: Flags = (split == HOLDOUT).astype(np.bool_)

    def held_out(self, image_R: npt.NDArray[np.int64]) -> Flags:
        """As the table says."""
        return self.out[image_R]

    def write(self, path: Path) -> None:
        """The table."""
        pq.write_table(self.table, path, compression="zstd", row_group_size=GROUP_ROWS)

    @property
    def splits(self) -> Counter[str]:
        """Counted."""
        return Counter(self.split.tolist())
