"""Do parts of a unit's answers agree on an angle? A null that turns each part by itself.

The parts l = 1 .. L are curves over A angles: single blocks of stimuli, or the sums of all blocks
at one level of a factor (all blocks of one radius, say), so that near-duplicates within a level
move together and cannot agree with each other by being alike. With z_l = sum_a c_la exp(2 pi i m a
/ A), the statistic of harmonic m is |Z| = |sum_l z_l|. Under

    H0: every part is turned by a random number of angles of its own,

z_l gets a random phase from the n = A / gcd(m, A) that turning can give. Parts keep their shape, so
smooth curves and few answers are no evidence; only agreement is. The chance p of |Z| or more is

    exact       n^(L-1) <= EXACT_MOST: all turnings are counted (turning all parts alike changes
                nothing, so the first one stays). Smallest possible p: n^-(L-1).
    a bound     otherwise, and proven: the smaller of two Markov inequalities.
                With E exp(t Re(e^-if Z)) averaged over all f, and I_0 the modified Bessel function,
                    p <= prod_l (1 + e) I_0(t |z_l|) / I_0(t |Z|)   for every t > 0,
                where e <= 2 sum_k I_kn(x) / I_0(x) corrects for phases being n and not all; t is
                searched where t |z_l| <= n^2 / 14, and e is below 0.005. And with T = |Z|^2 / sum
                |z_l|^2, E T^j <= j! for j < n, so p <= j! / T^j.
                For many parts the bound is within about sqrt(4 pi T) of exp(-T), and it has no
                floor: L agreeing parts of one size reach about (n / 1.5)^-(L-1).

A p-value of a family is of one look and harmonic; the look is chosen by its mean answer, which
turning does not change. Agreement over several factors: the largest p of them, since all must hold.
A factor speaks only if perfect agreement would have p <= RESOLUTION for this unit: with two levels
(two widths, say) random angles agree too often, and the factor cannot be tested.

Shape legend: L parts, U units, A angles, B blocks.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import i0e, ive

from isae.analysis.arrays import F64, I64
from isae.compiled import compiled, prange

EXACT_MOST = 400_000
"""Turnings that are counted one by one; five parts at 24 angles."""

RESOLUTION = 0.01
"""A factor is tested if perfect agreement over its levels has at most this p."""

ANSWERING = 0.05
"""A level whose mean answer is below this part of the strongest level's has no say."""

_TIE = 1e-9
_STEPS = 10
C128 = npt.NDArray[np.complex128]


def tail_bound(t: npt.ArrayLike, most: int) -> F64:
    """min(1, min over j <= most of j! / t^j): at least P(T >= t) where E T^j <= j!; NaN stays."""
    t = np.asarray(t, dtype=np.float64)
    best = np.zeros_like(t)
    with np.errstate(divide="ignore"):
        log_t = np.log(t)
    for j in range(1, most + 1):
        best = np.minimum(best, math.lgamma(j + 1) - j * log_t)
    p: F64 = np.where(np.isnan(t), np.nan, np.exp(best))
    return p


def moments_held(count: int, harmonic: int) -> int:
    """Up to which j the moments of a harmonic over `count` angles are bounded: A/gcd(m, A) - 1."""
    return turns(count, harmonic) - 1


def turns(count: int, harmonic: int) -> int:
    """How many phases a harmonic over `count` angles can get by turning: A / gcd(m, A)."""
    return count // math.gcd(harmonic, count)


def turning_pvalues(z_LU: C128, count: int) -> F64:
    """P(|Z| or more) when every part gets one of `count` phases at random -> [U], in (0, 1].

    Exact or a proven upper bound, see the module's head. Units whose parts are all 0 have p = 1.
    """
    parts, units = z_LU.shape
    if parts < 2 or not units:
        return np.ones(units)
    if count ** (parts - 1) <= EXACT_MOST:
        p_U = np.empty(units)
        _count_turnings(np.ascontiguousarray(z_LU.T), count, p_U)
        return p_U
    size_LU, whole_U = np.abs(z_LU), np.abs(z_LU.sum(axis=0))
    sum_U = (size_LU**2).sum(axis=0)
    t_U = np.zeros(units)
    np.divide(whole_U**2, sum_U, out=t_U, where=sum_U > 0)
    bounds = tail_bound(t_U, count - 1), _bessel_bound(size_LU, whole_U, count)
    smaller_U: F64 = np.minimum(*bounds)
    return smaller_U


