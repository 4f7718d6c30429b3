"""What a feature's contribution from one branch is worth to the network's own answer.

Feature i adds z_i d_i to the layer's map at every place where it is active. One branch of it is
taken out of the real map (error of the SAE and all else kept), and the network goes on from there:

    map' = map - z_i d_i[b] at all places,     drop = logit_c(map) - logit_c(map'),

c the network's own class for that picture. To first order the drop is, with one backward pass per
picture for all features,

    sum over places of z_i (d logit_c / d map)[b] . d_i[b].

The same run splices a sample of features for real, and reports how far the two agree.

    drop[i, b]     mean of the first-order drop over pictures where i is active, in logits
    share[i, b]    sum over pictures of |drop|, over its sum over branches

Known limit: first order, so features that matter much are bent by ReLU and pools behind the layer;
`slope` and `correlation` say by how much.

Time: one forward and backward pass a picture, one forward pass a splice. Memory: a batch of maps,
and 8 B bytes for each (picture, active feature). Legend: P pictures, A pairs (picture, feature), B
branches, N features, H, W cells, K active codes a row, S splices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isae.analysis.arrays import F64, I64, U8
from isae.analysis.branches import swap_loops
from isae.analysis.branches.heldout import Pairs, as_rows
from isae.analysis.branches.resampling import Ratio, image_counts, ratio
from isae.inception import Network
from isae.progress import QUIET, Reporter
from isae.randomness import hash64, keyed_seed
from isae.train import SAE

PICTURES_PER_SPLICED = 4


@dataclass(frozen=True)
class LogitEffects:
    """drop_NB, share_NB: see the module's docstring, NaN for features that no picture activates.

    drop_B, share_B: the same as Ratio of each branch; check: the splices against first order, with
    true_S and first_S, in logits.
    """

    pictures: int
    drop_B: tuple[Ratio, ...]
    share_B: tuple[Ratio, ...]
    true_S: F64
    first_S: F64
    spliced: int

    def check(self) -> dict[str, Any]:
        """How far true splices and first order agree."""
        true_S, first_S = self.true_S, self.first_S
        agreement: dict[str, Any] = {"features": self.spliced, "splices": len(true_S)}
        if len(true_S) < 2 or not np.ptp(true_S) > 0 or not np.ptp(first_S) > 0:
            return agreement
        return agreement | {
            "correlation": float(np.corrcoef(true_S, first_S)[0, 1]),
            "slope": float(true_S @ first_S / (first_S @ first_S)),
            "slope_of": "true drop on first-order drop, through the origin",
            "mean_absolute_true_drop": float(np.abs(true_S).mean()),
            "mean_absolute_difference": float(np.abs(true_S - first_S).mean()),
        }


@dataclass(frozen=True)
class _Pictures:
    """One batch of pictures on its way: maps, own classes and their logits, codes of all places."""

    first: int
    map_PCHW: torch.Tensor
    class_P: torch.Tensor
    logit_P: torch.Tensor
    value_RK: torch.Tensor
    index_RK: torch.Tensor


def logit_effects(
    network: Network,
    sae: SAE,
    layer: str,
    pixels_PHW3: U8,
    branches: Mapping[str, tuple[int, int]],
    *,
    spliced: int = 32,
    resamples: int = 200,
    seed: int = 0,
    batch_size: int = 16,
    reporter: Reporter = QUIET,
) -> LogitEffects:
    """First-order effect of every feature and branch on the own class's logit -> `LogitEffects`.

    pixels_PHW3: pictures uint8, RGB; spliced: features to splice for real, drawn among active ones;
    the network and the SAE are on one device.
    """
    bounds_B2 = np.array(list(branches.values()), dtype=np.int64)
    parts = []
    with reporter.task(len(pixels_PHW3), f"{layer}: logits", "pictures") as meter:
        for one in _batches(network, sae, layer, pixels_PHW3, batch_size):
            parts.append(_first_order(network, sae, layer, one, bounds_B2))
            meter.advance(len(one.map_PCHW))
    picture_A, feature_A, drop_AB = (np.concatenate(part) for part in zip(*parts, strict=True))
    chosen = _choose_splices(picture_A, feature_A, spliced, seed)
    true, first = [np.empty((0, len(branches)))], [drop_AB[:0]]
    with reporter.task(len(chosen), f"{layer}: splices", "pairs") as meter:
        for one in _batches(network, sae, layer, pixels_PHW3, batch_size):
            here = chosen[np.isin(picture_A[chosen], one.first + np.arange(len(one.map_PCHW)))]
            if len(here):
                pairs = (picture_A[here] - one.first, feature_A[here])
                true.append(_splice(network, sae, layer, one, *pairs, bounds_B2))
                first.append(drop_AB[here])
            meter.advance(len(here))
    drop_B, share_B = _by_feature(picture_A, feature_A, drop_AB, sae.n, resamples, seed)
    return LogitEffects(
        pictures=len(pixels_PHW3),
        drop_B=drop_B,
        share_B=share_B,
        true_S=np.concatenate(true).ravel(),
        first_S=np.concatenate(first).ravel(),
        spliced=len(np.unique(feature_A[chosen])),
    )


def _batches(
    network: Network, sae: SAE, layer: str, pixels_PHW3: U8, batch_size: int
) -> Iterator[_Pictures]:
    for first in range(0, len(pixels_PHW3), batch_size):
        pixels = torch.from_numpy(pixels_PHW3[first : first + batch_size]).permute(0, 3, 1, 2)
        with torch.no_grad():
            map_PCHW = network.activations(pixels, [layer])[layer]
            rows_RC = map_PCHW.permute(0, 2, 3, 1).flatten(0, 2)
            value_RK, index_RK = sae.encode(rows_RC.contiguous())
            logits = network.logits_from(layer, map_PCHW)
        logit_P, class_P = logits.max(dim=1)
        yield _Pictures(first, map_PCHW, class_P, logit_P, value_RK, index_RK)


def _first_order(
    network: Network, sae: SAE, layer: str, one: _Pictures, bounds_B2: I64
) -> tuple[I64, I64, F64]:
    """(pictures [A], features [A], first-order drops [A, B]) of a batch, each pair once."""
    map_PCHW = one.map_PCHW.detach().clone().requires_grad_()
    logits = network.logits_from(layer, map_PCHW)
    (gradient,) = torch.autograd.grad(logits.gather(1, one.class_P[:, None]).sum(), map_PCHW)
    gradient_RC = as_rows(gradient)
    value_RK = one.value_RK.float().cpu().numpy()
    row_E, slot_E = np.nonzero(value_RK > 0)
    feature_E = one.index_RK.cpu().numpy().astype(np.int64)[row_E, slot_E]
    drop_EB = np.empty((len(row_E), len(bounds_B2)))
    W_dec_NC = sae.W_dec_ND.detach().cpu().float().numpy()
    swap_loops.branch_dots(row_E, feature_E, gradient_RC, W_dec_NC, bounds_B2, drop_EB)
    drop_EB *= value_RK[row_E, slot_E][:, None]
    places = len(value_RK) // len(map_PCHW)
    key_A, number_E = np.unique(
        (one.first + row_E // places) * sae.n + feature_E, return_inverse=True
    )
    sums = [np.bincount(number_E, weights=drop_E, minlength=len(key_A)) for drop_E in drop_EB.T]
    return key_A // sae.n, key_A % sae.n, np.stack(sums, axis=1)


def _splice(
    network: Network,
    sae: SAE,
    layer: str,
    one: _Pictures,
    picture_X: I64,
    feature_X: I64,
    bounds_B2: I64,
) -> F64:
    """True drops of the own class's logit, each branch of each pair taken out -> [X, B]."""
    shape, changed = one.map_PCHW.shape, []
    value_PGK = one.value_RK.clamp(min=0).reshape(shape[0], shape[2] * shape[3], -1)
    index_PGK = one.index_RK.reshape(value_PGK.shape)
    for picture, feature in zip(picture_X.tolist(), feature_X.tolist(), strict=True):
        code_G = (value_PGK[picture] * (index_PGK[picture] == feature)).sum(dim=1)
        away_CHW = (sae.W_dec_ND[feature][:, None] * code_G[None]).reshape(shape[1:])
        for start, stop in bounds_B2.tolist():
            map_CHW = one.map_PCHW[picture].clone()
            map_CHW[start:stop] -= away_CHW[start:stop]
            changed.append(map_CHW)
    with torch.no_grad():
        logits_SL = network.logits_from(layer, torch.stack(changed))
    chosen = torch.from_numpy(np.repeat(picture_X, len(bounds_B2))).to(logits_SL.device)
    drop_S = one.logit_P[chosen] - logits_SL.gather(1, one.class_P[chosen][:, None])[:, 0]
    return np.asarray(drop_S.double().cpu().numpy()).reshape(-1, len(bounds_B2))


