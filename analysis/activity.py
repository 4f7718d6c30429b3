"""How often and where every feature fires: one pass over a store's rows, in bounded memory.

For each feature: on how many rows it fires (value > 0 after TopK), its mean and largest value, and
its N strongest rows, at most one per image. Memory is n x N entries plus one batch, whatever the
number of rows. Ties are ordered by (image, y, x), so the answer does not depend on the batch size
as long as the encoder's values do not (floating-point products may differ in their last bit).

Shape legend: R rows, B batch, K active per row, n features, N kept rows per feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from isae.analysis.arrays import F32, F64, I32, I64, Bools
from isae.errors import DataError
from isae.progress import QUIET, Reporter


class Encoder(Protocol):
    """What the pass needs of an SAE: the number of features, and TopK codes."""

    @property
    def n(self) -> int:
        """Number of features."""

    def encode(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(values_BK, indices_BK) of activations float32 [B, D]."""


class Rows(Protocol):
    """What the pass needs of a store: rows of activations and where they were read."""

    def activations(self, layer: str) -> Any:
        """Array-like [R, C]; slices give NumPy."""

    def positions(self, layer: str) -> Any:
        """Array-like [R, 3]: image, y, x; slices give NumPy int32."""


@dataclass(frozen=True)
class TopRows:
    """The strongest rows of each feature, strongest first; unused places have value 0, image -1.

    value_nN: float32; position_nN3: int32 (image, y, x).
    """

    value_nN: F32
    position_nN3: I32

    @staticmethod
    def empty(n: int, keep: int) -> TopRows:
        """No rows yet for n features."""
        return TopRows(
            np.zeros((n, keep), dtype=np.float32), np.full((n, keep, 3), -1, dtype=np.int32)
        )


@dataclass(frozen=True)
class Activity:
    """One pass's findings. rows: rows read; fired_n: rows on which the feature's value was > 0;
    sum_n: sum of its values (in units of the SAE's code); max_n: the largest; top: strongest rows.
    """

    rows: int
    fired_n: I64
    sum_n: F64
    max_n: F32
    top: TopRows

    @property
    def alive_n(self) -> Bools:
        """Whether the feature fired on any row that was read."""
        return self.fired_n > 0

    @property
    def rate_n(self) -> F64:
        """Share of the rows on which the feature fires."""
        rate_n: F64 = self.fired_n / max(self.rows, 1)
        return rate_n

    @property
    def mean_n(self) -> F64:
        """Mean value over the rows on which the feature fires; NaN where it never does."""
        mean_n: F64 = np.full(len(self.sum_n), np.nan)
        np.divide(self.sum_n, self.fired_n, out=mean_n, where=self.fired_n > 0)
        return mean_n


