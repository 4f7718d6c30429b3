"""Packed rows come back from the Triton kernel bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from isae.errors import KernelError
from isae.kernels import expand_rows, pack_rows

OnDevice = Callable[[Callable[..., Any]], Callable[..., Any]]


def through(x: torch.Tensor, rows: torch.Tensor, **options: Any) -> torch.Tensor:
    """Packed and expanded on the tensors' device."""
    return expand_rows(pack_rows(x), rows, kernel="triton", **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("rows", "channels"), [(1, 1), (5, 7), (9, 8), (4, 33), (11, 160), (3, 832)]
)
def test_any_bits(rows: int, channels: int, dtype: torch.dtype, on_device: OnDevice) -> None:
    """NaN, infinities, subnormals and -0.0 too, rows of zeros, repeated and unordered rows."""
    kind = np.int32 if dtype == torch.float32 else np.int16
    generator = np.random.default_rng(rows * channels)
    limits = np.iinfo(kind)
    bits = generator.integers(limits.min, limits.max, (rows, channels), dtype=kind)
    bits[generator.random(bits.shape) < 0.5] = 0
    bits.flat[::9] = limits.min
    bits[-1] = 0
    x = torch.from_numpy(bits).view(dtype)
    wanted = torch.from_numpy(generator.integers(0, rows, 2 * rows + 1))
    found = on_device(through)(x, wanted)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.view(torch.from_numpy(bits).dtype).numpy(), bits[wanted])


def test_no_rows_and_no_values(on_device: OnDevice) -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert on_device(through)(torch.ones(3, 5), none).shape == (0, 5)
    zeros = torch.zeros(3, 20)
    assert torch.equal(on_device(through)(zeros, torch.arange(3)), zeros)


def test_rows_out_of_range_are_refused_before_any_launch(on_device: OnDevice) -> None:
    with pytest.raises(KernelError, match=r"rows: expected values in \[0, 3\)"):
        on_device(through)(torch.ones(3, 5), torch.tensor([3]))
