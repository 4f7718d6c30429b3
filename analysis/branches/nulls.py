"""Null models of branch concentration and their one-sided p-values.

**Exchangeable channels.** The energies e_1..e_C of a feature's channels are dealt to the branches
at random, every assignment with the true branch sizes equally likely. The share of a branch of m
channels is then the sum of m of the C energies drawn without replacement, and

    p = P(sum of m of C drawn energies >= observed sum).

It is resolved three ways, all of which reach far below 1e-7 (the smallest possible p, one over
C choose m, included):

- exactly, at the largest and the smallest possible sum (one-channel rows: p = m/C);
- by the double saddlepoint formula (`isae.analysis.branches.saddlepoint`) where the sum is
  smooth: measured against tilted sampling over Gaussian to Cauchy rows of 512 channels,
  within about 20 % of the true p, typically within 3 %, down to p = 1e-40;
- by tilted exact-size sampling (`isae.analysis.branches.tilted`) where it moves in jumps (few
  channels hold the energy, or energies are tied) or where the formula has no
  solution: valid for any row, with a relative standard error of about 3 to 10 % at 1,000
  samples, on the safe side.

Rough rows whose formula gives p > 0.25 keep it: no procedure at an alpha in use rejects there.
Every run also samples some of its smooth tests and reports by how much the two ways differ.

**Columns permuted.** Each channel's energies are permuted over the features. This keeps how much
all features load on a channel (its scale in the data) and breaks which channels go together in one
feature. All features then have the same null distribution, so permuted dictionaries are pooled.
Known limit: it also breaks how concentrated a row is at all. Rows of few large channels (Cauchy
entries, say) exceed its quantiles without any regard for branches, so its counts are a description
beside the test, not a test.

Shape legend: N features, B branches, C channels, T tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from isae.analysis.arrays import F64, I64, U8, U64, Bools
from isae.analysis.branches.saddlepoint import (
    EXACT,
    ROUGHNESS_BELOW,
    SADDLEPOINT,
    UNSOLVED,
    solve_tails,
)
from isae.analysis.branches.shares import branch_shares
from isae.analysis.branches.tilted import sampled_tails
from isae.errors import DataError
from isae.randomness import hash64, keyed_rng, keyed_seed

METHODS = ("not tested", "exact", "saddlepoint", "sampled")
"""What the codes of `Concentration.method_NB` mean."""

ROUGH_ABOVE = 0.02
SAMPLE_BELOW = ROUGHNESS_BELOW
AUDITED_TESTS = 200
_SAMPLED = 3
_CHUNK = 2048


@dataclass(frozen=True)
class Concentration:
    """P-values of the exchangeable null, one per feature and branch.

    p_NB: float64 [N, B], NaN where a feature has no energy; method_NB: uint8 [N, B], index into
    METHODS; audit: how far the formula is from sampling on tests drawn at random (see
    `concentration_pvalues`).
    """

    p_NB: F64
    method_NB: U8
    audit: dict[str, float | int]


def concentration_pvalues(
    energy_NC: F64,
    branches: Mapping[str, tuple[int, int]],
    *,
    seed: int = 0,
    stream: str = "",
    samples: int = 1000,
) -> Concentration:
    """P(share of the branch >= observed) under exchangeable channels, per feature and branch.

    energy_NC: float64 [N, C], not negative, finite; branches: name -> [start, stop) channels;
    seed, stream: what the sampled p-values depend on (with the feature's and branch's number,
    never on threads); samples: draws for a sampled test. `audit` holds `tests`,
    `median_ratio`, `lowest_ratio`, `highest_ratio` of formula over sampling among up to 200 smooth
    tests with p < 0.25. Raises DataError for negative or non-finite energies.
    """
    energy_NC = np.asarray(energy_NC, dtype=np.float64)
    if not np.isfinite(energy_NC).all() or (energy_NC < 0).any():
        raise DataError(
            "expected finite energies of at least 0, found others; the decoder or the channel "
            "statistics hold NaN or infinity: check how the run ended"
        )
    bounds_B2 = np.array(list(branches.values()), dtype=np.int64).reshape(-1, 2)
    n, b = len(energy_NC), len(bounds_B2)
    stream_key = keyed_seed(seed, "concentration", stream) & (2**64 - 1)
    rows, columns = np.divmod(np.arange(n * b), max(b, 1))
    keys_NB = hash64(stream_key, rows, columns).reshape(n, b)
    audited_NB = _audited(n, b, seed, stream)
    p_NB = np.full((n, b), np.nan)
    method_NB = np.zeros((n, b), dtype=np.uint8)
    ratios = []
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        p_NB[part], method_NB[part], ratio = _some_rows(
            energy_NC[part], bounds_B2, keys_NB[part], audited_NB[part], samples
        )
        ratios.append(ratio)
    return Concentration(p_NB, method_NB, _audit_summary(ratios))


def _some_rows(
    energy_NC: F64, bounds_B2: I64, keys_NB: U64, audited_NB: Bools, samples: int
) -> tuple[F64, U8, F64]:
    """(p [N, B], method [N, B], formula over sampling of the audited tests) of some features."""
    shape = (len(energy_NC), len(bounds_B2))
    p_NB, rough_NB = np.full(shape, np.nan), np.zeros(shape)
    method_NB, tilt_NB2 = np.zeros(shape, dtype=np.uint8), np.zeros((*shape, 2))
    v_NC, flat_N, empty_N = _standardised(energy_NC)
    usable_N = np.flatnonzero(~flat_N & ~empty_N)
    v_NC = v_NC[usable_N]
    sorted_NC = np.ascontiguousarray(np.sort(v_NC, axis=1)[:, ::-1])
    solved = (p_NB[usable_N], method_NB[usable_N], tilt_NB2[usable_N], rough_NB[usable_N])
    solve_tails(v_NC, sorted_NC, bounds_B2, *solved)
    p, method, tilt, rough = solved
    smooth = (method == SADDLEPOINT) & (rough <= ROUGH_ABOVE)
    needed = (method == UNSOLVED) | ((method == SADDLEPOINT) & (rough > ROUGH_ABOVE))
    audited = audited_NB[usable_N] & smooth & (p < SAMPLE_BELOW)
    tests_T2 = np.argwhere(needed | audited)
    chosen = (tests_T2[:, 0], tests_T2[:, 1])
    sampled_T = np.empty(len(tests_T2))
    sampled_tails(
        v_NC, bounds_B2, tests_T2, tilt[chosen], keys_NB[usable_N][chosen],
        _log_subsets(bounds_B2, energy_NC.shape[1]), samples, sampled_T,
    )  # fmt: skip
    ratio_T = p[chosen][audited[chosen]] / sampled_T[audited[chosen]]
    replaced = needed[chosen]
    p[tests_T2[replaced, 0], tests_T2[replaced, 1]] = sampled_T[replaced]
    method[tests_T2[replaced, 0], tests_T2[replaced, 1]] = _SAMPLED
    p_NB[usable_N], method_NB[usable_N] = p, method
    p_NB[flat_N], method_NB[flat_N] = 1.0, EXACT
    return p_NB, method_NB, ratio_T


def _standardised(energy_NC: F64) -> tuple[F64, Bools, Bools]:
    """(rows of mean 0 and mean square 1, whether a row is flat, whether it has no energy)."""
    total_N1 = energy_NC.sum(axis=1, keepdims=True)
    empty_N = ~(total_N1[:, 0] > 0)
    share_NC = energy_NC / np.where(total_N1 > 0, total_N1, 1.0)
    spread_N1 = share_NC.std(axis=1, keepdims=True)
    flat_N = ~empty_N & ~(spread_N1[:, 0] > 1e-12 / energy_NC.shape[1])
    v_NC = share_NC - share_NC.mean(axis=1, keepdims=True)
    return v_NC / np.where(spread_N1 > 0, spread_N1, 1.0), flat_N, empty_N


def _log_subsets(bounds_B2: I64, channels: int) -> F64:
    """Log of (C choose m) of every branch."""
    m_B = (bounds_B2[:, 1] - bounds_B2[:, 0]).astype(np.float64)
    logs_B = gammaln(channels + 1.0) - gammaln(m_B + 1.0) - gammaln(channels - m_B + 1.0)
    return np.asarray(logs_B, dtype=np.float64)


def _audited(n: int, b: int, seed: int, stream: str) -> Bools:
    chosen = np.zeros(n * b, dtype=np.bool_)
    order = keyed_rng(seed, "audit", stream).permutation(n * b)
    chosen[order[:AUDITED_TESTS]] = True
    return chosen.reshape(n, b)


def _audit_summary(parts: list[F64]) -> dict[str, float | int]:
    ratios = np.concatenate([*parts, np.empty(0)])
    if not len(ratios):
        return {"tests": 0}
    return {
        "tests": len(ratios),
        "median_ratio": float(np.median(ratios)),
        "lowest_ratio": float(ratios.min()),
        "highest_ratio": float(ratios.max()),
    }


@dataclass(frozen=True)
class ColumnNull:
    """Shares against permuted columns: how many features lie above the null's upper quantiles.

    levels: [L] quantiles; thresholds_BL: the null's share there; above_BL: features above;
    expected_L: features expected above under the null.
    """

    levels: tuple[float, ...]
    thresholds_BL: F64
    above_BL: I64
    expected_L: F64
    draws: int


def column_null(
    energy_NC: F64,
    branches: Mapping[str, tuple[int, int]],
    *,
    seed: int = 0,
    stream: str = "",
    draws: int = 10,
    levels: tuple[float, ...] = (0.95, 0.99, 0.999),
) -> ColumnNull:
    """Compare shares with those of dictionaries whose columns were permuted over the features.

    energy_NC: [N, C] energies; rows are first divided by their sums, so that each feature counts
    the same. Memory: three copies of the matrix at a time plus draws x N x B shares.
    """
    energy_NC = energy_NC[energy_NC.sum(axis=1) > 0]
    weights_NC = energy_NC / energy_NC.sum(axis=1, keepdims=True)
    observed_NB = branch_shares(weights_NC, branches)
    rng = keyed_rng(seed, "column null", stream)
    # A column that lies in one piece is shuffled in half the time.
    weights_CN = np.ascontiguousarray(weights_NC.T)
    null_RB = np.concatenate(
        [
            branch_shares(np.ascontiguousarray(rng.permuted(weights_CN, axis=1).T), branches)
            for _ in range(draws)
        ]
    )
    null_RB = null_RB[np.isfinite(null_RB).all(axis=1)]
    n, b = observed_NB.shape
    thresholds_BL = np.full((b, len(levels)), np.nan)
    if len(null_RB):
        thresholds_BL = np.quantile(null_RB, levels, axis=0, method="higher").T
    above_BL = (observed_NB[:, :, None] > thresholds_BL[None]).sum(axis=0)
    expected_L = n * (1.0 - np.array(levels))
    return ColumnNull(levels, thresholds_BL, above_BL, expected_L, draws)


def random_shares(
    energy_NC: F64, branches: Mapping[str, tuple[int, int]], *, seed: int = 0, stream: str = ""
) -> F64:
    """One draw of the exchangeable null for every feature -> shares [N, B], for figures."""
    rng = keyed_rng(seed, "random shares", stream)
    return branch_shares(rng.permuted(energy_NC, axis=1), branches)
