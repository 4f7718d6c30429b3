"""Virtual weights between the features of two adjacent layers, and matches by them.

A rise of feature i of layer l by one adds its decoder row to layer l's map; the network turns that
into M d_i in layer l + 1 (`isae.analysis.layers.virtual_paths`), and encoder row e_j reads it:

    V_ij = e_j . M d_i = sum over branches b of e_j[b] . M_b d_i.

Both SAEs are in units of the stored activations (`SAE.unscaled` puts the training's scale into the
biases), as M is, so V is the change of feature j's pre-activation per unit of feature i's code.

V depends on the lengths of rows, and every reader j has its own scale. So for matching, decoder
rows have length 1, and V is taken in standard deviations of each reader over the earlier layer's
features:

    z_ij = (V_ij - mean over i of V_ij) / sd over i of V_ij.

Matches are mutual nearest and one to one in z, as for correlations. (The cosine of e_j and M d_i
was tried too: its largest values are hardly above those of drawn rows, and agree less with
correlation.)

Null: no feature of layer l drives reader j beyond what rows like these do. Rows are drawn for the
d_i in two ways, and p is the larger of the two p-values:

- turned: d = mean + distance_i * root u with root root^T the covariance of the layer's rows,
  distance_i d_i's own Mahalanobis distance from their mean, and u uniform on the sphere: channels'
  scales, which channels and branches go together, and how unusual a row is stay;
- dealt: each channel's entries dealt anew to the features: how concentrated channels are stays
  (a reader of few loud channels on which few rows lie has large z without any tie).

z of drawn rows is taken over them in the same way. The p-value is that of `image_null`: the largest
z of each feature over all partners in S draws, standardised by feature, pooled.

Cost: 2 S + 1 products of [n, D] and [D, o]; linear in each layer's features, quadratic in their
product, and independent of the number of pictures. Memory: 4 bytes x 1,024 x o, and rows.

Legend: N, O features of layers l and l + 1 (n, o: tested ones), C, D their channels, B branches,
K kept partners, X pairs of features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.layers.correlation import Tops
from isae.analysis.layers.image_null import MaxNull, fit_max_null
from isae.randomness import keyed_rng

_BLOCK = 1024
TURNED, DEALT = "turned", "dealt"


@dataclass(frozen=True)
class Virtual:
    """What virtual weights of a pair of layers are made of, float64.

    paths: M_b [D_b, C] of each branch of layer l + 1; decoder_NC: layer l's decoder rows;
    encoder_OD: layer l + 1's encoder rows; source, target: channel slices of both layers' branches.
    """

    paths: Mapping[str, F64]
    decoder_NC: F64
    encoder_OD: F64
    source: Mapping[str, tuple[int, int]]
    target: Mapping[str, tuple[int, int]]

    @property
    def whole_DC(self) -> F64:
        """M: the branches' matrices one above the other."""
        return np.concatenate([self.paths[name] for name in self.target], axis=0)

    def of(self, first_X: I64, second_X: I64) -> F64:
        """V of given pairs by branch of layer l + 1 -> float64 [X, B]; their sum is V."""
        found = np.empty((len(first_X), len(self.target)))
        for number, (name, (start, stop)) in enumerate(self.target.items()):
            passed_XD = self.decoder_NC[first_X] @ self.paths[name].T
            found[:, number] = (passed_XD * self.encoder_OD[second_X, start:stop]).sum(axis=1)
        return found


def effective_channels(rows_NC: F64) -> F64:
    """Over how many channels a row's energy is spread: (sum e)^2 / sum e^2 -> float64 [N].

    1 for a single channel, C for equal shares, NaN for a row of zeros.
    """
    energy_NC = np.asarray(rows_NC, dtype=np.float64) ** 2
    spread_N = np.full(len(energy_NC), np.nan)
    square_N = (energy_NC**2).sum(axis=1)
    np.divide(energy_NC.sum(axis=1) ** 2, square_N, out=spread_N, where=square_N > 0)
    return spread_N


