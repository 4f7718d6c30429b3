"""What a strong answer of each unit is: the 99 % quantile of its positive values on real rows.

A bounded sample of the store's held-out rows is read (of training rows where none are held out);
rows are stored in random order, so the first ones are a random sample. Memory: one batch, the
sample's activations and its sparse codes.

Shape legend: R rows, C channels, N features, E positive codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isae.analysis.activity import Encoder, row_batches
from isae.analysis.arrays import F32, F64, I64
from isae.progress import QUIET, Reporter
from isae.store import Store

QUANTILE = 0.99
_BATCH = 4096


@dataclass(frozen=True)
class Strengths:
    """QUANTILE of the positive values of features and neurons, NaN without any; what was read."""

    feature_N: F64
    neuron_C: F64
    about: dict[str, Any]


def read_strengths(
    store: Store,
    sae: Encoder,
    layer: str,
    *,
    rows: int = 16_384,
    device: torch.device | str = "cpu",
    reporter: Reporter = QUIET,
) -> Strengths:
    """Encode up to `rows` held-out rows of a layer."""
    stored = store.layer(layer)
    held = stored.rows - stored.train_rows
    start, stop = (stored.train_rows, stored.rows) if held else (0, stored.rows)
    stop = min(stop, start + rows)
    neurons, features, values = [], [], []
    with (
        torch.inference_mode(),
        reporter.task(stop - start, f"{layer}: answers to photos", "rows") as meter,
    ):
        for x_BC, _ in row_batches(store, layer, [(start, stop)], _BATCH):
            x_BC = np.ascontiguousarray(x_BC, dtype=np.float32)
            values_BK, indices_BK = sae.encode(torch.from_numpy(x_BC).to(device))
            positive_BK = values_BK > 0
            features.append(indices_BK[positive_BK].cpu().numpy().astype(np.int64))
            values.append(values_BK[positive_BK].float().cpu().numpy())
            neurons.append(x_BC)
            meter.advance(len(x_BC))
    about = {
        "rows": stop - start,
        "split": "holdout" if held else "train",
        "quantile_of_positive_values": QUANTILE,
    }
    feature_N = grouped_quantile(np.concatenate(features), np.concatenate(values), sae.n)
    row, channel = np.nonzero(np.concatenate(neurons) > 0)
    neurons_RC = np.concatenate(neurons)
    neuron_C = grouped_quantile(channel, neurons_RC[row, channel], neurons_RC.shape[1])
    return Strengths(feature_N, neuron_C, about)


def grouped_quantile(group_E: I64, value_E: F32, groups: int) -> F64:
    """QUANTILE of each group's values (the nearest from above) -> [groups]; NaN for empty ones."""
    order = np.lexsort((value_E, group_E))
    count = np.bincount(group_E, minlength=groups)
    first = np.cumsum(count) - count
    place = first + np.maximum(np.ceil(QUANTILE * count).astype(np.int64) - 1, 0)
    found = np.full(groups, np.nan)
    some = count > 0
    found[some] = value_E[order][place[some]]
    return found
