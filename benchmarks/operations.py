"""The operations that are measured: their inputs, how they are called, and what they must cost.

Bytes are those that a run cannot do without: every operand once, every gathered row once for each
pair, every result once. FLOPs count a multiplication and an addition as two. `o` is the size of an
operand's number (2 for bfloat16), 4 that of a float32. P = B K pairs.

Shapes: B rows, D channels, N latents, K active latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from isae import kernels
from isae.benchmarks import references
from isae.benchmarks.workloads import RowMaker, Workload
from isae.kernels import Parameter

ADAM_FLOPS = 18
"""A number's share of projection (4), Adam (11) and renormalisation (3)."""
LR = 1e-2
"""Large, so that a wrong update stands out from the parameter that it is added to."""
HOT_SHARE = 64
"""A quarter of all pairs falls on one latent in so many."""


@dataclass(frozen=True)
class Cost:
    """Bytes moved and FLOPs done, at least."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class Inputs:
    """Operands of every operation; `dtype` those of products and gathers."""

    workload: Workload
    kernel: str
    dtype: torch.dtype
    tensors: dict[str, torch.Tensor]
    groups: kernels.LatentGroups

    def __getitem__(self, name: str) -> torch.Tensor:
        """A tensor by name."""
        return self.tensors[name]


@dataclass(frozen=True)
class Operation:
    """One operation under its public name.

    run: call it. check: call it once more and compare with float64 -> what differs (error norm
    over the reference's, or a count) and what is allowed. cost: of a workload, given `o`.
    """

    name: str
    run: Callable[[Inputs], Any]
    check: Callable[[Inputs, Callable[[Inputs], Any]], references.Verdict]
    cost: Callable[[Workload, int], Cost]


def make_inputs(
    workload: Workload, kernel: str, device: torch.device, dtype: torch.dtype, seed: int
) -> Inputs:
    """Fresh random operands; codes with a few hot latents, as real ones have them."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    b, d, n, k = workload.rows, workload.d, workload.n, workload.k
    x_BD = RowMaker(d, device, seed).rows(b)
    W_dec_ND = torch.nn.functional.normalize(normal(n, d), dim=1)
    W_enc_ND = W_dec_ND + 0.1 / d**0.5 * normal(n, d)
    tensors = {
        "x": x_BD,
        "x_low": x_BD.to(dtype),
        "W_enc": W_enc_ND,
        "W_enc_low": W_enc_ND.to(dtype),
        "W_dec": W_dec_ND,
        "W_dec_low": W_dec_ND.to(dtype),
        "b_enc": 0.1 * normal(n),
        "b_dec": 0.1 * normal(d),
        "weight": torch.ones(b, device=device),
        "values": normal(b, k).abs_(),
        "g_values": normal(b, k),
        "r_low": normal(b, d).to(dtype),
        "indices": _indices(workload, generator, device),
    }
    for name, shape in (("W_enc", (n, d)), ("W_dec", (n, d)), ("b_enc", (n,))):
        tensors[f"{name}_first"] = 1e-3 * normal(*shape)
        tensors[f"{name}_second"] = (1e-3 * normal(*shape)).square_()
    groups = kernels.group_by_latent(tensors["values"], tensors["indices"], n, kernel=kernel)
    return Inputs(workload, kernel, dtype, tensors, groups)


def _indices(workload: Workload, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    # Evenly spaced from a random start, so that a row's latents differ: some in the hot range
    # [0, hot), the others above it.
    hot_slots = workload.k // 4
    hot = max(hot_slots, workload.n // HOT_SHARE)
    parts = []
    for first, size, slots in (
        (0, hot, hot_slots),
        (hot, workload.n - hot, workload.k - hot_slots),
    ):
        shape = (workload.rows, 1)
        start_B1 = torch.randint(max(size, 1), shape, generator=generator, device=device)
        step_B1 = torch.randint(
            1, max(size // max(slots, 1), 1) + 1, shape, generator=generator, device=device
        )
        slot_S = torch.arange(slots, device=device)
        parts.append(first + (start_B1 + step_B1 * slot_S) % max(size, 1))
    return torch.cat(parts, 1)


def _topk_encode(inputs: Inputs) -> Any:
    operands = (inputs["x_low"], inputs["W_enc_low"], inputs["b_enc"])
    return kernels.topk_encode(*operands, inputs.workload.k, kernel=inputs.kernel)


def _sparse_decode(inputs: Inputs) -> Any:
    operands = (inputs["values"], inputs["indices"], inputs["W_dec_low"], inputs["b_dec"])
    return kernels.sparse_decode(*operands, kernel=inputs.kernel)


def _decode_residual(inputs: Inputs) -> Any:
    return kernels.decode_residual(
        *(inputs[name] for name in ("values", "indices", "W_dec_low", "b_dec", "x", "weight")),
        kernel=inputs.kernel,
        trusted=True,
    )


def _group_by_latent(inputs: Inputs) -> Any:
    operands = (inputs["values"], inputs["indices"], inputs.workload.n)
    return kernels.group_by_latent(*operands, kernel=inputs.kernel, trusted=True)


def _sparse_outer(inputs: Inputs) -> Any:
    operands = (inputs.groups, inputs["values"], inputs["r_low"])
    return kernels.sparse_outer(*operands, kernel=inputs.kernel)


def _adam_update(inputs: Inputs) -> Any:
    names = ("W_dec", "W_enc", "W_dec_first", "W_dec_second")
    return kernels.adam_update(
        *(inputs[name] for name in names),
        lr=LR,
        step=10,
        project=True,
        renormalise=True,
        kernel=inputs.kernel,
    )


def parameter(inputs: Inputs, name: str) -> Parameter:
    """A parameter with its moments, and its copy where operands are of low precision."""
    low = inputs.tensors.get(f"{name}_low") if inputs.dtype != torch.float32 else None
    return Parameter(inputs[name], inputs[f"{name}_first"], inputs[f"{name}_second"], low)


def _latent_update(inputs: Inputs) -> Any:
    return kernels.latent_update(
        inputs.groups,
        inputs["values"],
        inputs["g_values"],
        inputs["x_low"],
        inputs["r_low"],
        parameter(inputs, "W_enc"),
        parameter(inputs, "W_dec"),
        parameter(inputs, "b_enc"),
        lr=LR,
        step=10,
        unit=True,
        kernel=inputs.kernel,
    )


def _column_sums(inputs: Inputs) -> Any:
    return kernels.column_sums(inputs["x"], kernel=inputs.kernel)


def _cost(
    size: Callable[[int, int, int, int, int], int], flops: Callable[[int, int, int, int], int]
) -> Callable[[Workload, int], Cost]:
    def cost(workload: Workload, o: int) -> Cost:
        sizes = (workload.rows, workload.d, workload.n, workload.k)
        return Cost(size(*sizes, o), flops(*sizes))

    return cost


OPERATIONS = (
    Operation(
        "topk_encode",
        _topk_encode,
        references.check_topk_encode,
        # x and W once, the bias; values and int64 indices out.
        _cost(
            lambda b, d, n, k, o: b * d * o + n * d * o + 4 * n + 12 * b * k,
            lambda b, d, n, k: 2 * b * d * n,
        ),
    ),
    Operation(
        "sparse_decode",
        _sparse_decode,
        references.check_sparse_decode,
        # A decoder row for each pair, its value and index; x_hat out.
        _cost(
            lambda b, d, n, k, o: b * k * d * o + 12 * b * k + 4 * d + 4 * b * d,
            lambda b, d, n, k: 2 * b * k * d,
        ),
    ),
    Operation(
        "decode_residual",
        _decode_residual,
        references.check_decode_residual,
        # As decode, and x; the value gradients find their rows in the cache; residual and
        # value gradients out.
        _cost(
            lambda b, d, n, k, o: b * k * d * o + 16 * b * k + 4 * d + 8 * b * d,
            lambda b, d, n, k: 4 * b * k * d + 3 * b * d,
        ),
    ),
    Operation(
        "group_by_latent",
        _group_by_latent,
        references.check_group_by_latent,
        # Values and indices in, pairs and offsets out, both int64.
        _cost(
            lambda b, d, n, k, o: 12 * b * k + 8 * b * k + 8 * (n + 1),
            lambda b, d, n, k: 0,
        ),
    ),
    Operation(
        "sparse_outer",
        _sparse_outer,
        references.check_sparse_outer,
        # A row of the batch for each pair, the pair and its coefficient; the matrix out.
        _cost(
            lambda b, d, n, k, o: b * k * d * o + 12 * b * k + 8 * (n + 1) + 4 * n * d,
            lambda b, d, n, k: 2 * b * k * d,
        ),
    ),
    Operation(
        "adam_update",
        _adam_update,
        references.check_adam_update,
        # Parameter, gradient and moments in; parameter and moments out.
        _cost(lambda b, d, n, k, o: 28 * n * d, lambda b, d, n, k: ADAM_FLOPS * n * d),
    ),
    Operation(
        "latent_update",
        _latent_update,
        references.check_latent_update,
        # Two rows of the batch for each pair, the pair and two coefficients; both matrices, the
        # bias and their moments in and out, and low-precision copies out.
        _cost(
            lambda b, d, n, k, o: (
                2 * b * k * d * o
                + 16 * b * k
                + 8 * (n + 1)
                + 48 * n * d
                + 24 * n
                + (2 * n * d * o if o < 4 else 0)
            ),
            lambda b, d, n, k: 4 * b * k * d + 2 * ADAM_FLOPS * n * d,
        ),
    ),
    Operation(
        "column_sums",
        _column_sums,
        references.check_column_sums,
        _cost(lambda b, d, n, k, o: 4 * b * d + 16 * d, lambda b, d, n, k: 4 * b * d),
    ),
)
