"""Stability in numbers (summary.json) and in a small table for a person."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.stability.agreement import LabelAgreement, label_agreement, share_interval
from isae.analysis.stability.findings import BASES, MATCHED, StabilityFindings
from isae.analysis.stability.spread import number_text, spread
from isae.randomness import keyed_rng

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
QUANTILES = 10
NULL = (
    "random dictionaries with the mean and covariance of the other run's live rows and with the "
    "concentration of each of its rows: white coordinates of every row (symmetric root) permuted "
    "among themselves and coloured again; the largest cosine over as many rows as the other run "
    "has; drawn in parts, standardised by feature and pooled over features whose rows are "
    "similarly concentrated, with a generalised Pareto tail"
)
CORRECTION = (
    "Benjamini-Hochberg, a family for each of: 'decoder' and 'encoder' (every live feature of "
    "every run x every other run), 'every' (every live feature once, by its largest decoder p over "
    "the other runs)"
)
RULE = (
    "a feature comes back in a run where its best decoder cosine with the run's live features is "
    "at least the threshold and q <= alpha; it comes back where that holds in every other run "
    "(q of 'every')"
)
NOTES = (
    "dead features (none of the rows read) are left out on both sides and counted",
    "the null is weak: features of one dictionary are more alike than random rows, so a cosine "
    "that no random dictionary reaches need not be the same feature. The nearest other feature of "
    "the own dictionary ('neighbour') is the stronger reference: 'nearer_than_own_neighbour' "
    "counts features whose best partner elsewhere is nearer than that",
    "several features may share a best partner; 'one_to_one' uses every partner once",
    "clusters of near-duplicates count as one, and come back where at least half of their features "
    "do; intervals resample clusters",
    "share_of_firings weights features by the rows they fire on: rare features come back less",
    "labels of matched features: dominant branches follow from the decoder row, so rows matched by "
    "cosine agree in them for that reason alone; labels measured through the network do not",
    "features of one dictionary are not independent, so Benjamini-Hochberg is not guaranteed by a "
    "theorem here; the tests measure it on made-up dictionaries",
)


def summarise(findings: StabilityFindings) -> dict[str, Any]:
    """The statistical part of summary.json."""
    config = findings.config
    runs = [_run(findings, number) for number in range(len(findings.dictionaries))]
    return {
        "alpha": config.alpha,
        "threshold": config.threshold,
        "rule": RULE,
        "null": NULL,
        "correction": CORRECTION,
        "notes": list(NOTES),
        "tests": {
            **{basis: int(sum(len(q) for q in findings.q[basis])) for basis in BASES},
            "every": int(sum(len(q) for q in findings.q_every)),
        },
        "runs": runs,
        "over_runs": spread([_plain_numbers(one) for one in runs]),
        "pairs": [_direction(findings, number) for number in range(len(findings.directions))],
        "labels": _labels(findings),
    }


def _plain_numbers(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in ("run", "seed", "interval_95")}


def _run(findings: StabilityFindings, number: int) -> dict[str, Any]:
    """What of one run's features comes back in every other run."""
    mine, config = findings.dictionaries[number], findings.config
    back_A, least_A = findings.comes_back[number], findings.least_cosine(number)
    low, high = share_interval(
        back_A, mine.cluster_A, resamples=config.resamples,
        rng=keyed_rng(config.seed, "stability", "interval", number),
    )  # fmt: skip
    return {
        "run": str(mine.run),
        "seed": mine.seed,
        "features": mine.features,
        "dead": mine.features - len(mine),
        "rows_read": mine.rows_read,
        "tested": len(mine),
        "clusters": len(np.unique(mine.cluster_A)),
        "comes_back": int(back_A.sum()),
        "share": _number(back_A.mean()),
        "interval_95": [_number(low), _number(high)],
        "clusters_come_back": len(clusters_back(mine.cluster_A, back_A)),
        "share_of_firings": _number((mine.fired_A * back_A).sum() / mine.fired_A.sum()),
        "median_least_cosine": _number(np.median(least_A)),
        "median_neighbour_cosine": _median(mine.neighbour_A),
        "neighbour_at_threshold": int((mine.neighbour_A >= config.threshold).sum()),
        "least_cosine_at_least": _reached(least_A),
        "share_by_firing_rate": quantile_shares(mine.rate_A, back_A),
    }


