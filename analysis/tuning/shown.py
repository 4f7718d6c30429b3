"""A layer's activations at one cell for all stimuli; the last few answers are kept in memory.

Several SAEs of one layer (seeds, runs of a study) see the same stimuli through the same network:
the forward passes, most of an analysis's time, are then made once. Kept are at most MOST_BYTES, by
the weights' hash, the layer, the cell and every stimulus; weights without a hash are never kept.

Shape legend: S stimuli, C channels.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
import torch

from isae.analysis.arrays import F32
from isae.analysis.tuning.stimuli import StimulusSet
from isae.inception import Network
from isae.progress import QUIET, Reporter

MOST_BYTES = 256 * 2**20
_KEPT: OrderedDict[str, F32] = OrderedDict()


def shown_rows(
    network: Network,
    layer: str,
    cell: int,
    stimuli: StimulusSet,
    *,
    batch_size: int = 64,
    reporter: Reporter = QUIET,
) -> F32:
    """Activations of cell (cell, cell) for every stimulus -> float32 [S, C], not to be written to.

    batch_size: pictures a time, speed and memory only.
    """
    key = _key(network, layer, cell, stimuli)
    if key in _KEPT:
        _KEPT.move_to_end(key)
        return _KEPT[key]
    rows = []
    with (
        torch.inference_mode(),
        reporter.task(len(stimuli), f"{layer}: stimuli", "pictures") as meter,
    ):
        for batch in stimuli.batches(batch_size):
            pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)
            row_BC = network.activations(pixels, [layer])[layer][:, :, cell, cell].contiguous()
            rows.append(row_BC.float().cpu().numpy())
            meter.advance(len(batch))
    rows_SC: F32 = np.concatenate(rows)
    rows_SC.flags.writeable = False
    if network.weights.sha256:
        _KEPT[key] = rows_SC
        while sum(one.nbytes for one in _KEPT.values()) > MOST_BYTES:
            _KEPT.popitem(last=False)
    return rows_SC


def _key(network: Network, layer: str, cell: int, stimuli: StimulusSet) -> str:
    parts = (network.name, network.weights.sha256, str(network.device), layer, cell, stimuli)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
