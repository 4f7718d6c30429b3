"""Checks that every operation makes before it touches a number.

Shapes: B rows, D channels, N latents, K active latents per row.
"""

from __future__ import annotations

import torch

from isae.errors import DataError, KernelError

FLOATS = (torch.float32, torch.float64)
TRITON_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check_tensor(
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int | None, ...],
    like: torch.Tensor | None = None,
    *,
    kernel: str = "reference",
    halves: bool = False,
) -> None:
    """Raise KernelError unless `tensor` is of `shape` (None: any length) and of a dtype that the
    chosen kernel takes: float32 or float64; for 'triton' float32, bfloat16 or float16.

    `like`: a tensor whose device, and but for 'triton' whose dtype, must be the same. `halves`:
    for 'cpu' bfloat16 is taken, too, where `like` is float32.
    """
    allowed = TRITON_FLOATS if kernel == "triton" else FLOATS
    single = like is not None and like.dtype == torch.float32
    mixed = halves and kernel == "cpu" and single and tensor.dtype == torch.bfloat16
    if tensor.dtype not in allowed and not mixed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise KernelError(f"{name}: expected {names}, found {tensor.dtype}; convert it")
    _check_shape(name, tensor, shape)
    may_differ = kernel == "triton" or mixed
    if like is not None and tensor.dtype != like.dtype and not may_differ:
        raise KernelError(f"{name}: expected dtype {like.dtype}, found {tensor.dtype}; convert it")
    if like is not None and tensor.device != like.device:
        raise KernelError(f"{name}: expected device {like.device}, found {tensor.device}; move it")


def check_indices(
    name: str, indices: torch.Tensor, shape: tuple[int, ...], n: int, device: torch.device
) -> None:
    """Raise KernelError unless `indices` is int64 of `shape` on `device`, values in [0, n)."""
    if indices.dtype != torch.int64:
        raise KernelError(f"{name}: expected int64, found {indices.dtype}; convert it")
    _check_shape(name, indices, shape)
    if indices.device != device:
        raise KernelError(f"{name}: expected device {device}, found {indices.device}; move it")
    if indices.numel():
        low, high = (int(value) for value in torch.aminmax(indices))
        if low < 0 or high >= n:
            raise KernelError(f"{name}: expected values in [0, {n}), found {low} to {high}")


def check_k(k: int, n: int) -> None:
    """Raise KernelError unless 1 <= k <= n."""
    if not 1 <= k <= n:
        raise KernelError(f"k: expected 1 <= k <= {n} (the number of latents), found {k}")


def check_finite(name: str, tensor: torch.Tensor) -> None:
    """Raise DataError if `tensor` holds NaN or infinity.

    One sum first, since any NaN or infinity survives it; the exact look only where that failed
    (a sum of finite numbers may overflow).
    """
    if bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all()):
        return
    bad = int((~torch.isfinite(tensor)).sum())
    raise DataError(
        f"{name}: expected finite numbers, found {bad} NaN or infinite of {tensor.numel()}; "
        "look for the layer or file they come from"
    )


def _check_shape(name: str, tensor: torch.Tensor, shape: tuple[int | None, ...]) -> None:
    found = tuple(tensor.shape)
    if len(found) != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, found, strict=True)
    ):
        text = ", ".join("any" if want is None else str(want) for want in shape)
        raise KernelError(f"{name}: expected shape [{text}], found {list(found)}")
