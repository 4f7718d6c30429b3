"""Tail probability of the sum of m numbers drawn without replacement from C: by tilted sampling.

Where the saddlepoint formula cannot be trusted, subsets A of exactly m channels are drawn with
chances proportional to prod_{c in A} exp(h + t a_c) (conditional Poisson sampling), so that sums
near the observed x are common, and each is given its exact weight

    W(A) = e_m / (C choose m) / prod_{c in A} exp(h + t a_c),
    e_m  = sum over all subsets of size m of those products (from an exact recursion).

The mean of W over the samples with S(A) >= x is an unbiased estimate of P(S >= x) for any row:
smooth, tied, or with all its energy in one channel. On that event W is at most W(x) (t > 0), so
the estimate is bounded and its relative error is at most sqrt(W(x) / (p M)) for M samples. What
is returned is (W(x) + sum) / (M + 1), the conservative form of Harrison 2012 (Biometrika 99,
"Conservative hypothesis tests and confidence intervals using importance sampling").

Shape legend: C channels, R = min(m, C - m) + 1 numbers of channels still to draw. float64.
"""

from __future__ import annotations

import math

import numpy as np

from isae.analysis.arrays import F64, I64, U64
from isae.compiled import compiled, prange

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_UNIT = 2.0**-53


@compiled()
def _mix(state: np.uint64) -> np.uint64:
    """SplitMix64's finaliser."""
    x = (state ^ (state >> _S30)) * _MIX_1
    x = (x ^ (x >> _S27)) * _MIX_2
    return x ^ (x >> _S31)


@compiled()
def _drawing_table(v_C: F64, h: float, t: float, size: int) -> tuple[F64, float]:
    """(take_CR, P(N = size)): chance to take channel c when r are still to be drawn from c on.

    take[c, r] = p_c P(N_{>c} = r - 1) / P(N_{>=c} = r), with N the number of heads among
    independent coins of chance p_c = 1 / (1 + exp(-h - t v_c)).
    """
    c_total = len(v_C)
    take_CR = np.zeros((c_total, size + 1))
    heads_R = np.zeros(size + 1)
    heads_R[0] = 1.0
    for c in range(c_total - 1, -1, -1):
        eta = h + t * v_C[c]
        small = math.exp(-abs(eta))
        p = 1.0 / (1.0 + small) if eta > 0 else small / (1.0 + small)
        q = small / (1.0 + small) if eta > 0 else 1.0 / (1.0 + small)
        for r in range(min(size, c_total - c), 0, -1):
            with_c = p * heads_R[r - 1]
            both = with_c + q * heads_R[r]
            heads_R[r] = both
            take_CR[c, r] = with_c / both if both > 0.0 else 0.0
        heads_R[0] *= q
    return take_CR, heads_R[size]


@compiled()
def _log_weight_at_zero(
    v_C: F64, h: float, t: float, size: int, chance: float, log_subsets: float
) -> float:
    """Log W of a subset with sum 0: log(e_m / (C choose m)) - h m."""
    total = math.log(chance)
    for v in v_C:
        eta = h + t * v
        total += max(eta, 0.0) + math.log1p(math.exp(-abs(eta)))
    return total - log_subsets - h * size


@compiled()
def sampled_tail(
    v_C: F64,
    m: int,
    y: float,
    h: float,
    t: float,
    samples: int,
    key: np.uint64,
    log_subsets: float,
) -> tuple[float, float]:
    """P(sum of m of the C numbers >= y) -> (p, relative standard error of p).

    v_C: [C]; (h, t): the tilt, any finite values give a valid answer; key: the stream of random
    numbers; log_subsets: log of (C choose m). (NaN, NaN) where the tilt is so far off that the
    size m has no chance in it.
    """
    c_total = len(v_C)
    if t < 0.0:
        # Below the mean the weights would be unbounded; plain draws are right there.
        h, t = math.log(m / (c_total - m)), 0.0
    flip = m > c_total - m
    # Draw the channels left out when they are the fewer: the same law with the tilt reversed.
    size = c_total - m if flip else m
    sign = -1.0 if flip else 1.0
    take_CR, chance = _drawing_table(v_C, sign * h, sign * t, size)
    if not chance > 0.0:
        return math.nan, math.nan
    total_v = v_C.sum()
    log_zero = _log_weight_at_zero(v_C, sign * h, sign * t, size, chance, log_subsets)
    slack = 1e-11 * np.abs(v_C).max() * math.sqrt(c_total)
    top = log_zero - sign * t * (total_v - y if flip else y)
    state, first, second = _mix(key), 0.0, 0.0
    for _ in range(samples):
        drawn, left = 0.0, size
        for c in range(c_total):
            if left == 0:
                break
            state += _GOLDEN
            if float(_mix(state) >> _S11) * _UNIT < take_CR[c, left]:
                drawn += v_C[c]
                left -= 1
        reached = total_v - drawn if flip else drawn
        if reached >= y - slack:
            relative = math.exp(log_zero - sign * t * drawn - top)
            first += relative
            second += relative * relative
    mean = first / samples
    variance = max(second / samples - mean * mean, 0.0) / samples
    p = math.exp(top) * (first + 1.0) / (samples + 1)
    error = math.sqrt(variance) / mean if mean > 0.0 else 1.0
    return min(p, 1.0), error


@compiled(parallel=True)
def sampled_tails(
    v_NC: F64,
    bounds_B2: I64,
    tests_T2: I64,
    tilt_T2: F64,
    keys_T: U64,
    log_subsets_B: F64,
    samples: int,
    p_T: F64,
) -> None:
    """`sampled_tail` of some tests (feature, branch), in parallel over tests, into p_T.

    v_NC, bounds_B2: as for `isae.analysis.branches.saddlepoint.solve_tails`; tests_T2: int64
    [T, 2]; tilt_T2: (h, t); keys_T: streams; log_subsets_B: log of (C choose m) of every branch.
    """
    for i in prange(len(tests_T2)):
        n, b = tests_T2[i]
        start, stop = bounds_B2[b]
        y = v_NC[n, start:stop].sum()
        p, _ = sampled_tail(
            v_NC[n], stop - start, y, tilt_T2[i, 0], tilt_T2[i, 1], samples, keys_T[i],
            log_subsets_B[b],
        )  # fmt: skip
        if not p > 0.0:
            # A tilt without solution can leave the size m no chance: draw without a tilt.
            p, _ = sampled_tail(
                v_NC[n], stop - start, y, 0.0, -1.0, samples, keys_T[i], log_subsets_B[b]
            )
        p_T[i] = p
