"""Sparse decode, its residual form, grouped weight gradients, column sums."""

from __future__ import annotations

import importlib

import pytest
import torch

from isae.errors import KernelError
from isae.kernels import (
    column_sums,
    decode_residual,
    group_by_latent,
    sparse_decode,
    sparse_outer,
)

SHAPES = [(1, 1, 1, 1), (7, 5, 33, 1), (5, 3, 6, 6), (61, 67, 101, 9), (30, 130, 1009, 13)]
KERNELS = ("reference", "cpu")


def codes(rows: int, n: int, k: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * n + k)
    values = torch.randn(rows, k, generator=generator, dtype=dtype).relu()
    indices = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(rows)])
    return [values, indices]


def dense(values: torch.Tensor, indices: torch.Tensor, n: int) -> torch.Tensor:
    z = torch.zeros(values.shape[0], n, dtype=values.dtype)
    for row in range(values.shape[0]):
        for slot in range(values.shape[1]):
            z[row, indices[row, slot]] += values[row, slot]
    return z


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "d", "n", "k"), SHAPES)
def test_decode_and_gradients(rows: int, d: int, n: int, k: int, kernel: str) -> None:
    values, indices = codes(rows, n, k)
    W, b = torch.randn(n, d, dtype=torch.float64), torch.randn(d, dtype=torch.float64)
    x_hat = sparse_decode(values, indices, W, b, kernel=kernel)
    assert torch.allclose(x_hat, dense(values, indices, n) @ W + b, rtol=1e-12, atol=1e-12)
    leaves = [tensor.clone().requires_grad_() for tensor in (values, W, b)]
    g = torch.randn(rows, d, dtype=torch.float64)
    (sparse_decode(leaves[0], indices, leaves[1], leaves[2], kernel=kernel) * g).sum().backward()
    assert torch.allclose(leaves[0].grad, (g @ W.T).gather(1, indices), rtol=1e-11, atol=1e-11)
    assert torch.allclose(leaves[1].grad, dense(values, indices, n).T @ g, rtol=1e-11, atol=1e-11)
    assert torch.allclose(leaves[2].grad, g.sum(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_decode_gradcheck_with_repeated_indices(kernel: str) -> None:
    indices = torch.tensor([[0, 0, 2], [4, 2, 4]])
    leaves = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3), (5, 4), (4,))
    ]
    assert torch.autograd.gradcheck(
        lambda v, W, b: sparse_decode(v, indices, W, b, kernel=kernel), leaves
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "d", "n", "k"), SHAPES)
def test_residual_and_value_gradients(rows: int, d: int, n: int, k: int, kernel: str) -> None:
    values, indices = codes(rows, n, k)
    W, b, x, weight = (
        torch.randn(s, dtype=torch.float64) for s in ((n, d), (d,), (rows, d), (rows,))
    )
    leaf = values.clone().requires_grad_()
    error = sparse_decode(leaf, indices, W, b, kernel="reference") - x
    (0.5 * (weight * error.square().sum(1)).sum()).backward()
    result = decode_residual(values, indices, W, b, x, weight, kernel=kernel)
    error = error.detach()
    assert torch.allclose(result.r_BD, weight[:, None] * error, rtol=1e-12, atol=1e-12)
    assert torch.allclose(result.squares_B, error.square().sum(1), rtol=1e-12)
    assert torch.allclose(result.sums_D, (weight[:, None] * error).sum(0), rtol=1e-12, atol=1e-11)
    assert torch.allclose(
        result.g_values_BK, torch.where(values > 0, leaf.grad, 0.0), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_groups_are_ordered_and_leave_out_zeros(kernel: str) -> None:
    values, indices = codes(50, 19, 4)
    groups = group_by_latent(values, indices, 19, kernel=kernel)
    for latent in range(19):
        want = ((indices == latent) & (values != 0)).view(-1).nonzero()[:, 0]
        start, stop = groups.offsets_N1[latent], groups.offsets_N1[latent + 1]
        assert torch.equal(groups.pairs_P[start:stop], want)
    assert int(groups.counts_N.sum()) == int((values != 0).sum())


def test_many_pairs_are_counted_in_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("isae.kernels.sparse_outer"), "MOST_INT32", 199)
    test_groups_are_ordered_and_leave_out_zeros("cpu")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize(("rows", "d", "n", "k"), SHAPES)
