"""Causal share of a branch: how much of a feature's code goes when the branch's channels go.

On held-out rows x where feature i is active (code z_i > 0), one branch's channels are replaced,
x' = x but x'[b] = y, and the whole row is encoded again (TopK over all features):

    mean    y is the channels' mean over training rows,
    other   y is what another image has at the same cell of the grid (several draws).

    share[i, b]    1 - sum z_i(x') / sum z_i(x), of the code
    pre[i, b]      1 - sum a_i(x') / sum a_i(x), a_i = w_i (x - b_dec) + b_i the pre-activation
    part[i, b]     the same fall of a_i over its sum over branches: parts sum to 1
    rise[i, b]     (sum |x - x_hat(x')|^2 - sum |x - x_hat(x)|^2) / sum |x - mean|^2
    lost[i, b]     rise of |x - x_hat|^2 when z_i(x) alone becomes z_i(x'), over that when it is 0

sums over the feature's pairs. `mean` leaves values that no picture has, and what it says follows
from encoder weights and the mean alone; with `other` a branch counts only for what differs between
pictures at a place, so `other` is the causal share. 0: nothing goes; 1: all; below 0: the code
grows. Shares of one feature need not sum to 1, and mostly exceed 1: a row of mixed origin has few
features as strongly active. `part` is what compares with energy shares. `rise` is of all features
together on those rows.

Known limit: a donor's branch beside the row's other branches is a mixture that no picture has made.

Time: (1 + draws) B encodings of R rows. Memory: see isae.analysis.branches.heldout, and 24 B bytes
a pair. Legend: R rows, C channels, E pairs, N features, B branches, D draws of donors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.branches import swap_loops
from isae.analysis.branches.heldout import Pairs, Rows, choose_pairs, donors, encode_rows
from isae.analysis.branches.resampling import Ratio, image_counts, ratio
from isae.progress import QUIET, Reporter
from isae.train import SAE

WAYS = ("mean", "other")
MEASURES = ("share", "part", "pre", "rise", "lost")


@dataclass(frozen=True)
class Causal:
    """measures[way][measure]: a Ratio per branch, in their order; pairs: what they are of."""

    branches: tuple[str, ...]
    pairs: Pairs
    measures: dict[str, dict[str, tuple[Ratio, ...]]]
    rows: int
    draws: int

    def values(self, way: str, measure: str) -> F64:
        """A measure of all features and branches -> float64 [N, B], NaN where there is no pair."""
        return np.stack([one.value_N for one in self.measures[way][measure]], axis=1)

    @property
    def strongest_N(self) -> I64:
        """Branch of the largest causal share of features with images enough, else -1."""
        share_NB = self.values("other", "share")
        known_N = self.measures["other"]["share"][0].enough_N
        best_N = np.where(np.isfinite(share_NB), share_NB, -np.inf).argmax(axis=1)
        return np.where(known_N, best_N, -1).astype(np.int64)


class Swapper:
    """Encodes rows with changed channels and reads the codes of pairs of (row, feature)."""

    def __init__(self, sae: SAE, batch_size: int, device: torch.device | str = "cpu") -> None:
        self.sae, self.batch_size, self.device = sae, batch_size, device
        self.W_enc_NC = sae.W_enc_ND.detach().cpu().float().numpy()
        self.W_dec_NC = sae.W_dec_ND.detach().cpu().float().numpy()

    def codes(self, x_RC: F32, pairs: Pairs) -> tuple[F64, F32]:
        """Codes of the pairs [E] and reconstructions [R, C] of rows."""
        value_RK, index_RK = encode_rows(self.sae, x_RC, self.batch_size, self.device)
        code_E = np.empty(len(pairs.row_E), dtype=np.float32)
        swap_loops.codes_of(pairs.row_E, pairs.feature_E, value_RK, index_RK, code_E)
        with torch.inference_mode():
            codes = (torch.from_numpy(part).to(self.device) for part in (value_RK, index_RK))
            x_hat_RC = self.sae.decode(*codes).float().cpu().numpy()
        return code_E.astype(np.float64), x_hat_RC


def pair_dots(pairs: Pairs, rows_RC: F32, weights_NC: F32) -> F64:
    """Product of each pair's row and its feature's weights -> [E]."""
    dot_E1 = np.empty((len(pairs.row_E), 1))
    swap_loops.branch_dots(
        pairs.row_E, pairs.feature_E, np.ascontiguousarray(rows_RC),
        np.ascontiguousarray(weights_NC), np.array([[0, rows_RC.shape[1]]]), dot_E1,
    )  # fmt: skip
    return dot_E1[:, 0]


@dataclass(frozen=True)
class _Base:
    """What a swap is compared with: residuals of the rows, and each pair's part in them."""

    rows: Rows
    pairs: Pairs
    residual_R: F64
    spread_E: F64
    along_E: F64
    norm_E: F64

    def rise_without(self, code_E: F64) -> F64:
        """Rise of |x - x_hat|^2 of each pair's row when its own code alone becomes `code_E`."""
        change_E = code_E - self.pairs.code_E
        return change_E**2 * self.norm_E - 2.0 * change_E * self.along_E


