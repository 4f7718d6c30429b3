"""What a report is made of: the runs of a study's trained network, or single runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isae.analysis.inputs import read_run
from isae.analysis.outputs import SUMMARY
from isae.analysis.report.summaries import read_summary, same_place
from isae.analysis.study.layout import Net, Study, begin_study
from isae.errors import RunError
from isae.inception import layer_table

_UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")


@dataclass(frozen=True)
class Source:
    """One run of a report. name: of the layer in the report, another one for every run.

    store: where its store is now (None: as recorded); layers, stability: folders of the comparisons
    with other layers and seeds, which may not be there; net: the study's network that it is a run
    of; untrained: the run of the same layer of an untrained network, if the study has one, and
    untrained_net that network.
    """

    name: str
    layer: str
    run: Path
    seed: int | None
    store: Path | None
    layers: Path
    stability: Path
    net: Net | None = None
    untrained: Path | None = None
    untrained_net: Net | None = None

    def analysis(self, name: str) -> Path:
        """The folder of one of its analyses, which may not be there."""
        if name == "layers":
            return self.layers
        if name == "stability":
            return self.stability
        return self.run / "analysis" / name


@dataclass(frozen=True)
class Sources:
    """The runs of a report in order, and the study they are from, if they are from one."""

    runs: list[Source]
    studies: list[Study]


def find_sources(paths: Sequence[str | Path]) -> Sources:
    """The runs that the given folders stand for.

    A study stands for the SAEs of seed 0 of its trained network, in the network's order. Raises
    RunError for a folder that is neither a study nor a finished run, for a run given twice, and
    for nothing.
    """
    if not paths:
        raise RunError(
            "expected the folder of a study or of finished runs, found none; give one at least"
        )
    runs: list[Source] = []
    studies: list[Study] = []
    for path in map(Path, paths):
        if (path / "study.json").is_file():
            studies.append(begin_study(path, None))
            runs += _of_study(studies[-1])
        else:
            runs.append(_of_run(path))
    _check_once(runs)
    return Sources(_with_names(_with_comparisons(runs)), studies)


def _of_study(study: Study) -> list[Source]:
    net, *others = study.nets
    order = list(layer_table(study.config.model))
    return [_of_net(net, others, layer) for layer in sorted(study.config.layers, key=order.index)]


def _of_net(net: Net, others: Sequence[Net], layer: str) -> Source:
    run = net.run(0, layer)
    read_run(run)
    beside = others[0] if others else None
    untrained = beside.run(0, layer) if beside else None
    return Source(
        layer, layer, run, 0, net.store, net.layers(0), net.stability(layer), net,
        untrained if untrained and (untrained / SUMMARY).is_file() else None,
        beside,
    )  # fmt: skip


def _of_run(run: Path) -> Source:
    config: dict[str, Any] = read_run(run)[0]
    layer, analysis = str(config["layer"]), run / "analysis"
    seed = config.get("options", {}).get("seed")
    return Source(layer, layer, run, seed, None, analysis / "layers", analysis / "stability")


def _with_comparisons(runs: Sequence[Source]) -> list[Source]:
    """Single runs with the comparisons that lie in another one of the given runs."""
    return [
        one
        if one.store is not None
        else replace(
            one,
            layers=_of_these(one, [other.layers for other in runs]),
            stability=_of_these(one, [other.stability for other in runs]),
        )
        for one in runs
    ]


def _of_these(one: Source, folders: Sequence[Path]) -> Path:
    """The first comparison that has this run, or else a folder without one."""
    for folder in folders:
        summary = read_summary(folder) or {}
        compared = [
            each["run"] if isinstance(each, dict) else each for each in summary.get("runs", [])
        ]
        if any(same_place(each, one.run) for each in compared):
            return folder
    return one.run / "analysis" / "none"


def _check_once(runs: Sequence[Source]) -> None:
    seen: set[Path] = set()
    for one in runs:
        if one.run.resolve() in seen:
            raise RunError(
                f"expected every run once, found '{one.run}' twice; leave one of them out"
            )
        seen.add(one.run.resolve())


def _with_names(runs: Sequence[Source]) -> list[Source]:
    """The layer's name, with a number behind it from the second run of a layer on."""
    taken: set[str] = set()
    named = []
    for one in runs:
        stem = _UNSAFE.sub("_", one.layer)
        name = next(
            name
            for number in range(1, len(runs) + 1)
            if (name := stem if number == 1 else f"{stem}-{number}") not in taken
        )
        taken.add(name)
        named.append(replace(one, name=name))
    return named