@dataclass(frozen=True)
class Readers:
    """The tested readers, so that z = M d_i . reader_oD - shift_o, float32 on a device."""

    reader_oD: torch.Tensor
    shift_o: torch.Tensor

    def z(self, passed_bD: torch.Tensor) -> torch.Tensor:
        """Of what decoder rows of length 1 become, [b, D] -> [b, o]."""
        return passed_bD @ self.reader_oD.T - self.shift_o


def readers(passed_nD: F64, reader_oD: F64, device: torch.device | str) -> Readers:
    """Each reader's scale over what the earlier layer's rows become, [n, D]."""
    mean_o = reader_oD @ passed_nD.mean(axis=0)
    covariance_DD = np.cov(passed_nD, rowvar=False, bias=True)
    variance_o = np.maximum(((reader_oD @ covariance_DD) * reader_oD).sum(axis=1), 0.0)
    # A reader that nothing drives has no scale: its z is 0.
    scale_o = np.zeros(len(reader_oD))
    np.divide(1.0, np.sqrt(variance_o), out=scale_o, where=variance_o > 0)
    parts = (reader_oD * scale_o[:, None], mean_o * scale_o)
    return Readers(*(torch.from_numpy(part.astype(np.float32)).to(device) for part in parts))


def strongest_partners(
    virtual: Virtual, tested_N: Bools, tested_O: Bools, keep: int, device: torch.device | str
) -> tuple[Tops, Tops]:
    """The `keep` partners of largest z, of layer l's features and of layer l + 1's."""
    first, second = np.flatnonzero(tested_N), np.flatnonzero(tested_O)
    passed, reading = _reading(virtual, _unit(virtual.decoder_NC[first]), tested_O, device)
    forth, back = _Best(len(first), keep), _Best(len(second), keep)
    for start in range(0, len(first), _BLOCK):
        z_bo = reading.z(passed[start : start + _BLOCK])
        forth.take(np.arange(start, start + len(z_bo)), z_bo, 0)
        back.take(np.arange(len(second)), z_bo.T.contiguous(), start)
    return forth.tops(first, second, len(tested_N)), back.tops(second, first, len(tested_O))


class _Best:
    """The largest values of each row over columns that come in blocks."""

    def __init__(self, rows: int, keep: int) -> None:
        self.value_nK = np.full((rows, keep), -np.inf)
        self.column_nK = np.full((rows, keep), -1, dtype=np.int64)

    def take(self, rows: I64, value_bc: torch.Tensor, first_column: int) -> None:
        keep = self.value_nK.shape[1]
        value, column = value_bc.topk(min(keep, value_bc.shape[1]), dim=1)
        value_bK = np.concatenate([self.value_nK[rows], value.double().cpu().numpy()], axis=1)
        new_bK = column.cpu().numpy() + first_column
        column_bK = np.concatenate([self.column_nK[rows], new_bK], axis=1)
        order = np.lexsort((column_bK, -value_bK), axis=1)[:, :keep]
        self.value_nK[rows] = np.take_along_axis(value_bK, order, axis=1)
        self.column_nK[rows] = np.take_along_axis(column_bK, order, axis=1)

    def tops(self, row_n: I64, column_o: I64, features: int) -> Tops:
        """With numbers of features in place of those of tested ones."""
        keep = self.value_nK.shape[1]
        r_NK, feature_NK = (
            np.full((features, keep), -np.inf),
            np.full((features, keep), -1, np.int32),
        )
        r_NK[row_n] = self.value_nK
        named = column_o[np.maximum(self.column_nK, 0)] if len(column_o) else self.column_nK
        feature_NK[row_n] = np.where(self.column_nK >= 0, named, -1)
        return Tops(r_NK, feature_NK)


