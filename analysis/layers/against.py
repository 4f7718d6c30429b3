"""Trained against untrained: the same measures of two networks on the very same images.

Neighbouring layers share information in an untrained network too, so a match or an agreement is
only called one of the trained network where it exceeds the untrained one's. The untrained network's
own analysis is read from its finished folder: summary.json and draws.parquet. Of each pair of
layers, measure and method:

- r: mean correlation of the matches on the scoring images, found or not (what was found depends on
  how many were tested);
- r above exchanged: the same minus its mean with images exchanged within their class;
- log odds of 'same branch' among the found matches, one for each cluster of near-duplicates.

    difference = trained - mean over the untrained networks.

Interval (2.5 to 97.5 %): of r by drawing images anew; where both analyses used the same images (the
same hash) the same draws, so that what both owe to the images cancels. Of the log odds by drawing
clusters of near-duplicates, in each network for itself. With several untrained networks each draw
also draws which of them are averaged. Verdict: `beyond` where the whole interval lies above 0,
`below` where it lies beneath, else `not told apart`; without a number in either, `not compared`.

Known limits: the trained network is one; intervals say how far other images (clusters) would move
the difference, and with a single untrained network nothing of how much untrained ones differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isae.analysis.arrays import F64
from isae.analysis.layers.findings import CLUSTERS, LayerFindings
from isae.analysis.layers.matching import METHODS
from isae.analysis.outputs import SUMMARY
from isae.errors import RunError
from isae.randomness import keyed_rng

QUANTITIES = ("r", "r above exchanged", "log odds")
BEYOND, BELOW, SAME, NOT = "beyond", "below", "not told apart", "not compared"
DRAWS = "draws.parquet"
STORED = {"size": "the input size", "positions": "the positions", "dtype": "the dtype"}
"""What of a store's manifest the summary states, since two stores must share it."""
Key = tuple[str, str, str, str, str]
"""Earlier layer, later layer, measure, method, quantity."""


@dataclass(frozen=True)
class Drawn:
    """A number and what it is in draws of images or clusters, float64 [T]."""

    value: float
    drawn_T: F64


@dataclass(frozen=True)
class Analysis:
    """A finished analysis: its folder, summary, and numbers."""

    folder: Path
    summary: dict[str, Any]
    numbers: dict[Key, Drawn]


@dataclass(frozen=True)
class Difference:
    """One number, trained against untrained."""

    key: Key
    trained: float
    untrained: tuple[float, ...]
    difference: float
    low: float
    high: float
    verdict: str


def check_fits(summary: Mapping[str, Any], other: Mapping[str, Any], folder: Path) -> None:
    """Raise RunError unless the other can stand beside an analysis of layers.

    other: the summary of the analysis in `folder`: of the same model, other weights, the same
    pictures, and a store of the same input size, rule of positions and precision (where both
    summaries say these).
    """
    mine, theirs = summary["model"], other["model"]
    if theirs["name"] != mine["name"]:
        raise RunError(
            f"expected an analysis of {mine['name']} in {folder}, found one of "
            f"{theirs['name']}; give one of the same network, untrained"
        )
    if theirs["weights_sha256"] == mine["weights_sha256"]:
        raise RunError(
            f"expected an analysis of other weights in {folder}, found the same "
            f"({mine['weights_sha256'][:12]}); give one of an untrained network"
        )
    if other["images"]["fingerprint"] != summary["images"]["fingerprint"]:
        raise RunError(
            f"expected an analysis of the same pictures in {folder}, found others "
            f"({other['images']['spec']}); build both stores from the same"
        )
    for key, what in STORED.items():
        wanted, found = summary["store"].get(key), other["store"].get(key)
        if None not in (wanted, found) and wanted != found:
            raise RunError(
                f"expected an analysis of a store with {what} {wanted} in {folder}, found "
                f"{found}; build both stores with the same options"
            )


def numbers_of(findings: LayerFindings) -> dict[Key, Drawn]:
    """The numbers of an analysis that can be compared, with their draws."""
    found: dict[Key, Drawn] = {}
    for pair in findings.pairs:
        for method in METHODS:
            where = (*pair.comparison.layers, pair.comparison.measure, method)
            scores = pair.comparison.scores[method]
            r = _mean(scores.r_X)
            both_X = np.where(np.isfinite(scores.r_X), scores.shuffled_X, np.nan)
            exchanged = _mean(both_X)
            found[*where, QUANTITIES[0]] = Drawn(r, scores.mean_T)
            found[*where, QUANTITIES[1]] = Drawn(r - exchanged, scores.mean_T - exchanged)
            agreement = pair.agreement.get((method, CLUSTERS))
            if agreement is not None:
                found[*where, QUANTITIES[2]] = Drawn(
                    float(agreement.log_odds_R[0]), agreement.drawn_T
                )
    return found


