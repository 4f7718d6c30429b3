"""TopK encoding: the k largest pre-activations of every row.

    pre = x W_enc^T + b_enc;  (values, indices) = ReLU(top_k(pre))

The k largest first, then ReLU, so that with fewer than k positive pre-activations some values are
0 (arXiv 2406.04093). Ties go to the lowest index. Output is sorted by falling value, ties by
index, so it is the same whoever computes it from the same pre-activations.

CPU path: rows go through the GEMM in chunks whose pre-activations stay in the cache. Per row, the
maxima of contiguous blocks of latents are taken; a number that at least k block maxima reach is a
lower bound of the k-th largest value, so only blocks whose maximum reaches it are looked at again,
and only values that reach it are sorted.

Shapes: B rows, C rows of a chunk, D channels, N latents, K active latents, M blocks of latents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd.function import once_differentiable

from isae.compiled import SUMS, compiled, prange
from isae.errors import KernelError
from isae.kernels.checks import check_finite, check_k, check_tensor
from isae.kernels.dispatch import choose_kernel
from isae.kernels.sparse_decode import sparse_decode
from isae.kernels.sparse_outer import group_by_latent, sparse_outer

Array = npt.NDArray[Any]

CHUNK_BYTES = 16 << 20
"""Pre-activations of one chunk: fits the last-level cache, large enough for an efficient GEMM."""
BLOCK = 32
"""Latents per block of the pruning pass; `_add_and_maxima` is written for it."""
BLOCKS_PER_K = 2
"""Blocks per active latent from which pruning pays; below, the whole row is searched."""
BISECTIONS = 40
INSERTION_LIMIT = 128
PARTS = 32
"""Pieces of a chunk that threads take."""


def topk_encode(
    x_BD: torch.Tensor,
    W_enc_ND: torch.Tensor,
    b_enc_N: torch.Tensor,
    k: int,
    *,
    kernel: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """ReLU of the k largest of x W_enc^T + b_enc per row -> (values [B, K], indices [B, K] int64).

    float32 or float64, the same for all three; on 'triton' float32, bfloat16 or float16 with
    float32 values (float32 products follow torch.get_float32_matmul_precision). Differentiable in
    x, W_enc and b_enc: gradients flow where a value is > 0. `kernel`: auto | triton | cpu |
    reference.
    Raises KernelError for shapes, dtypes, devices or k that do not fit, DataError for NaN or
    infinity in an input or among the chosen pre-activations. Source: arXiv 2406.04093.
    """
    chosen = choose_kernel(kernel, x_BD.device)
    check_tensor("x", x_BD, (None, None), kernel=chosen)
    check_tensor("W_enc", W_enc_ND, (None, x_BD.shape[1]), like=x_BD, kernel=chosen)
    check_tensor("b_enc", b_enc_N, (W_enc_ND.shape[0],), like=x_BD, kernel=chosen)
    if W_enc_ND.dtype != x_BD.dtype:
        raise KernelError(f"W_enc: expected dtype {x_BD.dtype} as x, found {W_enc_ND.dtype}")
    check_k(k, W_enc_ND.shape[0])
    for name, tensor in (("x", x_BD), ("W_enc", W_enc_ND), ("b_enc", b_enc_N)):
        check_finite(name, tensor.detach())
    values_BK, indices_BK = _TopKEncode.apply(x_BD, W_enc_ND, b_enc_N, k, chosen)
    check_finite("pre-activations", values_BK.detach())
    return values_BK, indices_BK


class _TopKEncode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BD: torch.Tensor, W_ND: torch.Tensor, b_N: torch.Tensor, k: int, kernel: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values_BK, indices_BK = encode(x_BD, W_ND, b_N, k, kernel)
        ctx.save_for_backward(x_BD, W_ND, values_BK, indices_BK)
        ctx.kernel, ctx.bias_type = kernel, b_N.dtype
        ctx.mark_non_differentiable(indices_BK)
        return values_BK, indices_BK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BK: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
        x_BD, W_ND, values_BK, indices_BK = ctx.saved_tensors
        g_BK = torch.where(values_BK > 0, g_BK, 0.0)
        groups = group_by_latent(g_BK, indices_BK, W_ND.shape[0], kernel=ctx.kernel)
        g_x = sparse_decode(g_BK, indices_BK, W_ND, kernel=ctx.kernel)
        g_W = sparse_outer(groups, g_BK, x_BD, kernel=ctx.kernel)
        ones_B1 = torch.ones_like(x_BD[:, :1])
        g_b = sparse_outer(groups, g_BK, ones_B1, kernel=ctx.kernel)[:, 0]
        return g_x.to(x_BD.dtype), g_W.to(W_ND.dtype), g_b.to(ctx.bias_type), None, None


def encode(
    x_BD: torch.Tensor, W_ND: torch.Tensor, b_N: torch.Tensor, k: int, kernel: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """`topk_encode` of a chosen kernel without checks and gradients: for callers that made them."""
    if kernel == "triton":
        from isae.kernels.triton.topk_encode import encode_triton

        return encode_triton(x_BD, W_ND, b_N, k)
    return (encode_cpu if kernel == "cpu" else encode_reference)(x_BD, W_ND, b_N, k)


def encode_reference(
    x_BD: torch.Tensor, W_ND: torch.Tensor, b_N: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, dense: a stable sort of all pre-activations (no checks, no gradients)."""
    pre_BN = torch.addmm(b_N, x_BD, W_ND.T)
    return topk_reference(pre_BN, k)


