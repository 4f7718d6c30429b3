"""Which neurons a curve feature draws on, and whether it is a mixture of two curve neurons.

Shares are of squared weights: of neuron c in feature i, W_dec[i, c]^2 / sum_c W_dec[i, c]^2, and
the same of W_enc. The two main curve neurons of a feature are those among the layer's curve
detectors with the largest positive decoder weights. Its direction lies *between* them if it is
inside the shorter of the two arcs that they bound; a direction at random would be there with the
chance of that arc over 360 degrees, which is stated beside it.

Shape legend: F curve features, C channels, T neurons kept of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.curves.criterion import CurveUnits, turn_between

KEPT = 10
MOST = 0.8


@dataclass(frozen=True)
class Sources:
    """feature_F: the curve features; neuron_FT: by falling decoder share; decoder_FT, encoder_FT:
    weights; decoder_share_FT, encoder_share_FT; neurons_F: how many hold 80 % of the decoder's
    squares; curve_share_F: what curve neurons hold of them; main_F2: the two main curve neurons, -1
    where there are none; between_F; arc_F: degrees of the arc they bound, NaN where undefined.
    """

    feature_F: I64
    neuron_FT: I64
    decoder_FT: F64
    encoder_FT: F64
    decoder_share_FT: F64
    encoder_share_FT: F64
    neurons_F: I64
    curve_share_F: F64
    main_F2: I64
    between_F: Bools
    arc_F: F64

    @property
    def mixed_F(self) -> Bools:
        """Features that have two main curve neurons."""
        return self.main_F2[:, 1] >= 0


def find_sources(
    features: CurveUnits, neurons: CurveUnits, encoder_NC: F32, decoder_NC: F32
) -> Sources:
    """What every curve feature draws on."""
    feature_F = np.flatnonzero(features.detector_N)
    decoder_FC = decoder_NC[feature_F].astype(np.float64)
    encoder_FC = encoder_NC[feature_F].astype(np.float64)
    share_FC, encoder_share_FC = _shares(decoder_FC), _shares(encoder_FC)
    order_FC = np.argsort(-share_FC, axis=1, kind="stable")
    cumulative_FC = np.cumsum(np.take_along_axis(share_FC, order_FC, axis=1), axis=1)
    neuron_FT = order_FC[:, :KEPT]
    curve_C = neurons.detector_N
    main_F2 = _main(decoder_FC, curve_C)
    direction_F2 = np.where(main_F2 >= 0, neurons.direction_N[main_F2], np.nan)
    arc_F = turn_between(direction_F2[:, 0], direction_F2[:, 1])
    return Sources(
        feature_F,
        neuron_FT,
        np.take_along_axis(decoder_FC, neuron_FT, axis=1),
        np.take_along_axis(encoder_FC, neuron_FT, axis=1),
        np.take_along_axis(share_FC, neuron_FT, axis=1),
        np.take_along_axis(encoder_share_FC, neuron_FT, axis=1),
        (cumulative_FC < MOST).sum(axis=1) + 1,
        share_FC[:, curve_C].sum(axis=1),
        main_F2,
        lies_between(features.direction_N[feature_F], direction_F2[:, 0], direction_F2[:, 1]),
        arc_F,
    )


def lies_between(direction: F64, one: F64, two: F64) -> Bools:
    """Whether a direction is inside the shorter arc of two others; False where any is NaN."""
    apart = turn_between(one, two)
    inside: Bools = turn_between(direction, one) + turn_between(direction, two) <= apart + 1e-9
    return inside & (apart < 180)


def _shares(weight_FC: F64) -> F64:
    square_FC = weight_FC**2
    total_F1 = square_FC.sum(axis=1, keepdims=True)
    return square_FC / np.where(total_F1 > 0, total_F1, 1.0)


def _main(decoder_FC: F64, curve_C: Bools) -> I64:
    """The two curve neurons of the largest positive weights -> int64 [F, 2], -1 for none."""
    weight_FC = np.where(curve_C, np.maximum(decoder_FC, 0.0), 0.0)
    main_F2 = np.argsort(-weight_FC, axis=1, kind="stable")[:, :2]
    if main_F2.shape[1] < 2:
        main_F2 = np.pad(main_F2, ((0, 0), (0, 2 - main_F2.shape[1])), constant_values=0)
    found = np.take_along_axis(weight_FC, main_F2, axis=1) > 0
    found[:, 1] &= main_F2[:, 1] != main_F2[:, 0]
    return np.where(found, main_F2, -1)
