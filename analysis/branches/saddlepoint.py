"""Tail probability of the sum of m numbers drawn without replacement from C: the approximation.

A random subset of size m is C independent coins of chance f = m/C given that m of them show heads.
With the joint cumulant function of (number of heads, sum of the drawn numbers)

    K(s, t) = sum_c log(1 - f + f exp(s + t a_c))

the double saddlepoint approximation solves dK/ds = m, dK/dt = x for (s, t), and then

    P(S >= x | N = m) ~ 1 - Phi(w) - phi(w) (1/w - 1/u),
    w = sign(t) sqrt(2 (s m + t x - K(s, t))),   u = t sqrt(det K''(s, t) / (C f (1 - f))).

Sources: Robinson 1982 (J. R. Statist. Soc. B 44, "Saddlepoint approximations for permutation tests
and confidence intervals"); Skovgaard 1987 (J. Appl. Prob. 24, "Saddlepoint expansions for
conditional distributions"). Near the mean, where 1/w - 1/u is 0/0, the Edgeworth expansion with
the exact second and third moments of the draw takes over.

Known limit: the formula assumes that S is nearly continuous. Where a few channels hold the energy,
or energies are tied, S moves in jumps and the formula is wrong, mostly on the unsafe side.
`rough` measures just that: the largest modulus of the tilted sum's characteristic function beyond
its Gaussian part. It is near 0 for a smooth sum and near 1 for one that jumps.

Shape legend: C channels. All numbers are float64.
"""

from __future__ import annotations

import math

import numpy as np

from isae.analysis.arrays import F64, I64, U8
from isae.compiled import compiled, prange

EXACT, SADDLEPOINT, UNSOLVED = 1, 2, 3
"""How `solve_tail` came to its answer; UNSOLVED: p is not to be used, (h, t) is."""
ROUGHNESS_BELOW = 0.25
"""Roughness is measured for tests whose formula gives at most this p."""

_MAX_STEPS = 80
_NEAR_MEAN = 0.02
_TIE = 1e-13
_NEARLY_THERE = 1e-8
_LONGEST_STEP, _SHORTEST_STEP = 8.0, 1e-9


@compiled()
def log_binomial(n: int, k: int) -> float:
    """Log of n choose k."""
    return math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)


@compiled()
def _evaluate(v_C: F64, h: float, t: float) -> tuple[float, float, float, float, float, float]:
    """(K, dK/dh, dK/dt, K_hh, K_ht, K_tt) of K = sum_c log(1 + exp(h + t v_c))."""
    big, product, logs = 0.0, 1.0, 0.0
    n, s, k_hh, k_ht, k_tt = 0.0, 0.0, 0.0, 0.0, 0.0
    for v in v_C:
        eta = h + t * v
        small = math.exp(-abs(eta))
        lesser = small / (1.0 + small)
        p = lesser
        if eta > 0.0:
            big += eta
            p = 1.0 - lesser
        # One logarithm per 900 factors of at most 2, instead of one per channel.
        product *= 1.0 + small
        if product > 1e270:
            logs += math.log(product)
            product = 1.0
        weight = lesser * (1.0 - lesser)
        n += p
        s += p * v
        k_hh += weight
        k_ht += weight * v
        k_tt += weight * v * v
    return big + logs + math.log(product), n, s, k_hh, k_ht, k_tt


@compiled()
def _newton(v_C: F64, m: int, y: float, h: float, t: float) -> tuple[float, float, bool]:
    """Minimise the convex K(h, t) - h m - t y by Newton steps, shortened until they descend."""
    k, n, s, k_hh, k_ht, k_tt = _evaluate(v_C, h, t)
    for _ in range(_MAX_STEPS):
        det = k_hh * k_tt - k_ht * k_ht
        if not det > 1e-250:
            return h, t, False
        step_h = -(k_tt * (n - m) - k_ht * (s - y)) / det
        step_t = -(k_hh * (s - y) - k_ht * (n - m)) / det
        decrement = -((n - m) * step_h + (s - y) * step_t)
        if decrement < _NEARLY_THERE:
            # The next decrement is about the square of this one: below rounding.
            return h + step_h, t + step_t, True
        value = k - h * m - t * y
        scale = min(1.0, _LONGEST_STEP / max(abs(step_h), abs(step_t)))
        while True:
            next_h, next_t = h + scale * step_h, t + scale * step_t
            k, n, s, k_hh, k_ht, k_tt = _evaluate(v_C, next_h, next_t)
            if k - next_h * m - next_t * y <= value - 1e-4 * scale * decrement:
                h, t = next_h, next_t
                break
            scale *= 0.5
            if scale < _SHORTEST_STEP:
                return h, t, False
    return h, t, False


@compiled()
def _edgeworth(v_C: F64, m: int, z: float) -> float:
    """P(S >= x) at z standard deviations: normal plus the exact skewness of the draw."""
    c = len(v_C)
    skew = 0.0
    if c > 2:
        cubes = 0.0
        for v in v_C:
            cubes += v * v * v
        third = m * (c - m) * (c - 2.0 * m) / (c * (c - 1.0) * (c - 2.0)) * cubes
        skew = third / (m * (c - m) / (c - 1.0)) ** 1.5
    phi = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return 0.5 * math.erfc(z / math.sqrt(2.0)) + phi * skew / 6.0 * (z * z - 1.0)