def _reached(cosine_A: F64) -> dict[str, float | None]:
    return {f"{t:g}": _number((cosine_A >= t).mean()) for t in THRESHOLDS}


def clusters_back(cluster_A: I64, back_A: Bools) -> I64:
    """Numbers of the clusters at least half of whose features come back."""
    numbers, which_A, sizes = np.unique(cluster_A, return_inverse=True, return_counts=True)
    return np.asarray(numbers[2 * np.bincount(which_A, weights=back_A) >= sizes], dtype=np.int64)


def quantile_shares(rate_A: F64, back_A: Bools) -> list[float | None]:
    """Share that comes back in each tenth of the features by rising firing rate."""
    parts = np.array_split(np.argsort(rate_A, kind="stable"), QUANTILES)
    return [_number(back_A[part].mean()) if len(part) else None for part in parts]


def _direction(findings: StabilityFindings, number: int) -> dict[str, Any]:
    """One run's features sought in one other run."""
    each = findings.directions[number]
    config, mine = findings.config, findings.dictionaries[each.one]
    matched_A = each.partner_A >= 0
    close_A = matched_A & (np.nan_to_num(each.partner_cosine_A, nan=-1.0) >= config.threshold)
    cosine_A = each.nearest["decoder"].cosine_A
    return {
        "of": each.one,
        "in": each.other,
        "tested": len(mine),
        "comes_back": int(findings.back[number].sum()),
        "share": _number(findings.back[number].mean()),
        **{basis: _basis(findings, number, basis) for basis in BASES},
        "nearer_than_own_neighbour": int((cosine_A > mine.neighbour_A).sum()),
        "mutual": {
            "matches": int(each.mutual_A.sum()),
            "at_threshold": int((each.mutual_A & (cosine_A >= config.threshold)).sum()),
        },
        "one_to_one": {
            "matches": int(matched_A.sum()),
            "at_threshold": int(close_A.sum()),
            "median_encoder_cosine_at_threshold": _median(each.partner_encoder_A[close_A]),
        },
    }


def _basis(findings: StabilityFindings, number: int, basis: str) -> dict[str, Any]:
    near, q_A = findings.directions[number].nearest[basis], findings.q[basis][number]
    threshold, alpha = findings.config.threshold, findings.config.alpha
    return {
        "median_best_cosine": _median(near.cosine_A),
        "median_best_cosine_by_chance": _median(near.null_A),
        "at_threshold": int((near.cosine_A >= threshold).sum()),
        "at_threshold_by_chance": _number(near.chance_A.sum()),
        "above_null": int((q_A <= alpha).sum()),
        "best_cosine_at_least": _reached(near.cosine_A),
    }


def _labels(findings: StabilityFindings) -> dict[str, Any]:
    """Per label that at least two runs have: counts, what comes back, agreement of matches."""
    names = dict.fromkeys(name for one in findings.dictionaries for name in one.labels)
    found = {}
    for name in names:
        having = [i for i, one in enumerate(findings.dictionaries) if name in one.labels]
        if len(having) < 2:
            continue
        values = sorted({v for i in having for v in findings.dictionaries[i].labels[name]})
        counts = [_counts(findings, i, name, values) for i in having]
        found[name] = {
            "runs": having,
            "by_run": counts,
            "over_runs": spread(counts),
            "agreement": [
                _agreement(findings, one, other, name) for one, other in combinations(having, 2)
            ],
        }
    return found


