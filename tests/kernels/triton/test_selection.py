"""The exact selection where a row is longer than what one program holds: piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isae.kernels.topk_encode import topk, topk_encode, topk_reference
from isae.kernels.triton import selection
from isae.kernels.triton.selection import block_maxima, group_size

SIZES = [
    (1031, 1),  # prime; one block chosen, held whole
    (1100, 300),  # no blocks: the row itself in pieces
    (4099, 65),  # blocks and candidates in pieces
    (2311, 512),
]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(selection, "SELECT_ITEMS", 256)
    monkeypatch.setattr(selection, "SORT_ITEMS", 1 << 16)
    return 256


def equal_to_the_definition(pre: torch.Tensor, k: int, device: torch.device) -> None:
    values, indices = (tensor.cpu() for tensor in topk(pre.to(device), k, "triton"))
    pre = pre.cpu()
    want_values, want_indices = topk_reference(pre.double() + 0.0, k)
    assert torch.equal(indices, want_indices)
    assert torch.equal(values.double(), want_values)


@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_equal_the_definition(
    n: int, k: int, dtype: torch.dtype, small_pieces: int, device: torch.device
) -> None:
    assert n > small_pieces
    # In bfloat16 many numbers are equal; they straddle the pieces.
    pre = torch.randn(2, n, generator=torch.Generator().manual_seed(n)).to(dtype)
    equal_to_the_definition(pre, k, device)


def test_equal_numbers_across_pieces(small_pieces: int, device: torch.device) -> None:
    rows = [
        np.zeros(1500),
        np.full(1500, -3.0),
        np.where(np.arange(1500) % 2 == 0, 0.0, -0.0),
        np.repeat([1.0, 2.0, 2.0], 500),
        np.where(np.arange(1500) == 1499, 1.0, -np.inf),
        np.random.default_rng(0).integers(-1, 2, 1500),
    ]
    equal_to_the_definition(torch.from_numpy(np.stack(rows)).float(), 40, device)


def test_rows_that_are_long_apart_keep_their_own_bounds(
    small_pieces: int, device: torch.device
) -> None:
    scale = torch.tensor([1e-38, 1e-3, 1.0, 1e5, 1e38])[:, None]
    pre = torch.randn(5, 1300, generator=torch.Generator().manual_seed(1)) * scale
    equal_to_the_definition(pre.clamp(-3e38, 3e38), 17, device)


def test_a_strided_matrix_is_read_where_it_lies(device: torch.device) -> None:
    wide = torch.full((3, 1400), torch.nan)
    wide[:, :1301] = torch.randn(3, 1301, generator=torch.Generator().manual_seed(2))
    wide = wide.to(device)
    before = wide.clone()
    equal_to_the_definition(wide[:, :1301], 9, device)
    assert torch.equal(wide.nan_to_num(7.0), before.nan_to_num(7.0))


def test_nan_is_selected_and_seen_as_infinity(device: torch.device) -> None:
    pre = torch.randn(2, 1200, generator=torch.Generator().manual_seed(3))
    pre[1, 1100] = -torch.nan
    values, indices = topk(pre.to(device), 4, "triton")
    assert values[1, 0] == torch.inf
    assert indices[1, 0] == 1100
    assert bool(values[0].isfinite().all())


@pytest.mark.parametrize(("n", "group"), [(1, 4), (63, 8), (64, 8), (1025, 32), (4100, 4)])
def test_block_maxima(n: int, group: int, device: torch.device) -> None:
    pre = torch.randn(3, n, generator=torch.Generator().manual_seed(n))
    padded = torch.nn.functional.pad(pre, (0, -n % group), value=-torch.inf)
    want = padded.view(3, -1, group).amax(2)
    assert torch.equal(block_maxima(pre.to(device), group).cpu(), want)


@pytest.mark.parametrize("n", [1025, 5000, 65536, 1 << 20, 1 << 22])
@pytest.mark.parametrize("k", [1, 7, 64, 512, 4096])
def test_there_are_at_least_k_blocks(n: int, k: int) -> None:
    group = group_size(n, k)
    assert group in (1, 4, 8, 16, 32, 64, 128)
    assert group == 1 or -(-n // group) >= k


@pytest.mark.parametrize("d", [1, 3, 20, 24, 32])
@pytest.mark.parametrize("offset", [0, 1])
def test_rows_of_any_length_and_start(d: int, offset: int, device: torch.device) -> None:
    """Rows of odd length, and such that begin between two 16-byte words."""
    generator = torch.Generator().manual_seed(d)
    numbers = torch.randint(-3, 4, (90 * d + 1,), generator=generator).float().to(device)
    x = numbers[offset : offset + 20 * d].view(20, d)
    W = numbers[offset + 20 * d : offset + 90 * d].view(70, d)
    values, indices = topk_encode(x, W, torch.zeros(70, device=device), 5, kernel="triton")
    want_values, want_indices = topk_reference(x.double().cpu() @ W.double().cpu().T, 5)
    assert torch.equal(indices.cpu(), want_indices)
    assert torch.equal(values.double().cpu(), want_values)
