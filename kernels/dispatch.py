"""Which implementation runs: chosen by name, never by what happens to be importable at import."""

from __future__ import annotations

import importlib.util
import os
import sys

import torch

from isae.errors import KernelError

KERNELS = ("auto", "triton", "cpu", "reference")
LEAST_CAPABILITY = (8, 0)
"""Of GPUs that the kernels are written for: tensor cores with bfloat16."""


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
        return _best(device)
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


def _best(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu" if _installed("numba") else "reference"
    if device.type != "cuda" or not _installed("triton"):
        return "reference"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return "reference"
    _settle_interpreter(device)
    return "triton"


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

    interprets = bool(triton.knobs.runtime.interpret)
    if device.type == "cpu" and not interprets:
        raise KernelError(
            "kernel 'triton' on the CPU expects Triton's interpreter, found Triton imported for "
            "compiling; set TRITON_INTERPRET=1 before Python starts, or use kernel 'cpu'"
        )
    if device.type == "cuda" and interprets:
        raise KernelError(
            "kernel 'triton' on a GPU expects Triton's compiler, found its interpreter; "
            "unset TRITON_INTERPRET and start Python anew"
        )
    if device.type == "cuda" and device.index not in (None, torch.cuda.current_device()):
        raise KernelError(
            f"kernel 'triton' expects tensors on the current GPU {torch.cuda.current_device()}, "
            f"found {device}; call torch.cuda.set_device first"
        )


def _installed(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None
