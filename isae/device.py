"""Which device runs, and whether its bf16 is fast. torch is imported on first use only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isae.errors import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str = "auto") -> torch.device:
    """'auto' is the first CUDA device if there is one, else the CPU; other names are torch's own.

    Raises ConfigError for a name torch does not know and for a device that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"expected --device auto, cpu, cuda or cuda:N, found '{name}'; use one of those"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"expected a CUDA device for --device {name}, found none that torch can use; "
            "use --device cpu, or install a driver that fits this torch build"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"expected --device auto, cpu, cuda or cuda:N, found '{name}'; use one of those"
        )
    return device


def use_device(name: str) -> None:
    """Make a GPU named with its number the current one: kernels run on the current GPU.

    Raises ConfigError as `resolve_device`.
    """
    import torch

    device = resolve_device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def has_fast_bf16(device: torch.device) -> bool:
    """True where bf16 matrix products outrun fp32: AMX or AVX-512 BF16 on a CPU, sm_80 on a GPU.

    A CPU without either emulates bf16 and is several times slower than in fp32.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)
