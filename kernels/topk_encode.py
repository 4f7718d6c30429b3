"""TopK encoding: the k largest pre-activations of every row.

    pre = x W_enc^T + b_enc;  (values, indices) = ReLU(top_k(pre))

The k largest first, then ReLU, so that with fewer than k positive pre-activations some values are
0 (arXiv 2406.04093). Ties go to the lowest index. Output is sorted by falling value, ties by
index, so it is the same whoever computes it from the same pre-activations.

CPU path: on processors with fast 8-bit products, `filtered_topk` computes in float32 only what can
be among the k largest. Elsewhere rows go through the GEMM in chunks whose pre-activations stay in
the cache, and `selection` finds their k largest.

Shapes: B rows, C rows of a chunk, D channels, N latents, K active latents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from isae.errors import KernelError
from isae.kernels.checks import check_finite, check_k, check_tensor
from isae.kernels.cpu.filtered_topk import can_filter, filtered_topk
from isae.kernels.cpu.selection import BLOCK, BLOCKS_PER_K, PARTS, topk_rows
from isae.kernels.dispatch import choose_kernel
from isae.kernels.sparse_decode import sparse_decode
from isae.kernels.sparse_outer import group_by_latent, sparse_outer

CHUNK_BYTES = 16 << 20
"""Pre-activations of one chunk: fits the last-level cache, large enough for an efficient GEMM."""


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
    """The compiled path: 8-bit filter or GEMM in chunks, pruned top-k (no checks, no gradients).

    W may be bfloat16 where x and b are float32: products are of its numbers in float32.
    """
    if can_filter(x_BD, W_ND.shape[0], k):
        found = filtered_topk(x_BD, W_ND, b_N, k)
        if found is not None:
            return found
    return encode_in_chunks(x_BD, W_ND.to(x_BD.dtype), b_N, k)


def encode_in_chunks(
    x_BD: torch.Tensor, W_ND: torch.Tensor, b_N: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The compiled path without the filter: float GEMM of some rows, then their top-k."""
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
    topk_rows(pre_CN.numpy(), b_N.contiguous().numpy(), prune, *arrays, PARTS)
