"""`analyze_study`: every analysis of a study, stage by stage, then trained against untrained."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from isae.analysis.outputs import SUMMARY, write_table
from isae.analysis.stability.spread import spread
from isae.analysis.study.figures import write_figures
from isae.analysis.study.headlines import Key, headlines
from isae.analysis.study.layout import FINDINGS, Net, Study, begin_study, locked
from isae.analysis.study.parallel import choose_jobs, run_parallel
from isae.analysis.study.plan import LATER, Planner, StudyAnalyses
from isae.analysis.study.stages import Outcome, check_outcome, run_stages
from isae.analysis.study.text import findings_markdown
from isae.analysis.study.verdicts import Verdict, judge_all
from isae.config import to_json
from isae.device import resolve_device
from isae.errors import RunError
from isae.files import swap_folder, write_bytes, write_json
from isae.progress import QUIET, Reporter

NULL = (
    "the same analysis of untrained networks (weights random:SEED) on the same pictures, places "
    "and held-out images; difference of means, 95 % interval of Student, Welch's where both have "
    "seeds"
)
CORRECTION = (
    "none over the numbers of this table: each interval is at 95 %, so one in twenty equal numbers "
    "is told apart by chance; the analyses' own tests are corrected where they are made"
)


def analyze_study(
    path: str | Path,
    options: StudyAnalyses | None = None,
    *,
    jobs: int | None = 1,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Do what is not done of a study's analyses, then write STUDY/findings -> its summary.

    path: a folder of `prepare_study`; options: of the analyses; jobs: stages at once, each in a
    process of its own (None: one per core, as far as memory goes); it decides about time alone. The
    folder `findings` holds verdicts.parquet and .csv (every headline number, trained against
    untrained), spread.json (the spread of every number of the analyses over seeds), findings.md,
    figures/*.png and *.svg, summary.json. Raises RunError where the study is not whole or a stage
    failed, after all others were done, and StoreError where another process works on the study.
    """
    started = time.monotonic()
    options = options or StudyAnalyses()
    jobs = choose_jobs(jobs, resolve_device(options.branches.device))
    with locked(begin_study(path, None).path):
        study = begin_study(path, None)
        _check_prepared(study)
        outcome = _do_stages(study, options, jobs, overwrite, reporter)
        verdicts = _verdicts(study)
        for name in _of_other_options(study):
            reporter.warn(f"{name}: analysed with options that differ between networks or seeds")
        summary = _summary(study, options, outcome, verdicts)
        if verdicts:
            _write(study, summary, verdicts, started)
        pages = Planner(study, options, reporter, overwrite).report(
            study.path / FINDINGS / "verdicts.parquet"
        )
        outcome.add(run_stages(pages, _records(study), overwrite=overwrite, reporter=reporter))
    check_outcome(outcome)
    return {**summary, "stages": outcome.as_json(), "out": str(study.path / FINDINGS)}


def do_named(
    study: Study, options: StudyAnalyses, overwrite: bool, names: Sequence[str]
) -> Outcome:
    """The named stages of a study, one after the other: what a worker process does."""
    stages = {stage.name: stage for stage in Planner(study, options, QUIET, overwrite).stages()}
    chosen = [stages[name] for name in names]
    return run_stages(chosen, _records(study), overwrite=overwrite, reporter=QUIET)


def _do_stages(
    study: Study, options: StudyAnalyses, jobs: int, overwrite: bool, reporter: Reporter
) -> Outcome:
    stages = Planner(study, options, reporter, overwrite).stages()
    if jobs == 1:
        return run_stages(stages, _records(study), overwrite=overwrite, reporter=reporter)
    work = partial(do_named, study, options, overwrite)
    return run_parallel(stages, work, jobs, _records(study), overwrite=overwrite, reporter=reporter)


def _records(study: Study) -> Path:
    return study.path / "stages"


def _write(
    study: Study, summary: dict[str, Any], verdicts: list[tuple[Key, Verdict]], started: float
) -> None:
    def fill(folder: Path) -> None:
        rows = [{**dict(zip(Key._fields, key, strict=True)), **one.row()} for key, one in verdicts]
        write_table(pa.Table.from_pylist(rows), folder / "verdicts")
        write_json(folder / "spread.json", _spreads(study))
        (folder / "figures").mkdir()
        summary["figures"] = write_figures(verdicts, folder / "figures")
        summary["seconds"] = round(time.monotonic() - started, 1)
        write_bytes(folder / "findings.md", findings_markdown(summary, verdicts).encode())
        write_json(folder / SUMMARY, summary)

    swap_folder(study.path / FINDINGS, fill)


def summaries(study: Study, net: Net, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every finished analysis of one seed's SAEs: (analysis/layer, its summary)."""
    for layer in study.config.layers:
        for folder in sorted((net.run(seed, layer) / "analysis").glob("*")):
            if (folder / SUMMARY).is_file():
                yield f"{folder.name}/{layer}", json.loads((folder / SUMMARY).read_text())
    if (net.layers(seed) / SUMMARY).is_file():
        yield "layers/all", json.loads((net.layers(seed) / SUMMARY).read_text())


def _check_prepared(study: Study) -> None:
    for net, seed, layer in study.runs():
        if not (net.run(seed, layer) / SUMMARY).is_file():
            raise RunError(
                f"expected the SAEs of the study in '{study.path}', found none finished for "
                f"{net.name}, seed {seed}, {layer}; finish them with isae-analyze prepare "
                f"'{study.path}'"
            )


def _verdicts(study: Study) -> list[tuple[Key, Verdict]]:
    groups: dict[bool, list[dict[Key, float]]] = {True: [], False: []}
    for net in study.nets:
        for seed in net.seeds:
            found: dict[Key, float] = {}
            for _, summary in summaries(study, net, seed):
                found.update(headlines(summary))
            if found:
                groups[net.trained].append(found)
    return judge_all(groups[True], groups[False])


def _of_other_options(study: Study) -> list[str]:
    """Analyses whose summaries state different options, but for those of further seeds."""
    by_name: dict[str, list[Any]] = {}
    for net in study.nets:
        for seed in net.seeds:
            for name, summary in summaries(study, net, seed):
                options = {k: v for k, v in summary["options"].items() if k not in LATER}
                by_name.setdefault(name, []).append(options)
    return [name for name, several in by_name.items() if any(one != several[0] for one in several)]


def _spreads(study: Study) -> dict[str, Any]:
    """Per network and analysis: mean, sd, min, max, n of every number over the seeds."""
    found: dict[str, Any] = {}
    for net in study.nets:
        by_name: dict[str, list[dict[str, Any]]] = {}
        for seed in net.seeds:
            for name, summary in summaries(study, net, seed):
                by_name.setdefault(name, []).append(summary)
        found[net.name] = {name: spread(several) for name, several in by_name.items()}
    return found


def _summary(
    study: Study,
    options: StudyAnalyses,
    outcome: Outcome,
    verdicts: list[tuple[Key, Verdict]],
) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for _, one in verdicts:
        counts[one.verdict] = counts.get(one.verdict, 0) + 1
    return {
        "analysis": "study",
        "study": str(study.path),
        "options": {"study": to_json(study.config), "analyses": to_json(options)},
        "null": NULL,
        "tests": len(verdicts),
        "correction": CORRECTION,
        "images": study.config.images,
        "verdicts": counts,
        "stages": outcome.as_json(),
    }