@compiled()
def _skovgaard(v_C: F64, m: int, y: float, h: float, t: float) -> float:
    """The tail formula at the solved tilt; NaN where it has no value."""
    c = len(v_C)
    base = math.log(m / (c - m))
    k_zero = c * math.log(c / (c - m)) - base * m
    k, _, _, k_hh, k_ht, k_tt = _evaluate(v_C, h, t)
    w_squared = 2.0 * (k_zero - (k - h * m - t * y))
    det = k_hh * k_tt - k_ht * k_ht
    if not (w_squared > 0.0 and det > 0.0):
        return math.nan
    w = math.copysign(math.sqrt(w_squared), t)
    u = t * math.sqrt(det / (m * (c - m) / c))
    phi = math.exp(-0.5 * w_squared) / math.sqrt(2.0 * math.pi)
    return 0.5 * math.erfc(w / math.sqrt(2.0)) - phi * (1.0 / w - 1.0 / u)


@compiled()
def largest_sum_chance(sorted_C: F64, m: int, tie: float) -> float:
    """The chance that m draws without replacement reach the largest possible sum.

    sorted_C: [C], descending. With g values above the m-th and e equal to it, e choose m - g of
    the C choose m subsets reach it: 1 / (C choose m) without ties, m/C for a one-channel row.
    tie: values that differ from the m-th by at most this count as equal to it. The result is then
    at least the chance to come within `tie` of the largest sum: a subset that does so holds every
    value more than `tie` above the m-th and none more than `tie` below it.
    """
    c = len(sorted_C)
    value = sorted_C[m - 1]
    above, equal = 0, 0
    for v in sorted_C:
        if v > value + tie:
            above += 1
        elif v >= value - tie:
            equal += 1
    return math.exp(log_binomial(equal, m - above) - log_binomial(c, m))


@compiled()
def solve_tail(v_C: F64, sorted_C: F64, m: int, y: float) -> tuple[float, int, float, float]:
    """P(sum of m of the C numbers >= y) -> (p, how, h, t); how: EXACT, SADDLEPOINT, UNSOLVED.

    v_C: [C] with mean 0 and mean square 1; sorted_C: the same, descending. (h, t) is the tilt: in
    it channel c is drawn with chance 1 / (1 + exp(-h - t v_c)).
    """
    c = len(v_C)
    if m <= 0 or m >= c:
        return 1.0, EXACT, 0.0, 0.0
    highest, lowest = 0.0, 0.0
    for j in range(m):
        highest += sorted_C[j]
        lowest += sorted_C[c - 1 - j]
    slack = 1e-11 * (highest - lowest)
    if y <= lowest + slack:
        return 1.0, EXACT, 0.0, 0.0
    if y >= highest - slack:
        # Sums within the slack are taken for the largest one, so values must be as well: with
        # finer ties a row of one large channel and tiny others would get a far too small p.
        return largest_sum_chance(sorted_C, m, slack), EXACT, 0.0, 0.0
    base = math.log(m / (c - m))
    sigma = math.sqrt(m * (c - m) / (c - 1.0))
    z = y / sigma
    h, t, solved = _newton(v_C, m, y, base, max(min(z, 3.0), -3.0) / sigma)
    if not solved:
        return math.nan, UNSOLVED, h, t
    p = _edgeworth(v_C, m, z) if abs(z) < _NEAR_MEAN else _skovgaard(v_C, m, y, h, t)
    floor = largest_sum_chance(sorted_C, m, _TIE * max(abs(sorted_C[0]), abs(sorted_C[c - 1])))
    if not 0.0 < p <= 1.0:
        return math.nan, UNSOLVED, h, t
    return max(p, floor), SADDLEPOINT, h, t


@compiled()
def rough(sorted_C: F64, h: float, t: float) -> float:
    """Largest |characteristic function| of the tilted sum at 4..64 inverse standard deviations.

    sorted_C: [C], descending. The sum's Gaussian part has died out at 4; what is left beyond are
    jumps. Values below 0.001 are given as 0.001.
    """
    c = len(sorted_C)
    _, _, _, k_hh, k_ht, k_tt = _evaluate(sorted_C, h, t)
    spread = math.sqrt(max(k_tt - k_ht * k_ht / k_hh, 1e-300))
    # The lattice of a row of two values shows when one of them is the origin.
    origin = sorted_C[c // 2]
    weights_C = np.empty(c)
    for j in range(c):
        small = math.exp(-abs(h + t * sorted_C[j]))
        weights_C[j] = 2.0 * small / ((1.0 + small) * (1.0 + small))
    worst = 1e-6
    for step in range(121):
        frequency = (4.0 + 0.5 * step) / spread
        squared = 1.0
        for j in range(c):
            squared *= 1.0 - weights_C[j] * (1.0 - math.cos(frequency * (sorted_C[j] - origin)))
            if squared < worst:
                break
        worst = max(worst, squared)
    return math.sqrt(worst)


@compiled(parallel=True)
def solve_tails(
    v_NC: F64,
    sorted_NC: F64,
    bounds_B2: I64,
    p_NB: F64,
    how_NB: U8,
    tilt_NB2: F64,
    rough_NB: F64,
) -> None:
    """`solve_tail` for every branch of every feature, in parallel over features, in place.

    v_NC: [N, C] rows of mean 0 and mean square 1; sorted_NC: each row descending; bounds_B2:
    [start, stop) of the branches; written: p, how, tilt (h, t), and the roughness where the
    formula gives p <= ROUGHNESS_BELOW.
    """
    for i in prange(len(v_NC)):
        for b in range(len(bounds_B2)):
            start, stop = bounds_B2[b]
            p, how, h, t = solve_tail(
                v_NC[i], sorted_NC[i], stop - start, v_NC[i, start:stop].sum()
            )
            p_NB[i, b], how_NB[i, b] = p, how
            tilt_NB2[i, b, 0], tilt_NB2[i, b, 1] = h, t
            if how == SADDLEPOINT and p <= ROUGHNESS_BELOW:
                rough_NB[i, b] = rough(sorted_NC[i], h, t)
