"""The weight update of a training step in one operation, from sparse codes to new parameters.

Per latent n, with pairs (b, j) of rows and slots where it is active:

    g_enc = sum g_values[b, j] x[b] (+ AuxK);  g_dec = sum values[b, j] r[b] (+ AuxK)
    g_b   = sum g_values[b, j] (+ AuxK)
    every gradient times grad_scale; with `unit`, g_dec loses its part along W_dec[n]
    with clip > 0, the gradient of each row of W_enc and W_dec is shortened to length `clip` at most
    Adam on W_enc[n], W_dec[n] and b_enc[n]; with `unit`, W_dec[n] is scaled to length 1

Tied weights: one matrix, whose gradient is g_enc + g_dec. Clipping by latent is what one pass can
do: the norm of the whole gradient is known only after all latents were summed. On 'triton' and
'cpu' this is one pass over the parameters; the reference is `sparse_outer` and `adam_update`.

Shapes: B rows, D channels, N latents, K active latents, Q latents with gradients from AuxK.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from isae.errors import KernelError
from isae.kernels.adam_update import Adam, adam_update
from isae.kernels.checks import check_tensor
from isae.kernels.column_sums import column_sums
from isae.kernels.cpu.latent_update import latent_update_cpu
from isae.kernels.dispatch import choose_kernel
from isae.kernels.sparse_outer import LatentGroups, sparse_outer

DEFAULT_ADAM = Adam()


@dataclass(frozen=True)
class Parameter:
    """A parameter with what its update needs; all are changed in place.

    value, first, second: float32 (float64 on the reference), the parameter and Adam's moments.
    low: a copy in lower precision that is kept equal to the rounded value, or None.
    """

    value: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    low: torch.Tensor | None = None


@dataclass(frozen=True)
class AuxGradients:
    """Gradients that AuxK brings to some latents, before grad_scale.

    latents_Q: int64, rising. enc_QD, dec_QD, b_Q: their gradients.
    """

    latents_Q: torch.Tensor
    enc_QD: torch.Tensor
    dec_QD: torch.Tensor
    b_Q: torch.Tensor


class Rates(NamedTuple):
    """How far an update goes; as the arguments of `latent_update`."""

    scale: float
    clip: float
    lr: float
    step: int
    adam: Adam = DEFAULT_ADAM


def latent_update(
    groups: LatentGroups,
    values_BK: torch.Tensor,
    g_values_BK: torch.Tensor,
    x_BD: torch.Tensor,
    r_BD: torch.Tensor,
    W_enc: Parameter | None,
    W_dec: Parameter,
    b_enc: Parameter,
    *,
    lr: float,
    step: int,
    grad_scale: float | torch.Tensor = 1.0,
    unit: bool = False,
    clip: float = 0.0,
    aux: AuxGradients | None = None,
    adam: Adam = DEFAULT_ADAM,
    kernel: str = "auto",
) -> torch.Tensor:
    """Update W_enc (None: tied to W_dec), W_dec and b_enc in place -> W_enc^T g_b, float32 [D].

    What is returned is of the encoder before the update and without grad_scale: minus it is the
    encoder's part of the gradient of b_dec. x_BD is what the encoder saw, r_BD the (weighted)
    residual; where parameters are float32 they may be bfloat16 (not on 'reference'). `groups` are
    the pairs with values > 0. `step` counts from 1.
    Raises KernelError for shapes, dtypes and devices that do not fit, step < 1 and clip < 0.
    """
    chosen = choose_kernel(kernel, values_BK.device)
    _check(groups, (values_BK, g_values_BK), (x_BD, r_BD), W_enc, W_dec, b_enc, chosen)
    _check_extras(W_enc, W_dec, aux, x_BD, chosen)
    if step < 1 or clip < 0:
        raise KernelError(f"expected step >= 1 and clip >= 0, found {step} and {clip}")
    enc = W_enc or W_dec
    if chosen == "reference":
        rates = Rates(float(grad_scale), clip, lr, step, adam)
        rows = (values_BK, g_values_BK, x_BD, r_BD)
        return _latent_update_reference(groups, rows, W_enc, W_dec, b_enc, rates, unit, aux)
    precision = torch.float32 if chosen == "triton" else W_dec.value.dtype
    numbers = update_numbers(lr, step, adam, clip, grad_scale, precision, x_BD.device)
    batch = (values_BK, g_values_BK, x_BD, r_BD)
    update = _latent_update_cpu if chosen == "cpu" else _latent_update_triton
    return update(
        groups,
        tuple(tensor.detach().contiguous() for tensor in batch),
        (enc, W_dec, b_enc),
        _by_latent(aux, groups.n, precision),
        numbers,
        unit,
    )


def _latent_update_triton(groups: LatentGroups, *operands: Any) -> torch.Tensor:
    from isae.kernels.triton.latent_update import latent_update_triton

    batch, *others = operands
    names = ("values", "g_values", "x", "r")
    order = (groups.offsets_N1, groups.pairs_P)
    return latent_update_triton(order, dict(zip(names, batch, strict=True)), *others)


def _latent_update_cpu(
    groups: LatentGroups,
    batch: tuple[torch.Tensor, ...],
    parameters: tuple[Parameter, Parameter, Parameter],
    aux: tuple[torch.Tensor, ...] | None,
    numbers: torch.Tensor,
    unit: bool,
) -> torch.Tensor:
    enc, dec, _ = parameters
    triples = [(one.value, one.first, one.second) for one in parameters]
    copies = [one.low for one in (enc, dec)]
    fit = dec.value.dtype == torch.float32
    in_loop = [
        low if fit and low is not None and low.dtype == torch.bfloat16 else None for low in copies
    ]
    through_D = latent_update_cpu(groups, batch, triples, in_loop, enc is dec, aux, numbers, unit)
    for one, low, written in zip((enc, dec), copies, in_loop, strict=True):
        if low is not None and written is None:
            low.copy_(one.value)
    return through_D


def _latent_update_reference(
    groups: LatentGroups,
    rows: tuple[torch.Tensor, ...],
    W_enc: Parameter | None,
    W_dec: Parameter,
    b_enc: Parameter,
    rates: Rates,
    unit: bool,
    aux: AuxGradients | None,
) -> torch.Tensor:
    values_BK, g_values_BK, x_BD, r_BD = rows
    ones_B1 = x_BD.new_ones(len(x_BD), 1)
    g_enc_ND = sparse_outer(groups, g_values_BK, x_BD, kernel="reference")
    g_dec_ND = sparse_outer(groups, values_BK, r_BD, kernel="reference")
    g_b_N = sparse_outer(groups, g_values_BK, ones_B1, kernel="reference")[:, 0]
    if aux is not None:
        g_enc_ND.index_add_(0, aux.latents_Q, aux.enc_QD)
        g_dec_ND.index_add_(0, aux.latents_Q, aux.dec_QD)
        g_b_N = g_b_N.index_add(0, aux.latents_Q, aux.b_Q)
    encoder = (W_enc or W_dec).value
    through_D = column_sums(encoder, g_b_N, kernel="reference")[0].to(x_BD.dtype)
    if W_enc is None:
        update_reference(W_dec, g_dec_ND + g_enc_ND, unit, rates)
    else:
        update_reference(W_enc, g_enc_ND, False, rates)
        update_reference(W_dec, g_dec_ND, unit, rates)
    update_reference(b_enc, g_b_N.contiguous(), False, rates._replace(clip=0.0))
    return through_D


def update_numbers(
    lr: float,
    step: int,
    adam: Adam,
    clip: float,
    grad_scale: float | torch.Tensor,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """What the compiled kernels read: scale, step size, 1/root of bias, betas, eps, clip."""
    size = lr / (1 - adam.beta1**step)
    root = 1 / (1 - adam.beta2**step) ** 0.5
    values = [1.0, size, root, adam.beta1, adam.beta2, adam.eps, clip]
    numbers = torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
    numbers[0] = grad_scale
    return numbers


def update_reference(
    parameter: Parameter,
    gradient: torch.Tensor,
    on_sphere: bool,
    rates: Rates,
) -> None:
    """Clip and update one parameter by the plain definition."""
    scale, clip, lr, step, adam = rates
    value = parameter.value
    if clip:
        gradient = gradient * scale
        if on_sphere:
            square_N1 = value.square().sum(1, keepdim=True)
            along_N1 = (gradient * value).sum(1, keepdim=True) / square_N1.clamp_min(1e-30)
            gradient = gradient - along_N1 * value
        norm_N1 = gradient.norm(dim=1, keepdim=True)
        gradient, scale = gradient * (clip / norm_N1.clamp_min(clip)), 1.0
    adam_update(
        value,
        gradient,
        parameter.first,
        parameter.second,
        lr=lr,
        step=step,
        grad_scale=scale,
        project=on_sphere,
        renormalise=on_sphere,
        adam=adam,
        kernel="reference",
    )
    if parameter.low is not None:
        parameter.low.copy_(value)


def _by_latent(
    aux: AuxGradients | None, n: int, dtype: torch.dtype
) -> tuple[torch.Tensor, ...] | None:
    if aux is None or not aux.latents_Q.numel():
        return None
    device = aux.latents_Q.device
    row_N = torch.full((n,), -1, dtype=torch.int32, device=device)
    row_N[aux.latents_Q] = torch.arange(len(aux.latents_Q), dtype=torch.int32, device=device)
    parts = (aux.enc_QD, aux.dec_QD, aux.b_Q)
    return row_N, *(part.to(dtype).contiguous() for part in parts)


def _check(
    groups: LatentGroups,
    codes: tuple[torch.Tensor, ...],
    rows: tuple[torch.Tensor, ...],
    W_enc: Parameter | None,
    W_dec: Parameter,
    b_enc: Parameter,
    kernel: str,
) -> None:
    n, d = W_dec.value.shape
    x_BD = rows[0]
    shape = (x_BD.shape[0], groups.indices_BK.shape[1])
    like = W_dec.value
    for name, tensor in zip(("values", "g_values"), codes, strict=True):
        check_tensor(name, tensor, shape, like=like, kernel=kernel)
    for name, tensor in zip(("x", "r"), rows, strict=True):
        check_tensor(name, tensor, (shape[0], d), like=like, kernel=kernel, halves=True)
    if groups.n != n:
        raise KernelError(f"groups: expected {n} latents as in W_dec, found {groups.n}")
    for name, parameter, want in (
        ("W_enc", W_enc or W_dec, (n, d)),
        ("W_dec", W_dec, (n, d)),
        ("b_enc", b_enc, (n,)),
    ):
        for tensor in (parameter.value, parameter.first, parameter.second):
            check_tensor(name, tensor, want, like=like, kernel=kernel)
            if not tensor.is_contiguous() or (kernel == "triton" and tensor.dtype != torch.float32):
                raise KernelError(
                    f"{name}: expected contiguous float32 parameters and moments, "
                    f"found strides {tensor.stride()} and {tensor.dtype}"
                )


def _check_extras(
    W_enc: Parameter | None,
    W_dec: Parameter,
    aux: AuxGradients | None,
    x_BD: torch.Tensor,
    kernel: str,
) -> None:
    n, d = W_dec.value.shape
    matrices = [W_dec] if W_enc is None else [W_enc, W_dec]
    copies = [matrix.low for matrix in matrices if matrix.low is not None]
    if len(copies) not in (0, len(matrices)):
        raise KernelError("low: expected copies of both W_enc and W_dec or of neither, found one")
    for low in copies:
        check_tensor("low", low, (n, d), like=x_BD, kernel="triton")
        if not low.is_contiguous():
            raise KernelError("low: expected a contiguous tensor, found a strided one; make it so")
    if aux is not None:
        q = aux.latents_Q.shape[0]
        for tensor, shape in ((aux.enc_QD, (q, d)), (aux.dec_QD, (q, d)), (aux.b_Q, (q,))):
            check_tensor("aux", tensor, shape, like=W_dec.value, kernel=kernel)
