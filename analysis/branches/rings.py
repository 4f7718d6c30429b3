"""Kernel size as a confound: what stays of a feature when 5x5 kernels see no further than 3x3.

Features may sit in the 5x5 branch because its kernels are large, or for other reasons. The 5x5
branch of the layer is computed again from the block's real input on held-out pictures, with part of
each kernel set to zero:

    ring       the outer 16 of 25 taps, which leaves a 3x3 kernel,
    random     as a control, 16 taps drawn at random for each pair of channels.

The rows so changed are encoded again, and the causal share of the 5x5 branch is measured as in
`isae.analysis.branches.causal` (donors: the same changed branch of another picture at that place).
On the pairs (row, feature) where the feature is active in the unchanged row, with z its code,

    kept[i]    sum z_i(changed) / sum z_i                                 what stays of its code
    share[i]   1 - sum z_i(changed, 5x5 of the donor) / sum z_i(changed)  its 5x5 causal share then

Known limits: the biases stay, so a branch with less input also falls below them more often; and
the other branches stay as they were, though the network was trained with all of them.

Legend: P pictures, R rows, C channels, M channels of the 5x5 branch, E pairs, N features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from isae.analysis.arrays import F32, F64, I32, U8
from isae.analysis.branches.causal import Swapper
from isae.analysis.branches.heldout import Pairs, as_rows, choose_pairs, coded_rows, donors
from isae.analysis.branches.resampling import Ratio, image_counts, ratio
from isae.inception import LayerInfo
from isae.inception.model import InceptionV1
from isae.progress import QUIET, Reporter
from isae.randomness import keyed_seed
from isae.train import SAE

BRANCH = "5x5"
CUTS = ("ring", "random")
_SIDE, _ZEROED = 5, 16


@dataclass(frozen=True)
class Rings:
    """share: of unchanged rows; kept, share_after: by CUTS; energy: the part of the kernels'
    squared weights that each cut removes; pairs: what all is measured on.
    """

    pairs: Pairs
    rows: int
    share: Ratio
    kept: dict[str, Ratio]
    share_after: dict[str, Ratio]
    energy: dict[str, float]


def why_not(model: str, info: LayerInfo) -> str | None:
    """Why the outer ring of a layer's 5x5 kernels cannot be taken away; None where it can."""
    kernel = info.branch_kernels.get(BRANCH)
    if kernel is None:
        return f"'{info.name}' has no branch '{BRANCH}'"
    if kernel == _SIDE:
        return None
    return f"not applicable: the '{BRANCH}' branch of {model} is {kernel}x{kernel}; {info.note}"


def ring_effects(
    network: InceptionV1,
    sae: SAE,
    layer: str,
    pixels_PHW3: U8,
    *,
    cap: int = 64,
    resamples: int = 200,
    seed: int = 0,
    batch_size: int = 8192,
    device: torch.device | str = "cpu",
    reporter: Reporter = QUIET,
) -> Rings:
    """Code and 5x5 causal share of every feature with the 5x5 kernels cut -> `Rings`.

    pixels_PHW3: pictures uint8, RGB. See `why_not` for networks and layers that this is not for.
    """
    branch = FiveBranch.of(network, layer, seed)
    x_RC, place_R3, five = _rows(network, layer, pixels_PHW3, branch, reporter)
    rows = coded_rows(sae, x_RC, place_R3, batch_size, device)
    donor_R = donors(place_R3, 1, seed)[0]
    pairs = choose_pairs(rows, donor_R >= 0, sae.n, cap, seed)
    start, stop = network.layers[layer].branches[BRANCH]
    swapper = Swapper(sae, batch_size, device)
    counts_IT = image_counts(max(pairs.images, 1), resamples, seed)

    def codes(five_RM: F32) -> F64:
        changed_RC = x_RC.copy()
        changed_RC[:, start:stop] = five_RM
        return swapper.codes(changed_RC, pairs)[0]

    given_E, whole_RM = pairs.code_E.astype(np.float64), x_RC[:, start:stop]
    kept, after = {}, {}
    for name in CUTS:
        code_E, donated_E = codes(five[name]), codes(five[name][donor_R])
        kept[name] = ratio(pairs, code_E, given_E, counts_IT)
        after[name] = ratio(pairs, code_E - donated_E, code_E, counts_IT)
    share = ratio(pairs, given_E - codes(whole_RM[donor_R]), given_E, counts_IT)
    squares = {name: float(one.square().sum()) for name, one in branch.kernels.items()}
    energy = {name: 1 - squares[name] / squares["full"] for name in CUTS}
    return Rings(pairs, len(x_RC), share, kept, after, energy)


