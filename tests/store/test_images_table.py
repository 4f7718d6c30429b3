"""The held-out split: exact in number, by image, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.store import images_table
from isae.store.images_table import Split


@given(images=st.integers(2, 3000), share=st.floats(0.0, 0.99), seed=st.integers(0, 2**62))
@settings(deadline=None, max_examples=60)
def test_the_share_is_exact(images: int, share: float, seed: int) -> None:
    split = Split(seed, images, share)
    found = split.held_out(np.arange(images))
    expected = min(max(round(share * images), 1), images - 1) if share > 0 else 0
    assert found.sum() == split.count == expected


def test_blocks_and_bins_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Split(5, 10_000, 0.1).held_out(np.arange(10_000))
    monkeypatch.setattr(images_table, "HASH_BLOCK", 77)
    monkeypatch.setattr(images_table, "BIN_BITS", 3)
    np.testing.assert_array_equal(Split(5, 10_000, 0.1).held_out(np.arange(10_000)), whole)


def test_an_image_alone_gets_the_same_answer() -> None:
    split = Split(1, 500, 0.3)
    whole = split.held_out(np.arange(500))
    assert [bool(split.held_out(np.array([i]))[0]) for i in range(500)] == whole.tolist()


def test_seeds_hold_out_different_images() -> None:
    one, other = (Split(seed, 1000, 0.5).held_out(np.arange(1000)) for seed in (0, 1))
    # Overlap of two random halves: hypergeometric, mean 250, standard deviation 7.9; 6 sigma.
    assert abs(int((one & other).sum()) - 250) < 48


def test_one_image_is_never_held_out() -> None:
    assert not Split(0, 1, 0.9).held_out(np.arange(1)).any()
