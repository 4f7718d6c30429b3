"""Tile shapes, warps and pipeline stages of every kernel, by architecture.

Kept apart from the kernels so that the shipped choice is the one that is tested, compiled ahead of
time and measured. Shapes: C rows of a chunk, D channels, N latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

DEFAULT_ARCHITECTURE = 90
"""Compute capability that the interpreter stands in for."""


@dataclass(frozen=True)
class Tile:
    """One matrix product's tile."""

    block_c: int
    block_n: int
    block_d: int
    warps: int
    stages: int


ENCODE_TILES = {
    (80, "half"): Tile(128, 128, 64, 8, 3),
    (80, "tf32"): Tile(128, 128, 32, 8, 3),
    (80, "ieee"): Tile(64, 128, 32, 8, 3),
    (90, "half"): Tile(128, 256, 64, 8, 3),
    (90, "tf32"): Tile(128, 128, 32, 8, 3),
    (90, "ieee"): Tile(64, 128, 32, 8, 3),
    (100, "half"): Tile(128, 256, 64, 8, 3),
    (100, "tf32"): Tile(128, 128, 32, 8, 3),
    (100, "ieee"): Tile(64, 128, 32, 8, 3),
}

UNALIGNED_TILES = {
    (80, "half"): Tile(64, 128, 32, 8, 2),
    (80, "tf32"): Tile(64, 128, 32, 8, 3),
    (80, "ieee"): Tile(32, 128, 32, 8, 3),
    (90, "half"): Tile(64, 128, 32, 8, 2),
    (90, "tf32"): Tile(128, 128, 32, 8, 3),
    (90, "ieee"): Tile(64, 128, 32, 8, 3),
    (100, "half"): Tile(64, 128, 32, 8, 2),
    (100, "tf32"): Tile(128, 128, 32, 8, 3),
    (100, "ieee"): Tile(64, 128, 32, 8, 3),
}
"""Of rows of odd length: single numbers are read, and 16-bit ones go through registers."""


def architecture(device: torch.device) -> int:
    """Compute capability as one of the numbers that tiles are kept for."""
    if device.type != "cuda":
        return DEFAULT_ARCHITECTURE
    major, _ = torch.cuda.get_device_capability(device)
    # Consumer GPUs from 12 on have the shared memory of 8.
    return 80 if major < 9 or major >= 12 else 90 if major == 9 else 100


def precision(dtype: torch.dtype) -> str:
    """'half' for 16-bit operands, else 'ieee' or 'tf32'.

    float32 follows `torch.get_float32_matmul_precision`: 'highest' is exact float32.
    """
    if dtype in (torch.float16, torch.bfloat16):
        return "half"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def common_unit(*sizes: int) -> int:
    """The largest power of two, 16 at most, that divides all sizes.

    Kernels are given a row's length in such units: the compiler only asks whether an argument is a
    multiple of 16, and would read rows of 508 numbers one by one.
    """
    return math.gcd(16, *sizes)


def in_units(d: int) -> dict[str, int]:
    """A row's length in units, as kernels take it."""
    unit = common_unit(d)
    return {"units_d": d // unit, "UNIT": unit}


def power_of_two(value: int, least: int = 1) -> int:
    """The smallest power of two that is at least `value` and `least`."""
    return max(least, 1 << (max(value, 1) - 1).bit_length())