def _mean(values: F64) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def draws_table(findings: LayerFindings) -> pa.Table:
    """One row per pair of layers, measure, method and quantity: its value, and its draws."""
    numbers = numbers_of(findings)
    names = ("layer_a", "layer_b", "measure", "method", "quantity")
    columns: dict[str, Any] = {
        name: pa.array([key[part] for key in numbers], pa.string())
        for part, name in enumerate(names)
    }
    columns["value"] = pa.array([one.value for one in numbers.values()], pa.float64())
    columns["drawn"] = pa.array(
        [one.drawn_T.tolist() for one in numbers.values()], pa.list_(pa.float64())
    )
    return pa.table(columns)


def read_analysis(folder: str | Path) -> Analysis:
    """Read a finished analysis of layers. Raises RunError for a folder that holds none."""
    folder = Path(folder)
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        rows = pq.read_table(folder / DRAWS).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunError(
            f"expected a finished analysis of layers in {folder}, found none ({error}); give the "
            "folder that isae-analyze layers wrote for the untrained network's runs"
        ) from error
    if not isinstance(summary, dict) or summary.get("analysis") != "layers":
        raise RunError(
            f"expected an analysis of layers in {folder}, found another one; give the folder that "
            "isae-analyze layers wrote"
        )
    numbers = {
        (row["layer_a"], row["layer_b"], row["measure"], row["method"], row["quantity"]): Drawn(
            row["value"], np.array(row["drawn"], dtype=np.float64)
        )
        for row in rows
    }
    return Analysis(folder, summary, numbers)


def compare_with(
    findings: LayerFindings, summary: dict[str, Any], others: Sequence[Analysis]
) -> list[Difference]:
    """The difference of every number from the untrained networks' mean; none without `others`."""
    if not others:
        return []
    mine = summary["images"]["numbers_hash"]
    paired = all(other.summary["images"]["numbers_hash"] == mine for other in others)
    return [
        _difference(key, number, [other.numbers.get(key) for other in others], paired)
        for key, number in numbers_of(findings).items()
    ]


def _difference(key: Key, mine: Drawn, theirs: Sequence[Drawn | None], paired: bool) -> Difference:
    there = [one for one in theirs if one is not None and np.isfinite(one.value)]
    values = tuple(one.value for one in there)
    if not there or not np.isfinite(mine.value):
        nothing = float("nan")
        return Difference(key, mine.value, values, nothing, nothing, nothing, NOT)
    rng = keyed_rng(0, "layers", "against", *key)
    draws = min(len(mine.drawn_T), *(len(one.drawn_T) for one in there))
    untrained_UT = np.stack([one.drawn_T[:draws] for one in there])
    if not paired or key[-1] == QUANTITIES[2]:
        # Draws of different images (clusters) belong together in no order.
        untrained_UT = np.stack([rng.permutation(row_T) for row_T in untrained_UT])
    picked_TU = rng.integers(len(there), size=(draws, len(there)))
    mean_T = untrained_UT[picked_TU, np.arange(draws)[:, None]].mean(axis=1)
    apart_T = mine.drawn_T[:draws] - mean_T
    difference = mine.value - float(np.mean(values))
    low = high = float("nan")
    if np.isfinite(apart_T).mean() >= 0.9:
        low, high = (float(edge) for edge in np.nanquantile(apart_T, (0.025, 0.975)))
    verdict = SAME if np.isfinite(low) else NOT
    if low > 0:
        verdict = BEYOND
    elif high < 0:
        verdict = BELOW
    return Difference(key, mine.value, values, difference, low, high, verdict)


def against_table(compared: Sequence[Difference]) -> pa.Table:
    """One row per number: trained, mean of the untrained, difference, interval, verdict."""
    if not compared:
        return pa.table({})
    names = ("layer_a", "layer_b", "measure", "method", "quantity")
    columns: dict[str, Any] = {
        name: [one.key[part] for one in compared] for part, name in enumerate(names)
    }
    columns["trained"] = [one.trained for one in compared]
    columns["untrained"] = [
        float(np.mean(one.untrained)) if one.untrained else float("nan") for one in compared
    ]
    columns["untrained_networks"] = [len(one.untrained) for one in compared]
    for name in ("difference", "low", "high", "verdict"):
        columns[name] = [getattr(one, name) for one in compared]
    return pa.table(columns)
