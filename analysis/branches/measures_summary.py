"""The measures beside the energy shares, in numbers (summary.json) and as columns of the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from isae.analysis.arrays import F64, Bools
from isae.analysis.branches.causal import MEASURES, WAYS, Causal
from isae.analysis.branches.findings import Findings
from isae.analysis.branches.logits import LogitEffects
from isae.analysis.branches.measures import Measures, Stages
from isae.analysis.branches.references import stopped_at
from isae.analysis.branches.resampling import LEAST_IMAGES
from isae.analysis.branches.rings import BRANCH, CUTS, Rings
from isae.analysis.branches.shares import BASES, branch_shares

CAUSAL = (
    "held-out rows where the feature is active, one branch replaced and the row encoded again; "
    "share: 1 - sum of codes after / before; pre: the same of pre-activations; part: their fall "
    "over its sum over branches, to compare with energy shares; rise: rise of "
    "|x - x_hat|^2 of those rows over |x - mean|^2 (all features together); lost: rise when the "
    "feature's own code alone changes as it did, over that when it is set to 0. 'other': channels "
    "of other images at the same cell (the causal share); 'mean': the training mean, which no "
    "picture has and which says little beyond encoder weights. 95 % intervals: images drawn anew; "
    f"features on at least {LEAST_IMAGES} images"
)
LOGITS = (
    "z_i d_i[b] taken out of the layer's map at all places, drop of the logit of the network's own "
    "class: first order for all features, checked by true splices of some; share: sum of |drop| "
    "over its sum over branches"
)
KERNEL_SIZE = (
    "5x5 kernels computed again from the block's real input without their outer ring (3x3 left), "
    "and, as a control, without 16 random taps; kept: sum of codes after / before; share: the 5x5 "
    "branch's causal share ('other') in rows so changed"
)
REFERENCES = (
    "the same test for other dictionaries; rows_significant: q <= alpha in both bases by the "
    "dictionary's own correction; rows_below_the_saes_p: p in both bases at most the p at which "
    "the SAE's correction stopped"
)
EFFECTS = (
    "excess: share minus channel share, the exchangeable null's mean; 95 % intervals of means over "
    "living features: clusters of near-duplicate decoder rows drawn anew"
)


def summarise_measures(
    measures: Measures, findings: Findings, W_enc_NC: F64, alike: float, stages: Stages
) -> dict[str, Any]:
    """What summary.json says of the measures."""
    names = list(findings.branches)
    summary: dict[str, Any] = {
        "effects": {
            "what": EFFECTS,
            "near_duplicate_cosine": alike,
            "clusters": measures.effects.clusters,
            "branches": {name: measures.effects.branch(j) for j, name in enumerate(names)},
        }
    }
    if measures.causal is not None:
        encoder_NB = branch_shares(W_enc_NC**2, findings.branches)
        summary["causal"] = _causal(measures.causal, findings, encoder_NB)
    if measures.logits is not None:
        summary["logits"] = _logits(measures.logits, findings, measures.pictures)
    if measures.rings is not None:
        summary["kernel_size"] = _rings(measures.rings, findings, measures.pictures)
    if measures.references:
        cut = stopped_at(findings)
        summary["references"] = {
            "what": REFERENCES,
            "saes_p": cut,
            "dictionaries": {
                name: one.line(names, cut) for name, one in measures.references.items()
            },
        }
    if measures.against is not None:
        summary["against"] = measures.against
    return summary | {"skipped": stages.skipped, "seconds_by_stage": stages.seconds}


def _causal(causal: Causal, findings: Findings, encoder_NB: F64) -> dict[str, Any]:
    shares = causal.measures["other"]["share"]
    known_N = shares[0].enough_N
    strongest_N = causal.strongest_N
    branches: dict[str, Any] = {}
    for j, name in enumerate(causal.branches):
        low_N, _ = shares[j].interval()
        mine_N = findings.assigned_N == j
        mean = shares[j].mean().get("mean", np.nan)
        branches[name] = {
            way: {measure: causal.measures[way][measure][j].mean() for measure in MEASURES}
            for way in WAYS
        } | {
            "strongest_for": int((strongest_N == j).sum()),
            "part_of_assigned": causal.measures["other"]["part"][j].mean(mine_N),
            "rank_correlation_with": {
                "decoder_share": _spearman(
                    shares[j].value_N, findings.shares["decoder"][:, j], known_N
                ),
                "encoder_share": _spearman(shares[j].value_N, encoder_NB[:, j], known_N),
            },
            "assigned": shares[j].mean(mine_N)
            | {"interval_above_the_mean_of_all": int((low_N[mine_N] > mean).sum())},
            "not_assigned": shares[j].mean(~mine_N),
        }
    counts_N = causal.pairs.counts_N
    return {
        "what": CAUSAL,
        "rows_read": causal.rows,
        "images": causal.pairs.images,
        "split": "holdout",
        "draws_of_other_images": causal.draws,
        "features_with_pairs": int((counts_N > 0).sum()),
        "features_with_images_enough": int(known_N.sum()),
        "pairs": int(counts_N.sum()),
        "branches": branches,
    }


def _logits(logits: LogitEffects, findings: Findings, pictures: list[int]) -> dict[str, Any]:
    known_N = logits.share_B[0].enough_N
    return {
        "what": LOGITS,
        "pictures": _pictures(pictures),
        "features_with_images_enough": int(known_N.sum()),
        "splices": logits.check(),
        "branches": {
            name: {
                "drop": logits.drop_B[j].mean(),
                "share": logits.share_B[j].mean(),
                "share_of_assigned": logits.share_B[j].mean(findings.assigned_N == j),
                "rank_correlation_with_decoder_share": _spearman(
                    logits.share_B[j].value_N, findings.shares["decoder"][:, j], known_N
                ),
            }
            for j, name in enumerate(findings.branches)
        },
    }


def _rings(rings: Rings, findings: Findings, pictures: list[int]) -> dict[str, Any]:
    mine_N = findings.assigned_N == list(findings.branches).index(BRANCH)
    groups: dict[str, Bools | None] = {"all": None, f"assigned_to_{BRANCH}": mine_N}
    return {
        "what": KERNEL_SIZE,
        "pictures": _pictures(pictures),
        "rows_read": rings.rows,
        "pairs": int(rings.pairs.counts_N.sum()),
        "kernel_energy_removed": rings.energy,
        "features": {
            group: {
                f"share_{BRANCH}": rings.share.mean(among_N),
                **{
                    cut: {
                        "kept": rings.kept[cut].mean(among_N),
                        f"share_{BRANCH}": rings.share_after[cut].mean(among_N),
                    }
                    for cut in CUTS
                },
            }
            for group, among_N in groups.items()
        },
    }


def _pictures(pictures: list[int]) -> dict[str, Any]:
    return {"split": "holdout", "count": len(pictures), "numbers": pictures}


def _spearman(a_N: F64, b_N: F64, among_N: Bools) -> float | None:
    """Rank correlation over features that have both, None where there is none."""
    kept_N = among_N & np.isfinite(a_N) & np.isfinite(b_N)
    if kept_N.sum() < 3 or np.ptp(a_N[kept_N]) == 0 or np.ptp(b_N[kept_N]) == 0:
        return None
    return float(np.corrcoef(rankdata(a_N[kept_N]), rankdata(b_N[kept_N]))[0, 1])


def measure_columns(measures: Measures, names: list[str]) -> dict[str, npt.NDArray[Any]]:
    """Columns of features.parquet: see `isae.analysis.branches.tables.features_table`."""
    effects = measures.effects
    columns: dict[str, npt.NDArray[Any]] = {
        "cluster": np.where(effects.cluster_N >= 0, effects.cluster_N, np.nan)
    }
    for basis in BASES:
        columns |= _each(f"excess_{basis}", effects.excess[basis], names)
    if measures.causal is not None:
        columns |= _causal_columns(measures.causal, names)
    if measures.logits is not None:
        columns["logit_images"] = measures.logits.share_B[0].images_N
        for kind, found in (("drop", measures.logits.drop_B), ("share", measures.logits.share_B)):
            for name, one in zip(names, found, strict=True):
                columns[f"logit_{kind}_{name}"] = one.value_N
                low_high = zip(("low", "high"), one.interval(), strict=True)
                columns |= {f"logit_{kind}_{end}_{name}": end_N for end, end_N in low_high}
    if measures.rings is not None:
        columns["cut_images"] = measures.rings.share.images_N
        columns[f"cut_none_share_{BRANCH}"] = measures.rings.share.value_N
        for cut in CUTS:
            columns[f"cut_{cut}_kept"] = measures.rings.kept[cut].value_N
            columns[f"cut_{cut}_share_{BRANCH}"] = measures.rings.share_after[cut].value_N
    return columns


def _causal_columns(causal: Causal, names: list[str]) -> dict[str, npt.NDArray[Any]]:
    columns: dict[str, npt.NDArray[Any]] = {
        "causal_rows": causal.pairs.counts_N,
        "causal_images": causal.pairs.images_N,
    }
    for way in WAYS:
        for measure in MEASURES:
            columns |= _each(f"causal_{way}_{measure}", causal.values(way, measure), names)
    for measure in ("share", "part"):
        for name, one in zip(names, causal.measures["other"][measure], strict=True):
            low_high = zip(("low", "high"), one.interval(), strict=True)
            columns |= {f"causal_other_{measure}_{end}_{name}": end_N for end, end_N in low_high}
    return columns


def _each(stem: str, values_NB: F64, names: list[str]) -> dict[str, npt.NDArray[Any]]:
    return {f"{stem}_{name}": values_NB[:, j] for j, name in enumerate(names)}