def topk_reference(pre_BN: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of every row by a stable sort, ties by lowest index, through ReLU."""
    sorted_BN, order_BN = torch.sort(pre_BN, dim=1, descending=True, stable=True)
    return sorted_BN[:, :k].clamp_min(0), order_BN[:, :k].contiguous()


def encode_cpu(
    x_BD: torch.Tensor, W_ND: torch.Tensor, b_N: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The compiled path: GEMM in chunks, block-max pruned top-k (no checks, no gradients)."""
    rows, n = x_BD.shape[0], W_ND.shape[0]
    values_BK = torch.empty(rows, k, dtype=x_BD.dtype)
    indices_BK = torch.empty(rows, k, dtype=torch.int64)
    chunk = max(1, min(rows, CHUNK_BYTES // (n * x_BD.element_size())))
    buffer_CN = torch.empty(chunk, n, dtype=x_BD.dtype)
    for start in range(0, rows, chunk):
        stop = min(start + chunk, rows)
        pre_CN = buffer_CN[: stop - start]
        torch.mm(x_BD[start:stop], W_ND.T, out=pre_CN)
        _topk_into(pre_CN, b_N, values_BK[start:stop], indices_BK[start:stop])
    return values_BK, indices_BK


def topk(pre_BN: torch.Tensor, k: int, kernel: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of every row of given contiguous pre-activations, through ReLU (no checks)."""
    if kernel == "triton":
        from isae.kernels.triton.topk_encode import topk_triton

        return topk_triton(pre_BN, k)
    return topk_cpu(pre_BN, k) if kernel == "cpu" else topk_reference(pre_BN, k)


def topk_cpu(pre_BN: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of every row of given pre-activations, as `encode_cpu` takes them.

    `pre_BN` must be contiguous.
    """
    values_BK = torch.empty(pre_BN.shape[0], k, dtype=pre_BN.dtype)
    indices_BK = torch.empty(pre_BN.shape[0], k, dtype=torch.int64)
    _topk_into(pre_BN, pre_BN.new_zeros(pre_BN.shape[1]), values_BK, indices_BK)
    return values_BK, indices_BK


def _topk_into(
    pre_CN: torch.Tensor, b_N: torch.Tensor, values_CK: torch.Tensor, indices_CK: torch.Tensor
) -> None:
    k, n = values_CK.shape[1], pre_CN.shape[1]
    prune = n // BLOCK >= BLOCKS_PER_K * k
    arrays = (values_CK.numpy(), indices_CK.numpy())
    _topk_rows(pre_CN.numpy(), b_N.contiguous().numpy(), prune, *arrays, PARTS)


@compiled()
def _add_and_maxima(row_N: Array, b_N: Array, maxima_M: Array) -> None:
    # Adds the bias in place and halves each block of 32 by hand: compilers turn this into vector
    # instructions, which they do not for a plain running maximum.
    n = row_N.shape[0]
    half = np.empty(16, row_N.dtype)
    for block in range(n // BLOCK):
        s = block * BLOCK
        for i in range(16):
            low, high = row_N[s + i] + b_N[s + i], row_N[s + 16 + i] + b_N[s + 16 + i]
            row_N[s + i], row_N[s + 16 + i] = low, high
            half[i] = low if low > high else high
        for i in range(8):
            half[i] = half[i] if half[i] > half[i + 8] else half[i + 8]
        for i in range(4):
            half[i] = half[i] if half[i] > half[i + 4] else half[i + 4]
        for i in range(2):
            half[i] = half[i] if half[i] > half[i + 2] else half[i + 2]
        maxima_M[block] = half[0] if half[0] > half[1] else half[1]
    rest = n - n % BLOCK
    if rest < n:
        top = row_N[rest] + b_N[rest]
        for i in range(rest, n):
            row_N[i] += b_N[i]
            top = max(top, row_N[i])
        maxima_M[n // BLOCK] = top


@compiled(fastmath=SUMS)
def _lower_bound(values_M: Array, k: int) -> float:
    # Bisection over the range of values: counting is vectorised and has no unpredictable branch,
    # which makes it several times cheaper than an exact selection. Any number that at least k
    # values reach is a valid bound; the loop ends when few more than k do.
    low, high = values_M[0], values_M[0]
    for i in range(values_M.shape[0]):
        low = low if low < values_M[i] else values_M[i]
        high = high if high > values_M[i] else values_M[i]
    half = values_M.dtype.type(0.5)
    for _ in range(BISECTIONS):
        middle = low * half + high * half
        if not low < middle < high:
            break
        reached = np.int32(0)
        for i in range(values_M.shape[0]):
            reached += np.int32(values_M[i] >= middle)
        if reached >= k:
            low = middle
            if reached <= k + (k >> 3):
                break
        else:
            high = middle
    return low  # type: ignore[no-any-return]


@compiled()
def _keep_k_largest(found: Array, indices: Array, values_K: Array, indices_K: Array) -> None:
    # Stable, so that equal values keep the rising order of their indices.
    k, kept = values_K.shape[0], found.shape[0]
    if k > INSERTION_LIMIT:
        order = np.argsort(-found, kind="mergesort")
        for j in range(min(k, kept)):
            values_K[j], indices_K[j] = found[order[j]], indices[order[j]]
        return
    count = 0
    for i in range(kept):
        value = found[i]
        if count == k and value <= values_K[k - 1]:
            continue
        j = min(count, k - 1)
        count = min(count + 1, k)
        while j > 0 and values_K[j - 1] < value:
            values_K[j], indices_K[j] = values_K[j - 1], indices_K[j - 1]
            j -= 1
        values_K[j], indices_K[j] = value, indices[i]


@compiled()
def _collect(
    row_N: Array, start: int, stop: int, bound: float, kept: int, found: Array, indices: Array
) -> int:
    for i in range(start, stop):
        found[kept], indices[kept] = row_N[i], i
        kept += int(row_N[i] >= bound)
    return kept


@compiled(parallel=True)
def _topk_rows(
    pre_CN: Array, b_N: Array, prune: bool, values_CK: Array, indices_CK: Array, parts: int
) -> None:
    rows, n = pre_CN.shape
    k = values_CK.shape[1]
    blocks = (n + BLOCK - 1) // BLOCK
    for part in prange(parts):
        maxima_M = np.empty(blocks, pre_CN.dtype)
        found = np.empty(n + 1, pre_CN.dtype)
        indices = np.empty(n + 1, np.int64)
        for r in range(rows * part // parts, rows * (part + 1) // parts):
            row_N = pre_CN[r]
            _add_and_maxima(row_N, b_N, maxima_M)
            kept = 0
            if prune:
                bound = _lower_bound(maxima_M, k)
                for block in range(blocks):
                    if maxima_M[block] >= bound:
                        start = block * BLOCK
                        stop = min(start + BLOCK, n)
                        kept = _collect(row_N, start, stop, bound, kept, found, indices)
            else:
                bound = _lower_bound(row_N, k)
                kept = _collect(row_N, 0, n, bound, kept, found, indices)
            values_CK[r], indices_CK[r] = np.nan, 0
            _keep_k_largest(found[:kept], indices[:kept], values_CK[r], indices_CK[r])
            for j in range(k):
                if values_CK[r, j] < 0:
                    values_CK[r, j] = 0
