"""The firing pass against brute force, whatever the batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.analysis.activity import Activity, TopRows, merge_top, read_activity, rows_to_read
from isae.errors import DataError


class TableStore:
    """Rows held in memory: a store's two readers."""

    def __init__(self, x_RC: np.ndarray, position_R3: np.ndarray) -> None:
        self.x_RC, self.position_R3 = x_RC, position_R3

    def activations(self, layer: str) -> np.ndarray:
        return self.x_RC

    def positions(self, layer: str) -> np.ndarray:
        return self.position_R3


class IdentityEncoder:
    """Each channel is a feature; the k largest of a row, as TopK with ReLU would give them."""

    def __init__(self, n: int, k: int) -> None:
        self.n, self.k = n, k

    def encode(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = torch.relu(x_BD).topk(self.k, dim=1)
        return values, indices


def made_up(rows: int, n: int, images: int, seed: int) -> TableStore:
    rng = np.random.default_rng(seed)
    # Few distinct values and few images: many ties and many rows of one image.
    x_RC = rng.integers(-2, 5, size=(rows, n)).astype(np.float16)
    x_RC[:, -1] = -1
    places = rng.permutation(images * 9)[:rows]
    position_R3 = np.stack([places // 9, places // 3 % 3, places % 3], axis=1)
    return TableStore(x_RC, position_R3.astype(np.int32))


def brute_force(store: TableStore, encoder: IdentityEncoder, keep: int) -> Activity:
    values_RK, indices_RK = encoder.encode(torch.from_numpy(store.x_RC).float())
    codes_Rn = np.zeros((len(store.x_RC), encoder.n), dtype=np.float32)
    np.put_along_axis(codes_Rn, indices_RK.numpy(), values_RK.numpy(), axis=1)
    top = TopRows.empty(encoder.n, keep)
    for feature in range(encoder.n):
        fired = np.flatnonzero(codes_Rn[:, feature] > 0)
        best: dict[int, tuple] = {}
        for row in fired:
            image, y, x = (int(part) for part in store.position_R3[row])
            entry = (-float(codes_Rn[row, feature]), image, y, x)
            if image not in best or entry < best[image]:
                best[image] = entry
        for rank, (value, *place) in enumerate(sorted(best.values())[:keep]):
            top.value_nN[feature, rank] = -value
            top.position_nN3[feature, rank] = place
    return Activity(
        len(codes_Rn), (codes_Rn > 0).sum(axis=0), codes_Rn.sum(axis=0), codes_Rn.max(axis=0), top
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("keep", [1, 3, 20])
def test_the_pass_is_brute_force_whatever_the_batch_size(batch_size: int, keep: int) -> None:
    store, encoder = made_up(211, 13, 40, seed=keep), IdentityEncoder(13, 4)
    expected = brute_force(store, encoder, keep)
    found = read_activity(
        encoder, store, "layer", [(0, 150), (150, 211)], keep=keep, batch_size=batch_size
    )
    assert found.rows == 211
    np.testing.assert_array_equal(found.fired_n, expected.fired_n)
    # Small whole numbers: sums are exact in any order.
    np.testing.assert_array_equal(found.sum_n, expected.sum_n)
    np.testing.assert_array_equal(found.max_n, expected.max_n)
    np.testing.assert_array_equal(found.top.value_nN, expected.top.value_nN)
    np.testing.assert_array_equal(found.top.position_nN3, expected.top.position_nN3)
    assert not found.alive_n[-1]
    assert np.isnan(found.mean_n[-1])
    assert found.alive_n[:-1].all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 10**6))
def test_merging_in_any_pieces_gives_the_same(pieces: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    total, keep = sum(pieces), 3
    feature = rng.integers(0, 4, size=total)
    value = rng.integers(0, 4, size=total).astype(np.float32)
    places = rng.permutation(max(total, 60))[:total]
    position = np.stack([places // 6, places // 3 % 2, places % 3], axis=1).astype(np.int32)
    whole = merge_top(TopRows.empty(4, keep), feature, value, position)
    parts, start = TopRows.empty(4, keep), 0
    for size in pieces:
        cut = slice(start, start + size)
        parts = merge_top(parts, feature[cut], value[cut], position[cut])
        start += size
    np.testing.assert_array_equal(whole.value_nN, parts.value_nN)
    np.testing.assert_array_equal(whole.position_nN3, parts.position_nN3)


def test_codes_that_are_not_finite_are_refused() -> None:
    store = made_up(20, 5, 10, seed=0)
    store.x_RC[7, 2] = np.inf
    with pytest.raises(DataError, match="finite codes"):
        read_activity(IdentityEncoder(5, 2), store, "mixed4a", [(0, 20)])


@pytest.mark.parametrize(
    ("rows", "train", "most", "spans"),
    [
        (100, 95, None, [(0, 95), (95, 100)]),
        (100, 95, 1000, [(0, 95), (95, 100)]),
        (100, 95, 20, [(0, 19), (95, 96)]),
        (100, 100, 20, [(0, 20)]),
        (100, 95, 1, [(0, 1)]),
    ],
)
def test_rows_to_read_keep_the_splits_proportion(
    rows: int, train: int, most: int | None, spans: list
) -> None:
    assert rows_to_read(rows, train, most) == spans
