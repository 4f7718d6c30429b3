"""Sparse decoding: a sum of k decoder rows per sample, and what training needs of it.

    x_hat = sum_k values[k] W_dec[indices[k]] + b_dec

The CPU path reads only the active decoder rows. `decode_residual` also takes the value gradients
<r, W_dec[indices[k]]> while those rows are still in the cache.

Shapes: B rows, D channels, N latents, K active latents.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd.function import once_differentiable

from isae.compiled import SUMS, compiled, prange
from isae.errors import KernelError
from isae.kernels.checks import check_indices, check_tensor
from isae.kernels.column_sums import column_sums, part_rows
from isae.kernels.cpu.bfloat16 import HALF, array_of, narrow_row
from isae.kernels.cpu.instructions import take
from isae.kernels.cpu.scattered_rows import TOGETHER, add_rows, list_rows, row_products
from isae.kernels.dispatch import choose_kernel
from isae.kernels.sparse_outer import PARTS, group_by_latent, sparse_outer

Array = npt.NDArray[Any]

TAKEN = 32
"""Rows that a thread takes at once, more where B is large; their sum is one addend of the sums."""


class Residual(NamedTuple):
    """What `decode_residual` gives: weighted residuals, value gradients, squared errors, sums."""

    r_BD: torch.Tensor
    g_values_BK: torch.Tensor
    squares_B: torch.Tensor
    sums_D: torch.Tensor


def sparse_decode(
    values_BK: torch.Tensor,
    indices_BK: torch.Tensor,
    W_dec_ND: torch.Tensor,
    b_dec_D: torch.Tensor | None = None,
    *,
    kernel: str = "auto",
) -> torch.Tensor:
    """x_hat = sum_k values W_dec[indices] + b_dec -> [B, D], in the dtype of `values`.

    float32 or float64 (on 'triton' float32, bfloat16 or float16, which may differ); indices int64
    in [0, N), repeated ones add up. Differentiable in values, W_dec and b_dec. `kernel`: auto |
    triton | cpu | reference. Raises KernelError for shapes, dtypes,
    devices or indices that do not fit.
    """
    chosen = choose_kernel(kernel, values_BK.device)
    _check(values_BK, indices_BK, W_dec_ND, b_dec_D, chosen)
    if b_dec_D is None:
        b_dec_D = values_BK.new_zeros(W_dec_ND.shape[1])
    result: torch.Tensor = _SparseDecode.apply(values_BK, indices_BK, W_dec_ND, b_dec_D, chosen)
    return result


def decode_residual(
    values_BK: torch.Tensor,
    indices_BK: torch.Tensor,
    W_dec_ND: torch.Tensor,
    b_dec_D: torch.Tensor,
    x_BD: torch.Tensor,
    weight_B: torch.Tensor,
    *,
    kernel: str = "auto",
    trusted: bool = False,
    residual_dtype: torch.dtype | None = None,
) -> Residual:
    """Residual r = x_hat - x and the gradients of half the weighted squared error.

    Of L = 1/2 sum_b weight_b ||x_hat_b - x_b||^2 this gives dL/dx_hat = weight r [B, D], dL/dvalues
    = weight <r, W_dec[index]> where the value is > 0, else 0 [B, K], ||r_b||^2 without the
    weight as float64 [B], and the sums of dL/dx_hat over rows as float64 [D]. On 'triton' and 'cpu'
    the residual has `residual_dtype` (None: the dtype of x); all else is computed before it is
    rounded, but for the sums on 'triton', where the value gradients and the squares are float32. On
    'cpu' W_dec and that dtype may be bfloat16 where the others are float32. Not differentiable.
    `trusted`: the indices are known to be in range, which saves a look at them. Raises KernelError
    as `sparse_decode` does.
    """
    chosen = choose_kernel(kernel, values_BK.device)
    _check(values_BK, indices_BK, W_dec_ND, b_dec_D, chosen, trusted, halves=True)
    rows, d = values_BK.shape[0], W_dec_ND.shape[1]
    check_tensor("x", x_BD, (rows, d), like=values_BK, kernel=chosen)
    check_tensor("weight", weight_B, (rows,), like=values_BK, kernel=chosen)
    if chosen == "triton":
        from isae.kernels.triton.sparse_decode import decode_residual_triton

        operands = (values_BK, indices_BK, W_dec_ND, b_dec_D, x_BD, weight_B)
        found = decode_residual_triton(*operands, residual_dtype or x_BD.dtype)
        return Residual(*found, column_sums(found[0], kernel=chosen)[0])
    if chosen == "reference":
        r_BD = decode_reference(values_BK, indices_BK, W_dec_ND, b_dec_D) - x_BD
        squares_B = r_BD.double().square().sum(1)
        r_BD = r_BD * weight_B[:, None]
        g_BK = (r_BD @ W_dec_ND.T).gather(1, indices_BK)
        sums_D = r_BD.double().sum(0)
        return Residual(r_BD, torch.where(values_BK > 0, g_BK, 0.0), squares_B, sums_D)
    operands = (values_BK, indices_BK, W_dec_ND, b_dec_D, x_BD, weight_B)
    return _decode_residual_cpu(operands, residual_dtype or x_BD.dtype)


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values_BK: torch.Tensor,
        indices_BK: torch.Tensor,
        W_ND: torch.Tensor,
        b_D: torch.Tensor,
        kernel: str,
    ) -> torch.Tensor:
        ctx.save_for_backward(values_BK, indices_BK, W_ND)
        ctx.kernel, ctx.types = kernel, (values_BK.dtype, W_ND.dtype, b_D.dtype)
        if kernel == "triton":
            from isae.kernels.triton.sparse_decode import decode_triton

            return decode_triton(values_BK, indices_BK, W_ND, b_D)
        decode = decode_cpu if kernel == "cpu" else decode_reference
        return decode(values_BK, indices_BK, W_ND, b_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BD: torch.Tensor) -> tuple[Any, ...]:
        values_BK, indices_BK, W_ND = ctx.saved_tensors
        g_values = None
        values_type, W_type, b_type = ctx.types
        if ctx.needs_input_grad[0]:
            g_values = _row_products(g_BD, indices_BK, W_ND, ctx.kernel).to(values_type)
        g_W = None
        if ctx.needs_input_grad[2]:
            groups = group_by_latent(values_BK, indices_BK, W_ND.shape[0], kernel=ctx.kernel)
            g_W = sparse_outer(groups, values_BK, g_BD, kernel=ctx.kernel).to(W_type)
        return g_values, None, g_W, g_BD.sum(0).to(b_type), None


def decode_reference(
    values_BK: torch.Tensor, indices_BK: torch.Tensor, W_ND: torch.Tensor, b_D: torch.Tensor
) -> torch.Tensor:
    """The definition, dense: scatter the values into [B, N] and multiply (no checks)."""
    z_BN = values_BK.new_zeros(values_BK.shape[0], W_ND.shape[0])
    return z_BN.scatter_add(1, indices_BK, values_BK) @ W_ND + b_D


def decode_cpu(
    values_BK: torch.Tensor, indices_BK: torch.Tensor, W_ND: torch.Tensor, b_D: torch.Tensor
) -> torch.Tensor:
    """The compiled path (no checks, no gradients)."""
    x_hat_BD = torch.empty(values_BK.shape[0], W_ND.shape[1], dtype=values_BK.dtype)
    arrays: list[Any] = [*_arrays(values_BK, indices_BK, W_ND, b_D, x_hat_BD), PARTS]
    _decode_rows(*arrays)
    return x_hat_BD


def _decode_residual_cpu(operands: tuple[torch.Tensor, ...], dtype: torch.dtype) -> Residual:
    values_BK, x_BD = operands[0], operands[4]
    allowed = {x_BD.dtype} | ({torch.bfloat16} if x_BD.dtype == torch.float32 else set())
    if dtype not in allowed:
        names = " or ".join(sorted(map(str, allowed)))
        raise KernelError(f"residual: expected {names}, found {dtype}")
    (rows, d), (taken, parts) = x_BD.shape, part_rows(x_BD.shape[0], TAKEN)
    sums_PD = np.zeros((parts, d))
    result = (
        torch.empty(rows, d, dtype=dtype),
        torch.empty_like(values_BK, memory_format=torch.contiguous_format),
        torch.empty(rows, dtype=torch.float64),
    )
    arrays = [*_arrays(*operands, *result), sums_PD]
    shared: list[Any] = [*arrays, np.zeros(1, np.int64), torch.get_num_threads(), taken]
    _decode_residual_rows(*shared)
    return Residual(*result, torch.from_numpy(sums_PD.sum(0)))


def _row_products(
    g_BD: torch.Tensor, indices_BK: torch.Tensor, W_ND: torch.Tensor, kernel: str
) -> torch.Tensor:
    if kernel == "reference":
        return (g_BD @ W_ND.T).gather(1, indices_BK)
    if kernel == "triton":
        from isae.kernels.triton.sparse_decode import row_products_triton

        return row_products_triton(g_BD, indices_BK, W_ND)
    out_BK = torch.empty(indices_BK.shape, dtype=g_BD.dtype)
    arrays: list[Any] = [*_arrays(g_BD, indices_BK, W_ND, out_BK), PARTS]
    _product_rows(*arrays)
    return out_BK


def _arrays(*tensors: torch.Tensor) -> list[Array]:
    return [array_of(tensor.detach().contiguous()) for tensor in tensors]


def _check(
    values_BK: torch.Tensor,
    indices_BK: torch.Tensor,
    W_dec_ND: torch.Tensor,
    b_dec_D: torch.Tensor | None,
    kernel: str,
    trusted: bool = False,
    halves: bool = False,
) -> None:
    check_tensor("values", values_BK, (None, None), kernel=kernel)
    check_tensor("W_dec", W_dec_ND, (None, None), like=values_BK, kernel=kernel, halves=halves)
    if b_dec_D is not None:
        check_tensor("b_dec", b_dec_D, (W_dec_ND.shape[1],), like=values_BK, kernel=kernel)
    rows, k = values_BK.shape
    if not trusted:
        check_indices("indices", indices_BK, (rows, k), W_dec_ND.shape[0], values_BK.device)


@compiled(fastmath=SUMS)
def _weighted_error(r_D: Array, x_D: Array, weight: float, sums_D: Array) -> float:
    square = 0.0
    for c in range(r_D.shape[0]):
        error = r_D[c] - x_D[c]
        square += np.float64(error) * np.float64(error)
        r_D[c] = error * weight
        sums_D[c] += np.float64(r_D[c])
    return square


@compiled()
def _room(values_BK: Array) -> tuple[Array, Array]:
    """Addresses of a row's decoder rows, twice, and factors, both with what fills up lists."""
    filled = values_BK.shape[1] + TOGETHER
    return np.empty(2 * filled + TOGETHER, np.int64), np.zeros(filled, values_BK.dtype)


