"""ReLUs that are off let through the gradients that would turn them on.

A neuron that is off at the start has no gradient, so no ascent begins. Inside `RedirectedRelus`
the gradient of y = relu(x) by x is that of y where x > 0, and elsewhere only its part that an
ascent would follow upwards. Values are unchanged. These are no true gradients, and in deep layers
hundreds of times as long: they are for the first steps of neurons only. Source: the practice of
Olah, Mordvintsev and Schubert 2017, "Feature visualization".
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_RELUS = (torch.relu, torch.relu_, F.relu, F.relu_, torch.Tensor.relu, torch.Tensor.relu_)


class _Redirected(torch.autograd.Function):
    """relu whose gradient (of a quantity to be made smaller) passes where it would raise x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        (grad,) = grads
        return torch.where((x <= 0) & (grad > 0), torch.zeros_like(grad), grad)


class RedirectedRelus(TorchFunctionMode):
    """While this is entered, relus of this thread have the redirected gradient.

    The quantity that is differentiated must be one to be made smaller (a loss).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _RELUS:
            return _Redirected.apply(args[0])
        return func(*args, **(kwargs or {}))
