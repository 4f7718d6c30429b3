"""The tables of the stability analysis, each as Parquet and as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isae.analysis.outputs import write_table
from isae.analysis.stability.findings import Direction, StabilityFindings
from isae.analysis.stability.spread import Spread, spread_numbers


def write_tables(findings: StabilityFindings, spreads: dict[str, Spread], folder: Path) -> None:
    """Write features, matches and (where there are numbers) spread as .parquet and .csv."""
    write_table(features_table(findings), folder / "features")
    write_table(matches_table(findings), folder / "matches")
    numbers = spread_table(spreads)
    if numbers.num_rows:
        write_table(numbers, folder / "spread")


def features_table(findings: StabilityFindings) -> pa.Table:
    """One row per run and live feature.

    run (place in the list of runs), seed, feature, fired_rows, firing_rate, cluster (of
    near-duplicates, within the run), neighbour_cosine (nearest live feature of the same run);
    comes_back_in: number of other runs it comes back in; comes_back: in every other run;
    least_cosine: smallest over the other runs of its best cosine; p, q of 'every'.
    """
    parts = []
    for number, mine in enumerate(findings.dictionaries):
        count = len(mine)
        back_in_A = np.sum([findings.back[i] for i in findings.of(number)], axis=0)
        parts.append(
            {
                "run": pa.array(np.full(count, number), pa.int16()),
                "seed": pa.array([mine.seed] * count, pa.int64()),
                "feature": mine.feature_A,
                "fired_rows": mine.fired_A,
                "firing_rate": mine.rate_A,
                "cluster": mine.cluster_A,
                "neighbour_cosine": mine.neighbour_A,
                "comes_back_in": pa.array(back_in_A, pa.int16()),
                "comes_back": findings.comes_back[number],
                "least_cosine": findings.least_cosine(number),
                "p": findings.p_every[number],
                "q": findings.q_every[number],
            }
        )
    return _stacked(parts)


def matches_table(findings: StabilityFindings) -> pa.Table:
    """One row per run, live feature and other run.

    run, feature, other_run; by decoder rows partner (of the largest cosine), cosine, null_cosine
    (mean best cosine with random dictionaries), p, q, comes_back (cosine >= threshold, q <= alpha),
    mutual (it is the partner's best too); match: the one-to-one partner (null: none), match_cosine,
    match_encoder_cosine of it; the best by encoder rows: encoder_partner, encoder_cosine,
    encoder_null_cosine, encoder_p, encoder_q.
    """
    return _stacked([_matches(findings, i) for i in range(len(findings.directions))])


def _matches(findings: StabilityFindings, number: int) -> dict[str, Any]:
    each: Direction = findings.directions[number]
    mine, theirs = findings.dictionaries[each.one], findings.dictionaries[each.other]
    decoder, encoder = each.nearest["decoder"], each.nearest["encoder"]
    count, none_A = len(mine), each.partner_A < 0
    match_A = theirs.feature_A[np.maximum(each.partner_A, 0)]
    return {
        "run": pa.array(np.full(count, each.one), pa.int16()),
        "feature": mine.feature_A,
        "other_run": pa.array(np.full(count, each.other), pa.int16()),
        "partner": theirs.feature_A[decoder.best_A],
        "cosine": decoder.cosine_A,
        "null_cosine": decoder.null_A,
        "p": decoder.p_A,
        "q": findings.q["decoder"][number],
        "comes_back": findings.back[number],
        "mutual": each.mutual_A,
        "match": pa.array(match_A, pa.int64(), mask=none_A),
        "match_cosine": pa.array(each.partner_cosine_A, from_pandas=True),
        "match_encoder_cosine": pa.array(each.partner_encoder_A, from_pandas=True),
        "encoder_partner": theirs.feature_A[encoder.best_A],
        "encoder_cosine": encoder.cosine_A,
        "encoder_null_cosine": encoder.null_A,
        "encoder_p": encoder.p_A,
        "encoder_q": findings.q["encoder"][number],
    }


def spread_table(spreads: dict[str, Spread]) -> pa.Table:
    """Every number of the runs' own analyses: analysis, key (with dots), mean, sd, min, max, n.

    sd is null where only one run has the number.
    """
    rows = [
        {"analysis": analysis, "key": key, **number}
        for analysis, one in spreads.items()
        for key, number in spread_numbers(one)
    ]
    kinds = {"analysis": pa.string(), "key": pa.string(), "n": pa.int64()}
    names = ("analysis", "key", "mean", "sd", "min", "max", "n")
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
    return pa.Table.from_pylist(rows, schema=schema)


def _stacked(parts: list[dict[str, Any]]) -> pa.Table:
    return pa.concat_tables([pa.table(part) for part in parts])