def _choose_splices(picture_A: I64, feature_A: I64, features: int, seed: int) -> I64:
    """Pairs to splice: features drawn by hash, up to PICTURES_PER_SPLICED pictures of each."""
    active = np.unique(feature_A)
    drawn = active[np.argsort(hash64(keyed_seed(seed, "spliced"), active), kind="stable")]
    pairs = np.flatnonzero(np.isin(feature_A, drawn[:features]))
    key = hash64(keyed_seed(seed, "pictures"), picture_A[pairs], feature_A[pairs])
    order = np.lexsort((key, feature_A[pairs]))
    _, begins, counts = np.unique(feature_A[pairs][order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(begins, counts)
    return np.asarray(np.sort(pairs[order[rank < PICTURES_PER_SPLICED]]))


def _by_feature(
    picture_A: I64, feature_A: I64, drop_AB: F64, n: int, resamples: int, seed: int
) -> tuple[tuple[Ratio, ...], tuple[Ratio, ...]]:
    """(mean drop, share of |drop|) of each branch."""
    order = np.lexsort((picture_A, feature_A))
    counts_N = np.bincount(feature_A, minlength=n)
    images = int(picture_A.max(initial=0)) + 1
    pairs = Pairs(
        row_E=picture_A[order],
        feature_E=feature_A[order],
        code_E=np.ones(len(order), dtype=np.float32),
        image_E=picture_A[order],
        first_M=np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int64),
        images=images,
    )
    counts_IT = image_counts(images, resamples, seed)
    one_A, size_AB = np.ones(len(order)), np.abs(drop_AB[order])
    whole_A = size_AB.sum(axis=1)
    drops = tuple(ratio(pairs, drop_A, one_A, counts_IT) for drop_A in drop_AB[order].T)
    return drops, tuple(ratio(pairs, size_A, whole_A, counts_IT) for size_A in size_AB.T)
