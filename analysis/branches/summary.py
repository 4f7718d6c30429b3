"""Findings in numbers (summary.json) and in a small table for a person."""

from __future__ import annotations

from typing import Any

import numpy as np

from isae.analysis.branches.findings import RELATIVE, Findings
from isae.analysis.branches.nulls import METHODS, ROUGH_ABOVE, SAMPLE_BELOW
from isae.analysis.branches.shares import BASES, dominant

NULL = (
    "exchangeable channels: the energies of a feature's channels are dealt to the branches at "
    "random, every assignment with the true branch sizes equally likely; one-sided p for a share "
    "as large as observed or larger"
)
TAILS = (
    "exact at the largest and smallest possible share; double saddlepoint (Robinson 1982, "
    "Skovgaard 1987) where the sum is smooth (characteristic function beyond its Gaussian part "
    f"at most {ROUGH_ABOVE}), or where it gives p > {SAMPLE_BELOW}; otherwise tilted sampling of "
    "subsets of the exact size (Harrison 2012), relative standard error about 3 to 10 %; no floor "
    "but 1 / binomial(C, m); 'audit' compares formula and sampling on smooth tests of this run"
)
CORRECTION = (
    "Benjamini-Hochberg over all tests of this run (alive features x branches x the bases "
    "'decoder' and 'spread'); Holm and Bonferroni beside it; corrected separately: 'relative', and "
    "'both', whose p is the larger one of the two bases"
)
NOTES = (
    "shares of one feature sum to 1 (negatively dependent) and features of one dictionary are not "
    "independent, so Benjamini-Hochberg is not guaranteed by a theorem here; the tests measure it",
    "binomial intervals assume independent features; the true ones are wider",
    "channels differ in scale: a layer whose variance sits in one branch loads all features on "
    "it; compare with variance_share (no dictionary), column_null (each channel's loadings kept, "
    "their coincidence within a feature broken) and 'relative' (energies ranked within each "
    "channel among the features, so that scales and tails of channels do not count)",
    "column_null also breaks how concentrated rows are at all, so heavy-tailed rows exceed it "
    "without regard for branches",
)


def summarise(findings: Findings) -> dict[str, Any]:
    """The statistical part of summary.json."""
    tested = np.isfinite(findings.p["decoder"]).all(axis=1)
    return {
        "layer": findings.layer,
        "features": len(findings.alive_N),
        "alive": int(findings.alive_N.sum()),
        "dead": int((~findings.alive_N).sum()),
        "tested": int(tested.sum()),
        "alpha": findings.alpha,
        "tests": findings.tests,
        "null": NULL,
        "tails": TAILS,
        "correction": CORRECTION,
        "notes": list(NOTES),
        "methods": {
            basis: dict(
                zip(METHODS, np.bincount(one.method_NB.ravel(), minlength=4).tolist(), strict=True)
            )
            for basis, one in findings.concentration.items()
        },
        "audit": {basis: one.audit for basis, one in findings.concentration.items()},
        "features_above_null": {
            **{
                basis: int(findings.significant[basis].any(axis=1).sum())
                for basis in (*BASES, RELATIVE)
            },
            "both": int(findings.both_NB.any(axis=1).sum()),
        },
        "branches": {
            name: _branch(findings, number) for number, name in enumerate(findings.branches)
        },
    }


def _branch(findings: Findings, j: int) -> dict[str, Any]:
    chance = findings.channels_B / findings.channels_B.sum()
    assigned = int((findings.assigned_N >= 0).sum())
    low, high = findings.binomial_interval(assigned)
    return {
        "channels": int(findings.channels_B[j]),
        "channel_share": float(chance[j]),
        "variance_share": _number(findings.variance_share_B[j]),
        "above_null_in_both": int(findings.both_NB[:, j].sum()),
        "assigned": {
            "features": findings.assigned_count(j),
            "expected_by_channels": float(assigned * chance[j]),
            "interval_95": [float(low[j]), float(high[j])],
        },
        "relative": {"above_null": int(findings.significant[RELATIVE][:, j].sum())},
        "r_score": _scores(findings, j),
        **{basis: _basis(findings, basis, j) for basis in BASES},
    }