def _counts(
    findings: StabilityFindings, number: int, name: str, values: list[str]
) -> dict[str, Any]:
    mine, back_A = findings.dictionaries[number], findings.comes_back[number]
    counted = {}
    for value in values:
        has_A = mine.labels[name] == value
        count = int(has_A.sum())
        counted[value] = {
            "features": count,
            "clusters": len(np.unique(mine.cluster_A[has_A])),
            "comes_back": int((has_A & back_A).sum()),
            "share": _number(back_A[has_A].mean()) if count else None,
        }
    return counted


def _agreement(findings: StabilityFindings, one: int, other: int, name: str) -> dict[str, Any]:
    first, second = findings.dictionaries[one], findings.dictionaries[other]
    found: dict[str, Any] = {"of": one, "in": other}
    for which in MATCHED:
        first_X, second_X = findings.matched(one, other, which)
        rng = keyed_rng(findings.config.seed, "stability", "kappa", name, which, one, other)
        found[which] = _kappa(
            label_agreement(
                first.labels[name][first_X], second.labels[name][second_X],
                first.cluster_A[first_X], resamples=findings.config.resamples, rng=rng,
            )
        )  # fmt: skip
    return found


def _kappa(one: LabelAgreement) -> dict[str, Any]:
    return {
        "matches": one.matches,
        "observed": _number(one.observed),
        "expected": _number(one.expected),
        "kappa": _number(one.kappa),
        "interval_95": [_number(one.low), _number(one.high)],
    }


def _median(values: F64) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def _number(value: Any) -> float | None:
    """JSON has no NaN: None."""
    return float(value) if np.isfinite(value) else None


def table_text(summary: dict[str, Any], out: str) -> str:
    """The result for a person, at most 80 columns wide (the path apart)."""
    lines = [
        f"{summary['layer']}: features that come back in every other run (cosine >= "
        f"{summary['threshold']:g},",
        f"q <= {summary['alpha']:g} of {summary['tests']['every']:,} tests; Benjamini-Hochberg)",
        "",
        "run  seed   live   dead  clusters  come back   share      95 %       of firings",
    ]
    for number, one in enumerate(summary["runs"]):
        seed = "-" if one["seed"] is None else one["seed"]
        low, high = (_percent(value) for value in one["interval_95"])
        lines.append(
            f"{number:>3}{seed:>6}{one['tested']:>7}{one['dead']:>7}{one['clusters']:>10}"
            f"{one['comes_back']:>11}{_percent(one['share']):>8}{low:>9} - {high}"
            f"{_percent(one['share_of_firings']):>11}"
        )
    lines += ["", "of  in   median best cosine  by chance  above null  >= threshold  one to one"]
    for one in summary["pairs"]:
        decoder = one["decoder"]
        lines.append(
            f"{one['of']:>2}{one['in']:>4}{_plain(decoder['median_best_cosine']):>21}"
            f"{_plain(decoder['median_best_cosine_by_chance']):>11}"
            f"{_percent(decoder['above_null'] / one['tested']):>12}{decoder['at_threshold']:>14}"
            f"{one['one_to_one']['at_threshold']:>12}"
        )
    lines += _label_lines(summary["labels"])
    lines += ["", "shares in percent; mean +- sd over the runs", f"tables, summary, figures: {out}"]
    return "\n".join(line.rstrip() for line in lines)


def _label_lines(labels: dict[str, Any]) -> list[str]:
    lines = []
    for name, one in labels.items():
        texts = []
        for which in MATCHED:
            kappas = [pair[which]["kappa"] for pair in one["agreement"]]
            known = [value for value in kappas if value is not None]
            texts.append(f"{min(known):.2f} to {max(known):.2f}" if known else "-")
        lines += ["", f"{name}: kappa of matched features {texts[0]};"]
        lines += [f"  above the null {texts[1]}; coming back {texts[2]}"]
        for value, counts in one["over_runs"].items():
            share = counts.get("share")
            back = "-" if share is None else _percent(share["mean"])
            lines.append(f"  {value:<8}{number_text(counts['features']):<28} come back {back}")
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
