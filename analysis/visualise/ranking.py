"""Which units get pictures first.

Features: those that fired on at least LEAST_ROWS of the rows read and on at most MOST_OFTEN of them
(a feature that is on everywhere has no picture of its own), by falling

    score = mean of the N_STRONGEST largest codes, of different images, times ||W_dec[i]||:

how far the feature moves the layer where it fires most. Branches take turns, each giving its next
best feature by the branch of most decoder energy, so that none is left out; a feature whose decoder
row has a cosine above DUPLICATE with one already ranked is passed over.

Neurons: by falling ratio of the largest activation on the training rows to the channel's standard
deviation, branches taking turns likewise.

The order does not depend on how many are asked for. Legend: N features, C channels, U ranked units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from isae.analysis.activity import Activity, read_activity, rows_to_read
from isae.analysis.arrays import F32, F64, I64
from isae.analysis.inputs import RunInputs
from isae.analysis.visualise.config import VisualiseConfig
from isae.analysis.visualise.targets import branch_of_channel, main_branches
from isae.progress import QUIET, Reporter

LEAST_ROWS, MOST_OFTEN = 8, 0.1
N_STRONGEST = 9
DUPLICATE = 0.7
RULE = (
    f"features on at least {LEAST_ROWS} rows and at most {MOST_OFTEN:.0%} of those read, by the "
    f"mean of their {N_STRONGEST} largest codes (one an image) times the decoder row's length; "
    f"branches take turns; none with a cosine above {DUPLICATE} to one before it. Neurons by "
    "largest activation over standard deviation, branches taking turns"
)


@dataclass(frozen=True)
class Ranking:
    """Units in order: unit_U, score_U and the branch of each; rows: how many were read."""

    unit_U: I64
    score_U: F64
    branches: tuple[str, ...]
    rows: int

    def table(self, kind: str) -> pa.Table:
        """One row a unit: rank, the unit, branch, score."""
        return pa.table(
            {
                "rank": pa.array(np.arange(len(self.unit_U)), pa.int32()),
                kind: pa.array(self.unit_U, pa.int32()),
                "branch": pa.array(self.branches, pa.string()),
                "score": self.score_U,
            }
        )


def rank_features(
    inputs: RunInputs, config: VisualiseConfig, reporter: Reporter = QUIET
) -> Ranking:
    """The first features, as many as asked for if there are so many."""
    spans = rows_to_read(inputs.stored.rows, inputs.stored.train_rows, config.ranking_rows)
    device = inputs.sae.W_enc_ND.device
    activity = read_activity(
        inputs.sae, inputs.store, inputs.layer, spans, keep=N_STRONGEST, device=device,
        reporter=reporter,
    )  # fmt: skip
    W_dec_NC = inputs.sae.W_dec_ND.detach().float().cpu().numpy()
    eligible, score_N = score_features(activity, W_dec_NC)
    owner = main_branches(inputs, eligible.tolist())
    chosen = take_turns(eligible, score_N, owner, config.visualise, W_dec_NC)
    names = dict(zip(eligible.tolist(), owner, strict=True))
    return Ranking(
        chosen, score_N[chosen], tuple(names[one] for one in chosen.tolist()), activity.rows
    )


def rank_neurons(inputs: RunInputs, config: VisualiseConfig) -> Ranking:
    """The first neurons, by the store's statistics of its training rows."""
    statistics = inputs.store.statistics(inputs.layer)
    on = np.flatnonzero((statistics.max_C > 0) & (statistics.var_C > 0))
    score_C: F64 = np.zeros(len(statistics.max_C))
    score_C[on] = statistics.max_C[on] / np.sqrt(statistics.var_C[on])
    owner = [branch_of_channel(inputs, one) for one in on.tolist()]
    chosen = take_turns(on, score_C, owner, config.visualise)
    branches = tuple(branch_of_channel(inputs, one) for one in chosen.tolist())
    return Ranking(chosen, score_C[chosen], branches, statistics.count)


def score_features(activity: Activity, W_dec_NC: F32) -> tuple[I64, F64]:
    """(features that may be ranked, score of every feature [N])."""
    most = max(MOST_OFTEN * activity.rows, LEAST_ROWS)
    eligible = np.flatnonzero((activity.fired_n >= LEAST_ROWS) & (activity.fired_n <= most))
    length_N = np.linalg.norm(W_dec_NC.astype(np.float64), axis=1)
    score_N: F64 = activity.top.value_nN.astype(np.float64).mean(axis=1) * length_N
    return eligible, score_N


def take_turns(
    units: I64, score_N: F64, owner: list[str], count: int, W_NC: F32 | None = None
) -> I64:
    """Up to `count` of the units, owners taking turns, each by falling score.

    W_NC: rows, where units too much like one already taken are passed over. Owners begin in the
    order of their best unit.
    """
    order = np.lexsort((units, -score_N[units]))
    queues: dict[str, list[int]] = {}
    for place in order.tolist():
        queues.setdefault(owner[place], []).append(int(units[place]))
    taken: list[int] = []
    rows = _Unlike(W_NC)
    while len(taken) < count and any(queues.values()):
        for queue in queues.values():
            while queue and len(taken) < count:
                unit = queue.pop(0)
                if rows.add(unit):
                    taken.append(unit)
                    break
    return np.array(taken, dtype=np.int64)


class _Unlike:
    """Unit rows taken so far; refuses one that is too much like any of them."""

    def __init__(self, W_NC: F32 | None) -> None:
        self.W_NC = None if W_NC is None else torch.nn.functional.normalize(torch.tensor(W_NC))
        self.taken: list[int] = []

    def add(self, unit: int) -> bool:
        """Take the unit, unless it is too much like one taken before."""
        if self.W_NC is not None and self.taken:
            cosine = self.W_NC[self.taken] @ self.W_NC[unit]
            if float(cosine.max()) > DUPLICATE:
                return False
        self.taken.append(unit)
        return True
