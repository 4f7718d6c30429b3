"""The Triton encoder against the definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from isae.errors import DataError, KernelError
from isae.kernels import topk_encode
from isae.kernels.topk_encode import topk, topk_reference
from isae.kernels.triton import topk_encode as encoder
from isae.kernels.triton.settings import ENCODE_TILES
from isae.kernels.triton.topk_encode import chunk_rows, group_size

Encode = Callable[..., tuple[torch.Tensor, torch.Tensor]]
SHAPES = [
    (1, 1, 1, 1),
    (7, 5, 33, 1),
    (5, 3, 31, 31),
    (13, 17, 97, 10),
    (3, 16, 2003, 32),
    (2, 8, 3001, 200),
    (2, 6, 2500, 512),
    (5, 7, 4099, 5),
    (2, 40, 1025, 3),
]
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half of the last bit, as a part of the number."""


def operands(
    rows: int, d: int, n: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + n)
    x, W, b = (torch.randn(s, generator=generator) for s in ((rows, d), (n, d), (n,)))
    return x.to(dtype), W.to(dtype), b


def exact(x: torch.Tensor, W: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return x.double() @ W.double().T + b.double()


def compare(
    values: torch.Tensor,
    indices: torch.Tensor,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    k: int,
    relative: float,
) -> None:
    """Values of the chosen latents, and no better latent left out, up to rounding of the sums."""
    pre = exact(*inputs)
    lengths = [tensor.double().norm(dim=1).max() for tensor in inputs[:2]]
    bound = relative * (pre.abs().max() + lengths[0] * lengths[1])
    assert values.dtype == torch.float32
    picked = pre.gather(1, indices)
    assert bool(((values - picked.clamp_min(0)).abs() <= bound).all())
    assert bool((picked >= pre.topk(k, dim=1).values[:, -1:] - 2 * bound).all())
    assert all(len(set(row)) == k for row in indices.tolist())
    assert bool((values.diff(dim=1) <= 0).all())


@pytest.fixture
def encode(on_device: Callable[..., Encode]) -> Encode:
    """`topk_encode` on Triton from and to the CPU."""
    return partial(on_device(topk_encode), kernel="triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "d", "n", "k"), SHAPES)
def test_equals_float64_up_to_rounding(
    rows: int, d: int, n: int, k: int, dtype: torch.dtype, encode: Encode
) -> None:
    x, W, b = operands(rows, d, n, dtype)
    values, indices = encode(x, W, b.to(dtype), k)
    # Products of 16-bit numbers are exact in float32; what rounds, and on tensor cores is cut off,
    # are d + 1 float32 additions.
    compare(values, indices, (x, W, b.to(dtype)), k, 2 * (d + 2) * 2.0**-24)


def test_tf32_products_round_the_operands_only(encode: Encode) -> None:
    torch.set_float32_matmul_precision("high")
    x, W, b = operands(13, 67, 301)
    values, indices = encode(x, W, b, 10)
    # tf32 keeps 10 bits behind the point of each operand: at most 2^-10 is cut off either.
    compare(values, indices, (x, W, b), 10, 2.1 * 2.0**-10)


@pytest.mark.parametrize(
    ("n", "k"),
    [(31, 4), (64, 2), (257, 3), (1000, 1), (96, 96), (1500, 40), (2050, 7), (5000, 100)],
)
def test_ties_go_to_the_lowest_index(n: int, k: int, on_device: Callable[..., Encode]) -> None:
    pre = torch.from_numpy(np.random.default_rng(n).integers(-2, 3, (5, n))).float()
    pre[pre == 0] *= -1  # -0 and +0 are equal
    values, indices = on_device(topk)(pre, k, "triton")
    want_values, want_indices = topk_reference(pre.double(), k)
    assert torch.equal(indices, want_indices)
    assert torch.equal(values.double(), want_values)


def test_integers_are_exact_through_the_product(encode: Encode) -> None:
    generator = np.random.default_rng(0)
    x, W = (torch.from_numpy(generator.integers(-2, 3, s)).float() for s in ((9, 5), (2047, 5)))
    b = torch.from_numpy(generator.integers(-1, 2, 2047)).float()
    values, indices = encode(x, W, b, 20)
    want_values, want_indices = topk_reference(exact(x, W, b), 20)
    assert torch.equal(indices, want_indices)
    assert torch.equal(values.double(), want_values)


def test_all_negative_rows_give_zeros_at_the_lowest_of_equals(encode: Encode) -> None:
    x, W = torch.ones(3, 2), torch.zeros(2000, 2)
    values, indices = encode(x, W, torch.full((2000,), -1.5), 9)
    assert bool((values == 0).all())
    assert torch.equal(indices, torch.arange(9).expand(3, 9))


def test_strided_inputs(encode: Encode, device: torch.device) -> None:
    x, W, b = operands(6, 10, 1200)
    values, indices = encode(x, W, b, 4)
    wide_x, wide_b = torch.full((6, 13), torch.nan), torch.full((1200, 2), torch.nan)
    wide_x[:, :10], wide_b[:, 0] = x, b
    wide = (wide_x.to(device)[:, :10], W.T.contiguous().to(device).T, wide_b.to(device)[:, 0])
    strided = topk_encode(*wide, 4, kernel="triton")
    # A GPU may read rows that lie otherwise in other pieces, and so add in another order.
    assert torch.allclose(strided[0].cpu(), values, rtol=2.0**-22, atol=2.0**-22)
    assert torch.equal(strided[1].cpu(), indices)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("rows", "d", "n", "k"), [(9, 5, 33, 3), (4, 6, 61, 5), (4, 3, 7, 7)])
def test_gradients_equal_autograd_in_float64(
    rows: int, d: int, n: int, k: int, dtype: torch.dtype, encode: Encode
) -> None:
    ours = [t.to(dtype).requires_grad_() for t in operands(rows, d, n)]
    values, indices = encode(*ours, k)
    weights = torch.linspace(-1, 2, rows * k).view(rows, k)
    (values * weights).sum().backward()
    wanted = [t.detach().double().requires_grad_() for t in ours]
    x, W, b = wanted
    ((x @ W.T + b).gather(1, indices).relu() * weights).sum().backward()
    for tensor, want in zip(ours, wanted, strict=True):
        assert tensor.grad.dtype == dtype
        # Sums of at most max(k, rows) float32 products, rounded to the operand's type once.
        summing = 4 * max(k, rows) * 2.0**-24 * (want.grad.abs().max() + 1)
        off = (tensor.grad.double() - want.grad).abs()
        assert bool((off <= summing + ROUNDING[dtype] * want.grad.abs()).all())


def test_several_chunks_are_the_rows_one_by_one(encode: Encode) -> None:
    x, W, b = operands(130, 4, 40)
    values, indices = encode(x, W, b, 3)
    want_values, want_indices = topk_reference(exact(x, W, b), 3)
    assert torch.equal(indices, want_indices)
    assert torch.allclose(values.double(), want_values, atol=1e-5)


@pytest.mark.parametrize(("n", "k"), [(1100, 3), (1025, 200)])
def test_several_chunks_of_rows_with_blocks(
    n: int, k: int, monkeypatch: pytest.MonkeyPatch, encode: Encode
) -> None:
    # Integers are exact and full of ties; the last chunk is shorter than the others.
    assert group_size(n, k) > 1
    monkeypatch.setattr(encoder, "chunk_rows", lambda rows, padded, tile: 2)
    generator = np.random.default_rng(k)
    x, W = (torch.from_numpy(generator.integers(-3, 4, s)).float() for s in ((5, 4), (n, 4)))
    b = torch.from_numpy(generator.integers(-2, 3, n)).float()
    values, indices = encode(x, W, b, k)
    want_values, want_indices = topk_reference(exact(x, W, b), k)
    assert torch.equal(indices, want_indices)
    assert torch.equal(values.double(), want_values)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_numbers_raise(bad: float, encode: Encode) -> None:
    x, W, b = operands(3, 4, 50)
    x[1, 2] = bad
    with pytest.raises(DataError, match="x: expected finite"):
        encode(x, W, b, 3)
    big = torch.full((3, 4), 3e38)
    with pytest.raises(DataError, match="pre-activations"), np.errstate(all="ignore"):
        encode(big, torch.where(W > 0, 3.0, -3.0), b, 3)


@pytest.mark.parametrize("workload", [(8192, 8192, 32), (16384, 65536, 64), (8192, 1 << 20, 64)])
def test_memory_beyond_the_outputs_is_bounded(workload: tuple[int, int, int]) -> None:
    rows, n, k = workload
    group = group_size(n, k)
    padded = -(-n // group) * group
    for tile in ENCODE_TILES.values():
        chunk = chunk_rows(rows, padded, tile)
        extra = 4 * chunk * (padded + padded // group)
        assert extra + 12 * rows * k <= rows * n * 4 / 16


def test_memory_beyond_the_inputs_on_a_gpu(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("needs a GPU, where allocations are counted")
    rows, d, n, k = 8192, 512, 8192, 32
    x, W, b = (tensor.to(device) for tensor in operands(rows, d, n, torch.bfloat16))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = topk_encode(x, W, b, k, kernel="triton")
    assert found[0].shape == (rows, k)
    assert torch.cuda.max_memory_allocated() - before <= rows * n * 4 / 16


def test_no_rows(encode: Encode) -> None:
    values, indices = topk_encode(torch.ones(0, 3), torch.ones(5, 3), torch.ones(5), 2)
    ours = encode(torch.ones(0, 3), torch.ones(5, 3), torch.ones(5), 2)
    assert ours[0].shape == values.shape == (0, 2)
    assert ours[1].shape == indices.shape


def test_too_many_latents_or_active_ones_are_refused(encode: Encode) -> None:
    with pytest.raises(KernelError, match="k of at most 4,096"):
        encode(torch.ones(1, 1), torch.ones(5000, 1), torch.ones(5000), 4097)


def test_wrong_inputs_are_refused_before_any_launch(encode: Encode) -> None:
    x, W, b = operands(3, 4, 50)
    for arguments, text in (
        ((x.double(), W, b, 3), "x: expected float32"),
        ((x, W[:, :3], b, 3), "W_enc: expected shape"),
        ((x, W.half(), b, 3), "W_enc: expected dtype"),
        ((x, W, b[:4], 3), "b_enc: expected shape"),
        ((x, W, b, 0), "k: expected 1 <= k <= 50"),
        ((x, W, b, 51), "k: expected 1 <= k <= 50"),
    ):
        with pytest.raises(KernelError, match=text):
            encode(*arguments)