def causal_shares(
    sae: SAE,
    rows: Rows,
    branches: Mapping[str, tuple[int, int]],
    mean_C: F64,
    *,
    cap: int = 64,
    draws: int = 2,
    resamples: int = 200,
    seed: int = 0,
    batch_size: int = 8192,
    device: torch.device | str = "cpu",
    reporter: Reporter = QUIET,
) -> Causal:
    """Replace each branch in held-out rows and encode them again -> `Causal`.

    rows: held-out rows; mean_C: the channels' means over training rows; cap: pairs a feature.
    """
    donor_TR = donors(rows.place_R3, draws, seed)
    usable_R: Bools = np.logical_and.reduce(donor_TR >= 0)
    pairs = choose_pairs(rows, usable_R, sae.n, cap, seed)
    swapper = Swapper(sae, batch_size, device)
    base = _base(swapper, rows, pairs, mean_C)
    counts_IT = image_counts(max(pairs.images, 1), resamples, seed)
    measures: dict[str, dict[str, list[Ratio]]] = {
        way: {measure: [] for measure in MEASURES} for way in WAYS
    }
    falls: dict[str, list[F64]] = {way: [] for way in WAYS}
    with reporter.task(len(branches) * (1 + draws), "branches replaced", "passes") as meter:
        for bounds in branches.values():
            part = slice(*bounds)
            puts: dict[str, list[npt.NDArray[Any]]] = {
                "mean": [np.broadcast_to(mean_C[part], rows.x_RC[:, part].shape)],
                "other": [rows.x_RC[donor_R, part] for donor_R in donor_TR],
            }
            for way, values in puts.items():
                found, fall_E = _measured(swapper, base, bounds[0], values, counts_IT)
                falls[way].append(fall_E)
                for measure, one in found.items():
                    measures[way][measure].append(one)
                meter.advance(len(values))
    for way, parts in falls.items():
        whole_E = np.sum(parts, axis=0)
        measures[way]["part"] = [ratio(pairs, fall_E, whole_E, counts_IT) for fall_E in parts]
    return Causal(
        branches=tuple(branches),
        pairs=pairs,
        measures={
            way: {measure: tuple(found) for measure, found in one.items()}
            for way, one in measures.items()
        },
        rows=len(rows.x_RC),
        draws=draws,
    )


def _base(swapper: Swapper, rows: Rows, pairs: Pairs, mean_C: F64) -> _Base:
    _, x_hat_RC = swapper.codes(rows.x_RC, pairs)
    error_RC = rows.x_RC - x_hat_RC
    norm_N = (swapper.W_dec_NC.astype(np.float64) ** 2).sum(axis=1)
    return _Base(
        rows=rows,
        pairs=pairs,
        residual_R=_squares(error_RC),
        spread_E=_squares(rows.x_RC - mean_C.astype(np.float32))[pairs.row_E],
        along_E=pair_dots(pairs, error_RC, swapper.W_dec_NC),
        norm_E=norm_N[pairs.feature_E],
    )


def _measured(
    swapper: Swapper, base: _Base, first: int, values: list[npt.NDArray[Any]], counts_IT: F32
) -> tuple[dict[str, Ratio], F64]:
    """(measures of one branch and way, falls of the pre-activations [E]).

    values: what the branch's channels become, draw by draw.
    """
    pairs, x_RC = base.pairs, base.rows.x_RC
    drop_E, fall_E, rise_E, lost_E = (np.zeros(len(pairs.row_E)) for _ in range(4))
    given_E = pairs.code_E.astype(np.float64)
    weights_NM = swapper.W_enc_NC[:, first : first + values[0].shape[1]]
    for value_RM in values:
        changed_RC = x_RC.copy()
        changed_RC[:, first : first + value_RM.shape[1]] = value_RM
        code_E, x_hat_RC = swapper.codes(changed_RC, pairs)
        drop_E += given_E - code_E
        difference_RM = x_RC[:, first : first + value_RM.shape[1]] - value_RM
        fall_E += pair_dots(pairs, difference_RM.astype(np.float32), weights_NM)
        rise_E += (_squares(x_RC - x_hat_RC) - base.residual_R)[pairs.row_E]
        lost_E += base.rise_without(code_E)
    whole_E = base.rise_without(np.zeros(len(pairs.row_E)))
    # A code that is active is its pre-activation, so both falls are relative to the same sum.
    fall_E /= len(values)
    return {
        "share": ratio(pairs, drop_E / len(values), given_E, counts_IT),
        "pre": ratio(pairs, fall_E, given_E),
        "rise": ratio(pairs, rise_E / len(values), base.spread_E),
        "lost": ratio(pairs, lost_E / len(values), whole_E),
    }, fall_E


def _squares(rows_RC: F32) -> F64:
    return np.asarray(np.einsum("rc,rc->r", rows_RC, rows_RC, dtype=np.float64))
