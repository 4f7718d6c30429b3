"""Decode, value gradients, grouping and sparse sums against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from isae.errors import KernelError
from isae.kernels import (
    adam_update,
    column_sums,
    decode_residual,
    group_by_latent,
    sparse_decode,
    sparse_outer,
)
from isae.kernels.triton.sparse_outer import SPLIT

OnDevice = Callable[[Callable[..., Any]], Callable[..., Any]]
SHAPES = [(1, 1, 1, 1), (7, 5, 33, 3), (13, 67, 20, 20), (5, 300, 11, 2), (3, 17, 53, 40)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def codes(rows: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * n + k)
    values = torch.randn(rows, k, generator=generator).relu()
    indices = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(rows)])
    return values, indices


def dense(values: torch.Tensor, indices: torch.Tensor, n: int) -> torch.Tensor:
    z = torch.zeros(values.shape[0], n, dtype=torch.float64)
    return z.scatter_add(1, indices, values.double())


def close(ours: torch.Tensor, want: torch.Tensor, terms: int) -> None:
    """Within the rounding of a float32 sum of `terms` products."""
    bound = 4 * (terms + 2) * 2.0**-24 * (float(want.abs().max()) + 1)
    assert float((ours.double() - want).abs().max()) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "d", "n", "k"), SHAPES)
def test_sparse_decode(
    rows: int, d: int, n: int, k: int, dtype: torch.dtype, on_device: OnDevice
) -> None:
    values, indices = codes(rows, n, k)
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(n, d, generator=generator).to(dtype).requires_grad_()
    b = torch.randn(d, generator=generator).requires_grad_()
    values.requires_grad_()
    out = on_device(sparse_decode)(values, indices, W, b, kernel="triton")
    assert out.dtype == torch.float32
    z = dense(values.detach(), indices, n)
    close(out.detach(), z @ W.detach().double() + b.detach().double(), k)
    g = torch.randn(out.shape, generator=generator)
    out.backward(g)
    close(values.grad, (g.double() @ W.detach().double().T).gather(1, indices), d)
    close(b.grad, g.double().sum(0), rows)
    want = z.T @ g.double()
    if dtype == torch.float32:
        close(W.grad, want, rows)
    else:  # the gradient is rounded to the parameter's type
        assert torch.allclose(W.grad.double(), want, rtol=2.0**-8, atol=1e-5)


def test_strided_inputs(on_device: OnDevice) -> None:
    values, indices = codes(4, 9, 3)
    W = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    x, weight = torch.zeros(4, 5), torch.ones(4)
    residual = on_device(decode_residual)
    want = residual(values, indices, W, x[0], x, weight, kernel="triton")
    values_t, indices_t = values.T.contiguous().T, indices.T.contiguous().T
    W_t, x_t = W.T.contiguous().T.requires_grad_(), x.T.contiguous().T
    found = residual(values_t, indices_t, W_t.detach(), x[0], x_t, weight, kernel="triton")
    for one, other in zip(found, want, strict=True):
        assert torch.equal(one, other)
    out = on_device(sparse_decode)(values_t, indices_t, W_t, kernel="triton")
    out.sum().backward()
    close(W_t.grad, dense(values, indices, 9).T @ torch.ones(4, 5).double(), 4)


def test_repeated_indices_add_up(on_device: OnDevice) -> None:
    W = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    decode = on_device(sparse_decode)
    out = decode(torch.ones(1, 3), torch.tensor([[2, 2, 2]]), W, kernel="triton")
    assert torch.allclose(out[0], 3 * W[2], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "d", "n", "k"), SHAPES)
def test_decode_residual(
    rows: int, d: int, n: int, k: int, dtype: torch.dtype, on_device: OnDevice
) -> None:
    values, indices = codes(rows, n, k)
    generator = torch.Generator().manual_seed(2)
    W, x = (torch.randn(s, d, generator=generator).to(dtype) for s in (n, rows))
    b, weight = torch.randn(d, generator=generator), torch.rand(rows, generator=generator)
    found = on_device(decode_residual)(values, indices, W, b, x, weight, kernel="triton")
    r = dense(values, indices, n) @ W.double() + b.double() - x.double()
    weighted = r * weight.double()[:, None]
    g = (weighted @ W.double().T).gather(1, indices)
    assert found.r_BD.dtype == dtype
    if dtype == torch.float32:
        close(found.r_BD, weighted, k)
    else:
        # The interpreter cuts bits off where a GPU rounds: one unit of bfloat16's 8 bits.
        assert torch.allclose(found.r_BD.double(), weighted, rtol=2.0**-7, atol=1e-5)
    close(found.g_values_BK, torch.where(values > 0, g, 0.0), d + k)
    close(found.squares_B, r.square().sum(1), d + k)
    close(found.sums_D, found.r_BD.double().sum(0), rows)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    ("rows", "d", "n", "k"), [*SHAPES, (2 * SPLIT + 31, 3, 5, 2), (2 * SPLIT + 1, 1, 3, 2)]
)
def test_sparse_outer(
    rows: int, d: int, n: int, k: int, accumulate: bool, device: torch.device
) -> None:
    values, indices = codes(rows, n, k)
    if rows > 2 * SPLIT:
        indices[:, 0], indices[:, 1] = 0, 1
        values[:, 0] += 0.1
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(rows, d, generator=generator)
    on = values.to(device), y.to(device)
    groups = group_by_latent(on[0], indices.to(device), n, kernel="triton")
    active = values > 0
    assert torch.equal(groups.counts_N.cpu(), torch.bincount(indices[active], minlength=n))
    offsets, sorted_pairs = groups.offsets_N1.tolist(), groups.pairs_P.cpu()
    for latent in range(min(n, 12)):
        pairs = sorted_pairs[offsets[latent] : offsets[latent + 1]]
        assert torch.equal(pairs, ((indices == latent) & active).view(-1).nonzero()[:, 0])
    out = torch.full((n, d), 0.5, device=device) if accumulate else None
    assert rows <= 2 * SPLIT or int(groups.counts_N.max()) > 2 * SPLIT
    found = sparse_outer(groups, *on, out_ND=out, accumulate=accumulate, kernel="triton").cpu()
    close(found, dense(values, indices, n).T @ y.double() + (0.5 if accumulate else 0), rows)


def test_one_latent_in_every_row_and_latents_that_never_fire(device: torch.device) -> None:
    rows, n = 3 * SPLIT + 7, 9
    indices = torch.full((rows, 2), 4)
    indices[:, 1] = 7
    values = torch.ones(rows, 2)
    values[1:, 1] = 0
    y = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))
    on = values.to(device), y.to(device)
    groups = group_by_latent(on[0], indices.to(device), n, kernel="triton")
    found = sparse_outer(groups, *on, kernel="triton").cpu()
    want = torch.zeros(n, 5, dtype=torch.float64)
    want[4], want[7] = y.double().sum(0), y[0].double()
    close(found, want, 64)  # random signs: the error grows as the root of the rows
    assert bool((found[[0, 1, 2, 3, 5, 6, 8]] == 0).all())


@pytest.mark.parametrize(("rows", "d"), [(1, 1), (64, 64), (131, 67)])
def test_column_sums(rows: int, d: int, on_device: OnDevice) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(rows, d, generator=generator), torch.rand(rows, generator=generator)
    sums, squares = on_device(column_sums)(x, weight, kernel="triton")
    assert sums.dtype == torch.float64
    close(sums, (weight.double()[:, None] * x.double()).sum(0), 64)
    close(squares, (weight.double()[:, None] * x.double().square()).sum(0), 64)
    plain = on_device(column_sums)(x, kernel="triton")[0]
    assert torch.allclose(plain, x.double().sum(0), atol=1e-4)


@pytest.mark.parametrize("on_sphere", [False, True])
@pytest.mark.parametrize("shape", [(1,), (37,), (11, 1), (5, 67)])
def test_adam_update(shape: tuple[int, ...], on_sphere: bool, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    start = torch.randn(shape, generator=generator)
    results = []
    for kernel, dtype, where in (
        ("triton", torch.float32, device),
        ("reference", torch.float64, torch.device("cpu")),
    ):
        param = start.clone().to(where, dtype)
        m, v = torch.zeros_like(param), torch.zeros_like(param)
        draws = torch.Generator().manual_seed(9)
        for step in range(1, 6):
            grad = torch.randn(shape, generator=draws).to(where, dtype)
            options = {"grad_scale": 0.5, "project": on_sphere, "renormalise": on_sphere}
            adam_update(param, grad, m, v, lr=0.03, step=step, kernel=kernel, **options)
        results.append(param.double().cpu())
    assert torch.allclose(*results, rtol=1e-4, atol=1e-5)


def test_wrong_inputs_are_refused_before_any_launch(device: torch.device) -> None:
    values, indices = (tensor.to(device) for tensor in codes(3, 10, 2))
    W = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)).to(device)
    with pytest.raises(KernelError, match=r"values in \[0, 10\)"):
        sparse_decode(values, indices + 9, W, kernel="triton")
    with pytest.raises(KernelError, match="indices: expected int64"):
        sparse_decode(values, indices.int(), W, kernel="triton")
    with pytest.raises(KernelError, match="W_dec: expected float32 or bfloat16"):
        sparse_decode(values, indices, W.double(), kernel="triton")
    groups = group_by_latent(values, indices, 10, kernel="triton")
    with pytest.raises(KernelError, match="coefficients: expected shape"):
        sparse_outer(groups, values, torch.zeros(4, 4, device=device), kernel="triton")
