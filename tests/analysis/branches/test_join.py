"""Several runs in one family: recall, false discoveries, far tails on null data, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isae.analysis.branches.findings import RELATIVE
from isae.analysis.branches.join import correct, join_branches, joint_text, read_tests
from isae.analysis.branches.nulls import concentration_pvalues
from isae.analysis.branches.shares import BASES
from isae.analysis.multiple import benjamini_hochberg
from isae.errors import ConfigError, RunError

NAMES = ("1x1", "3x3", "5x5", "pool")
WIDTHS = np.array([160, 224, 64, 64])
ALPHA = 0.05


def write_analysis(
    folder: Path, layer: str, p: dict[str, np.ndarray], cluster_N: np.ndarray
) -> Path:
    """A folder as `isae-analyze branches` writes it, with the p-values given."""
    folder.mkdir(parents=True)
    columns = {"feature": pa.array(np.arange(len(cluster_N)), pa.int32()), "cluster": cluster_N}
    for basis, p_NB in p.items():
        for j, name in enumerate(NAMES):
            columns[f"p_{basis}_{name}"] = pa.array(p_NB[:, j], from_pandas=True)
    pq.write_table(pa.table(columns), folder / "features.parquet")
    branches = {
        name: {"channel_share": float(width)}
        for name, width in zip(NAMES, WIDTHS / WIDTHS.sum(), strict=True)
    }
    summary = {"analysis": "branches", "run": f"runs/{folder.name}", "layer": layer}
    summary |= {"branches": branches, "null": "exchangeable channels", "images": {"rows_read": 9}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def p_values(rng: np.random.Generator, n: int, planted: int) -> tuple[dict, np.ndarray]:
    """(p of n features, the same in both bases; whether each feature x branch is planted)."""
    p_NB, truth_NB = rng.random((n, 4)), np.zeros((n, 4), dtype=bool)
    truth_NB[np.arange(planted), rng.integers(4, size=planted)] = True
    p_NB[truth_NB] = 10.0 ** -rng.uniform(4, 12, size=planted)
    p_NB[-5:] = np.nan  # dead features
    return dict.fromkeys((*BASES, RELATIVE), p_NB), truth_NB


def test_planted_features_of_all_layers_are_found_at_the_rate(tmp_path: Path) -> None:
    rng, false, found_true, true = np.random.default_rng(1), [], 0, 0
    for repeat in range(40):
        runs, truths = [], []
        for number, planted in enumerate((0, 5, 60)):
            p, truth_NB = p_values(rng, 200, planted)
            folder = tmp_path / f"{repeat}-{number}"
            runs.append(read_tests(write_analysis(folder, "mixed4b", p, np.arange(200.0))))
            truths.append(truth_NB)
        joint = correct(runs, ALPHA)
        hits = np.concatenate([joint.both(i) for i in range(3)])
        truth = np.concatenate(truths)
        found_true, true = found_true + int((hits & truth).sum()), true + int(truth.sum())
        false.append((hits & ~truth).sum() / max(hits.sum(), 1))
    assert found_true > 0.95 * true
    assert np.mean(false) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / (40 * 60))


def test_one_family_of_all_runs_and_counts_that_repeat_it(tmp_path: Path) -> None:
    rng, folders, all_p = np.random.default_rng(2), [], []
    cluster_N = np.repeat(np.arange(100.0), 2)
    for number, planted in enumerate((0, 40)):
        p, _ = p_values(rng, 200, planted)
        folders.append(
            write_analysis(tmp_path / f"run{number}", f"mixed4{'ab'[number]}", p, cluster_N)
        )
        all_p.append(p)
    summary = join_branches(folders, tmp_path / "out", alpha=ALPHA)
    together = np.concatenate([one[basis].ravel() for basis in BASES for one in all_p])
    q = benjamini_hochberg(together)
    assert summary["tests"] == np.isfinite(together).sum() == 2 * 2 * 195 * 4
    assert summary["discoveries"] == (q <= ALPHA).sum() > 60
    assert summary["stopped_at_p"] == together[q <= ALPHA].max()
    table = pq.read_table(tmp_path / "out" / "features.parquet")
    assert table.num_rows == 400
    got = np.stack([table.column(f"q_decoder_{name}").to_numpy() for name in NAMES], axis=1)
    np.testing.assert_allclose(got.ravel(), q[: len(q) // 2])
    counts = pq.read_table(tmp_path / "out" / "counts.parquet").to_pylist()
    assert counts == summary["counts"]
    assert [(one["layer"], one["branch"]) for one in counts] == [
        (layer, name) for layer in ("mixed4a", "mixed4b") for name in NAMES
    ]
    for number, layer in enumerate(("mixed4a", "mixed4b")):
        mine = [one for one in counts if one["layer"] == layer]
        above_NB = (got[200 * number :][:200]) <= ALPHA
        assert [one["above_null_in_both"] for one in mine] == above_NB.sum(axis=0).tolist()
        clusters = [len(np.unique(cluster_N[above_N])) for above_N in above_NB.T]
        assert [one["clusters_above_null_in_both"] for one in mine] == clusters
        total = sum(one["assigned"] for one in mine)
        expected = [one["expected_by_channels"] for one in mine]
        assert expected == pytest.approx(total * WIDTHS / WIDTHS.sum())
        chance = [one["expected_by_chance_per_basis"] for one in mine]
        assert chance == pytest.approx([195 * summary["stopped_at_p"]] * 4)
    assert (tmp_path / "out" / "figures" / "joint.png").stat().st_size > 5000
    lines = joint_text(summary | {"out": "out"}).splitlines()
    assert max(len(line) for line in lines) <= 80


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    p, _ = p_values(np.random.default_rng(3), 20, 2)
    folder = write_analysis(tmp_path / "run", "mixed4a", p, np.arange(20.0))
    with pytest.raises(RunError, match="each folder once"):
        join_branches([folder, folder], tmp_path / "out")
    with pytest.raises(RunError, match="isae-analyze branches"):
        join_branches([folder, tmp_path], tmp_path / "out")
    with pytest.raises(ConfigError, match="--alpha"):
        join_branches([folder], tmp_path / "out", alpha=1.5)
    assert not (tmp_path / "out").exists()
    join_branches([folder], tmp_path / "out")
    with pytest.raises(RunError, match="--overwrite"):
        join_branches([folder], tmp_path / "out")
    join_branches([folder], tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("draw", ["normal", "laplace"])
def test_p_values_of_null_dictionaries_hold_in_the_far_tail(draw: str) -> None:
    # A family of 90,000 features needs tails near 1e-5: counts below each level against Poisson.
    rng, branches = np.random.default_rng(4), {"in": (0, 12), "mid": (12, 40), "out": (40, 96)}
    rows = getattr(rng, draw)(size=(15_000, 96))
    p = concentration_pvalues(rows**2, branches, samples=100).p_NB.ravel()
    for level in (1e-2, 1e-3, 1e-4, 1e-5):
        expected = level * len(p)
        # Five deviations of a Poisson count, and the 10 % that formula and sampling may be off.
        assert (p <= level).sum() <= 1.1 * expected + 5 * math.sqrt(expected) + 2
        if expected > 20:
            assert (p <= level).sum() >= 0.8 * expected - 5 * math.sqrt(expected)
    assert (benjamini_hochberg(p) <= ALPHA).sum() == 0
