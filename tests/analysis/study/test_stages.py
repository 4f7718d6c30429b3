"""Stages are done once, redone when their inputs change; verdicts hold at their stated rate."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from isae.analysis.study.stages import Outcome, Stage, check_outcome, run_stages
from isae.analysis.study.verdicts import LESS, MORE, SAME, UNKNOWN, judge, judge_all
from isae.errors import DataError, RunError
from isae.progress import QUIET


class Work:
    """Stages over one input file; counts what ran."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran, self.times = folder, [], 0
        self.source = folder / "source.json"
        self.source.write_text("1")

    def stage(self, name: str, inputs: list[Path] | None = None, fail: Any = None, **options: Any):
        out = self.folder / name

        def work() -> None:
            self.ran.append(name)
            self.times += 1
            if fail:
                raise fail
            out.mkdir(exist_ok=True, parents=True)
            (out / "summary.json").write_text(json.dumps({"time": self.times}))

        return Stage(name, out, inputs or [self.source], options, work)

    def run(self, *stages: Stage, overwrite: bool = False) -> Outcome:
        self.ran.clear()
        return run_stages(stages, self.folder / "r", overwrite=overwrite, reporter=QUIET)


def test_a_stage_is_done_once_and_again_when_what_it_reads_changes(tmp_path: Path) -> None:
    work = Work(tmp_path)
    stages = [work.stage("a/x", seed=1), work.stage("b", [tmp_path / "a/x/summary.json"])]
    assert list(work.run(*stages).done) == ["a/x", "b"]
    again = work.run(*stages)
    assert again.kept == ["a/x", "b"]
    assert work.ran == []
    work.source.write_text("2")
    # The first is redone; its summary is another one, so the second, which reads it, is too.
    assert list(work.run(*stages).done) == ["a/x", "b"]
    assert list(work.run(work.stage("a/x", seed=2), stages[1]).done) == ["a/x", "b"]
    assert list(work.run(*stages, overwrite=True).done) == ["a/x", "b"]


def test_a_lost_result_or_record_is_made_again(tmp_path: Path) -> None:
    work = Work(tmp_path)
    stage = work.stage("a")
    work.run(stage)
    (tmp_path / "a/summary.json").unlink()
    assert "a" in work.run(stage).done
    (tmp_path / "r/a.json").write_text("{")
    assert "a" in work.run(stage).done
    assert work.run(stage).kept == ["a"]


def test_a_stage_that_fails_leaves_the_others_and_is_tried_again(tmp_path: Path) -> None:
    work = Work(tmp_path)
    bad = work.stage("bad", fail=DataError("expected x, found y; do z"))
    after = work.stage("after", [tmp_path / "bad/summary.json"])
    found = work.run(bad, after, work.stage("good"))
    assert list(found.done) == ["good"]
    assert set(found.failed) == {"bad", "after"}
    with pytest.raises(RunError, match=r"2 did not, first 'bad' \(expected x, found y"):
        check_outcome(found)
    assert list(work.run(work.stage("bad"), after, work.stage("good")).done) == ["bad", "after"]


def test_a_defect_ends_the_work_and_keeps_what_is_done(tmp_path: Path) -> None:
    work = Work(tmp_path)
    stages = [work.stage("good"), work.stage("defect", fail=ZeroDivisionError())]
    with pytest.raises(ZeroDivisionError):
        work.run(*stages)
    assert work.run(stages[0]).kept == ["good"]
    assert not (tmp_path / "r/defect.json").exists()


def test_welch_interval_is_scipys() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(1, 1, 5), rng.normal(0, 3, 4)
    found = judge(ours, theirs)
    expected = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), (expected.low, expected.high), rtol=1e-10)


@pytest.mark.parametrize(("s", "u"), [(3, 1), (3, 3), (5, 2), (1, 4)])
def test_equal_networks_differ_at_the_stated_rate(s: int, u: int) -> None:
    rng = np.random.default_rng(s + 10 * u)
    draws = 1500
    words = [judge(rng.normal(size=s), rng.normal(size=u)).verdict for _ in range(draws)]
    rate = np.mean([word != SAME for word in words])
    # 5 % and four standard errors; Welch's freedom is an approximation on the cautious side.
    assert rate <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / draws)
    assert rate > 0.005
    moved = [judge(rng.normal(40, 1, s), rng.normal(size=u)).verdict for _ in range(50)]
    assert moved.count(MORE) >= 40
    assert judge(-np.arange(s) - 40.0, np.arange(u) * 1.0).verdict in (LESS, UNKNOWN)


def test_numbers_that_cannot_be_judged() -> None:
    assert judge([1.0], [2.0]).verdict == UNKNOWN
    assert judge([math.nan], [2.0]).verdict == UNKNOWN
    assert judge([1.0, 1.0], [1.0, 1.0]).verdict == SAME
    # Three seeds without a single curve detector and a network with one of a thousand.
    assert judge([0.0, 0.0, 0.0], [0.001]).verdict == UNKNOWN
    assert judge([0.0, 0.0], [1.0, 1.0]).verdict == UNKNOWN
    # One feature in every seed: the spread is of the denominators alone.
    assert judge([1 / 4092, 1 / 4093, 1 / 4094], [12 / 4095]).verdict == UNKNOWN
    assert judge([50 / 4092, 51 / 4093, 49 / 4094], [90 / 4095]).verdict == LESS
    row = judge([1.0, math.nan, 3.0], [1.0]).row()
    assert (row["trained"], row["trained_n"], row["untrained_n"]) == (2.0, 2, 1)
    rows = judge_all([{"a": 1.0, "b": 2.0}, {"a": 1.5}], [{"a": 9.0, "c": 1.0}])
    assert [name for name, _ in rows] == ["a", "b"]
    assert rows[0][1].trained == (1.0, 1.5)
    assert rows[1][1].verdict == UNKNOWN
