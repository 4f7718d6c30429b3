"""The tables of the tuning analysis: units, their curves, the stimuli."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from isae.analysis.outputs import write_table as write_table
from isae.analysis.tuning.findings import FamilyTuning, TuningFindings
from isae.analysis.tuning.radial import HARMONICS, measure_curves

_TEXTS = pa.list_(pa.string())


def units_table(findings: TuningFindings, branches: dict[str, tuple[int, int]]) -> pa.Table:
    """One row per feature or neuron; null where not defined.

    feature (or neuron, with its branch), fired (stimuli it answers to), max_response, best_stimulus
    (the first of equals), blank_response (largest answer to a bare ground), photo_p99 (99 %
    quantile of its positive values on photos). Per family F: F_look (its strongest one); F_by
    ('direction', 'axis', 'cross' or null: not tuned), F_vector and F_axis (degrees; null unless
    that harmonic is passed), F_peak, F_half_width; F_selectivity_m, F_p_m and F_q_m per harmonic m;
    F_p_agree_m and F_q_agree_m (levels agree over every factor that can be tested),
    F_p_FACTOR_m; F_tuned, F_agreeing, F_clear (tuned without doubt), F_faint, F_lost_to_k,
    F_suppressed, F_framed; F_peak_response, F_variance_FACTOR, F_invariance_FACTOR. Of arcs:
    arc_radius (pixels, of the strongest look; inf: straight ones answer at least as much),
    arc_radius_censored (the smallest that was shown, or straight); arc_LOOK_vector and
    arc_LOOK_selectivity_1 of every look, tested or not (dark_stroke is the papers' stimulus).
    """
    count = len(findings.fired_N)
    columns: dict[str, Any] = {findings.kind: np.arange(count, dtype=np.int32)}
    if findings.kind == "neuron" and branches:
        owner = [
            next((name for name, (a, z) in branches.items() if a <= c < z), "")
            for c in range(count)
        ]
        columns["branch"] = pa.array(owner, pa.string())
    silent = findings.best_N < 0
    columns["fired"] = findings.fired_N
    columns["max_response"] = findings.max_N
    columns["best_stimulus"] = pa.array(findings.best_N, pa.int32(), mask=silent)
    columns["blank_response"] = findings.blank_N
    columns["photo_p99"] = findings.scale_N
    for family in findings.families:
        columns |= _family_columns(findings, family)
    return pa.table(
        {
            name: pa.array(values, from_pandas=values.dtype.kind == "f")
            if isinstance(values, np.ndarray)
            else values
            for name, values in columns.items()
        }
    )


def _family_columns(findings: TuningFindings, family: str) -> dict[str, Any]:
    one = findings.families[family]
    look = [None if number < 0 else one.design.looks[number] for number in one.look_N.tolist()]
    by = np.full(len(one.look_N), "", dtype=object)
    for name, mine_N in findings.kinds(family).items():
        by[mine_N] = name
    columns: dict[str, Any] = {
        f"{family}_look": pa.array(look, pa.string()),
        f"{family}_by": pa.array([name or None for name in by], pa.string()),
        f"{family}_vector": findings.vector(family),
        f"{family}_axis": findings.axis(family),
        f"{family}_peak": one.peak_N,
        f"{family}_half_width": one.half_width_N,
    }
    per_harmonic = {
        "selectivity": one.selectivity_NM,
        "p": one.p_NM,
        "q": findings.q[family],
        "p_agree": one.p_agree_NM,
        "q_agree": findings.q_agree[family],
        **{f"p_{name}": p_NM for name, p_NM in one.factors.items()},
    }
    for name, values_NM in per_harmonic.items():
        for m, harmonic in enumerate(HARMONICS):
            columns[f"{family}_{name}_{harmonic}"] = values_NM[:, m]
    columns |= {
        f"{family}_tuned": findings.tuned[family],
        f"{family}_agreeing": findings.agreeing(family),
        f"{family}_clear": findings.clear(family),
    }
    columns |= {f"{family}_{name}": has_N for name, has_N in findings.doubts(family).items()}
    columns[f"{family}_peak_response"] = one.peak_answer_N
    columns |= {f"{family}_variance_{name}": part for name, part in one.variance.items()}
    columns |= {f"{family}_invariance_{name}": part for name, part in one.invariance.items()}
    if family == "arc":
        columns |= _arc_columns(one)
    return columns


def _arc_columns(one: FamilyTuning) -> dict[str, Any]:
    best_N = one.best_radius_N
    ends = (best_N == one.radii_L[0]) | np.isinf(best_N)
    columns: dict[str, Any] = {"arc_radius": best_N, "arc_radius_censored": ends}
    for number, look in enumerate(one.design.looks):
        measured = measure_curves(
            one.look_curves_NKA[:, number].T.astype(np.float64), one.design.period
        )
        stem = f"arc_{look.replace(' ', '_')}"
        columns[f"{stem}_vector"] = measured.vector_U
        columns[f"{stem}_selectivity_1"] = measured.selectivity_2U[0]
    return columns


def curves_table(findings: TuningFindings) -> pa.Table:
    """One row per family and unit that answers: its mean answer at each angle, as lists.

    Columns: family, feature (or neuron), period (degrees), look (the strongest one), curve (of that
    look; the angles are evenly spaced over the period, the first is 0), looks and look_curves (all
    of them, one after the other), radii (pixels; infinite: straight) and radius_curve (arcs, at the
    peak angle; of other families empty).
    """
    parts = []
    for family, one in findings.families.items():
        chosen = np.flatnonzero(one.curve_NA.max(axis=1) > 0)
        arcs = family == "arc"
        parts.append(
            pa.table(
                {
                    "family": pa.array([family] * len(chosen), pa.string()),
                    findings.kind: pa.array(chosen, pa.int32()),
                    "period": pa.array(np.full(len(chosen), one.design.period)),
                    "look": pa.array(
                        [one.design.looks[k] for k in one.look_N[chosen]], pa.string()
                    ),
                    "curve": _lists(one.curve_NA[chosen]),
                    "looks": pa.array([list(one.design.looks)] * len(chosen), _TEXTS),
                    "look_curves": _lists(one.look_curves_NKA[chosen].reshape(len(chosen), -1)),
                    "radii": _lists(np.tile(one.radii_L if arcs else [], (len(chosen), 1))),
                    "radius_curve": _lists(
                        one.radius_NL[chosen] if arcs else np.zeros((len(chosen), 0))
                    ),
                }
            )
        )
    return pa.concat_tables(parts)


def _lists(values_NA: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array([row.tolist() for row in values_NA], pa.list_(pa.float32()))
