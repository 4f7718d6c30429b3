"""Packed rows come back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.errors import KernelError
from isae.kernels import PackedRows, expand_rows, pack_rows

KERNELS = ("reference", "cpu")
SIZES = {torch.float16: np.int16, torch.bfloat16: np.int16, torch.float32: np.int32}


def any_bits(rows: int, channels: int, share: float, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Rows of any bit patterns, NaN, infinities and -0.0 among them, `share` of them not zero."""
    generator = np.random.default_rng(seed)
    kind = SIZES[dtype]
    limits = np.iinfo(kind)
    values = generator.integers(limits.min, limits.max, (rows, channels), dtype=kind, endpoint=True)
    values[generator.random(values.shape) >= share] = 0
    if share:
        values.flat[::7] = limits.min  # -0.0
    return torch.from_numpy(values).view(dtype)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.dtype == other.dtype
    as_bits = torch.int16 if one.element_size() == 2 else torch.int32
    assert torch.equal(one.view(as_bits), other.view(as_bits))


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    rows=st.integers(1, 30),
    channels=st.integers(1, 70),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from(list(SIZES)),
    wanted=st.lists(st.integers(0, 29), max_size=20),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_any_rows_come_back(
    kernel: str,
    rows: int,
    channels: int,
    share: float,
    dtype: torch.dtype,
    wanted: list[int],
    seed: int,
) -> None:
    x = any_bits(rows, channels, share, dtype, seed)
    chosen = torch.tensor([row % rows for row in wanted], dtype=torch.int64)
    same_bits(expand_rows(pack_rows(x, kernel=kernel), chosen, kernel=kernel), x[chosen])


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_packed_form_is_as_documented(kernel: str) -> None:
    """Against NumPy's own packing of bits."""
    x = any_bits(13, 45, 0.4, torch.float16, 3)
    kept = pack_rows(x, kernel=kernel)
    bits = x.view(torch.int16).numpy()
    np.testing.assert_array_equal(kept.packed_P.view(torch.int16).numpy(), bits[bits != 0])
    np.testing.assert_array_equal(
        kept.bitmap_RW.numpy(), np.packbits(bits != 0, axis=1, bitorder="little")
    )
    counts = (bits != 0).sum(1)
    np.testing.assert_array_equal(kept.offsets_R.numpy(), np.cumsum(counts) - counts)
    assert kept.nbytes == 2 * counts.sum() + 13 * 6 + 13 * 8


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_without_any_value(kernel: str) -> None:
    kept = pack_rows(torch.zeros(3, 9))
    assert len(kept.packed_P) == 0
    assert torch.equal(expand_rows(kept, torch.tensor([2, 0]), kernel=kernel), torch.zeros(2, 9))


@pytest.mark.parametrize("kernel", KERNELS)
def test_spare_room_and_rows_in_strides(kernel: str) -> None:
    x = any_bits(8, 24, 0.5, torch.float32, 0)
    kept = pack_rows(x.T.contiguous().T)
    spare = torch.cat([kept.packed_P, torch.full((5,), float("nan"))])
    rows = torch.arange(8).repeat_interleave(2)[::2]
    same_bits(expand_rows(kept._replace(packed_P=spare), rows, kernel=kernel), x)


def test_half_of_the_memory_at_half_zeros() -> None:
    """832 channels of 16 bits: values 832, bits 104 and the offset 8 bytes of 1664."""
    x = torch.randn(512, 832, generator=torch.Generator().manual_seed(0)).relu().half()
    # 512 * 832 values: the share that is not zero is within 4 / sqrt(4 * 425984) of a half.
    assert pack_rows(x).nbytes / x.nbytes == pytest.approx(944 / 1664, abs=0.0031)


def test_what_does_not_fit_is_refused() -> None:
    kept = pack_rows(torch.ones(3, 10))
    rows = torch.tensor([0, 2])
    for wrong in (torch.tensor([3]), torch.tensor([-1])):
        with pytest.raises(KernelError, match=r"rows: expected values in \[0, 3\)"):
            expand_rows(kept, wrong)
    with pytest.raises(KernelError, match="rows: expected int64"):
        expand_rows(kept, rows.int())
    with pytest.raises(KernelError, match="rows: expected shape"):
        expand_rows(kept, rows[None])
    with pytest.raises(KernelError, match=r"bitmap: expected uint8 \[3, 1\]"):
        expand_rows(kept._replace(channels=8), rows)
    with pytest.raises(KernelError, match=r"offsets: expected values in \[0, 31\)"):
        expand_rows(kept._replace(offsets_R=kept.offsets_R + 30), rows)
    with pytest.raises(KernelError, match="packed: expected one axis"):
        expand_rows(PackedRows(torch.ones(30, dtype=torch.uint8), *kept[1:]), rows)
    for wrong_rows in (torch.ones(3), torch.ones(3, 3, dtype=torch.uint8)):
        with pytest.raises(KernelError, match="x: expected a matrix of 16, 32 or 64 bits"):
            pack_rows(wrong_rows)