def rows_to_read(rows: int, train_rows: int, most: int | None) -> list[tuple[int, int]]:
    """Which rows a pass reads: all, or the first of both splits in proportion -> [(start, stop)].

    Rows of a store are shuffled within each split, so the first ones are a random sample.
    """
    wanted = rows if most is None else min(most, rows)
    train = min(train_rows, -(-wanted * train_rows // max(rows, 1)))
    spans = [(0, train), (train_rows, train_rows + wanted - train)]
    return [(start, stop) for start, stop in spans if stop > start]


def read_activity(
    sae: Encoder,
    store: Rows,
    layer: str,
    spans: list[tuple[int, int]],
    *,
    keep: int = 9,
    batch_size: int = 8192,
    device: torch.device | str = "cpu",
    reporter: Reporter = QUIET,
) -> Activity:
    """Encode the rows of `spans` of a layer and collect every feature's activity.

    keep: strongest rows to keep per feature, at most one per image. Raises DataError when an
    activation is not finite.
    """
    n = sae.n
    fired_n, sum_n = np.zeros(n, dtype=np.int64), np.zeros(n)
    max_n, top = np.zeros(n, dtype=np.float32), TopRows.empty(n, keep)
    total = sum(stop - start for start, stop in spans)
    with torch.inference_mode(), reporter.task(total, "firing", "rows") as meter:
        for x_BC, position_B3 in row_batches(store, layer, spans, batch_size):
            x = torch.from_numpy(np.ascontiguousarray(x_BC, dtype=np.float32)).to(device)
            values_BK, indices_BK = sae.encode(x)
            row, feature, value = _fired(values_BK, indices_BK, layer)
            fired_n += np.bincount(feature, minlength=n)
            sum_n += np.bincount(feature, weights=value, minlength=n)
            np.maximum.at(max_n, feature, value)
            top = merge_top(top, feature, value, position_B3[row])
            meter.advance(len(x_BC))
    return Activity(total, fired_n, sum_n, max_n, top)


def merge_top(top: TopRows, feature: I64, value: F32, position: I32) -> TopRows:
    """`top` with new entries merged in: feature [E], value [E], position int32 [E, 3]."""
    keep = top.value_nN.shape[1]
    weakest = top.value_nN[:, -1][feature]
    may_enter = (value > 0) & (value >= weakest)
    feature, value, position = feature[may_enter], value[may_enter], position[may_enter]
    if not len(feature):
        return top
    touched = np.unique(feature)
    held = top.value_nN[touched] > 0
    feature = np.concatenate([feature, np.repeat(touched, keep)[held.ravel()]])
    value = np.concatenate([value, top.value_nN[touched][held]])
    position = np.concatenate([position, top.position_nN3[touched][held]])
    order = np.lexsort((position[:, 2], position[:, 1], -value, position[:, 0], feature))
    first = _starts(feature[order], position[order, 0])
    order = order[first]
    order = order[np.lexsort((position[order, 0], -value[order], feature[order]))]
    begins = np.flatnonzero(_starts(feature[order]))
    rank = np.arange(len(order)) - np.repeat(begins, np.diff([*begins, len(order)]))
    order, rank = order[rank < keep], rank[rank < keep]
    merged = TopRows(top.value_nN.copy(), top.position_nN3.copy())
    merged.value_nN[touched], merged.position_nN3[touched] = 0.0, -1
    merged.value_nN[feature[order], rank] = value[order]
    merged.position_nN3[feature[order], rank] = position[order]
    return merged


def _starts(*columns: npt.NDArray[Any]) -> Bools:
    """Whether each entry differs from the one before it in any of the sorted columns."""
    changed = np.ones(len(columns[0]), dtype=np.bool_)
    changed[1:] = False
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _fired(values_BK: torch.Tensor, indices_BK: torch.Tensor, layer: str) -> tuple[I64, I64, F32]:
    values = values_BK.float().cpu().numpy()
    if not np.isfinite(values).all():
        raise DataError(
            f"expected finite codes, found NaN or infinity on rows of '{layer}'; the store or the "
            f"SAE is damaged: run 'isae-store verify' and check how the training ended"
        )
    row, place = np.nonzero(values > 0)
    return row, indices_BK.cpu().numpy().astype(np.int64)[row, place], values[row, place]


def row_batches(
    store: Rows, layer: str, spans: list[tuple[int, int]], batch_size: int
) -> Iterator[tuple[npt.NDArray[Any], I32]]:
    """Batches (activations [B, C], places [B, 3]) of the spans in order, each read ahead."""
    activations, positions = store.activations(layer), store.positions(layer)

    def read(start: int, stop: int) -> tuple[npt.NDArray[Any], I32]:
        return np.asarray(activations[start:stop]), np.asarray(positions[start:stop])

    pieces = [
        (first, min(first + batch_size, stop))
        for start, stop in spans
        for first in range(start, stop, batch_size)
    ]
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, *pieces[0]) if pieces else None
        for following in [*pieces[1:], None]:
            if ahead is None:
                return
            batch = ahead.result()
            ahead = pool.submit(read, *following) if following else None
            yield batch
