"""The mean Jacobian of an Inception block with respect to the layer before it, from gates alone.

At one place p of the block's map, output channel o of a branch with a spatial convolution is

    y_o(p) = relu(b_o + sum over offsets t and reduced channels m of W2[o, m, t] h_m(p + t)),
    h_m(q) = relu(b_m + sum_c W1[m, c] x_c(q)),

so that the derivative of y_o(p) by x_c(p + t) is, wherever it exists,

    1[y_o(p) > 0] sum_m W2[o, m, t] 1[h_m(p + t) > 0] W1[m, c].

Weights are constants. So the mean over places and images needs no loop over samples, only how often
both gates are open at once, P[o, m, t] = E 1[y_o(p) > 0] 1[h_m(p + t) > 0], one small matrix
product an offset and a batch of pictures, and it is exact, not an approximation:

    E[J](t) = (W2[:, :, t] * P[:, :, t]) W1.

A branch of one 1x1 convolution has E[J] = P[o] W[o, c]. A max pool passes its window's largest
cell, so it adds a gate 1[the window's largest cell of channel c is p + t]; of these exactly one is
open in every window. Virtual weights sum over the offsets (a feature of the layer before that rises
alike at all the places that the window sees), and in the sum a pool is the identity: it leaves
P[o] W[o, c] for the pool branch, and changes nothing where it lies between the layers.
(A window's cells that are outside the map never win; ties are broken somehow, once.)

    M_b = sum over t of E[J_b](t)          float64 [O_b, C] for each branch b

Places that the block's padding does not reach are used (margin 2 for a 5x5); a map without any, as
4 x 4 cells, is used whole, its gates outside the map closed: then exact for that mean.

Cost: the forward pass up to the block's input, the block's own convolutions, and per place
K^2 M O products. Linear in pictures. Memory: a batch's maps, and K^2 M O counts.

Known limits: gates are averaged over all places, not over those where a certain feature is active;
the encoder's top-k is not part of the path.

Legend: B pictures, P places, C input channels, M reduced channels, O output channels, T offsets,
H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isae.analysis.arrays import F64
from isae.inception.blocks import BranchWeights


@dataclass
class PathMeter:
    """Counts the open gates of a block's branches over batches of its input's maps.

    Pictures are dealt to two halves in turns, so that `reliability` can say how far the mean
    Jacobian depends on which pictures were seen.
    """

    branches: dict[str, BranchWeights]
    places: int = 0
    pictures: int = 0
    whole_map: bool = False
    _halves: list[dict[str, F64]] = field(default_factory=lambda: [{}, {}])
    _seen: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, map_BCHW: Tensor) -> None:
        """Count the gates for maps of the block's input [B, C, H, W], as the block reads them."""
        margin = max(_kernel(branch) // 2 for branch in self.branches.values())
        if min(map_BCHW.shape[2:]) <= 2 * margin:
            margin, self.whole_map = 0, True
        height, width = (n - 2 * margin for n in map_BCHW.shape[2:])
        self.places += len(map_BCHW) * height * width
        self.pictures += len(map_BCHW)
        with torch.inference_mode():
            for half in (0, 1):
                part = map_BCHW[half::2]
                self._seen[half] += len(part) * height * width
                for name, branch in self.branches.items():
                    if len(part):
                        count = _open_gates(branch, part, margin)
                        self._halves[half][name] = self._halves[half].get(name, 0.0) + count

    def matrices(self) -> dict[str, F64]:
        """M_b = the mean Jacobian of each branch summed over offsets -> {branch: [O_b, C]}."""
        return self._matrices((0, 1))

    def reliability(self) -> float:
        """Correlation of the matrices from one half of the pictures with those from the other."""
        if min(self._seen) == 0:
            return float("nan")
        one, two = (
            np.concatenate([m.ravel() for m in self._matrices((h,)).values()]) for h in (0, 1)
        )
        return float(np.corrcoef(one, two)[0, 1])

    def _matrices(self, halves: tuple[int, ...]) -> dict[str, F64]:
        seen = sum(self._seen[half] for half in halves)
        found = {}
        for name, branch in self.branches.items():
            first_MC = branch.first_MC.detach().double().cpu().numpy()
            counts = [self._halves[half][name] for half in halves if name in self._halves[half]]
            share = np.sum(counts, axis=0) / seen
            if branch.second_OMKK is None:
                found[name] = share[:, None] * first_MC
            else:
                second_OMT = branch.second_OMKK.detach().double().cpu().flatten(2).numpy()
                found[name] = (second_OMT.transpose(2, 0, 1) * share).sum(axis=0) @ first_MC
        return found


def _kernel(branch: BranchWeights) -> int:
    if branch.second_OMKK is None:
        return 3 if branch.pooled else 1
    return int(branch.second_OMKK.shape[-1])


def _open_gates(branch: BranchWeights, x_BCHW: Tensor, margin: int) -> F64:
    """How often gates are open in one batch: of the output [O], or of both layers [T, O, M]."""
    if branch.pooled:
        x_BCHW = F.max_pool2d(x_BCHW, 3, 1, 1)
    first_BMHW = F.conv2d(x_BCHW, branch.first_MC[:, :, None, None], branch.first_bias_M)
    if branch.second_OMKK is None:
        open_PO = _rows(_inside(first_BMHW > 0, margin))
        return np.asarray(open_PO.double().sum(dim=0).cpu().numpy(), dtype=np.float64)
    size = branch.second_OMKK.shape[-1]
    reach = size // 2
    mid_BMHW = F.relu(first_BMHW)
    out_BOHW = F.conv2d(mid_BMHW, branch.second_OMKK, branch.second_bias_O, padding=reach)
    open_OP = _rows(_inside(out_BOHW > 0, margin)).T.contiguous()
    height, width = (n - 2 * margin for n in x_BCHW.shape[2:])
    # Outside the map there is nothing to pass on: closed.
    gate_BMHW = F.pad((mid_BMHW > 0).float(), (reach, reach, reach, reach))
    both = []
    for y in range(size):
        for x in range(size):
            top, left = margin + y, margin + x
            beside = gate_BMHW[:, :, top : top + height, left : left + width]
            # Counts up to 2^24 are exact in float32.
            both.append((open_OP @ _rows(beside)).double().cpu().numpy())
    return np.stack(both)


def _inside(gate_BCHW: Tensor, margin: int) -> Tensor:
    height, width = gate_BCHW.shape[2:]
    return gate_BCHW[:, :, margin : height - margin, margin : width - margin].float()


def _rows(gate_BCHW: Tensor) -> Tensor:
    return gate_BCHW.permute(0, 2, 3, 1).reshape(-1, gate_BCHW.shape[1])
