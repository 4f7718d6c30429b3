"""Discoveries over all layers at once: the p-values of several runs in one family.

A correction run by run lets each layer have its own share of false discoveries. Here the p-values
of all runs (living features x branches x bases) are one Benjamini-Hochberg family, as if one
dictionary held them all. `relative` is a family of its own, as in a single run. Counts per run and
branch stand beside

    expected_false         alpha times the discoveries, the bound that the correction aims at;
    expected_by_chance     tests of that branch times the p-value at which the correction stopped:
                           what would pass if no feature were concentrated;
    expected_by_channels   assigned features of the run times the branch's share of channels.

Legend: N features of all runs, B branches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.branches.findings import BOTH, RELATIVE, assign, larger
from isae.analysis.branches.join_figure import joint_figure
from isae.analysis.branches.shares import BASES
from isae.analysis.multiple import benjamini_hochberg
from isae.analysis.outputs import SUMMARY, check_out, write_table
from isae.analysis.style import save, styled
from isae.errors import ConfigError, RunError
from isae.files import swap_folder, write_json
from isae.progress import QUIET, Reporter

JOINT = "branches-joint"
CORRECTION = (
    "Benjamini-Hochberg over the p-values of all runs at once (living features x branches x the "
    "bases 'decoder' and 'spread'); families of their own: 'relative', and 'both', whose p is the "
    "larger one of the two bases"
)


@dataclass(frozen=True)
class RunTests:
    """What one analysis folder gives: its summary, feature numbers, clusters, p [N, B] by basis."""

    folder: Path
    summary: dict[str, Any]
    names: tuple[str, ...]
    feature_N: I64
    cluster_N: F64
    p: dict[str, F64]


@dataclass(frozen=True)
class Joint:
    """The joint correction of several runs, in their order: q [N, B] by basis, assigned_N (-1)."""

    runs: tuple[RunTests, ...]
    q: tuple[dict[str, F64], ...]
    assigned: tuple[I64, ...]
    alpha: float
    tests: int
    stopped_at: float

    def both(self, number: int) -> Bools:
        """Above the null in every basis -> bool [N, B] of one run."""
        found: Bools = self.q[number][BOTH] <= self.alpha
        return found


def join_branches(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    alpha: float = 0.05,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Correct several branch analyses together -> what summary.json holds.

    folders: finished folders of `isae-analyze branches`, each of its own run; out: folder to write;
    it appears whole or not at all. Writes features (q-values and assignments, by run) and counts
    (runs x branches) as Parquet and CSV, summary.json, figures/joint. Raises RunError for folders
    that are no branch analyses or are given twice, ConfigError for an alpha out of range.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"expected --alpha between 0 and 1, found {alpha}")
    out = Path(out)
    check_out(out, JOINT, overwrite)
    joint = correct([read_tests(Path(folder)) for folder in folders], alpha)
    counts = _counts(joint)
    summary = _summary(joint, counts)
    reporter.say(f"{joint.tests:,} tests of {len(joint.runs)} runs corrected together")

    def fill(folder: Path) -> None:
        write_table(_features(joint), folder / "features")
        write_table(pa.Table.from_pylist(counts), folder / "counts")
        (folder / "figures").mkdir()
        with styled():
            save(joint_figure(counts), folder / "figures" / "joint")
        summary["figures"] = ["joint"]
        write_json(folder / SUMMARY, summary)

    swap_folder(out, fill)
    return {**summary, "out": str(out)}


def read_tests(folder: Path) -> RunTests:
    """The tests of one finished branch analysis. Raises RunError for anything else."""
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        table = pq.read_table(folder / "features.parquet")
        names = tuple(summary["branches"])
        p = {basis: _columns(table, f"p_{basis}", names) for basis in (*BASES, RELATIVE)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"expected the folder of a finished branch analysis, found none in {folder} ({error}); "
            "make it with isae-analyze branches RUN"
        ) from error
    cluster_N = np.full(table.num_rows, np.nan)
    if "cluster" in table.column_names:
        cluster_N = _floats(table, "cluster")
    feature_N = table.column("feature").to_numpy().astype(np.int64)
    return RunTests(folder, summary, names, feature_N, cluster_N, p)


def correct(runs: Sequence[RunTests], alpha: float) -> Joint:
    """One Benjamini-Hochberg family of all runs. Raises RunError unless runs are different ones."""
    if not runs or len({str(one.summary["run"]) for one in runs}) < len(runs):
        raise RunError(
            f"expected analyses of different runs, found {len(runs)} of "
            f"{len({str(one.summary['run']) for one in runs})} runs; give each folder once"
        )
    sizes = [one.p[BASES[0]].size for one in runs]
    q_of: dict[str, list[F64]] = {}
    together = np.concatenate([one.p[basis].ravel() for basis in BASES for one in runs])
    q = benjamini_hochberg(together)
    for basis, part in zip(BASES, np.split(q, len(BASES)), strict=True):
        q_of[basis] = np.split(part, np.cumsum(sizes)[:-1])
    for name, values in (
        (RELATIVE, [one.p[RELATIVE] for one in runs]),
        (BOTH, [larger(one.p) for one in runs]),
    ):
        alone = benjamini_hochberg(np.concatenate([p_NB.ravel() for p_NB in values]))
        q_of[name] = np.split(alone, np.cumsum(sizes)[:-1])
    shaped = tuple(
        {name: q_of[name][i].reshape(one.p[RELATIVE].shape) for name in q_of}
        for i, one in enumerate(runs)
    )
    return Joint(
        runs=tuple(runs),
        q=shaped,
        assigned=tuple(assign(one.p, q, alpha) for one, q in zip(runs, shaped, strict=True)),
        alpha=alpha,
        tests=int(np.isfinite(together).sum()),
        stopped_at=float(together[q <= alpha].max(initial=0.0)),
    )


def _counts(joint: Joint) -> list[dict[str, Any]]:
    """One entry per run and branch."""
    rows = []
    for i, run in enumerate(joint.runs):
        both_NB, assigned_N = joint.both(i), joint.assigned[i]
        for j, name in enumerate(run.names):
            tests = int(np.isfinite(run.p[BASES[0]][:, j]).sum())
            above = {b: int((joint.q[i][b][:, j] <= joint.alpha).sum()) for b in (*BASES, RELATIVE)}
            chance = run.summary["branches"][name]["channel_share"]
            found_N = both_NB[:, j] & np.isfinite(run.cluster_N)
            rows.append(
                {"run": str(run.summary["run"]), "layer": run.summary["layer"], "branch": name}
                | {"features_tested": tests}
                | {f"above_null_{basis}": count for basis, count in above.items()}
                | {
                    "above_null_in_both": int(both_NB[:, j].sum()),
                    "clusters_above_null_in_both": len(np.unique(run.cluster_N[found_N])),
                    "expected_by_chance_per_basis": tests * joint.stopped_at,
                    "assigned": int((assigned_N == j).sum()),
                    "expected_by_channels": float((assigned_N >= 0).sum() * chance),
                }
            )
    return rows


def _summary(joint: Joint, counts: list[dict[str, Any]]) -> dict[str, Any]:
    found = sum(int((q[basis] <= joint.alpha).sum()) for q in joint.q for basis in BASES)
    return {
        "analysis": JOINT,
        "runs": [str(one.summary["run"]) for one in joint.runs],
        "folders": [str(one.folder) for one in joint.runs],
        "null": joint.runs[0].summary["null"],
        "correction": CORRECTION,
        "images": [one.summary["images"] for one in joint.runs],
        "alpha": joint.alpha,
        "tests": joint.tests,
        "stopped_at_p": joint.stopped_at,
        "discoveries": found,
        "expected_false": joint.alpha * found,
        "features_above_null_in_both": sum(
            int(joint.both(i).any(axis=1).sum()) for i in range(len(joint.runs))
        ),
        "counts": counts,
    }


def _features(joint: Joint) -> pa.Table:
    """One row per run and feature: joint q-values and the branch assigned."""
    parts = []
    for i, run in enumerate(joint.runs):
        columns: dict[str, Any] = {
            "run": [str(run.summary["run"])] * len(run.feature_N),
            "layer": [run.summary["layer"]] * len(run.feature_N),
            "feature": pa.array(run.feature_N, pa.int32()),
        }
        for basis in (*BASES, RELATIVE):
            for j, name in enumerate(run.names):
                columns[f"q_{basis}_{name}"] = pa.array(joint.q[i][basis][:, j], from_pandas=True)
        named = [run.names[j] if j >= 0 else None for j in joint.assigned[i]]
        parts.append(pa.table({**columns, "assigned": pa.array(named, pa.string())}))
    return pa.concat_tables(parts, promote_options="default")


def _columns(table: pa.Table, stem: str, names: tuple[str, ...]) -> F64:
    return np.stack([_floats(table, f"{stem}_{name}") for name in names], axis=1)


def _floats(table: pa.Table, name: str) -> F64:
    return np.asarray(table.column(name).to_numpy(), dtype=np.float64)


def joint_text(summary: dict[str, Any]) -> str:
    """The result for a person, at most 80 columns wide (the path apart)."""
    lines = [
        f"{summary['tests']:,} tests of {len(summary['runs'])} runs in one family, "
        f"q <= {summary['alpha']:g}: {summary['discoveries']:,} discoveries,",
        f"  about {summary['expected_false']:,.0f} of them false at most",
        "",
        "layer    branch    above the null in both   clusters   strongest   by channels",
    ]
    lines += [
        f"{one['layer']:<9}{one['branch']:<10}{one['above_null_in_both']:>22}"
        f"{one['clusters_above_null_in_both']:>11}{one['assigned']:>12}"
        f"{one['expected_by_channels']:>14,.0f}"
        for one in summary["counts"]
    ]
    return "\n".join([*lines, "", f"tables, summary and figure: {summary['out']}"])
