"""Dictionaries to compare an SAE's with: same second moments, rotations, PCA, NMF, single neurons.

    gaussian          rows drawn from N(0, S), S the covariance of training rows
    rotated within    the SAE's rows, each branch's channels turned by one random rotation: shares
                      stay as they are, single channels lose their part in them
    rotated           the SAE's rows turned by one random rotation of all channels
    pca               the eigenvectors of S
    nmf               non-negative parts of training rows (Lee and Seung 2001, multiplicative
                      updates for the squared error)
    neurons           one channel a row

Legend: R rows of activations, C channels, N rows of a dictionary, Q parts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from isae.analysis.arrays import F32, F64
from isae.randomness import keyed_rng

NMF_ROWS, NMF_PARTS, NMF_STEPS = 4096, 128, 100


def reference_dictionaries(
    W_dec_NC: F64,
    rows_RC: F32,
    branches: Mapping[str, tuple[int, int]],
    *,
    count: int,
    seed: int,
) -> dict[str, F64]:
    """The dictionaries of the module's docstring by name -> unit rows [at most `count`, C].

    W_dec_NC: the SAE's living rows; rows_RC: a sample of training rows. PCA has C rows at most,
    NMF NMF_PARTS, and there are C neurons.
    """
    channels = W_dec_NC.shape[1]
    rng = keyed_rng(seed, "reference dictionaries")
    chosen_NC = W_dec_NC[np.sort(rng.permutation(len(W_dec_NC))[:count])]
    scale_C, vector_CC = principal(rows_RC)
    within_CC = np.zeros((channels, channels))
    for start, stop in branches.values():
        within_CC[start:stop, start:stop] = random_rotation(stop - start, rng)
    dictionaries = {
        "gaussian": gaussian_rows(scale_C, vector_CC, count, rng),
        "rotated within": chosen_NC @ within_CC,
        "rotated": chosen_NC @ random_rotation(channels, rng),
        "pca": vector_CC.T[scale_C > 1e-6 * scale_C.max(initial=0)][:count],
        "nmf": nmf_parts(rows_RC[:NMF_ROWS], min(NMF_PARTS, channels, count), seed),
        "neurons": np.eye(channels)[:count],
    }
    return {name: _unit(rows_NC) for name, rows_NC in dictionaries.items()}


def principal(rows_RC: F32) -> tuple[F64, F64]:
    """(standard deviations falling [C], directions as columns [C, C]) of rows about their mean."""
    value_C, vector_CC = np.linalg.eigh(np.cov(rows_RC.astype(np.float64), rowvar=False))
    return np.sqrt(value_C[::-1].clip(0)), np.ascontiguousarray(vector_CC[:, ::-1])


def gaussian_rows(scale_C: F64, vector_CC: F64, count: int, rng: np.random.Generator) -> F64:
    """Rows [count, C] drawn from the normal law of what `principal` gave."""
    return np.asarray((rng.normal(size=(count, len(scale_C))) * scale_C) @ vector_CC.T)


def random_rotation(size: int, rng: np.random.Generator) -> F64:
    """A rotation or reflection drawn evenly from all [size, size] (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.normal(size=(size, size)))
    return np.asarray(q * np.where(np.diag(r) < 0, -1.0, 1.0))


def nmf_parts(rows_RC: F32, parts: int, seed: int, steps: int = NMF_STEPS) -> F64:
    """Rows X ~ A H with A, H >= 0: the parts H [Q, C]; negative activations count as 0."""
    x = torch.from_numpy(np.maximum(rows_RC, 0).astype(np.float32))
    rng = keyed_rng(seed, "nmf")
    scale = float(x.mean().sqrt())
    a = torch.from_numpy(rng.random((len(x), parts), dtype=np.float32)) * scale
    h = torch.from_numpy(rng.random((parts, x.shape[1]), dtype=np.float32)) * scale
    # Numbers that fall towards 0 for ever become denormal, which are a hundred times as slow.
    least = 1e-12
    for _ in range(steps):
        h.mul_((a.T @ x) / (a.T @ a @ h + least)).clamp_(min=least)
        a.mul_((x @ h.T) / (a @ (h @ h.T) + least)).clamp_(min=least)
    return np.asarray(h.double().numpy())


def _unit(rows_NC: F64) -> F64:
    """Rows of length 1; rows of length 0 are left out."""
    length_N1 = np.linalg.norm(rows_NC, axis=1, keepdims=True)
    kept_N = length_N1[:, 0] > 0
    return np.asarray(rows_NC[kept_N] / length_N1[kept_N])
