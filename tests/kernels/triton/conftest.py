from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def settings(nan_filled_allocations: None, exact_float32: None) -> None:
    """Every test of this folder allocates NaN and multiplies float32 as float32."""


@pytest.fixture
def on_device(device: torch.device) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make of an operation one that runs on the device, with tensors from and to the CPU.

    Gradients come back to the CPU too, and strides stay where a tensor has no gaps.
    """

    def moved(value: Any, to: str | torch.device) -> Any:
        return value.to(to) if isinstance(value, torch.Tensor) else value

    def wrap(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            found = operation(
                *(moved(value, device) for value in arguments),
                **{name: moved(value, device) for name, value in options.items()},
            )
            if isinstance(found, tuple):
                parts = [moved(value, "cpu") for value in found]
                return type(found)(*parts) if hasattr(found, "_fields") else tuple(parts)
            return moved(found, "cpu")

        return run

    return wrap
