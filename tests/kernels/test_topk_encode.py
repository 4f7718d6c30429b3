from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from isae.errors import DataError, KernelError
from isae.kernels import topk_encode
from isae.kernels.topk_encode import CHUNK_BYTES, topk_cpu

SHAPES = [
    (1, 1, 1, 1),
    (7, 5, 33, 1),
    (5, 3, 31, 31),
    (13, 17, 97, 10),
    (64, 16, 2003, 32),
    (33, 8, 1000, 200),
    (3, 6, 1024, 513),
    (17, 7, 4099, 5),
]
KERNELS = ("reference", "cpu")


def numpy_topk(pre_BN: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Python's stable sort on (-value, index): the definition, written a second time."""
    indices = [sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:k] for row in pre_BN]
    values = np.take_along_axis(pre_BN, np.array(indices), 1)
    return np.maximum(values, 0), np.array(indices)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "d", "n", "k"), SHAPES)
def test_equals_the_definition_in_float64(rows: int, d: int, n: int, k: int, kernel: str) -> None:
    generator = torch.Generator().manual_seed(rows + n)
    x, W, b = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((rows, d), (n, d), (n,))
    )
    values, indices = topk_encode(x, W, b, k, kernel=kernel)
    want_values, want_indices = numpy_topk((x @ W.T + b).numpy(), k)
    assert np.array_equal(indices.numpy(), want_indices)
    # The order of the d additions may differ between the two products.
    np.testing.assert_allclose(values.numpy(), want_values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_values_are_close_and_the_choice_is_right_up_to_rounding(kernel: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, W = (torch.randn(s, generator=generator) for s in ((301, 67), (1009, 67)))
    b = torch.randn(1009, generator=generator)
    values, indices = topk_encode(x, W, b, 16, kernel=kernel)
    exact = x.double() @ W.double().T + b
    # Rounding of 67 products of size about 1: at most 67 eps ||x|| ||w|| with eps = 6e-8.
    bound = 67 * 6e-8 * float(x.norm(dim=1).max() * W.norm(dim=1).max())
    assert torch.allclose(
        values.double(), exact.gather(1, indices).clamp_min(0), atol=bound, rtol=0
    )
    kth = exact.topk(16, dim=1).values[:, -1:]
    assert bool((exact.gather(1, indices) >= kth - 2 * bound).all())


@pytest.mark.parametrize(("n", "k"), [(31, 4), (64, 2), (257, 3), (1000, 1), (96, 96), (300, 140)])
def test_ties_go_to_the_lowest_index(n: int, k: int) -> None:
    pre = torch.from_numpy(np.random.default_rng(n).integers(-2, 3, (40, n))).float()
    values, indices = topk_cpu(pre.clone(), k)
    want_values, want_indices = numpy_topk(pre.numpy(), k)
    assert np.array_equal(indices.numpy(), want_indices)
    assert np.array_equal(values.numpy(), want_values)


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_equal_and_all_negative_rows(kernel: str) -> None:
    x, W = torch.ones(3, 2), torch.zeros(2000, 2)
    values, indices = topk_encode(x, W, torch.full((2000,), -1.5), 9, kernel=kernel)
    assert bool((values == 0).all())
    assert torch.equal(indices, torch.arange(9).expand(3, 9))


@pytest.mark.parametrize("scale", [1e-38, 1e-3, 1e30])
def test_extreme_ranges_are_searched_exactly(scale: float) -> None:
    pre = torch.randn(20, 2048, generator=torch.Generator().manual_seed(1)) * scale
    pre[:, 77] = 3e38
    values, indices = topk_cpu(pre.clone(), 11)
    want_values, want_indices = numpy_topk(pre.numpy(), 11)
    assert np.array_equal(indices.numpy(), want_indices)
    assert np.array_equal(values.numpy(), want_values)


def test_rows_of_several_chunks_agree_with_rows_one_by_one() -> None:
    n = 4096
    rows = 2 * CHUNK_BYTES // (4 * n) + 3
    generator = torch.Generator().manual_seed(5)
    x, W = torch.randn(rows, 8, generator=generator), torch.randn(n, 8, generator=generator)
    values, indices = topk_encode(x, W, torch.zeros(n), 4, kernel="cpu")
    reference = topk_encode(x, W, torch.zeros(n), 4, kernel="reference")
    # The same eight products, possibly added in another order.
    assert torch.allclose(values, reference[0], rtol=1e-5, atol=1e-5)
    assert float((indices == reference[1]).double().mean()) > 0.999


@pytest.mark.parametrize("kernel", KERNELS)
def test_non_contiguous_inputs(kernel: str) -> None:
    x, W = torch.randn(5, 20, dtype=torch.float64), torch.randn(11, 60, dtype=torch.float64)
    b = torch.randn(60, 2, dtype=torch.float64)[:, 0]
    result = topk_encode(x.T[:, ::2], W.T[:, 1::4], b, 3, kernel=kernel)
    want = numpy_topk((x.T[:, ::2] @ W.T[:, 1::4].T + b).numpy(), 3)
    assert np.array_equal(result[1].numpy(), want[1])
    np.testing.assert_allclose(result[0].numpy(), want[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_rows(kernel: str) -> None:
    values, indices = topk_encode(
        torch.zeros(0, 3), torch.zeros(5, 3), torch.zeros(5), 2, kernel=kernel
    )
    assert values.shape == indices.shape == (0, 2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_equal_dense_autograd(kernel: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x, W, b, g = (
        torch.randn(s, generator=generator, dtype=torch.float64)
        for s in ((13, 7), (37, 7), (37,), (13, 5))
    )
    b[4] = 100.0  # active in every row
    b[9] = -100.0  # never active
    leaves = [tensor.clone().requires_grad_() for tensor in (x, W, b)]
    values, indices = topk_encode(*leaves, 5, kernel=kernel)
    (values * g).sum().backward()
    dense = [tensor.clone().requires_grad_() for tensor in (x, W, b)]
    pre = dense[0] @ dense[1].T + dense[2]
    (pre.gather(1, indices).relu() * g).sum().backward()
    for ours, theirs in zip(leaves, dense, strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda *t: topk_encode(*t, 5, kernel=kernel)[0],
        [t.detach().requires_grad_() for t in leaves],
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_not_finite_raises(bad: float, which: int, kernel: str) -> None:
    tensors = [torch.ones(4, 3), torch.ones(6, 3), torch.ones(6)]
    tensors[which].view(-1)[2] = bad
    with pytest.raises(DataError, match="finite"):
        topk_encode(*tensors, 2, kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_overflow_raises_and_large_finite_numbers_pass(kernel: str) -> None:
    big = torch.full((4, 3), 3e38)
    with pytest.raises(DataError, match="pre-activations"):
        topk_encode(big, torch.ones(6, 3), torch.ones(6), 2, kernel=kernel)
    values, _ = topk_encode(big, torch.full((6, 3), 1e-38), torch.ones(6), 2, kernel=kernel)
    assert bool(torch.isfinite(values).all())


def test_bad_arguments_are_named() -> None:
    x, W, b = torch.ones(4, 3), torch.ones(6, 3), torch.ones(6)
    for k in (0, 7, -1):
        with pytest.raises(KernelError, match="k: expected 1 <= k <= 6"):
            topk_encode(x, W, b, k)
    with pytest.raises(KernelError, match=r"W_enc: expected shape \[any, 3\]"):
        topk_encode(x, W.T, b, 2)
    with pytest.raises(KernelError, match=r"b_enc: expected shape \[6\]"):
        topk_encode(x, W, b[:5], 2)
    with pytest.raises(KernelError, match=r"expected dtype torch\.float32"):
        topk_encode(x, W.double(), b, 2)
    with pytest.raises(KernelError, match="expected float32 or float64, found"):
        topk_encode(x.long(), W, b, 2)
    with pytest.raises(KernelError, match="W_enc: expected device cpu, found meta"):
        topk_encode(x, W.to("meta"), b, 2)
    with pytest.raises(KernelError, match="unknown kernel 'cuda': expected one of auto"):
        topk_encode(x, W, b, 2, kernel="cuda")
    with pytest.raises(KernelError, match="kernel 'cpu' expects tensors on the CPU"):
        topk_encode(x.to("meta"), W, b, 2, kernel="cpu")


def test_auto_is_the_compiled_path_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(2)
    x, W = torch.randn(50, 9, generator=generator), torch.randn(600, 9, generator=generator)
    both = [topk_encode(x, W, torch.zeros(600), 7, kernel=name) for name in ("auto", "cpu")]
    assert torch.equal(both[0][0], both[1][0])
    assert torch.equal(both[0][1], both[1][1])