@compiled()
def _list_active(W_ND: Array, indices_BK: Array, b: int, at: Array, start: int) -> int:
    """List the decoder rows of row b -> their end, behind which stand some of row b + 1."""
    rows, k = indices_BK.shape
    end = list_rows(W_ND, indices_BK[b], k, at, start)
    list_rows(W_ND, indices_BK[min(b + 1, rows - 1)], min(k, TOGETHER), at, end)
    return end


@compiled(parallel=True)
def _decode_rows(
    values_BK: Array, indices_BK: Array, W_ND: Array, b_D: Array, out_BD: Array, parts: int
) -> None:
    rows, k = values_BK.shape
    for part in prange(parts):
        at, factors = _room(values_BK)
        for b in range(rows * part // parts, rows * (part + 1) // parts):
            out_BD[b], factors[:k] = b_D, values_BK[b]
            end = _list_active(W_ND, indices_BK, b, at, 0)
            add_rows(factors, at, end, out_BD[b], W_ND.itemsize)


@compiled(parallel=True)
def _product_rows(g_BD: Array, indices_BK: Array, W_ND: Array, out_BK: Array, parts: int) -> None:
    rows, k = indices_BK.shape
    for part in prange(parts):
        at, products = _room(out_BK)
        for b in range(rows * part // parts, rows * (part + 1) // parts):
            end = _list_active(W_ND, indices_BK, b, at, 0)
            row_products(g_BD[b], at, end, products, W_ND.itemsize)
            out_BK[b] = products[:k]


@compiled(parallel=True)
def _decode_residual_rows(
    values_BK: Array,
    indices_BK: Array,
    W_ND: Array,
    b_D: Array,
    x_BD: Array,
    weight_B: Array,
    r_BD: Array,
    g_BK: Array,
    squares_B: Array,
    sums_PD: Array,
    counter: Array,
    workers: int,
    taken: int,
) -> None:
    rows, k = values_BK.shape
    # Rows are taken, not dealt out: a thread that is held up leaves more to the others.
    for _ in prange(workers):
        (at, factors), products = _room(values_BK), np.empty(k + TOGETHER, g_BK.dtype)
        r_D = np.empty(x_BD.shape[1], x_BD.dtype)
        part = take(counter.ctypes.data)
        while part < sums_PD.shape[0]:
            for b in range(part * taken, min(part * taken + taken, rows)):
                r_D[:], factors[:k] = b_D, values_BK[b]
                end = list_rows(W_ND, indices_BK[b], k, at, 0)
                _list_active(W_ND, indices_BK, b, at, end)
                add_rows(factors, at, end, r_D, W_ND.itemsize)
                squares_B[b] = _weighted_error(r_D, x_BD[b], weight_B[b], sums_PD[part])
                row_products(r_D, at[end:], end, products, W_ND.itemsize)
                for j in range(k):
                    g_BK[b, j] = products[j] if values_BK[b, j] > 0 else 0
                if r_BD.itemsize == HALF:
                    narrow_row(r_D, r_BD[b])
                else:
                    r_BD[b] = r_D
            part = take(counter.ctypes.data)
