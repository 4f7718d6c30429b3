from __future__ import annotations

import pytest
import torch

from isae.errors import ConfigError, KernelError
from isae.kernels import adam_update
from isae.kernels.adam_update import SMALL, Adam

KERNELS = ("reference", "cpu")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(1,), (37,), (11, 1), (13, 67), (67, SMALL // 64)])
def test_plain_adam_equals_torch(shape: tuple[int, ...], kernel: str) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    ours = torch.randn(shape, generator=generator, dtype=torch.float64)
    theirs = torch.nn.Parameter(ours.clone())
    optimiser = torch.optim.Adam([theirs], lr=0.03)
    m, v = torch.zeros_like(ours), torch.zeros_like(ours)
    for step in range(1, 21):
        grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        if step % 3 == 0:
            grad[0] = 0  # dense Adam: a row without gradient still moves
        theirs.grad = grad.clone()
        optimiser.step()
        adam_update(ours, grad * 4, m, v, lr=0.03, step=step, grad_scale=0.25, kernel=kernel)
    assert torch.allclose(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_projection_and_unit_norm(kernel: str) -> None:
    generator = torch.Generator().manual_seed(0)
    W, grad = (torch.randn(9, 31, generator=generator, dtype=torch.float64) for _ in range(2))
    W /= W.norm(dim=1, keepdim=True)
    want = torch.nn.Parameter(W.clone())
    want.grad = grad - (grad * W).sum(1, keepdim=True) * W
    torch.optim.Adam([want], lr=0.01).step()
    expected = want.detach() / want.detach().norm(dim=1, keepdim=True)
    m, v = torch.zeros_like(W), torch.zeros_like(W)
    adam_update(W, grad, m, v, lr=0.01, step=1, project=True, renormalise=True, kernel=kernel)
    assert torch.allclose(W, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(W.norm(dim=1), torch.ones(9, dtype=torch.float64), rtol=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_of_zeros_stays_finite(kernel: str) -> None:
    W, grad = torch.zeros(2, 5), torch.zeros(2, 5)
    adam_update(
        W, grad, W.clone(), W.clone(), lr=0.1, step=1, project=True, renormalise=True, kernel=kernel
    )
    assert bool((W == 0).all())


def test_tiny_moments_are_flushed_without_moving_the_result() -> None:
    W, m, v = torch.ones(1, 4), torch.full((1, 4), 1e-40), torch.full((1, 4), 1e-42)
    adam_update(W, torch.zeros(1, 4), m, v, lr=0.1, step=1000, kernel="cpu")
    assert bool((m == 0).all())
    assert bool((v == 0).all())
    assert bool((W == 1).all())


def test_bad_arguments_are_named() -> None:
    W = torch.ones(2, 3)
    with pytest.raises(KernelError, match="step >= 1"):
        adam_update(W, W, W, W, lr=0.1, step=0)
    with pytest.raises(KernelError, match=r"grad: expected shape \[2, 3\]"):
        adam_update(W, W[:1], W, W, lr=0.1, step=1)
    with pytest.raises(KernelError, match="m: expected a contiguous"):
        adam_update(W, W, torch.ones(3, 2).T, W, lr=0.1, step=1)
    with pytest.raises(ConfigError, match="0 <= beta1 < 1"):
        Adam(beta1=1.0)