def weight_nulls(
    virtual: Virtual,
    tested_N: Bools,
    tested_O: Bools,
    draws: int,
    seed: int,
    device: torch.device | str,
) -> dict[str, tuple[MaxNull, MaxNull]]:
    """The nulls of the largest z of every tested feature of both layers, by kind."""
    first, second = np.flatnonzero(tested_N), np.flatnonzero(tested_O)
    rows_nC = _unit(virtual.decoder_NC[first])
    cloud = RowCloud.of(rows_nC)
    distance_N = np.zeros(len(tested_N), dtype=np.int64)
    distance_N[first] = (1000 * cloud.distance_n).astype(np.int64)
    found = {}
    for kind in (TURNED, DEALT):
        rng = keyed_rng(seed, "layers", "virtual weights", kind)
        forth_SN, back_SO = np.zeros((draws, len(tested_N))), np.zeros((draws, len(tested_O)))
        for s in range(draws):
            drawn_nC = cloud.draw(rng) if kind == TURNED else rng.permuted(rows_nC, axis=0)
            passed, reading = _reading(virtual, _unit(drawn_nC), tested_O, device)
            forth_SN[s, first], back_SO[s, second] = _largest(passed, reading)
        found[kind] = (
            fit_max_null(forth_SN, distance_N, tested_N),
            fit_max_null(back_SO, np.zeros(len(tested_O), dtype=np.int64), tested_O),
        )
    return found


@dataclass(frozen=True)
class RowCloud:
    """Mean, root of the covariance [C, R], and each row's Mahalanobis distance from the mean."""

    mean_C: F64
    root_CR: F64
    distance_n: F64

    @staticmethod
    def of(rows_nC: F64) -> RowCloud:
        """Of rows [n, C]; directions without variance are left out."""
        mean_C = rows_nC.mean(axis=0)
        variance_C, vectors_CC = np.linalg.eigh(np.cov(rows_nC, rowvar=False, bias=True))
        real = variance_C > 1e-9 * variance_C[-1]
        vectors_CR, deviation_R = vectors_CC[:, real], np.sqrt(variance_C[real])
        white_nR = (rows_nC - mean_C) @ (vectors_CR / deviation_R)
        return RowCloud(mean_C, vectors_CR * deviation_R, np.linalg.norm(white_nR, axis=1))

    def draw(self, rng: np.random.Generator) -> F64:
        """Rows of the null, each at its original's distance -> float64 [n, C]."""
        shape = (len(self.distance_n), self.root_CR.shape[1])
        normal_nR = rng.standard_normal(shape)
        length_n = np.linalg.norm(normal_nR, axis=1)
        normal_nR *= (self.distance_n / np.maximum(length_n, 1e-12))[:, None]
        return np.asarray(normal_nR @ self.root_CR.T + self.mean_C, dtype=np.float64)


def _largest(passed_nD: torch.Tensor, reading: Readers) -> tuple[F32, F32]:
    """The largest z of each row of both -> float32 [n], [o]."""
    forth, back = [], torch.full_like(reading.shift_o, -torch.inf)
    for start in range(0, len(passed_nD), _BLOCK):
        z_bo = reading.z(passed_nD[start : start + _BLOCK])
        forth.append(z_bo.amax(dim=1))
        back = torch.maximum(back, z_bo.amax(dim=0))
    return torch.cat(forth).cpu().numpy(), back.cpu().numpy()


def _unit(rows_NC: F64) -> F64:
    """Rows of length 1; rows of zeros stay."""
    length_N1 = np.linalg.norm(rows_NC, axis=1, keepdims=True)
    return np.asarray(rows_NC / np.maximum(length_N1, 1e-30), dtype=np.float64)


def _reading(
    virtual: Virtual, rows_nC: F64, tested_O: Bools, device: torch.device | str
) -> tuple[torch.Tensor, Readers]:
    """(what rows become in layer l + 1, float32 [n, D]; the tested readers over them)."""
    passed_nD = rows_nC @ virtual.whole_DC.T
    reading = readers(passed_nD, virtual.encoder_OD[tested_O], device)
    return torch.from_numpy(passed_nD.astype(np.float32)).to(device), reading