@dataclass(frozen=True)
class FiveBranch:
    """A block's 5x5 branch: its two convolutions, kernels [out, in, 5, 5] by 'full' and CUTS."""

    reduce: torch.Tensor
    reduce_bias: torch.Tensor
    bias: torch.Tensor
    kernels: dict[str, torch.Tensor]

    @classmethod
    def of(cls, network: InceptionV1, layer: str, seed: int = 0) -> FiveBranch:
        """The 5x5 branch of a layer, and its cut kernels."""
        state = network.public_state()
        reduce = f"{layer}_5x5_bottleneck_pre_relu_conv"
        full = state[f"{layer}_5x5_pre_relu_conv.weight"]
        ring = torch.zeros_like(full)
        ring[:, :, 1:-1, 1:-1] = full[:, :, 1:-1, 1:-1]
        generator = torch.Generator().manual_seed(keyed_seed(seed, "taps") % 2**63)
        keys = torch.rand(*full.shape[:2], _SIDE * _SIDE, generator=generator)
        kept = (keys.argsort(dim=2).argsort(dim=2) >= _ZEROED).reshape(full.shape)
        kernels = {"full": full, "ring": ring, "random": full * kept.to(full)}
        bias = state[f"{layer}_5x5_pre_relu_conv.bias"]
        return cls(state[f"{reduce}.weight"], state[f"{reduce}.bias"], bias, kernels)

    def maps(self, input_PCHW: torch.Tensor, name: str) -> torch.Tensor:
        """The branch for the block's input [P, C, H, W] with one of its kernels [P, M, H, W]."""
        reduced = F.relu(F.conv2d(input_PCHW.to(self.bias), self.reduce, self.reduce_bias))
        return F.relu(F.conv2d(reduced, self.kernels[name], self.bias, padding=_SIDE // 2))


def _rows(
    network: InceptionV1,
    layer: str,
    pixels_PHW3: U8,
    branch: FiveBranch,
    reporter: Reporter,
    pictures: int = 16,
) -> tuple[F32, I32, dict[str, F32]]:
    """(activations [R, C], places [R, 3], the 5x5 branch's [R, M] by kernel) of all places."""
    before = list(network.layers)[list(network.layers).index(layer) - 1]
    x: list[F32] = []
    five: dict[str, list[F32]] = {name: [] for name in CUTS}
    with torch.no_grad(), reporter.task(len(pixels_PHW3), f"{layer}: rings", "pictures") as meter:
        for first in range(0, len(pixels_PHW3), pictures):
            pixels = torch.from_numpy(pixels_PHW3[first : first + pictures]).permute(0, 3, 1, 2)
            maps = network.activations(pixels, [before, layer])
            x.append(as_rows(maps[layer]))
            for name in CUTS:
                five[name].append(as_rows(branch.maps(maps[before], name)))
            meter.advance(len(pixels))
    height, width = maps[layer].shape[2:]
    grid = np.meshgrid(
        np.arange(len(pixels_PHW3)), np.arange(height), np.arange(width), indexing="ij"
    )
    place_R3 = np.stack([one.ravel() for one in grid], axis=1).astype(np.int32)
    return np.concatenate(x), place_R3, {name: np.concatenate(five[name]) for name in CUTS}
