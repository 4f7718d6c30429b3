"""Rows that no training saw: their codes, the rows each feature is measured on, and donors.

A feature is measured on pairs (row, feature) where its code is above 0, at most `cap` of them,
spread over images: every image gives one row before any gives a second. A row's donor is another
image's row at the same cell of the grid: what is put in from it is a value that the branch really
takes at that place.

Memory: 4 C + 12 K bytes a row, 16 bytes a pair. Legend: R rows, C channels, K active codes a row,
E pairs, N features, I images, T draws of donors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from isae.analysis.activity import Encoder, row_batches
from isae.analysis.arrays import F32, I32, I64, Bools
from isae.analysis.branches import swap_loops
from isae.analysis.inputs import RunInputs
from isae.randomness import hash64, keyed_seed


@dataclass(frozen=True)
class Rows:
    """Rows with their codes: x_RC float32; place_R3 int32 (image, y, x); value_RK, index_RK.

    `images`: the numbers of images that are among them, `image_R` the place of each row's in it.
    """

    x_RC: F32
    place_R3: I32
    value_RK: F32
    index_RK: I64
    images_I: I64
    image_R: I64


@dataclass(frozen=True)
class Pairs:
    """Where features are measured, sorted by feature, then row: row_E, feature_E, code_E (> 0).

    image_E: number of the image in [0, images); first_M [N + 1]: where each feature's pairs begin.
    """

    row_E: I64
    feature_E: I64
    code_E: F32
    image_E: I64
    first_M: I64
    images: int

    @property
    def counts_N(self) -> I64:
        """Pairs of each feature."""
        return np.diff(self.first_M)

    @property
    def images_N(self) -> I64:
        """Images among each feature's pairs."""
        key = np.unique(self.feature_E * self.images + self.image_E)
        return np.bincount(key // max(self.images, 1), minlength=len(self.first_M) - 1)


def encode_rows(
    sae: Encoder, x_RC: F32, batch_size: int, device: torch.device | str = "cpu"
) -> tuple[F32, I64]:
    """Codes of rows in batches -> (values float32 [R, K], features int64 [R, K])."""
    values, indices = [], []
    with torch.inference_mode():
        for start in range(0, len(x_RC), batch_size):
            x = torch.from_numpy(x_RC[start : start + batch_size]).to(device)
            value_BK, index_BK = sae.encode(x)
            values.append(value_BK.float().cpu().numpy())
            indices.append(index_BK.cpu().numpy().astype(np.int64))
    return np.concatenate(values), np.concatenate(indices)


def coded_rows(
    sae: Encoder, x_RC: F32, place_R3: I32, batch_size: int, device: torch.device | str = "cpu"
) -> Rows:
    """`Rows` of activations [R, C] read at places [R, 3]."""
    value_RK, index_RK = encode_rows(sae, x_RC, batch_size, device)
    images_I, image_R = np.unique(place_R3[:, 0], return_inverse=True)
    return Rows(
        x_RC, place_R3, value_RK, index_RK, images_I.astype(np.int64), image_R.astype(np.int64)
    )


def as_rows(map_PCHW: torch.Tensor) -> F32:
    """A map's places as rows, float32 [P * H * W, C], contiguous."""
    rows_RC = map_PCHW.detach().permute(0, 2, 3, 1).flatten(0, 2)
    return np.ascontiguousarray(rows_RC.float().cpu().numpy())


def read_heldout(
    inputs: RunInputs, most: int, batch_size: int, device: torch.device | str
) -> Rows | None:
    """Up to `most` rows of the store's held-out images (a random sample); None if it has none."""
    stored = inputs.stored
    spans = [(stored.train_rows, min(stored.rows, stored.train_rows + most))]
    parts = list(row_batches(inputs.store, inputs.layer, spans, batch_size))
    if not parts or not sum(len(x_BC) for x_BC, _ in parts):
        return None
    x_RC = np.concatenate([np.asarray(x_BC, dtype=np.float32) for x_BC, _ in parts])
    place_R3 = np.concatenate([place_B3 for _, place_B3 in parts])
    return coded_rows(inputs.sae, x_RC, place_R3, batch_size, device)


def donors(place_R3: I32, draws: int, seed: int) -> I64:
    """For each draw, every row's donor: a row of another image at the same cell -> int64 [T, R].

    The rows of a cell are put on a circle in random order, and each takes from the next one of
    another image. -1 where a cell has rows of one image only.
    """
    rows = np.arange(len(place_R3))
    _, cell_R = np.unique(place_R3[:, 1:], axis=0, return_inverse=True)
    found = np.full((draws, len(rows)), -1, dtype=np.int64)
    for draw in range(draws):
        # Rows of one image at one cell stay neighbours on the circle, and take one donor.
        stream = keyed_seed(seed, "donors", draw)
        key_R = hash64(stream, place_R3[:, 0])
        order = np.lexsort((rows, place_R3[:, 0], key_R, cell_R.ravel()))
        swap_loops.next_of_another(
            order, cell_R.ravel()[order], place_R3[order, 0].astype(np.int64), found[draw]
        )
    return found


def choose_pairs(rows: Rows, usable_R: Bools, features: int, cap: int, seed: int) -> Pairs:
    """Up to `cap` pairs of each feature among usable rows, spread over images, drawn by hash."""
    active = (rows.value_RK > 0) & usable_R[:, None]
    row, slot = np.nonzero(active)
    feature, image = rows.index_RK[row, slot], rows.image_R[row]
    key = hash64(keyed_seed(seed, "pairs"), row, feature)
    by_image = np.lexsort((key, image, feature))
    turn = np.empty(len(row), dtype=np.int64)
    turn[by_image] = _rank(feature[by_image] * (len(rows.images_I) + 1) + image[by_image])
    order = np.lexsort((key, turn, feature))
    kept = np.sort(order[_rank(feature[order]) < cap])
    kept = kept[np.argsort(feature[kept], kind="stable")]
    counts_N = np.bincount(feature[kept], minlength=features)
    return Pairs(
        row_E=row[kept],
        feature_E=feature[kept],
        code_E=rows.value_RK[row[kept], slot[kept]],
        image_E=image[kept],
        first_M=np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int64),
        images=len(rows.images_I),
    )


def _rank(sorted_E: I64) -> I64:
    """Place of each entry within its run of equal ones."""
    begins = np.flatnonzero(np.diff(sorted_E, prepend=-1))
    return np.arange(len(sorted_E)) - np.repeat(begins, np.diff([*begins, len(sorted_E)]))
