"""Stored rows as float32 times a number."""

from __future__ import annotations

import pytest
import torch

from isae.kernels.cpu.scale import TAKEN, can_scale, scale_rows

SPECIAL = (torch.nan, torch.inf, -torch.inf, 6e-8, -0.0, 65504.0)
"""Among them a denormal number and the largest one."""


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 5), (4, 4), (7, 31), (130, 513), (0, 4), (2, TAKEN), (1, TAKEN + 17)]
)
def test_the_bits_are_those_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    rows = torch.randn(shape).half()
    flat = rows.view(-1)
    flat[: len(SPECIAL)] = torch.tensor(SPECIAL[: len(flat)], dtype=torch.float16)
    found, wanted = scale_rows(rows, 0.37), rows.float() * 0.37
    assert found.dtype == torch.float32
    assert torch.equal(found.isnan(), wanted.isnan())  # a NaN may be any
    bits = (one.nan_to_num(1, torch.inf, -torch.inf).view(torch.int32) for one in (found, wanted))
    assert torch.equal(*bits)


def test_what_it_serves() -> None:
    rows = torch.zeros(4, 6, dtype=torch.float16)
    assert can_scale(rows)
    assert not can_scale(rows.T)
    assert not can_scale(rows.float())
    assert not can_scale(rows.to("meta"))
