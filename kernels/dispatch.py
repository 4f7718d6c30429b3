"""Which implementation runs: chosen by name, never by what happens to be importable at import."""

from __future__ import annotations

import importlib.util

import torch

from isae.errors import KernelError

KERNELS = ("auto", "reference", "cpu")


def choose_kernel(kernel: str, device: torch.device) -> str:
    """'reference' or 'cpu' for a wish and the device of the tensors.

    'auto' is 'cpu' for tensors on a CPU where numba is installed, else 'reference'.
    Raises KernelError for an unknown name, for 'cpu' on another device, and without numba.
    """
    if kernel not in KERNELS:
        raise KernelError(f"unknown kernel '{kernel}': expected one of {', '.join(KERNELS)}")
    has_numba = importlib.util.find_spec("numba") is not None
    if kernel == "auto":
        return "cpu" if device.type == "cpu" and has_numba else "reference"
    if kernel == "cpu" and device.type != "cpu":
        raise KernelError(
            f"kernel 'cpu' expects tensors on the CPU, found {device}; "
            "move them, or use kernel 'reference'"
        )
    if kernel == "cpu" and not has_numba:
        raise KernelError(
            "kernel 'cpu' expects numba, which is not installed; "
            "install numba, or use kernel 'reference'"
        )
    return kernel
