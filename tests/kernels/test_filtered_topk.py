"""The 8-bit filter of the compiled top-k: its bounds hold, and what it chooses is exact."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.errors import DataError
from isae.kernels import topk_encode
from isae.kernels.cpu import filtered_topk as module
from isae.kernels.cpu.filtered_topk import can_filter, filtered_topk
from isae.kernels.cpu.int8_tile import PANEL, has_int8_tile
from isae.kernels.cpu.rounding import pack_and_round, slack_of
from isae.kernels.topk_encode import encode_in_chunks

pytestmark = pytest.mark.skipif(
    not has_int8_tile(), reason="needs a processor with AVX-512 VNNI; others take the float path"
)


Array = npt.NDArray[np.float32]


def problem(
    rows: int, d: int, n: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, d, generator=generator).relu() - 0.3
    W = torch.randn(n, d, generator=generator) / d**0.5
    return x, W, 0.1 * torch.randn(n, generator=generator)


def check_exact(x: torch.Tensor, W: torch.Tensor, b: torch.Tensor, k: int) -> None:
    """The k largest within what float32 dot products may differ from the truth."""
    found = filtered_topk(x, W, b, k)
    assert found is not None
    values, indices = found
    pre = x.double() @ W.double().T + b.double()
    # A float32 sum of d products errs by less than d 2^-24 of the sum of their sizes; the bias
    # and the last rounding add one more each.
    error = (x.shape[1] + 2) * 2.0**-24 * (x.abs().double() @ W.abs().double().T + b.abs().double())
    error += x.shape[1] * 2.0**-149  # products may fall among the denormal numbers
    chosen, slack = pre.gather(1, indices), error.gather(1, indices)
    assert bool(((values.double() - chosen.clamp_min(0)).abs() <= slack).all())
    others = (pre - error).scatter(1, indices, -torch.inf).amax(1)
    assert bool(((chosen + slack).amin(1) >= others).all())
    assert bool((values.diff(dim=1) <= 0).all())
    assert all(len(set(row)) == k for row in indices.tolist())
    assert int(indices.min()) >= 0
    assert int(indices.max()) < len(W)


SIZES = [
    (128, 32, 1024, 1),
    (131, 37, 1031, 16),
    (203, 67, 2111, 32),
    (150, 508, 4099, 32),
    (129, 256, 8192, 128),
    (128, 33, 9700, 150),
]


@pytest.mark.parametrize(("rows", "d", "n", "k"), SIZES)
def test_it_is_the_top_k_of_the_float32_products(rows: int, d: int, n: int, k: int) -> None:
    x, W, b = problem(rows, d, n)
    assert can_filter(x, n, k)
    check_exact(x, W, b, k)


def test_hard_rows_and_latents() -> None:
    x, W, b = problem(160, 61, 2048, seed=3)
    x[0] = 0
    x[1] = 2.5
    x[2] *= 1e-25
    x[3] *= 1e12
    x[4, 7] = 1e6  # all other channels round to nearly nothing
    x[5] = -x[5].abs()
    x[6] = 1e-40
    x[7, 0], x[7, 1] = -3e4, 3e4
    W[0] = 0
    W[1] *= 1e-30
    W[2] *= 1e6
    W[3, 5] = 1e5
    W[4] = 1e-42
    b[5], b[6] = 50.0, -50.0
    check_exact(x, W, b, 16)
    check_exact(x, W, torch.zeros_like(b), 32)


def test_rows_without_positive_values_give_zeros() -> None:
    x, W, b = problem(140, 48, 1500)
    values, indices = topk_encode(x, W, b - 1e3, 8, kernel="cpu")
    assert not values.any()
    pre = x.double() @ W.double().T + b.double()
    gap = pre.sort(1, descending=True).values
    clear = (gap[:, :8] - gap[:, 1:9]).amin(1) > 1e-3
    assert bool(clear.any())
    assert torch.equal(indices[clear], pre.topk(8, 1).indices[clear])


def test_ties_go_to_the_lowest_index() -> None:
    x, W, b = problem(150, 40, 1024)
    W, b = W.repeat(4, 1), b.repeat(4)
    values, indices = topk_encode(x, W, b, 30, kernel="cpu")
    # Equal weights give equal products wherever they stand, so copies come in groups of four.
    for row_values, row in zip(values.tolist(), indices.tolist(), strict=True):
        for j in range(0, 28, 4):
            assert len(set(row_values[j : j + 4])) == 1
            assert [latent - row[j] for latent in row[j : j + 4]] == [0, 1024, 2048, 3072]
        assert row[29] - row[28] == 1024


def assert_bounds_hold(x: Array, w: Array, b: Array) -> None:
    """Every pre-activation lies where the 8-bit sums and the measured norms say."""
    (rows, d), n = x.shape, len(w)
    slack = slack_of(d)
    packed, rounded = pack_and_round(w, b, x)
    scale, shift, bias, error, norm = packed.numbers_5N[:, :n].astype(np.float64)
    step, low, x_norm, x_error = rounded.numbers_B4[:rows].astype(np.float64).T
    p = packed.weights.reshape(-1, packed.weights.shape[1], PANEL, 4).transpose(0, 2, 1, 3)
    p = p.reshape(-1, packed.weights.shape[1] * 4)[:n, :d].astype(np.float64)
    q = rounded.rows[:rows, :d].astype(np.float64)
    approximate = step[:, None] * scale * (q @ p.T) + low[:, None] * shift + bias
    width = x_norm[:, None] * error + x_error[:, None] * norm + slack * np.abs(b).max()
    exact = x.astype(np.float64) @ w.astype(np.float64).T + b
    assert (np.abs(exact - approximate) <= width).all()


@settings(max_examples=25, deadline=None)
@given(
    d=st.integers(32, 90),
    n=st.integers(1024, 1400),
    seed=st.integers(0, 10**6),
    spread=st.floats(0, 4),
    offset=st.sampled_from([0.0, 1.0, 1e3, 1e6]),
)
def test_the_bounds_hold(d: int, n: int, seed: int, spread: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    # Sizes over many orders of magnitude: 8 bits are then coarse, and the bounds must say so.
    x = (rng.normal(size=(130, d)) * np.exp(spread * rng.normal(size=(130, d)))).astype(np.float32)
    # An offset leaves few bits for what varies within a row.
    x[::2] += np.float32(offset)
    w = (rng.normal(size=(n, d)) * np.exp(spread * rng.normal(size=(n, d)))).astype(np.float32)
    b = rng.normal(size=n).astype(np.float32)
    assert_bounds_hold(x, w, b)
    check_exact(*(torch.from_numpy(array) for array in (x, w, b)), 7)


def test_rows_that_hardly_vary_round_within_a_byte() -> None:
    # Ranges of some hundred roundings of the offset: the step itself is rounded then, and without
    # care the largest number becomes 256 steps.
    rng = np.random.default_rng(0)
    x = np.repeat(rng.uniform(1, 2, (5000, 1)).astype(np.float32), 32, 1)
    x[np.arange(5000), rng.integers(0, 32, 5000)] -= rng.integers(200, 1500, 5000) * 2.0**-23
    # Equal weights round exactly, and the errors of a row's channels add up.
    w = np.repeat(2.0 ** rng.integers(-3, 3, (1024, 1)), 32, 1).astype(np.float32)
    assert_bounds_hold(x, w, np.zeros(1024, np.float32))


def test_the_filter_computes_few_latents() -> None:
    # What makes it worth its while: the bounds leave a small part of 4,096 latents.
    x, W, b = problem(128, 256, 4096)
    packed, rounded = pack_and_round(W.numpy(), b.numpy(), x.numpy())
    width = np.outer(rounded.numbers_B4[:128, 2], packed.numbers_5N[3])
    width += np.outer(rounded.numbers_B4[:128, 3], packed.numbers_5N[4])
    pre = (x @ W.T + b).numpy()
    reached = pre + width >= np.sort(pre, 1)[:, [-32]]
    assert reached.sum(1).mean() < 150


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", ["x", "W", "b"])
def test_numbers_that_are_not_finite_are_told(bad: float, place: str) -> None:
    x, W, b = problem(140, 40, 1100)
    {"x": x[3], "W": W[1000], "b": b}[place][17] = bad
    assert filtered_topk(x, W, b, 4) is None
    with pytest.raises(DataError, match=place):
        topk_encode(x, W, b, 4, kernel="cpu")


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_the_same_bits_on_one_and_two_threads() -> None:
    x, W, b = problem(777, 96, 2048)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(filtered_topk(x, W, b, 20))
    one, two = results
    assert one is not None
    assert two is not None
    assert all(torch.equal(a, c) for a, c in zip(one, two, strict=True))


def test_too_large_numbers_go_the_plain_way_and_overflow_is_told() -> None:
    x, W, b = problem(128, 40, 1024)
    assert filtered_topk(x * 1e20, W * 1e18, b, 4) is None
    with pytest.raises(DataError, match="pre-activations"):
        topk_encode(x * 1e20, W * 1e20, b, 4, kernel="cpu")


def test_without_the_instruction_the_float_path_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    x, W, b = problem(200, 64, 2048)
    ours = topk_encode(x, W, b, 8, kernel="cpu")
    monkeypatch.setattr(module, "has_int8_tile", lambda: False)
    assert not can_filter(x, 2048, 8)
    theirs = topk_encode(x, W, b, 8, kernel="cpu")
    assert all(torch.equal(a, c) for a, c in zip(theirs, encode_in_chunks(x, W, b, 8), strict=True))
    # Both are float32 sums of 64 products of size about 1.
    assert torch.allclose(ours[0], theirs[0], atol=1e-5)
    assert float((ours[1] == theirs[1]).double().mean()) > 0.999
