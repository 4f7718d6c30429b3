"""Rows of a table by feature, handed out as dicts of plain values without walking through Arrow.

A report reads millions of rows. Each column becomes one NumPy array (texts as numbers into their
different values, lists as one long array), so that a feature's rows are slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from isae.analysis.arrays import I64
from isae.analysis.report.scripts import rounded

DIGITS = 6
"""Significant digits of numbers on a feature's page; of curves 4."""


class Values(Protocol):
    """One column: plain values of the rows from `start` to `stop`."""

    def part(self, start: int, stop: int) -> list[Any]:
        """The values, None where null."""


@dataclass(frozen=True)
class _Numbers:
    values_R: npt.NDArray[Any]

    def part(self, start: int, stop: int) -> list[Any]:
        values = self.values_R[start:stop]
        return rounded(values, DIGITS) if values.dtype.kind == "f" else values.tolist()


@dataclass(frozen=True)
class _Texts:
    code_R: I64
    names: list[str]

    def part(self, start: int, stop: int) -> list[Any]:
        return [self.names[code] if code >= 0 else None for code in self.code_R[start:stop]]


@dataclass(frozen=True)
class _Lists:
    """values_V: of all rows, one after the other; those of row i from first_R[i] on.

    whole: the column is of whole numbers.
    """

    values_V: npt.NDArray[Any]
    first_R: I64
    length_R: I64
    whole: bool

    def part(self, start: int, stop: int) -> list[Any]:
        found: list[Any] = []
        for row in range(start, stop):
            first = self.first_R[row]
            values = self.values_V[first : first + self.length_R[row]]
            if not self.whole:
                found.append(rounded(values))
            elif values.dtype.kind != "f":
                found.append(values.tolist())
            else:  # Arrow hands out whole numbers as floats where there are nulls
                found.append([None if np.isnan(one) else int(one) for one in values])
        return found


class GroupedRows:
    """The rows of a table with the column 'feature', by feature, in the table's order."""

    def __init__(self, table: pa.Table, features: int, columns: Sequence[str]) -> None:
        number = table["feature"].to_numpy(zero_copy_only=False)
        order, self._first = rows_by_feature(number, features)
        there = [name for name in columns if name in table.column_names]
        self._columns: dict[str, Values] = {
            name: _column(table[name].combine_chunks(), order) for name in there
        }

    def rows(self, feature: int) -> list[dict[str, Any]]:
        """One dict a row."""
        start, stop = int(self._first[feature]), int(self._first[feature + 1])
        if start == stop:
            return []
        parts = [column.part(start, stop) for column in self._columns.values()]
        return [
            dict(zip(self._columns, values, strict=True)) for values in zip(*parts, strict=True)
        ]


def rows_by_feature(number_R: npt.NDArray[Any], features: int) -> tuple[I64, I64]:
    """(order, first): rows order[first[i]:first[i + 1]] are feature i's, in the table's order.

    Rows of other numbers than 0 to features - 1 are in no feature's slice.
    """
    order = np.argsort(number_R, kind="stable")
    first = np.searchsorted(number_R[order], np.arange(features + 1))
    return order.astype(np.int64), first.astype(np.int64)


def _column(column: pa.Array, order: I64) -> Values:
    kind = column.type
    if pa.types.is_list(kind):
        return _lists(column, order)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        coded = pc.dictionary_encode(column)
        code = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
        return _Texts(code[order].astype(np.int64), coded.dictionary.to_pylist())
    return _Numbers(column.to_numpy(zero_copy_only=False)[order])


def _lists(column: pa.ListArray, order: I64) -> Values:
    if pa.types.is_string(column.type.value_type):
        raise TypeError("lists of texts are not handed out")
    length = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    first = np.concatenate([[0], np.cumsum(length)])[:-1].astype(np.int64)
    values = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    whole = pa.types.is_integer(column.type.value_type)
    return _Lists(values, first[order], length[order].astype(np.int64), whole)
