"""Which branch each feature lies in, and the clusters of near-duplicates: units of every count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import I64
from isae.analysis.codes import Codes
from isae.analysis.inputs import RunInputs
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.images import CHOOSING, SCORING
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.inputs import assign_branches, clusters
from isae.analysis.layers.pairs import Split

SPREAD = "spread"


@dataclass(frozen=True)
class Grouping:
    """branches: their names, 'spread' last (features in no branch beyond the null of exchangeable
    channels); branch_N: int64, number of each feature's; cluster_N: int64, number of its cluster of
    features whose activations correlate by 0.9 or more.
    """

    branches: tuple[str, ...]
    branch_N: I64
    cluster_N: I64


def group_features(run: RunInputs, codes: Codes, half_I: I64, config: LabelConfig) -> Grouping:
    """Branches by the decoder, clusters by the activations on the choosing half."""
    used = LayersConfig(
        alpha=config.alpha, least_images=config.least_images, seed=config.seed, virtual_images=0
    )
    split = Split(half_I == CHOOSING, half_I == SCORING, np.zeros(len(half_I), dtype=np.int64))
    cluster_N, _, tested_N = clusters(codes, split, used)
    rows_NC = run.sae.W_dec_ND.detach().cpu().double().numpy()
    branch_N, _ = assign_branches(rows_NC, run.stored.branches, tested_N, used)
    names = (*run.stored.branches, SPREAD)
    return Grouping(names, np.where(branch_N < 0, len(names) - 1, branch_N), cluster_N)
