"""The report's first page: what it is made of, what is there of each layer, what is absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from isae import __version__
from isae.analysis.inputs import RunInputs
from isae.analysis.report.feature_map import FeatureMap
from isae.analysis.report.findings import (
    Finding,
    LayerSummaries,
    branch_finding,
    cost_finding,
    curve_finding,
    finding,
    layers_finding,
    number,
    percent,
    stability_finding,
    tuning_finding,
)
from isae.analysis.report.label_findings import label_finding, picture_finding, taxonomy_finding
from isae.analysis.report.map_quality import NEIGHBOURS
from isae.analysis.report.sources import Sources
from isae.analysis.report.tables import ANALYSES, RunTables

COMPARISONS = {"layers": "the comparison of layers", "stability": "the comparison of seeds"}
AGAIN = "make it again with --overwrite"
NO_MAP = "no map: it was left out (--no-map)"


def summary_findings(tables: Sequence[RunTables]) -> list[Finding]:
    """The findings of the analyses that are there."""
    layers = [LayerSummaries.of(one) for one in tables]
    found = [
        label_finding(layers),
        branch_finding(layers),
        tuning_finding(layers),
        curve_finding(layers),
        layers_finding(layers),
        stability_finding(tables),
        picture_finding(layers),
        taxonomy_finding(layers),
        cost_finding(tables),
    ]
    return [one for one in found if one is not None]


def layer_entry(run: RunInputs, tables: RunTables) -> dict[str, Any]:
    """One layer: name, network's layer, features, dead, grid, channels, branches, what is there."""
    branches = tables.by_feature("branches", "features")
    alive_N = None if branches is None else branches.numbers("alive") == 1
    return {
        "name": tables.source.name,
        "layer": run.layer,
        "seed": tables.source.seed,
        "features": run.sae.n,
        "dead": None if alive_N is None else int((~alive_N).sum()),
        "grid": list(run.stored.grid),
        "channels": run.stored.channels,
        "branches": [
            {"name": name, "channels": stop - start}
            for name, (start, stop) in run.stored.branches.items()
        ],
        "has": what_is_there(tables),
        "note": run.stored.note,
    }


def what_is_there(tables: RunTables) -> dict[str, bool]:
    """Which parts of a feature's page there are."""
    there = {name: tables.has(name) for name in ANALYSES}
    return {
        **there,
        "labels": there["label"],
        "matches": there["layers"],
        "patches": tables.table("visualise", "patches") is not None,
        "pictures": tables.table("visualise", "pictures") is not None,
    }


def made_of(sources: Sources, stores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a report is made of. stores: {content id: manifest}."""
    return {
        "isae": __version__,
        "studies": [str(study.path) for study in sources.studies],
        "runs": {one.name: str(one.run) for one in sources.runs},
        "stores": [
            {
                "content_id": content,
                "model": manifest["model"]["name"],
                "weights": manifest["model"]["weights"],
                "images": manifest["images"]["spec"],
                "size": manifest["size"],
                "used": manifest["images"].get("used"),
                "held_out": manifest["images"].get("held_out"),
            }
            for content, manifest in stores.items()
        ],
    }


def missing_parts(
    sources: Sources, there: Mapping[str, Mapping[str, bool]]
) -> list[dict[str, str]]:
    """[{what, how}]: what is absent, what makes it. there: {layer: what_is_there}."""
    parts = []
    for analysis in ANALYSES:
        lacking = [one for one in sources.runs if not there[one.name][analysis]]
        if analysis == "layers" and len(sources.runs) == 1:
            continue
        if lacking:
            names = ", ".join(one.name for one in lacking)
            how = _command(analysis, sources, lacking[0].run)
            parts.append({"what": f"no {analysis} of {names}", "how": how})
    return parts


def _command(analysis: str, sources: Sources, run: Path) -> str:
    """The command that makes what is missing, for the first run that lacks it."""
    study = next((one for one in sources.studies if one.path in run.parents), None)
    if study is not None and analysis != "curves":  # a study looks for curves in few layers
        return f"isae-analyze all {quote(str(study.path))} --only {analysis}"
    if analysis == "layers":
        runs = " ".join(quote(str(one.run)) for one in sources.runs)
        return f"isae-analyze layers {runs}"
    behind = " and runs of other seeds" if analysis == "stability" else ""
    return f"isae-analyze {analysis} {quote(str(run))}{behind}"


def map_finding(drawn: FeatureMap) -> Finding | None:
    """How good the map is, beside the other one that was tried and chance."""
    if not drawn.qualities:
        return None
    return finding(
        "How far to trust the map",
        f"Of the {NEIGHBOURS} nearest features on the map, the share that are among the "
        f"{NEIGHBOURS} nearest by what they fire on ({drawn.images:,} images); the better of the "
        f"two is drawn: {drawn.method}. {drawn.shown:,} features are shown, {drawn.left_out:,} "
        "left out. Distances between far groups mean nothing.",
        ["map", "neighbours kept", "by chance", "trustworthiness", "features measured"],
        [
            [name, percent(one.kept), percent(one.chance), number(one.trustworthiness), one.sample]
            for name, one in drawn.qualities.items()
        ],
    )


def notes_of(tables: Sequence[RunTables]) -> list[str]:
    """What a reader must know of single layers, once for all layers that it holds of."""
    names: dict[str, list[str]] = {}
    for one in tables:
        for note in _notes_of_one(one):
            names.setdefault(note, []).append(one.source.name)
    return [f"{', '.join(those)}: {note}" for note, those in names.items()]


def _notes_of_one(tables: RunTables) -> Iterator[str]:
    if note := tables.summaries.get("branches", {}).get("layer_note"):
        yield str(note)
    for name in tables.foreign:
        yield f"{name} is of another store than the run and is not shown; {AGAIN}"
    for name, check in tables.checks.items():
        one = COMPARISONS[name]
        if check.anew:
            yield (
                f"{one} was made before {', '.join(check.anew)} was trained anew and is not "
                f"shown; {AGAIN}"
            )
        elif check.doubt:
            yield f"whether {one} is of these SAEs cannot be checked: {check.doubt}; {AGAIN}"
    if tables.control.note:
        yield tables.control.note
