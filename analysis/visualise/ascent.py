"""Gradient ascent of many pictures at once, each towards its own objective.

For picture j with spectrum p_j, affine map T_jt at step t, and objective w_j, b_j with s_j the
data's largest value of it (or the length of w_j where that is not above 0),

    maximise (w_j . x(T_jt picture(p_j)) + b_j) / s_j

with Adam, x the map's middle cell, or the mean over its cells. For a diversity set, the mean cosine
between the Gram matrices G = sum over cells of x x^T of its pictures is taken off, times a weight.

Pictures of a batch share one forward and one backward pass. Nothing else joins them but a set's own
term: gradients are taken of the sum, Adam works entry by entry, and random numbers come from each
picture's own keys. Neurons, which may be off at the start, take their first steps with redirected
ReLUs (`redirected`), in chunks of their own. On a CPU the network takes CHUNK pictures a pass; so
does the ascent, a chunk a thread, the last one filled up, so that an image's bits do not depend on
what stands beside it.

Legend: B pictures, C channels, G cells, P objectives, S steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F

from isae.analysis.arrays import U8
from isae.analysis.visualise.config import ALL_CELLS, DIVERSITY, NEURON, VisualiseConfig
from isae.analysis.visualise.picture_space import PictureSpace, to_pixels
from isae.analysis.visualise.redirected import RedirectedRelus
from isae.analysis.visualise.targets import Drives, Picture
from isae.analysis.visualise.transformations import draw_maps, show
from isae.errors import DataError
from isae.inception import CHUNK, Network

_BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Ascent:
    """What every picture of a layer is made with. cell: (y, x), both the same number."""

    network: Network
    layer: str
    cell: int
    space: PictureSpace
    config: VisualiseConfig

    def run(
        self,
        pictures: Sequence[Picture],
        drives: Drives,
        scale_P: torch.Tensor,
        advance: Callable[[int], None] = lambda count: None,
    ) -> tuple[U8, U8]:
        """Pictures as they end and as they start -> uint8 [B, size, size, 3] twice.

        pictures: sets together; drives, scale_P: hold all their objectives; advance: is told at
        each step how many pictures took it, by one thread at a time. Raises DataError when a
        gradient is not finite.
        """
        chunks = pack(pictures, CHUNK if self._on_cpu else len(pictures))

        # On a CPU one thread a chunk: the network then starts none of its own, and none waits.
        threads = torch.get_num_threads() if self._on_cpu else 1
        made: dict[Picture, tuple[U8, U8]] = {}
        lock = Lock()

        def tell(count: int) -> None:
            with lock:
                advance(count)

        with ThreadPoolExecutor(
            threads, initializer=_one_thread_each, initargs=(self._on_cpu,)
        ) as pool:
            for part in pool.map(lambda one: self._climb(one, drives, scale_P, tell), chunks):
                made |= part
        ends, starts = zip(*(made[one] for one in pictures), strict=True)
        return np.stack(ends), np.stack(starts)

    @property
    def _on_cpu(self) -> bool:
        return self.network.device.type == "cpu"

    def _climb(
        self,
        chunk: list[Picture],
        drives: Drives,
        scale_P: torch.Tensor,
        tell: Callable[[int], None],
    ) -> dict[Picture, tuple[U8, U8]]:
        """One pass of steps over up to CHUNK pictures."""
        config, device = self.config, self.network.device
        slots = chunk + [chunk[0]] * (CHUNK - len(chunk) if self._on_cpu else 0)
        place = {one: number for number, one in enumerate(drives.objectives)}
        chosen = torch.tensor([place[one.objective] for one in slots], device=device)
        weight_BC, bias_B = drives.weight_PC[chosen], drives.bias_P[chosen]
        scale_B = scale_P[chosen]
        starts = [self.space.start(config.start, config.seed, "start", *one.key) for one in slots]
        maps = [draw_maps(config, self.space.size, config.seed, "maps", *one.key) for one in slots]
        maps_SB23 = torch.tensor(np.stack(maps, axis=1), dtype=torch.float32, device=device)
        spectrum = torch.tensor(np.stack(starts), dtype=torch.float32, device=device)
        spectrum.requires_grad_()
        first = to_pixels(self.space.pictures(spectrum))
        redirect = config.redirect if _is_neuron(chunk[0]) else 0
        adam = self._adam(spectrum)
        pairs = _pairs(chunk, device)
        with torch.enable_grad():
            for step in range(config.steps):
                if step == redirect:
                    # Redirected gradients are hundreds of times as long: Adam's memory of them
                    # would make every later step vanish.
                    adam = self._adam(spectrum)
                for group in adam.param_groups:
                    group["lr"] = config.lr * _pace(step, config.steps)
                adam.zero_grad()
                x_BCHW = self._look(spectrum, maps_SB23[step], redirect=step < redirect)
                value_B = (self._driven(x_BCHW) * weight_BC).sum(dim=1) + bias_B
                loss = -(value_B / scale_B).sum()
                if len(pairs):
                    loss = loss + config.diversity * _likeness(x_BCHW, pairs)
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                tell(len(chunk))
        if not bool(torch.isfinite(spectrum).all()):
            raise DataError(
                f"expected finite pictures of '{self.layer}', found NaN or infinity; the weights "
                "are damaged, or the step is far too large: check --lr"
            )
        last = to_pixels(self.space.pictures(spectrum))
        return {one: (last[i], first[i]) for i, one in enumerate(chunk)}

    def _adam(self, spectrum: torch.Tensor) -> torch.optim.Adam:
        return torch.optim.Adam([spectrum], lr=self.config.lr, betas=_BETAS)

    def _look(
        self, spectrum: torch.Tensor, maps_B23: torch.Tensor, *, redirect: bool
    ) -> torch.Tensor:
        """The layer's map [B, C, H, W] of transformed pictures."""
        seen = show(self.space.pictures(spectrum), maps_B23, self.space.fill_3)
        # Sums of bilinear weights may end a hair beyond the range that the network accepts.
        pixels = (seen * 255).clamp(0, 255)
        with RedirectedRelus() if redirect else contextlib.nullcontext():
            return self.network.activations(pixels, [self.layer])[self.layer]

    def _driven(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The rows [B, C] that objectives are taken of."""
        if self.config.cells == ALL_CELLS:
            return x_BCHW.mean(dim=(2, 3))
        return x_BCHW[:, :, self.cell, self.cell]


def _one_thread_each(on_cpu: bool) -> None:
    if on_cpu:
        torch.set_num_threads(1)


def pack(pictures: Sequence[Picture], most: int) -> list[list[Picture]]:
    """Chunks of up to `most` pictures in order; sets stay whole, neurons among themselves."""
    groups: list[list[Picture]] = []
    for one in pictures:
        together = one.objective.kind == DIVERSITY and groups and groups[-1][0].objective
        if together == one.objective:
            groups[-1].append(one)
        else:
            groups.append([one])
    chunks: list[list[Picture]] = []
    for group in groups:
        alike = chunks and _is_neuron(chunks[-1][0]) == _is_neuron(group[0])
        if alike and len(chunks[-1]) + len(group) <= most:
            chunks[-1] += group
        else:
            chunks.append(list(group))
    return chunks


def _is_neuron(one: Picture) -> bool:
    return one.objective.kind == NEURON


def _pace(step: int, steps: int) -> float:
    """Adam's step as a part of the full one: 1, falling to 0.1 over the last quarter."""
    left = (steps - step) / max(steps / 4, 1)
    return 0.1 + 0.9 * min(left, 1.0)


def _pairs(chunk: list[Picture], device: torch.device) -> torch.Tensor:
    """Pairs within sets: int64 [pairs, 2]."""
    found = [
        (i, j)
        for i, one in enumerate(chunk)
        for j, other in enumerate(chunk[:i])
        if one.objective == other.objective
    ]
    return torch.tensor(found, dtype=torch.int64, device=device).reshape(-1, 2)


def _likeness(x_BCHW: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Sum over pictures of the mean cosine of their Gram matrix with those of their set.

    With n pictures a set every pair counts twice / (n - 1): once for each of its two pictures.
    """
    x_BCG = x_BCHW.flatten(2)
    cosine = F.cosine_similarity(
        _gram(x_BCG[pairs[:, 0]]), _gram(x_BCG[pairs[:, 1]]), dim=1, eps=1e-8
    )
    partners = torch.bincount(pairs.flatten(), minlength=len(x_BCG))[pairs[:, 0]]
    return (2 * cosine / partners).sum()


def _gram(x_BCG: torch.Tensor) -> torch.Tensor:
    return (x_BCG @ x_BCG.transpose(1, 2)).flatten(1)
