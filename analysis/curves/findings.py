"""Everything that `isae-analyze curves` measures on a layer, before it is written down.

Shape legend: N features, C channels, S stimuli.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isae.analysis.arrays import F32, I64
from isae.analysis.curves import controls
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.coverage import Gaps, equal_count, find_gaps, uniform_count, uniformity
from isae.analysis.curves.criterion import CurveUnits, measure_units
from isae.analysis.curves.drawing_on import Sources, find_sources
from isae.analysis.curves.rows import RealRows, feature_scale, neuron_scale
from isae.analysis.curves.splits import NeuronParts, Splits, explain_neurons, find_splits
from isae.analysis.curves.stimuli import CurveStimuli
from isae.analysis.tuning.responses import Responses
from isae.progress import QUIET, Reporter

QUANTILE = 0.99
"""Of a unit's positive values on real rows; its answers are judged beside it."""


@dataclass(frozen=True)
class Dictionary:
    """The weights of an SAE: encoder_NC, decoder_NC, bias_C (of the decoder), float32."""

    encoder_NC: F32
    decoder_NC: F32
    bias_C: F32


@dataclass(frozen=True)
class CurvesFindings:
    """units: {kind: measured units}, 'neuron' and 'feature' first, then the controls; fires: {kind:
    training rows on which each unit is on}; live_N: features that are on at all; gaps: {kind: of
    its curve detectors}; coverage: what `cover` gives; splits: by curve detectors, and by features
    that are directed and significant.
    """

    units: dict[str, CurveUnits]
    fires: dict[str, I64]
    gaps: dict[str, Gaps]
    coverage: dict[str, Any]
    sources: Sources
    parts: NeuronParts
    splits: dict[str, Splits]


def find_curves(
    answers: Responses,
    training: RealRows,
    held_out: RealRows,
    dictionary: Dictionary,
    stimuli: CurveStimuli,
    config: CurvesConfig,
    *,
    layer: str = "",
    reporter: Reporter = QUIET,
) -> CurvesFindings:
    """Measure neurons, features and controls; compare how they cover the circle; split neurons.

    answers: to `stimuli`, of the layer and its SAE; training: rows for rates and scales; held_out:
    rows of other images, on which neurons are taken apart.
    """
    reporter.say(f"{layer}: measuring neurons and features")
    fires_C, scale_C = neuron_scale(training, QUANTILE)
    fires_N, scale_N = feature_scale(training, QUANTILE)
    neurons = measure_units("neuron", answers.neuron_chunks(), scale_C, stimuli, config)
    features = measure_units("feature", answers.feature_chunks(), scale_N, stimuli, config)
    units, fires = {"neuron": neurons, "feature": features}, {"neuron": fires_C, "feature": fires_N}
    live = np.flatnonzero(fires_N > 0)
    for kind in controls.KINDS if len(live) else ():
        reporter.say(f"{layer}: control '{kind}'")
        direction_UC = controls.control_directions(
            kind, dictionary.encoder_NC[live], dictionary.decoder_NC[live], training.x_RC,
            neurons, scale_C, config.seed,
        )  # fmt: skip
        if direction_UC is None:
            continue
        on_U = controls.match_fires(fires_N[live], len(direction_UC), config.seed, kind)
        read = controls.read_out(direction_UC, on_U, training.x_RC, QUANTILE)
        chunks = read.chunks(answers.neurons_SC)
        units[kind] = measure_units(kind, chunks, read.scale_U, stimuli, config)
        fires[kind] = on_U
    reporter.say(f"{layer}: taking neurons apart")
    parts = explain_neurons(held_out, dictionary.decoder_NC, dictionary.bias_C, config)
    lax_N = features.parts["directed"] & features.parts["significant"]
    splits = {
        name: find_splits(parts, tuned_N, features.direction_N, fires_N, config, name)
        for name, tuned_N in (("curve", features.detector_N), ("directed", lax_N))
    }
    return CurvesFindings(
        units,
        fires,
        {kind: find_gaps(one.detected()) for kind, one in units.items()},
        cover(units, config),
        find_sources(features, neurons, dictionary.encoder_NC, dictionary.decoder_NC),
        parts,
        splits,
    )


def cover(units: dict[str, CurveUnits], config: CurvesConfig) -> dict[str, Any]:
    """How the curve detectors of each kind cover the circle, with equal counts drawn from each.

    'uniformity' by kind; 'as_neurons': as many of each kind as there are curve neurons;
    'as_features' of every control: as many of features and control as the smaller of the two has.
    """
    detected = {kind: one.detected() for kind, one in units.items()}
    gaps = find_gaps(detected["neuron"]).at_least(config.gap)
    key = (config.seed, "curves")

    def drawn(kind: str, count: int) -> dict[str, Any] | None:
        return equal_count(detected[kind], count, gaps, config.margin, config.draws, *key, kind)

    count = len(detected["neuron"])
    as_features = {}
    for kind in detected:
        if kind not in ("neuron", "feature"):
            smaller = min(len(detected[kind]), len(detected["feature"]))
            as_features[kind] = {
                "features": drawn("feature", smaller),
                "control": drawn(kind, smaller),
                "uniform": uniform_count(smaller, gaps, config.margin, config.draws, *key),
            }
    return {
        "uniformity": {
            kind: uniformity(found, config.draws, *key, kind) for kind, found in detected.items()
        },
        "as_neurons": {
            "count": count,
            **{kind: drawn(kind, count) for kind in detected},
            "uniform": uniform_count(count, gaps, config.margin, config.draws, *key),
        },
        "as_features": as_features,
    }


def gap_rows(findings: CurvesFindings, config: CurvesConfig) -> list[dict[str, Any]]:
    """Every gap between curve neurons and between curve features, and what lies inside.

    kind, start, width, to_fill (of neurons: at least config.gap), then for each kind of units how
    many of its detectors are inside, at least config.margin from both ends.
    """
    rows = []
    for kind in ("neuron", "feature"):
        gaps = findings.gaps[kind]
        inside = {
            other: gaps.inside(one.detected(), config.margin)
            for other, one in findings.units.items()
        }
        for number, (start, width) in enumerate(zip(gaps.start_G, gaps.width_G, strict=True)):
            rows.append(
                {
                    "kind": kind,
                    "start": float(start),
                    "width": float(width),
                    "to_fill": kind == "neuron" and bool(width >= config.gap),
                    **{f"{other}s_inside": int(count[number]) for other, count in inside.items()},
                }
            )
    return rows


def filling(findings: CurvesFindings, config: CurvesConfig) -> list[tuple[float, float, I64]]:
    """(start, width, curve features inside) of each neuron gap to fill, widest first.

    Features are numbers, by how near the gap's middle they lie.
    """
    features = findings.units["feature"]
    chosen = np.flatnonzero(features.detector_N)
    gaps = findings.gaps["neuron"].at_least(config.gap)
    rows = []
    for start, width in zip(gaps.start_G.tolist(), gaps.width_G.tolist(), strict=True):
        offset = (features.direction_N[chosen] - start) % 360
        inside = (offset >= config.margin) & (offset <= width - config.margin)
        order = np.argsort(np.abs(offset[inside] - width / 2), kind="stable")
        rows.append((start, width, chosen[inside][order]))
    return rows
