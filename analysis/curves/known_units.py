"""The known curve neurons of the original network against what is found here.

The data of the Distill article "Curve Detectors" (Cammarata et al. 2020) list ten curve neurons of
mixed3b with preferred orientations, the peaks of their radial tuning curves. Their zero and sense
of rotation are not stated with the numbers, so both are fitted: known = sign * found + offset, the
sign +1 or -1, the offset the circular mean of the differences. Ours: degrees counter-clockwise from
the right, where the arc's outside points. The fit is judged against the same fit with the known
angles dealt to the units at random: p = (1 + as good) / (1 + draws).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isae.analysis.arrays import F64, Bools
from isae.analysis.curves.criterion import turn_between
from isae.inception import Network
from isae.randomness import keyed_rng

LAYER, CLASSES = "mixed3b", 1008
KNOWN = {
    342: 22.5, 388: 66.5, 324: 91.5, 340: 110.0, 330: 145.0,
    349: 181.0, 379: 243.0, 406: 268.5, 385: 290.0, 343: 358.0,
}  # fmt: skip
"""Preferred orientation in degrees of the curve neurons of mixed3b, inception5h's weights."""

_LEAST = 4


def applies(network: Network, layer: str) -> bool:
    """Whether the units are this network's: InceptionV1 with the original's 1,008 classes."""
    return network.name == "inceptionv1" and network.class_count == CLASSES and layer == LAYER


def compare_known(
    direction_N: F64,
    detector_N: Bools,
    *,
    known: dict[int, float] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Found directions against known ones, after the best zero and sense of rotation.

    direction_N: degrees of every neuron, NaN without one; detector_N: which are curve detectors.
    Units without a direction are told and left out; below four no fit is made.
    """
    known = known or KNOWN
    units = np.array(list(known))
    expected, found = np.array(list(known.values())), direction_N[units]
    usable = np.isfinite(found)
    told: dict[str, Any] = {
        "units": len(units),
        "with_direction": int(usable.sum()),
        "curve_detectors": int(detector_N[units].sum()),
        "convention": "found: degrees counter-clockwise from the right, where the arc's outside "
        "points; known = sign * found + offset, both fitted",
    }
    if usable.sum() < _LEAST:
        return {**told, "fit": None}
    sign, offset, error = fit(found[usable], expected[usable])
    rng = keyed_rng(seed, "known units")
    null = [fit(found[usable], rng.permutation(expected[usable]))[2] for _ in range(draws)]
    turned = (sign * found + offset) % 360
    rows = [
        {
            "unit": int(unit),
            "known": float(angle),
            "found": float(here) if np.isfinite(here) else None,
            "found_turned": float(there) if np.isfinite(there) else None,
            "off_by": float(turn_between(there, angle)) if np.isfinite(there) else None,
            "curve_detector": bool(detector_N[unit]),
        }
        for unit, angle, here, there in zip(units, expected, found, turned, strict=True)
    ]
    return {
        **told,
        "fit": {
            "sign": sign,
            "offset": offset,
            "mean_error_degrees": error,
            "p": float((1 + (np.array(null) <= error).sum()) / (1 + draws)),
        },
        "by_unit": rows,
    }


def fit(found: F64, expected: F64) -> tuple[int, float, float]:
    """(sign, offset in degrees, mean absolute error) of expected = sign * found + offset."""
    tried = []
    for sign in (1, -1):
        offset = float(
            np.degrees(np.angle(np.exp(1j * np.deg2rad(expected - sign * found)).mean()))
        )
        error = float(turn_between(sign * found + offset, expected).mean())
        tried.append((sign, offset % 360, error))
    return min(tried, key=lambda one: one[2])
