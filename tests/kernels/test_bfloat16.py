"""bfloat16 on the CPU: rounded as torch does, and the same bits as float32 of the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isae.errors import KernelError
from isae.kernels import Parameter, decode_residual, group_by_latent, latent_update
from isae.kernels.cpu.bfloat16 import array_of, narrow_row, widen_row
from isae.kernels.cpu.centre import centre_rows
from isae.kernels.topk_encode import encode_cpu

LOW = torch.bfloat16
SPECIAL = (torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40, 3.4e38, 1 + 2.0**-8, 1 + 3 * 2.0**-8)
"""Among them a denormal number, one that rounds to infinity, and two ties."""


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def test_every_bfloat16_is_widened() -> None:
    bits, found = np.arange(1 << 16).astype(np.uint16), np.empty(1 << 16, np.float32)
    widen_row(bits, found)
    wanted = torch.from_numpy(bits).view(LOW).float().numpy()
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("count", [1, 9, 15, 16, 17, 40, 1000])
def test_numbers_are_rounded_as_torch_does(count: int) -> None:
    reals = torch.cat([torch.tensor(SPECIAL), random(1000)])[:count]
    walled = np.full(count + 2, 7, np.uint16)
    narrow_row(reals.numpy(), walled[1:-1])
    found, wanted = torch.from_numpy(walled[1:-1].copy()).view(LOW), reals.to(LOW)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.nan_to_num(1, 2, 3), wanted.nan_to_num(1, 2, 3))
    assert torch.equal(found.signbit()[~found.isnan()], wanted.signbit()[~found.isnan()])
    assert walled[[0, -1]].tolist() == [7, 7]


@pytest.mark.parametrize("d", [1, 15, 33, 512])
def test_centred_rows_come_in_both(d: int) -> None:
    x, b = random(67, d), random(d)
    centred = centre_rows(x, b, low=True)
    assert torch.equal(centred.rows_BD, x - b)
    assert torch.equal(centred.low_BD, (x - b).to(LOW))
    assert centre_rows(x, b).low_BD.shape == (0, 0)


@pytest.mark.parametrize(
    ("rows", "d", "n", "k"),
    [(5, 3, 6, 6), (30, 130, 1009, 13), (200, 67, 2100, 9), (256, 64, 2048, 32)],
)
def test_what_is_encoded_is_of_the_rounded_weights(rows: int, d: int, n: int, k: int) -> None:
    x, W, b = random(rows, d), random(n, d).to(LOW), 0.1 * random(n)
    found, wanted = encode_cpu(x, W, b, k), encode_cpu(x, W.float(), b, k)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("rows", "d", "n", "k"), [(1, 1, 1, 1), (61, 67, 101, 9), (40, 512, 99, 5)]
)
def test_residuals_are_of_the_rounded_weights(rows: int, d: int, n: int, k: int) -> None:
    values = random(rows, k).relu()
    indices = torch.randint(n, (rows, k), generator=torch.Generator().manual_seed(1))
    W, operands = random(n, d).to(LOW), (random(d), random(rows, d), random(rows).abs())
    found = decode_residual(values, indices, W, *operands, kernel="cpu", residual_dtype=LOW)
    wanted = decode_residual(values, indices, W.float(), *operands, kernel="cpu")
    assert torch.equal(found.r_BD, wanted.r_BD.to(LOW))
    for one, other in zip(found[1:], wanted[1:], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("tied", [False, True])
def test_the_update_is_of_the_rounded_rows_and_writes_the_copies(tied: bool) -> None:
    rows, d, n, k = 150, 41, 97, 6
    values = random(rows, k).relu()
    indices = torch.rand(rows, n, generator=torch.Generator().manual_seed(2)).argsort(1)[:, :k]
    g_values, x, r = random(rows, k) * (values > 0), random(rows, d), random(rows, d, seed=9)
    groups = group_by_latent(values, indices, n, kernel="cpu")

    def run(x: torch.Tensor, r: torch.Tensor, low: bool) -> list[torch.Tensor]:
        def parameter(*shape: int) -> Parameter:
            value = torch.nn.functional.normalize(random(*shape, seed=3), dim=-1)
            copy = torch.full(shape, torch.nan, dtype=LOW) if low and len(shape) == 2 else None
            return Parameter(value, torch.zeros(shape), torch.zeros(shape), copy)

        W_enc, W_dec, bias = None if tied else parameter(n, d), parameter(n, d), parameter(n)
        options = {"lr": 1e-2, "step": 1, "unit": True, "clip": 0.5, "kernel": "cpu"}
        through = latent_update(groups, values, g_values, x, r, W_enc, W_dec, bias, **options)  # type: ignore[arg-type]
        for matrix in (W_enc, W_dec) if low else ():
            assert matrix is None or torch.equal(matrix.low, matrix.value.to(LOW))
        changed = [one for one in (W_enc, W_dec, bias) if one is not None]
        return [through, *(part for one in changed for part in (one.value, one.first, one.second))]

    found = run(x.to(LOW), r.to(LOW), low=True)
    wanted = run(x.to(LOW).float(), r.to(LOW).float(), low=False)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_bits_need_no_copy() -> None:
    tensor = random(3, 4).to(LOW)
    array_of(tensor)[0, 0] = 0x3F80
    assert float(tensor[0, 0]) == 1


def test_only_beside_float32() -> None:
    operands = [torch.ones(shape, dtype=torch.float64) for shape in ((3,), (2, 3), (2,))]
    values, indices = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(KernelError, match=r"W_dec: expected float32 or float64, found .*bfloat16"):
        decode_residual(values, indices, torch.ones(4, 3, dtype=LOW), *operands, kernel="cpu")
    wide = torch.ones(4, 3, dtype=torch.float64)
    with pytest.raises(KernelError, match=r"residual: expected torch.float64, found .*bfloat16"):
        decode_residual(values, indices, wide, *operands, kernel="cpu", residual_dtype=LOW)
    with pytest.raises(KernelError, match="b: expected float32 beside"):
        centre_rows(operands[1], operands[0], low=True)
    single = [one.float() for one in (values, *operands)]
    with pytest.raises(KernelError, match=r"residual: expected .*float16"):
        decode_residual(
            single[0],
            indices,
            torch.ones(4, 3),
            *single[1:],
            kernel="cpu",
            residual_dtype=torch.half,
        )
