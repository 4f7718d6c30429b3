"""The largest size of every channel, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.store.extrema import largest_sizes

BITS = {np.float16: np.uint16, np.float32: np.uint32}


@given(data=st.data(), dtype=st.sampled_from([np.float16, np.float32]))
@settings(deadline=None, max_examples=80)
def test_any_bits_give_the_largest_size(data: st.DataObject, dtype: Any) -> None:
    rows, channels = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 5))
    kind = BITS[dtype]
    numbers = st.integers(0, int(np.iinfo(kind).max))
    bits = data.draw(st.lists(numbers, min_size=rows * channels, max_size=rows * channels))
    rows_RC = np.array(bits, dtype=kind).view(dtype).reshape(rows, channels)
    found_C = largest_sizes(rows_RC)
    assert found_C.dtype == dtype
    # NaN above all others, as NumPy's maximum has it; 0 without rows.
    expected_C = np.max(np.abs(rows_RC.astype(np.float64)), axis=0, initial=0)
    np.testing.assert_array_equal(found_C.astype(np.float64), expected_C)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_seen_in_its_channel_alone(bad: float) -> None:
    rows_RC = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float16)
    rows_RC[31, 4] = bad
    assert np.flatnonzero(~np.isfinite(largest_sizes(rows_RC))).tolist() == [4]


def test_rows_need_not_lie_together() -> None:
    whole: npt.NDArray[Any] = np.random.default_rng(1).standard_normal((40, 12)).astype(np.float32)
    for rows_RC in (whole[::3], whole[:, ::2], whole.T, -np.abs(whole)):
        np.testing.assert_array_equal(largest_sizes(rows_RC), np.abs(rows_RC).max(axis=0))