def test_outer_overwrites_or_adds(
    rows: int, d: int, n: int, k: int, always: bool, kernel: str
) -> None:
    values, indices = codes(rows, n, k)
    if always:  # one latent in every row, the others shifted away from it
        indices[:, 0] = 0
        indices[:, 1:] = torch.where(indices[:, 1:] == 0, n - 1, indices[:, 1:])
        values[:, 0] = 2.0
    y, other = torch.randn(rows, d, dtype=torch.float64), torch.randn(rows, k, dtype=torch.float64)
    groups = group_by_latent(values, indices, n, kernel=kernel)
    out = torch.full((n, d), float("nan"), dtype=torch.float64)
    sparse_outer(groups, values, y, out_ND=out, kernel=kernel)
    want = dense(values, indices, n).T @ y
    assert torch.allclose(out, want, rtol=1e-11, atol=1e-11)
    sparse_outer(groups, other, y, out_ND=out, accumulate=True, kernel=kernel)
    want = want + dense(torch.where(values != 0, other, 0.0), indices, n).T @ y
    assert torch.allclose(out, want, rtol=1e-11, atol=1e-11)


def test_float32_is_within_rounding_of_float64() -> None:
    values, indices = codes(200, 301, 16, torch.float32)
    W, b, x = torch.randn(301, 65), torch.randn(65), torch.randn(200, 65)
    ours = sparse_decode(values, indices, W, b, kernel="cpu")
    exact = sparse_decode(values.double(), indices, W.double(), b.double(), kernel="reference")
    # 17 terms of size at most about 12 each, float32 eps 6e-8.
    assert float((ours - exact).abs().max()) < 17 * 12 * 6e-8
    groups = group_by_latent(values, indices, 301, kernel="cpu")
    total = sparse_outer(groups, values, x, kernel="cpu")
    want = dense(values.double(), indices, 301).T @ x.double()
    assert float((total - want).abs().max()) < 50 * 12 * 6e-8


def test_the_same_bits_on_one_and_two_threads(two_threads: None) -> None:
    values, indices = codes(400, 257, 8, torch.float32)
    W, b, x = torch.randn(257, 33), torch.randn(33), torch.randn(400, 33)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        groups = group_by_latent(values, indices, 257, kernel="cpu")
        residual = decode_residual(values, indices, W, b, x, torch.ones(400), kernel="cpu")
        outer = sparse_outer(groups, values, residual.r_BD, kernel="cpu")
        results.append([*residual, outer, *column_sums(x, kernel="cpu")])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kernel", KERNELS)
def test_column_sums(kernel: str) -> None:
    x, weight = torch.randn(77, 131), torch.rand(77)
    sums, squares = column_sums(x, kernel=kernel)
    assert torch.allclose(sums, x.double().sum(0), rtol=1e-13, atol=1e-11)
    assert torch.allclose(squares, x.double().square().sum(0), rtol=1e-13)
    sums, squares = column_sums(x.T.contiguous().T, weight, kernel=kernel)
    assert torch.allclose(sums, weight.double() @ x.double(), rtol=1e-12, atol=1e-12)
    assert torch.allclose(squares, weight.double() @ x.double().square(), rtol=1e-12)


def test_bad_arguments_are_named() -> None:
    values, indices, W = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.int64), torch.ones(5, 4)
    for wrong in (5, -1):
        with pytest.raises(KernelError, match=r"indices: expected values in \[0, 5\)"):
            sparse_decode(values, indices + wrong, W)
    with pytest.raises(KernelError, match="indices: expected int64"):
        sparse_decode(values, indices.int(), W)
    with pytest.raises(KernelError, match=r"indices: expected shape \[2, 3\]"):
        sparse_decode(values, indices[:, :2], W)
    with pytest.raises(KernelError, match=r"b_dec: expected shape \[4\]"):
        sparse_decode(values, indices, W, torch.ones(5))
    groups = group_by_latent(values, indices, 5)
    with pytest.raises(KernelError, match="out: expected a contiguous"):
        sparse_outer(groups, values, torch.ones(2, 4), out_ND=torch.ones(4, 5).T)
    with pytest.raises(KernelError, match=r"coefficients: expected shape \[3, 3\]"):
        sparse_outer(groups, values, torch.ones(3, 4))
    with pytest.raises(KernelError, match="groups: expected 3 rows"):
        sparse_outer(groups, torch.ones(3, 3), torch.ones(3, 4))