def smallest_pvalues(parts_U: I64, count: int) -> F64:
    """The least p that so many parts can have at all: count^-(parts - 1) -> [U]."""
    smallest: F64 = float(count) ** -np.maximum(parts_U - 1.0, 0.0)
    return smallest


def _bessel_bound(size_LU: F64, whole_U: F64, count: int) -> F64:
    """Over t the least prod (1 + e) I_0(t |z_l|) / I_0(t |Z|) -> [U]; sizes over the largest."""
    reach = count**2 / 14
    excess = 2 * float((ive(count * np.arange(1, 4), reach) / i0e(reach)).sum())
    largest_U = np.maximum(size_LU.max(axis=0), 1e-300)
    size_LU, whole_U = size_LU / largest_U, whole_U / largest_U
    penalty_U = math.log1p(excess) * (size_LU > 0).sum(axis=0)
    # The best t for many small parts; for few parts it is larger.
    least_U = np.minimum(1.4 * whole_U / np.maximum((size_LU**2).sum(axis=0), 1e-300), reach)
    best_U = np.zeros(len(whole_U))
    for part in np.linspace(0, 1, _STEPS):
        t_U = least_U ** (1 - part) * reach**part
        # log I_0(x) = x + log i0e(x).
        x_LU, x_U = t_U * size_LU, t_U * whole_U
        log_U = (x_LU + np.log(i0e(x_LU))).sum(axis=0) + penalty_U
        best_U = np.minimum(best_U, log_U - x_U - np.log(i0e(x_U)))
    p_U: F64 = np.exp(best_U)
    return p_U


@compiled(parallel=True)
def _count_turnings(z_UL: C128, count: int, p_U: F64) -> None:
    """Share of all turnings of parts 1 .. L-1 whose |sum| reaches that of none, in place."""
    parts = z_UL.shape[1]
    cosine_A, sine_A = np.empty(count), np.empty(count)
    for step in range(count):
        cosine_A[step] = math.cos(2 * math.pi * step / count)
        sine_A[step] = math.sin(2 * math.pi * step / count)
    # The last two parts (the last one, of two) make one list; an odometer runs over the others.
    inner = min(2, parts - 1)
    size = count**inner
    total = count ** (parts - 1)
    for unit in prange(len(z_UL)):
        real_I, imag_I = np.zeros(size), np.zeros(size)
        for item in range(size):
            rest = item
            for part in range(parts - inner, parts):
                z, step = z_UL[unit, part], rest % count
                real_I[item] += z.real * cosine_A[step] - z.imag * sine_A[step]
                imag_I[item] += z.real * sine_A[step] + z.imag * cosine_A[step]
                rest //= count
        whole_real, whole_imag = 0.0, 0.0
        for part in range(parts):
            whole_real += z_UL[unit, part].real
            whole_imag += z_UL[unit, part].imag
        level = (whole_real**2 + whole_imag**2) * (1 - _TIE)
        reached = 0
        for outer in range(total // size):
            rest = outer
            real, imag = z_UL[unit, 0].real, z_UL[unit, 0].imag
            for part in range(1, parts - inner):
                z, step = z_UL[unit, part], rest % count
                real += z.real * cosine_A[step] - z.imag * sine_A[step]
                imag += z.real * sine_A[step] + z.imag * cosine_A[step]
                rest //= count
            for item in range(size):
                a, b = real + real_I[item], imag + imag_I[item]
                reached += a * a + b * b >= level
        p_U[unit] = reached / total
