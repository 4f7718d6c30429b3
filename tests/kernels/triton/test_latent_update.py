"""The fused update: the CPU path against a hand-written one, the kernel against the reference."""

from __future__ import annotations

import pytest
import torch

from isae.errors import KernelError
from isae.kernels import AuxGradients, Parameter, group_by_latent, latent_update
from isae.kernels.adam_update import Adam
from isae.kernels.triton.sparse_outer import SPLIT

ROWS, D, N, K = 43, 21, 37, 4
CPU = torch.device("cpu")
CASES = {
    "plain": {},
    "unit": {"unit": True},
    "tied": {"tied": True},
    "tied, unit, clipped": {"tied": True, "unit": True, "clip": 0.3},
    "aux": {"aux": True, "unit": True},
    "clipped": {"clip": 0.2},
    "bf16 copies": {"low": True, "unit": True},
    "hot latent": {"hot": True, "rows": 2 * SPLIT + 600, "unit": True},
}


def parameter(value: torch.Tensor, low: bool) -> Parameter:
    copy = value.to(torch.bfloat16) if low and value.dim() == 2 else None
    return Parameter(value, torch.zeros_like(value), torch.zeros_like(value), copy)


def run(
    kernel: str,
    dtype: torch.dtype,
    device: torch.device = CPU,
    *,
    tied: bool = False,
    aux: bool = False,
    low: bool = False,
    hot: bool = False,
    rows: int = ROWS,
    **options: float,
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    W_enc, W_dec, b = draw(N, D), draw(N, D), draw(N)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    enc = None if tied else parameter(W_enc, low and kernel == "triton")
    dec, bias = parameter(W_dec, low and kernel == "triton"), parameter(b, False)
    found, scale = [], torch.tensor(0.3, device=device)
    for step in (1, 2):
        values, g_values = draw(rows, K).relu(), draw(rows, K)
        indices = torch.stack([torch.randperm(N, generator=generator)[:K] for _ in range(rows)])
        indices = indices.to(device)
        if hot:
            indices[:, 0] = torch.where((indices == 3).any(1), indices[:, 0], 3)
        g_values = torch.where(values > 0, g_values, 0.0)
        if hot:
            values[:, 0] += 0.1
        groups = group_by_latent(values, indices, N, kernel=kernel)
        assert not hot or int(groups.counts_N.max()) > 2 * SPLIT
        latents = torch.tensor([0, 8, 36], device=device)
        extra = AuxGradients(latents, draw(3, D), draw(3, D), draw(3)) if aux else None
        x, r = draw(rows, D), draw(rows, D)
        through = latent_update(
            groups, values, g_values, x, r, enc, dec, bias,
            lr=0.02, step=step, grad_scale=scale, aux=extra, kernel=kernel, **options,
        )  # fmt: skip
        found.append(through.clone())
    for one in (enc, dec, bias):
        if one is not None:
            found += [one.value, one.first, one.second]
            if one.low is not None:
                # The interpreter cuts bits off where a GPU rounds: one unit of bfloat16's 8 bits.
                assert torch.allclose(one.low.float(), one.value, rtol=2.0**-7, atol=0)
    return [tensor.cpu() for tensor in found]


@pytest.mark.parametrize("kernel", ["triton", "cpu"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_in_float64(case: str, kernel: str, device: torch.device) -> None:
    if kernel == "cpu":
        pytest.importorskip("numba")
    ours = run(kernel, torch.float32, device if kernel == "triton" else CPU, **CASES[case])
    want = run("reference", torch.float64, **CASES[case])
    assert len(ours) == len(want)
    for found, expected in zip(ours, want, strict=True):
        # Adam divides by the root of v: float32's rounding of the gradient stays relative to it.
        scale = float(expected.abs().max()) + 1e-3
        assert float((found.double() - expected).abs().max()) <= 3e-5 * scale


def test_every_pair_of_a_split_latent_counts_in_its_bias(device: torch.device) -> None:
    # Sums of integers are exact: one pair left out, or taken twice, changes them by at least 1.
    rows = 2 * SPLIT + 77
    generator = torch.Generator().manual_seed(2)
    g_values = torch.randint(1, 100, (rows, 2), generator=generator).float()
    indices = torch.tensor([1, 2]).repeat(rows, 1)
    values = torch.ones(rows, 2)
    values[5:, 1] = 0  # latent 2 is active in five rows only
    g_values[5:, 1] = 0
    on = [tensor.to(device) for tensor in (values, g_values, torch.ones(rows, 1))]
    groups = group_by_latent(on[0], indices.to(device), 4, kernel="triton")
    shapes = ((4, 1), (4, 1), (4,))
    parts = [parameter(torch.zeros(shape, device=device), False) for shape in shapes]
    parts[0].value[:] = torch.tensor([[3.0], [5.0], [7.0], [11.0]], device=device)
    through = latent_update(
        groups, *on, on[2], *parts,
        lr=0.1, step=1, adam=Adam(beta1=0.5), kernel="triton",
    )  # fmt: skip
    first, second = float(g_values[:, 0].sum()), float(g_values[:5, 1].sum())
    assert parts[2].first.tolist() == [0, first / 2, second / 2, 0]
    assert parts[0].first[:, 0].tolist() == [0, first / 2, second / 2, 0]
    assert parts[1].first[:, 0].tolist() == [0, rows / 2, 2.5, 0]
    assert through.tolist() == [5 * first + 7 * second]


def test_the_reference_is_adam_on_the_dense_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    W_enc, W_dec = (torch.randn(N, D, generator=generator).double() for _ in range(2))
    b = torch.randn(N, generator=generator).double()
    x, r = (torch.randn(ROWS, D, generator=generator).double() for _ in range(2))
    values = torch.rand(ROWS, K, generator=generator).double() + 0.1
    g_values = torch.randn(ROWS, K, generator=generator).double()
    indices = torch.stack([torch.randperm(N, generator=generator)[:K] for _ in range(ROWS)])
    z, g = torch.zeros(ROWS, N).double(), torch.zeros(ROWS, N).double()
    z.scatter_(1, indices, values)
    g.scatter_(1, indices, g_values)
    leaves = [torch.nn.Parameter(t.clone()) for t in (W_enc, W_dec, b)]
    for leaf, gradient in zip(leaves, (g.T @ x, z.T @ r, g.sum(0)), strict=True):
        leaf.grad = 0.7 * gradient
    torch.optim.Adam(leaves, lr=0.01).step()
    before, parts = W_enc.clone(), [parameter(t, False) for t in (W_enc, W_dec, b)]
    groups = group_by_latent(values, indices, N, kernel="reference")
    through = latent_update(
        groups, values, g_values, x, r, *parts, lr=0.01, step=1, grad_scale=0.7, kernel="reference"
    )
    assert torch.allclose(through, g.sum(0) @ before, rtol=1e-10, atol=1e-12)
    for part, leaf in zip(parts, leaves, strict=True):
        assert torch.allclose(part.value, leaf.detach(), rtol=1e-10, atol=1e-12)


def test_wrong_inputs_are_refused(device: torch.device) -> None:
    W, b = torch.zeros(4, 3, device=device), torch.zeros(4, device=device)
    ones = torch.ones(2, 4, device=device)
    groups = group_by_latent(ones[:, :1], ones[:, :1].long(), 4, kernel="triton")
    codes, rows = (ones[:, :1],) * 2, (ones[:, :3],) * 2
    parts = (parameter(W, False), parameter(W.clone(), False), parameter(b, False))
    options = {"lr": 0.1, "kernel": "triton"}
    with pytest.raises(KernelError, match="step >= 1"):
        latent_update(groups, *codes, *rows, *parts, step=0, **options)
    with pytest.raises(KernelError, match="x: expected shape"):
        latent_update(groups, *codes, ones, rows[1], *parts, step=1, **options)
    strided = parameter(torch.zeros(3, 4, device=device).T, False)
    with pytest.raises(KernelError, match="W_dec: expected contiguous float32"):
        latent_update(groups, *codes, *rows, parts[0], strided, parts[2], step=1, **options)
