"""Untrained networks whose activations have unit scale: the controls for trained ones.

Weights are normal with variance 2 / fan_in (He et al. 2015). Then one pass over a fixed batch of
procedural pictures sets, convolution by convolution in the order of computation, a scale and a
shift per channel so that on this batch the value before the ReLU has mean 0 and the value after it
has root mean square 1. Without the shift most channels of a deep random network would be dead or
always on, since the channels' means outgrow their variation.

Scales and shifts are computed in float64 on the CPU and rounded to 16 significant bits, so that a
seed gives the same weights, bit for bit, whatever the number of threads.

Legend: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from isae.randomness import keyed_rng

BATCH = 8
SIZE = 128
SIGNIFICANT_BITS = 16
TINY = 1e-12


def he_normal(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Float32 normal weights of variance 2 / fan_in, by seed and name alone."""
    fan_in = int(np.prod(shape[1:]))
    values = keyed_rng(seed, "inception", name).standard_normal(shape) * np.sqrt(2 / fan_in)
    return torch.from_numpy(values.astype(np.float32))


def calibration_pixels() -> Tensor:
    """The fixed batch: uint8 [B, 3, H, W] of 1/f noise, whose spectrum is that of photographs."""
    rng = keyed_rng(0, "inception", "calibration pictures")
    rows, columns = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :]
    frequency = np.maximum(np.hypot(rows, columns), 1 / SIZE)
    noise = rng.standard_normal((BATCH, 3, SIZE, SIZE))
    # Photographs are mostly grey: half of each colour channel is common to all three.
    noise += noise.mean(axis=1, keepdims=True) * np.sqrt(3)
    maps = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(SIZE, SIZE))
    maps -= maps.mean(axis=(2, 3), keepdims=True)
    maps /= maps.std(axis=(2, 3), keepdims=True)
    return torch.from_numpy(np.clip(np.rint(117 + 50 * maps), 0, 255).astype(np.uint8))


def unit_scale(values_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """(scale [C], shift [C]) such that relu(scale * values + shift) has root mean square 1.

    scale * values + shift has mean 0 over B, H and W. A constant channel keeps scale 1.
    """
    values = values_BCHW.double()
    mean = values.mean(dim=(0, 2, 3))
    centred = values - mean[None, :, None, None]
    rms = centred.clamp(min=0).square().mean(dim=(0, 2, 3)).sqrt()
    scale = torch.where(rms > TINY, 1 / rms.clamp(min=TINY), torch.ones_like(rms))
    return _rounded(scale), _rounded(-mean * scale)


def calibrate_convolution(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Forward pre-hook of a convolution with a bias: give its output unit scale on `inputs`."""
    if not isinstance(module, nn.Conv2d) or module.bias is None:
        raise TypeError(f"expected a convolution with a bias, found {type(module).__name__}")
    with torch.no_grad():
        module.bias.zero_()
        scale, shift = unit_scale(module.forward(*inputs))
        module.weight.mul_(scale[:, None, None, None])
        # Weights are kept as float32: calibrate what will be used.
        module.weight.copy_(module.weight.float())
        module.bias.copy_(shift.float())


def calibrate_batch_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Forward pre-hook of a batch norm: statistics and gain that give unit scale on `inputs`."""
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None:
        raise TypeError(f"expected a batch norm, found {type(module).__name__}")
    with torch.no_grad():
        scale, shift = unit_scale(inputs[0])
        module.running_mean.copy_((-shift / scale).float())
        # weight / sqrt(var + eps) is the scale; the variance is folded into the weight.
        module.running_var.fill_(1.0)  # type: ignore[union-attr]
        module.weight.copy_((scale * np.sqrt(1.0 + module.eps)).float())
        module.bias.zero_()


def _rounded(values: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2**SIGNIFICANT_BITS) / 2**SIGNIFICANT_BITS, exponent)
