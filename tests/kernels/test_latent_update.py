"""The one-pass weight update of the compiled path against its formulas in NumPy float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from isae.errors import KernelError
from isae.kernels import AuxGradients, Parameter, group_by_latent, latent_update

Array = npt.NDArray[np.float64]
LR, STEP, SCALE = 1e-2, 3, 0.7


def problem(b: int, d: int, n: int, k: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(b * 1000 + n)
    values = torch.rand(b, k, generator=generator)
    values[::3, 0] = 0
    indices = torch.rand(b, n, generator=generator).argsort(1)[:, :k]
    indices[:, k - 1] = torch.where((indices[:, : k - 1] == 5).any(1), indices[:, k - 1], 5)
    made = {
        "values": values,
        "g_values": torch.randn(b, k, generator=generator) * (values > 0),
        "x": torch.randn(b, d, generator=generator),
        "r": torch.randn(b, d, generator=generator),
        "W_enc": torch.randn(n, d, generator=generator),
        "W_dec": torch.nn.functional.normalize(torch.randn(n, d, generator=generator)),
        "b_enc": torch.randn(n, generator=generator),
        "m": 0.1 * torch.randn(n, d, generator=generator),
        "v": torch.rand(n, d, generator=generator),
        "enc_aux": torch.randn(4, d, generator=generator),
        "dec_aux": torch.randn(4, d, generator=generator),
        "b_aux": torch.randn(4, generator=generator),
    }
    made = {name: tensor.to(dtype) for name, tensor in made.items()}
    return {**made, "indices": indices, "latents": torch.tensor([0, 2, 5, n - 1])}


def adam(w: Array, g: Array, m: Array, v: Array) -> Array:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    root = np.sqrt(v / (1 - 0.999**STEP)) + 1e-8
    return w - LR * m / (1 - 0.9**STEP) / root


def by_hand(p: dict[str, Any], tied: bool, unit: bool, clip: float, aux: bool) -> dict[str, Array]:
    n, d = p["W_dec"].shape
    g_enc, g_dec, g_b = np.zeros((n, d)), np.zeros((n, d)), np.zeros(n)
    for row, slot in np.ndindex(p["values"].shape):
        latent = p["indices"][row, slot]
        if p["values"][row, slot] != 0:
            g_enc[latent] += p["g_values"][row, slot] * p["x"][row]
            g_dec[latent] += p["values"][row, slot] * p["r"][row]
            g_b[latent] += p["g_values"][row, slot]
    if aux:
        for i, latent in enumerate(p["latents"]):
            g_enc[latent] += p["enc_aux"][i]
            g_dec[latent] += p["dec_aux"][i]
            g_b[latent] += p["b_aux"][i]
    encoder = p["W_dec"] if tied else p["W_enc"]
    made = {"through": encoder.T @ g_b, "b_enc": adam(p["b_enc"], SCALE * g_b, 0 * g_b, 0 * g_b)}
    jobs = [("W_dec", g_dec + g_enc, unit)] if tied else [("W_dec", g_dec, unit)]
    jobs += [] if tied else [("W_enc", g_enc, False)]
    for name, g, on_sphere in jobs:
        w, g = p[name], SCALE * g
        if on_sphere:
            g = g - (g * w).sum(1, keepdims=True) / (w * w).sum(1, keepdims=True) * w
        if clip:
            norm = np.sqrt((g * g).sum(1, keepdims=True))
            g = g * np.minimum(1, clip / np.maximum(norm, 1e-300))
        w = adam(w, g, p["m"], p["v"])
        made[name] = w / np.sqrt((w * w).sum(1, keepdims=True)) if on_sphere else w
    return made


CASES = {
    "plain": {},
    "unit": {"unit": True},
    "unit, clipped, AuxK": {"unit": True, "clip": 2.0, "aux": True},
    "tied": {"tied": True},
    "tied, unit, clipped, AuxK": {"tied": True, "unit": True, "clip": 1.5, "aux": True},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("sizes", [(37, 13, 29, 5), (131, 31, 211, 7), (9, 1, 7, 2)])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_documented_update(
    case: str, sizes: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    options = {"tied": False, "unit": False, "clip": 0.0, "aux": False, **CASES[case]}
    p = problem(*sizes, dtype)
    want = by_hand({name: tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy()
                    for name, tensor in p.items()}, **options)  # type: ignore[arg-type] # fmt: skip
    low = torch.zeros_like(p["W_dec"], dtype=torch.bfloat16)

    def parameter(name: str, low: torch.Tensor | None = None) -> Parameter:
        return Parameter(p[name].clone(), p["m"].clone(), p["v"].clone(), low)

    W_dec = parameter("W_dec", low)
    W_enc = None if options["tied"] else parameter("W_enc", torch.zeros_like(low))
    b_enc = Parameter(p["b_enc"].clone(), *(torch.zeros_like(p["b_enc"]) for _ in range(2)))
    through = latent_update(
        group_by_latent(p["values"], p["indices"], sizes[2], kernel="cpu"),
        p["values"],
        p["g_values"],
        p["x"],
        p["r"],
        W_enc,
        W_dec,
        b_enc,
        lr=LR,
        step=STEP,
        grad_scale=SCALE,
        unit=bool(options["unit"]),
        clip=float(options["clip"]),
        aux=AuxGradients(p["latents"], p["enc_aux"], p["dec_aux"], p["b_aux"])
        if options["aux"]
        else None,
        kernel="cpu",
    )
    # float32: sums of up to 131 terms of size 1 and one division by roots of size 0.1 and more.
    bound = (
        {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-5}
    )
    assert np.allclose(through.double(), want["through"], **bound)
    assert np.allclose(b_enc.value.double(), want["b_enc"], **bound)
    assert np.allclose(W_dec.value.double(), want["W_dec"], **bound)
    assert torch.equal(low, W_dec.value.to(torch.bfloat16))
    if W_enc is not None:
        assert np.allclose(W_enc.value.double(), want["W_enc"], **bound)


def test_the_same_bits_on_one_and_two_threads() -> None:
    results, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        p = problem(131, 31, 211, 7, torch.float32)
        parameters = [
            Parameter(p[name], p["m"].clone(), p["v"].clone()) for name in ("W_enc", "W_dec")
        ]
        bias = Parameter(p["b_enc"], torch.zeros(211), torch.zeros(211))
        groups = group_by_latent(p["values"], p["indices"], 211, kernel="cpu")
        rows = (p["values"], p["g_values"], p["x"], p["r"])
        through = latent_update(
            groups, *rows, *parameters, bias, lr=LR, step=1, unit=True, kernel="cpu"
        )
        results.append([through, p["W_enc"], p["W_dec"], p["b_enc"]])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bad_settings_are_named() -> None:
    p = problem(9, 5, 7, 2, torch.float32)
    parameter = Parameter(p["W_dec"], p["m"], p["v"])
    bias = Parameter(p["b_enc"], torch.zeros(7), torch.zeros(7))
    groups = group_by_latent(p["values"], p["indices"], 7, kernel="cpu")
    rows = (p["values"], p["g_values"], p["x"], p["r"])
    with pytest.raises(KernelError, match="step >= 1"):
        latent_update(groups, *rows, None, parameter, bias, lr=LR, step=0, kernel="cpu")
    with pytest.raises(KernelError, match="clip >= 0"):
        latent_update(groups, *rows, None, parameter, bias, lr=LR, step=1, clip=-1, kernel="cpu")