def _basis(findings: Findings, basis: str, j: int) -> dict[str, Any]:
    alive = findings.alive_N
    shares_N = findings.shares[basis][alive, j]
    shares_N = shares_N[np.isfinite(shares_N)]
    chosen = findings.dominant[basis][alive]
    by_null = dominant(findings.null_shares[basis][alive])
    count = int((chosen >= 0).sum())
    low, high = findings.binomial_interval(count)
    columns = findings.columns[basis]
    return {
        "mean_share": _number(shares_N.mean()) if len(shares_N) else None,
        "median_share": _number(np.median(shares_N)) if len(shares_N) else None,
        "above_null": int(findings.significant[basis][:, j].sum()),
        "above_null_holm": int((findings.holm[basis][:, j] <= findings.alpha).sum()),
        "above_null_bonferroni": int((findings.bonferroni[basis][:, j] <= findings.alpha).sum()),
        "dominant": {
            "features": int((chosen == j).sum()),
            "expected_by_channels": float(
                count * findings.channels_B[j] / sum(findings.channels_B)
            ),
            "interval_95": [float(low[j]), float(high[j])],
            "in_one_draw_of_the_null": int((by_null == j).sum()),
        },
        "column_null": {
            f"{level:g}": {
                "share": _number(columns.thresholds_BL[j, number]),
                "above": int(columns.above_BL[j, number]),
                "expected": float(columns.expected_L[number]),
                "ratio": _number(
                    columns.above_BL[j, number] / columns.expected_L[number]
                    if columns.expected_L[number] > 0
                    else np.nan
                ),
            }
            for number, level in enumerate(columns.levels)
        },
    }


def _scores(findings: Findings, j: int) -> dict[str, Any]:
    scores_N = findings.scores_NB[findings.alive_N, j]
    scores_N = scores_N[np.isfinite(scores_N)]
    return {
        "features": len(scores_N),
        "median": _number(np.median(scores_N)) if len(scores_N) else None,
        "above_0.5": int((scores_N > 0.5).sum()),
        "above_0.9": int((scores_N > 0.9).sum()),
        "even_spread": float(np.sqrt(findings.channels_B[j] / findings.channels_B.sum())),
    }


def _number(value: float) -> float | None:
    """JSON has no NaN: None."""
    return float(value) if np.isfinite(value) else None


def table_text(summary: dict[str, Any], out: str) -> str:
    """The result for a person, at most 80 columns wide (the path apart)."""
    lines = [
        f"{summary['layer']}: {summary['features']:,} features, {summary['dead']:,} dead, "
        f"{summary['tests']:,} tests, q <= {summary['alpha']:g} (Benjamini-Hochberg)",
        "",
        "         channels  variance  median share      above the null        r score",
        "branch    n     %         %   dec    spr    dec    spr   both   rel    med   >.9",
    ]
    for name, one in summary["branches"].items():
        decoder, spread, score = one["decoder"], one["spread"], one["r_score"]
        lines.append(
            f"{name:<7}{one['channels']:>4}{_percent(one['channel_share']):>6}"
            f"{_percent(one['variance_share']):>10}{_percent(decoder['median_share']):>6}"
            f"{_percent(spread['median_share']):>7}{decoder['above_null']:>7}"
            f"{spread['above_null']:>7}{one['above_null_in_both']:>7}"
            f"{one['relative']['above_null']:>6}"
            f"{_plain(score['median']):>7}{score['above_0.9']:>6}"
        )
    counts = summary["features_above_null"]
    lines += [
        "",
        f"above the null in any branch: {counts['decoder']:,} by decoder rows, "
        f"{counts['spread']:,} by rows x s.d., ",
        f"  {counts['both']:,} in both; {counts['relative']:,} relative to the other features "
        "(rel)",
        "shares and variance in percent; a large variance share loads all features",
        f"tables, summary and figures: {out}",
    ]
    if summary.get("layer_note"):
        lines.insert(1, f"note: {summary['layer_note']}")
    return "\n".join(line.rstrip() for line in lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
