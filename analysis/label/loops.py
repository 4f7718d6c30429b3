"""The compiled loops of labels: strongest images, statistics of all names, one test of a name.

Legend: N features, M = N + 1, T entries by feature, H = 2 halves, K strongest images, R rows of
names, A names, G cells.
"""

from __future__ import annotations

import math

import numpy as np

from isae.analysis.arrays import F32, F64, I32, I64, U8, Bools
from isae.analysis.code_loops import insert
from isae.compiled import compiled


@compiled()
def strongest_images(
    first_M: I64,
    place_T: I32,
    value_T: F32,
    image_P: I32,
    half_I: I64,
    key_I: F64,
    by_value: bool,
    key_HNK: F64,
    place_HNK: I32,
    images_HN: I64,
) -> None:
    """Of each half the K images on which a feature is strongest, and its strongest place there.

    With `by_value` false images are taken by `key_I`, the largest first. Equal ones: the lower
    image, and the lower cell. `key_HNK` comes filled with -1, `place_HNK` with -1, `images_HN` (the
    images on which it is active) with 0.
    """
    for i in range(len(first_M) - 1):
        t = first_M[i]
        while t < first_M[i + 1]:
            image = image_P[place_T[t]]
            best = t
            t += 1
            while t < first_M[i + 1] and image_P[place_T[t]] == image:
                if value_T[t] > value_T[best]:
                    best = t
                t += 1
            half = half_I[image]
            images_HN[half, i] += 1
            key = np.float64(value_T[best]) if by_value else key_I[image]
            last = key_HNK.shape[2] - 1
            if key > key_HNK[half, i, last]:
                insert(key_HNK[half, i], place_HNK[half, i], key, place_T[best])


@compiled()
def gain_in_bits(share: float, chance: float) -> float:
    """The divergence of two coins in bits, share log2(share / chance) + ..., 0 below chance."""
    if not share > chance or chance <= 0.0:
        return 0.0
    bits = share * math.log2(share / chance)
    if share < 1.0:
        bits += (1.0 - share) * math.log2((1.0 - share) / (1.0 - chance))
    return bits


@compiled()
def all_statistics(
    row_NK: I64, cell_NK: I64, has_RA: U8, chance_GA: F64, limit_A: I64, bits_NA: F32
) -> None:
    """Images x bits of every name over a feature's strongest images, into `bits_NA`."""
    names = has_RA.shape[1]
    count_A = np.empty(names, np.int64)
    used_A = np.empty(names, np.int64)
    expected_A = np.empty(names, np.float64)
    for i in range(len(row_NK)):
        count_A[:] = 0
        used_A[:] = 0
        expected_A[:] = 0.0
        for k in range(row_NK.shape[1]):
            row = row_NK[i, k]
            if row >= 0:
                for a in range(names):
                    if k < limit_A[a]:
                        count_A[a] += has_RA[row, a]
                        used_A[a] += 1
                        expected_A[a] += chance_GA[cell_NK[i, k], a]
        for a in range(names):
            if used_A[a] > 0:
                share = count_A[a] / used_A[a]
                bits = gain_in_bits(share, expected_A[a] / used_A[a])
                bits_NA[i, a] = used_A[a] * bits


@compiled()
def tail_of_one(
    row_NK: I64,
    cell_NK: I64,
    has_RA: U8,
    chance_GA: F64,
    limit_A: I64,
    name_N: I64,
    used_N: I64,
    count_N: I64,
    chance_N: F64,
    p_N: F64,
) -> None:
    """Of one name a feature: images used, those that have it, mean chance, and p.

    p: the chance that a sum of independent coins with the cells' chances reaches the count, by
    adding one coin after the other. Features whose name is -1 are left alone.
    """
    law_K = np.empty(row_NK.shape[1] + 1, np.float64)
    for i in range(len(row_NK)):
        a = name_N[i]
        if a < 0:
            continue
        law_K[:] = 0.0
        law_K[0] = 1.0
        used = 0
        count = 0
        total = 0.0
        for k in range(row_NK.shape[1]):
            row = row_NK[i, k]
            if row >= 0 and k < limit_A[a]:
                chance = chance_GA[cell_NK[i, k], a]
                used += 1
                count += has_RA[row, a]
                total += chance
                for s in range(used, 0, -1):
                    law_K[s] = law_K[s] * (1.0 - chance) + law_K[s - 1] * chance
                law_K[0] *= 1.0 - chance
        used_N[i] = used
        count_N[i] = count
        if used > 0:
            chance_N[i] = total / used
            tail = 0.0
            for s in range(used, count - 1, -1):
                tail += law_K[s]
            p_N[i] = min(tail, 1.0)


@compiled()
def weighted_gains(
    row_NK: I64,
    cell_NK: I64,
    image_NK: I64,
    has_RA: U8,
    chance_DGA: F64,
    name_N: I64,
    length_N: I64,
    weight_DX: F64,
    gain_DN: F64,
) -> None:
    """(share - chance) / (1 - chance) of one name a feature where images have weights.

    Strongest first, images are counted until their weights add up to `length_N`, the last one in
    part; one whose row is -1 uses up its weight. chance_DGA may have one cell for all. `gain_DN`
    comes filled with NaN, and keeps it where the chance is 1.
    """
    for d in range(len(weight_DX)):
        for i in range(len(name_N)):
            a = name_N[i]
            if a < 0:
                continue
            left = np.float64(length_N[i])
            used = 0.0
            count = 0.0
            total = 0.0
            for k in range(row_NK.shape[1]):
                if image_NK[i, k] < 0 or left <= 1e-9:
                    break
                weight = min(weight_DX[d, image_NK[i, k]], left)
                left -= weight
                row = row_NK[i, k]
                if row >= 0:
                    cell = min(cell_NK[i, k], chance_DGA.shape[1] - 1)
                    used += weight
                    count += weight * has_RA[row, a]
                    total += weight * chance_DGA[d, cell, a]
            if used - total > 1e-9 * used:
                gain_DN[d, i] = (count - total) / (used - total)


@compiled()
def weighted_places(
    cell_NK: I64, image_NK: I64, among_N: Bools, length: int, weight_DX: F64, place_DG: F64
) -> None:
    """Add up the weights of the strongest places of some features at each cell.

    Of every feature until its weights add up to `length`. `place_DG` comes filled with 0.
    """
    for d in range(len(weight_DX)):
        for i in range(len(image_NK)):
            left = np.float64(length)
            if not among_N[i]:
                continue
            for k in range(image_NK.shape[1]):
                if image_NK[i, k] < 0 or left <= 1e-9:
                    break
                weight = min(weight_DX[d, image_NK[i, k]], left)
                left -= weight
                place_DG[d, cell_NK[i, k]] += weight
