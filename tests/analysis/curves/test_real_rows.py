"""Real rows and their codes, read in batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from isae.analysis.curves import rows as rows_module
from isae.analysis.curves.rows import read_rows
from isae.errors import DataError
from isae.train import SAE

ROWS, C, N, K = 40, 6, 11, 3


@pytest.fixture
def sae() -> SAE:
    rng = torch.Generator().manual_seed(0)
    W_ND = torch.nn.functional.normalize(torch.randn(N, C, generator=rng), dim=1)
    return SAE(W_ND, torch.randn(N, generator=rng), W_ND.clone(), torch.zeros(C), K)


def stored(rows: int) -> Any:
    """What is read of a store: float16 activations, and places of four rows an image."""
    x_RC = np.random.default_rng(1).exponential(size=(rows, C)).astype(np.float16)
    number_R = np.arange(rows, dtype=np.int32)
    place_R3 = np.stack([number_R // 4, number_R % 2, number_R // 2 % 2], axis=1)
    return SimpleNamespace(activations=lambda layer: x_RC, positions=lambda layer: place_R3)


@pytest.mark.parametrize("batch", [1, 7, 25, 8192])
def test_rows_are_the_same_whatever_the_batch(
    sae: SAE, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_BATCH", batch)
    store = stored(ROWS)
    found = read_rows(sae, store, "mixed3a", (5, 30))
    x_RC = store.activations("mixed3a")[5:30].astype(np.float32)
    value_RK, index_RK = (part.numpy() for part in sae.encode(torch.from_numpy(x_RC)))
    assert len(found) == 25
    np.testing.assert_array_equal(found.x_RC, x_RC)
    np.testing.assert_array_equal(found.index_RK, index_RK)
    # A product of few rows may be summed in another order.
    np.testing.assert_allclose(found.value_RK, value_RK, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.image_R, np.arange(5, 30) // 4)


def test_fewer_rows_than_asked_for_are_an_error(sae: SAE) -> None:
    with pytest.raises(DataError, match="found none"):
        read_rows(sae, stored(ROWS), "mixed3a", (7, 7))
    with pytest.raises(DataError, match=r"\(5, 50\)"):
        read_rows(sae, stored(ROWS), "mixed3a", (5, 50))
