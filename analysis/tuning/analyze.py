"""`analyze_tuning`: stimuli shown to a run's network and SAE; tables, summary and figures out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from isae.analysis.arrays import I64
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.network import store_network
from isae.analysis.outputs import SUMMARY, check_out
from isae.analysis.tuning.config import TuningConfig
from isae.analysis.tuning.effective_field import (
    EffectiveField,
    ReadCell,
    default_size,
    effective_field,
    read_cell,
)
from isae.analysis.tuning.figures import write_tuning_figures
from isae.analysis.tuning.findings import TuningFindings, find_tuning
from isae.analysis.tuning.inputs import field_pictures
from isae.analysis.tuning.mirrored import mirror_cell, second_reads, shown_again
from isae.analysis.tuning.responses import Responses, read_responses
from isae.analysis.tuning.stimuli import FAMILIES, StimulusPlan, StimulusSet, make_stimuli
from isae.analysis.tuning.strength import Strengths, read_strengths
from isae.analysis.tuning.summary import (
    CORRECTION,
    NOTES,
    NULLS,
    describe_place,
    summarise_tuning,
)
from isae.analysis.tuning.tables import curves_table, units_table, write_table
from isae.config import to_json
from isae.device import resolve_device
from isae.files import swap_folder, write_json
from isae.progress import QUIET, Reporter

ANALYSIS = "tuning"
KINDS = ("feature", "neuron")


def analyze_tuning(
    run: str | Path,
    *,
    store: str | Path | None = None,
    images: str | None = None,
    weights: str | None = None,
    out: str | Path | None = None,
    config: TuningConfig | None = None,
    plan: StimulusPlan | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Tuning of every feature of a run's SAE and every neuron of its layer -> summary.json's dict.

    run: folder of a finished training run; store, images, weights: where its store, the store's
    pictures and the network's weights are now (default: as recorded); out: folder to write
    (default: RUN/analysis/tuning); it appears whole or not at all; plan: the factors of the stimuli
    (default: that of the config's directions and colours). Writes features, neurons and stimuli as
    Parquet and CSV, feature_curves.parquet, neuron_curves.parquet, summary.json, figures/*.png and
    *.svg.

    Raises RunError, StoreError, WeightsError or DataError when the inputs are missing, unfinished
    or do not belong together.
    """
    config = config or TuningConfig()
    plan = plan or StimulusPlan(directions=config.directions, colours=config.colours)
    started = time.monotonic()
    device = resolve_device(config.device)
    inputs = open_run(run, store, device=device)
    out = Path(out) if out is not None else inputs.run / "analysis" / ANALYSIS
    check_out(out, ANALYSIS, overwrite)
    network = store_network(inputs.store, weights, device)
    stored = int(inputs.store.manifest["size"])
    at = read_cell(inputs.info, config.size or default_size(inputs.info, stored, config.largest))
    pictures, about = field_pictures(
        inputs.store, images, at.size, config.pictures, config.seed, reporter
    )
    field = effective_field(
        network, inputs.layer, at, pictures, seed=config.seed, reporter=reporter
    )
    stimuli = make_stimuli(plan, at.size, (at.centre, at.centre), min(field.side, at.size))
    read = partial(
        read_responses, network, inputs.sae, inputs.layer,
        batch_size=config.batch_size, device=device, reporter=reporter,
    )  # fmt: skip
    answers = read(at.cell, stimuli)
    strengths = read_strengths(
        inputs.store, inputs.sae, inputs.layer, rows=config.rows, device=device, reporter=reporter
    )
    mirror = mirror_cell(inputs.info, at) if at.padded else None
    again = None
    if mirror is not None:
        shown, chosen_T = shown_again(stimuli, plan.colours[0], mirror.centre)
        again = SecondAnswers(read(mirror.cell, shown), shown, chosen_T)
    found = _find(answers, again, strengths, stimuli, config, inputs.layer, reporter)
    summary = _describe(inputs, config, plan, stimuli, about)
    summary["place"] = describe_place(inputs.info, at, field, stimuli)
    summary["place"]["mirrored_read"] = _describe_mirror(mirror, again)
    summary["photos"] = strengths.about
    for kind, one in found.items():
        summary[f"{kind}s"] = summarise_tuning(one)

    def fill(folder: Path) -> None:
        _write(folder, inputs, found, stimuli, field, at, summary)
        summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(folder / SUMMARY, summary)

    swap_folder(out, fill)
    return {**summary, "out": str(out)}


@dataclass(frozen=True)
class SecondAnswers:
    """Answers to the stimuli chosen_T shown again about another cell."""

    answers: Responses
    shown: StimulusSet
    chosen_T: I64


def _find(
    answers: Responses,
    again: SecondAnswers | None,
    strengths: Strengths,
    stimuli: StimulusSet,
    config: TuningConfig,
    layer: str,
    reporter: Reporter,
) -> dict[str, TuningFindings]:
    found = {}
    for kind in KINDS:
        reporter.say(f"{layer}: tuning of all {kind}s")
        feature = kind == "feature"
        reads = None
        if again is not None:
            here, there = (
                one.feature_chunks() if feature else one.neuron_chunks()
                for one in (answers, again.answers)
            )
            reads = second_reads(here, there, again.shown, again.chosen_T)
        found[kind] = find_tuning(
            kind, answers.contested_chunks() if feature else answers.neuron_chunks(), stimuli,
            alpha=config.alpha, min_selectivity=config.min_selectivity,
            scale_N=strengths.feature_N if feature else strengths.neuron_C,
            faint=config.faint, again=reads,
        )  # fmt: skip
    return found


def _describe_mirror(mirror: ReadCell | None, again: SecondAnswers | None) -> dict[str, Any] | None:
    if mirror is None or again is None:
        return None
    return {
        "cell": [mirror.cell, mirror.cell],
        "centre_pixels": [mirror.centre, mirror.centre],
        "stimuli": len(again.shown),
        "use": "units whose tuning vanishes or turns there are 'framed' and left out",
    }


def _write(
    folder: Path,
    inputs: RunInputs,
    found: dict[str, TuningFindings],
    stimuli: StimulusSet,
    field: EffectiveField,
    at: ReadCell,
    summary: dict[str, Any],
) -> None:
    write_table(stimuli.table(), folder / "stimuli")
    for kind, one in found.items():
        write_table(units_table(one, dict(inputs.stored.branches)), folder / f"{kind}s")
        write_table(curves_table(one), folder / f"{kind}_curves", csv=False)
    (folder / "figures").mkdir()
    summary["figures"] = write_tuning_figures(
        inputs.layer, found, stimuli, field, at, folder / "figures"
    )


def _describe(
    inputs: RunInputs,
    config: TuningConfig,
    plan: StimulusPlan,
    stimuli: StimulusSet,
    about: dict[str, Any],
) -> dict[str, Any]:
    manifest = inputs.store.manifest
    family = stimuli.column("family")
    return {
        "analysis": ANALYSIS,
        "run": str(inputs.run),
        "layer": inputs.layer,
        "layer_note": inputs.info.note,
        "options": to_json(config),
        "seed": config.seed,
        "store": {"path": inputs.store.location, "content_id": manifest["content_id"]},
        "model": {key: manifest["model"][key] for key in ("name", "weights", "weights_sha256")},
        "images": {
            "use": "the effective field; answers are to stimuli; 'photos': rows of the store",
            **about,
        },
        "stimuli": {
            "count": len(stimuli),
            "by_family": {name: int((family == name).sum()) for name in FAMILIES},
            "plan": to_json(plan),
        },
        "nulls": NULLS,
        "correction": CORRECTION,
        "notes": list(NOTES),
    }
