"""Which implementation runs: chosen by name, never by what happens to be importable at import."""

from __future__ import annotations

import importlib.util
import os
import sys

import torch

from isae.errors import KernelError

KERNELS = ("auto", "triton", "cpu", "reference")


def choose_kernel(kernel: str, device: torch.device) -> str:
    """'triton', 'cpu' or 'reference' for a wish and the device of the tensors.

    'auto' is 'triton' on a GPU with Triton, 'cpu' on a CPU with numba, else 'reference'. 'triton'
    on a CPU runs the same kernels in Triton's interpreter: slow, for checking.
    Raises KernelError for an unknown name, for a kernel that cannot run on the device, and where
    the package it needs is not installed.
    """
    if kernel not in KERNELS:
        raise KernelError(f"unknown kernel '{kernel}': expected one of {', '.join(KERNELS)}")
    if kernel == "auto":
        wished, package = ("cpu", "numba") if device.type == "cpu" else ("triton", "triton")
        return wished if device.type in ("cpu", "cuda") and _installed(package) else "reference"
    if kernel == "cpu" and device.type != "cpu":
        raise KernelError(
            f"kernel 'cpu' expects tensors on the CPU, found {device}; "
            "move them, or use kernel 'reference'"
        )
    needed = {"cpu": "numba", "triton": "triton"}.get(kernel)
    if needed and not _installed(needed):
        raise KernelError(
            f"kernel '{kernel}' expects {needed}, which is not installed; "
            f"install {needed}, or use kernel 'reference'"
        )
    if kernel == "triton":
        _settle_interpreter(device)
    return kernel


def interpreted(kernel: str, device: torch.device | str) -> bool:
    """Whether this choice runs in Triton's interpreter."""
    return kernel == "triton" and torch.device(device).type == "cpu"


def _settle_interpreter(device: torch.device) -> None:
    # Triton settles once, at its import, whether its functions are compiled or interpreted.
    if device.type not in ("cpu", "cuda"):
        raise KernelError(
            f"kernel 'triton' expects tensors on a CUDA GPU or the CPU, found {device}; move them"
        )
    if device.type == "cpu" and "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"
    import triton

    if device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise KernelError(
            "kernel 'triton' on the CPU expects Triton's interpreter, found Triton imported for "
            "compiling; set TRITON_INTERPRET=1 before Python starts, or use kernel 'cpu'"
        )


def _installed(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None
