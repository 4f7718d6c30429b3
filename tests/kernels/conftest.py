from __future__ import annotations

import importlib.util

import pytest
import torch

from isae.kernels import (
    adam_update,
    column_sums,
    decode_residual,
    group_by_latent,
    sparse_decode,
    sparse_outer,
    topk_encode,
)
from isae.kernels.cpu.int8_tile import has_int8_tile


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """Compile every loop once, so that no single test pays for it."""
    if importlib.util.find_spec("numba") is None:
        return
    for dtype in (torch.float32, torch.float64):
        x, W, b = (torch.ones(shape, dtype=dtype) for shape in ((2, 3), (4, 3), (4,)))
        v, w = torch.zeros(2, 2, dtype=dtype, requires_grad=True), torch.ones(2, dtype=dtype)
        values, indices = topk_encode(x, W, b, 2, kernel="cpu")
        sparse_decode(v, indices, W, kernel="cpu").sum().backward()
        decode_residual(values, indices, W, x[0].clone(), x, w, kernel="cpu")
        groups = group_by_latent(values, indices, 4, kernel="cpu")
        sparse_outer(groups, values, x, kernel="cpu")
        column_sums(x, kernel="cpu")
        adam_update(W, W.clone(), W.clone(), W.clone(), lr=0.1, step=1, kernel="cpu")
    if has_int8_tile():
        x, W, b = torch.rand(128, 32), torch.rand(1024, 32), torch.rand(1024)
        topk_encode(x, W, b, 2, kernel="cpu")
