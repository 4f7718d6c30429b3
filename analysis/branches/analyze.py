"""`analyze_branches`: one run in, a whole folder of tables, summary and figures out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from isae.analysis.activity import Activity, read_activity, rows_to_read
from isae.analysis.branches.config import BranchesConfig
from isae.analysis.branches.figures import write_figures
from isae.analysis.branches.findings import Findings, find
from isae.analysis.branches.measure_figures import write_measure_figures
from isae.analysis.branches.measures import Measures, Stages, measure
from isae.analysis.branches.measures_summary import measure_columns, summarise_measures
from isae.analysis.branches.shares import check_branches
from isae.analysis.branches.sheets import write_sheets
from isae.analysis.branches.summary import summarise
from isae.analysis.branches.tables import features_table, write_tables
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.outputs import SUMMARY, check_out
from isae.analysis.patches import Cropper, find_pictures, patch_geometry, patch_table
from isae.cli import json_safe
from isae.config import to_json
from isae.device import resolve_device
from isae.files import swap_folder, write_json
from isae.images import ImageSource
from isae.progress import QUIET, Reporter

ANALYSIS = "branches"


def analyze_branches(
    run: str | Path,
    *,
    store: str | Path | None = None,
    images: str | None = None,
    weights: str | None = None,
    against: str | Path | None = None,
    out: str | Path | None = None,
    config: BranchesConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Place every feature of a run's SAE among its layer's branches -> what summary.json holds.

    run: folder of a finished training run; store, images, weights: where its store, the store's
    pictures and the network's weights are now (default: as recorded); against: a run on the same
    layer of an untrained network's store; out: folder to write (default: RUN/analysis/branches); it
    appears whole or not at all. Writes features.parquet, features.csv, patches.parquet,
    summary.json, figures/*.png and *.svg, sheets/*.png. Measures that lack pictures, weights or
    held-out rows are skipped, and `skipped` in the summary says why.

    Raises RunError, StoreError, WeightsError or DataError when the inputs are missing, unfinished,
    do not belong together, or the layer has no branches.
    """
    config = config or BranchesConfig()
    started = time.monotonic()
    device = resolve_device(config.device)
    inputs = open_run(run, store, device=device)
    check_branches(inputs.layer, inputs.stored.branches, inputs.stored.channels)
    out = Path(out) if out is not None else inputs.run / "analysis" / ANALYSIS
    check_out(out, ANALYSIS, overwrite)
    stages = Stages(reporter)
    spans = rows_to_read(inputs.stored.rows, inputs.stored.train_rows, config.max_rows)
    with stages.timed("firing"):
        activity = read_activity(
            inputs.sae, inputs.store, inputs.layer, spans,
            keep=config.top, batch_size=config.batch_size, device=device, reporter=reporter,
        )  # fmt: skip
    findings = _find(inputs, config, activity, stages)
    manifest = inputs.store.manifest
    source = find_pictures(
        manifest["images"], int(manifest["seed"]), images, reporter, "contact sheets and logits"
    )
    measures = measure(
        inputs, findings, config,
        source=source, weights=weights, against=against, device=device, stages=stages,
    )  # fmt: skip
    summary = _describe(inputs, config, activity, spans) | summarise(findings)

    def fill(folder: Path) -> None:
        with stages.timed("figures and tables"):
            _write(folder, inputs, findings, activity, measures, summary)
            summary["figures"] = []
            if config.figures:
                reporter.say(f"{inputs.layer}: drawing figures and contact sheets")
                _draw(folder, inputs, findings, activity, measures, config, source, summary)
        encoder_NC = inputs.sae.W_enc_ND.detach().cpu().double().numpy()
        summary.update(summarise_measures(measures, findings, encoder_NC, config.alike, stages))
        summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(folder / SUMMARY, json_safe(summary))

    swap_folder(out, fill)
    reporter.say(f"{inputs.layer}: {stages.line()}")
    return {**json_safe(summary), "out": str(out)}


def _find(
    inputs: RunInputs, config: BranchesConfig, activity: Activity, stages: Stages
) -> Findings:
    stages.reporter.say(f"{inputs.layer}: testing {int(activity.alive_n.sum()):,} features")
    with stages.timed("tests"):
        return find(
            inputs.sae.W_dec_ND.detach().cpu().double().numpy(),
            np.sqrt(inputs.store.statistics(inputs.layer).var_C),
            inputs.stored.branches,
            layer=inputs.layer,
            alive_N=activity.alive_n,
            alpha=config.alpha,
            seed=config.seed,
            samples=config.samples,
        )


def _write(
    folder: Path,
    inputs: RunInputs,
    findings: Findings,
    activity: Activity,
    measures: Measures,
    summary: dict[str, Any],
) -> None:
    geometry = patch_geometry(inputs.info, int(inputs.store.manifest["size"]))
    described = inputs.store.images
    write_tables(
        features_table(
            findings, activity, described, measure_columns(measures, list(findings.branches))
        ),
        patch_table(activity.top, described, geometry),
        folder,
    )
    summary["patches"] = {
        "side": geometry.side,
        "picture": geometry.size,
        "receptive_field": inputs.info.receptive_field,
        "box": "square about the centre of the theoretical receptive field, side min(field, half "
        "the picture), moved inside the picture; pixels of the resized, cropped picture",
        "sheets": {},
    }


def _draw(
    folder: Path,
    inputs: RunInputs,
    findings: Findings,
    activity: Activity,
    measures: Measures,
    config: BranchesConfig,
    source: ImageSource | None,
    summary: dict[str, Any],
) -> None:
    (folder / "figures").mkdir()
    summary["figures"] = write_figures(findings, folder / "figures")
    summary["figures"] += write_measure_figures(findings, measures, folder / "figures")
    if source is not None and config.sheets:
        (folder / "sheets").mkdir()
        geometry = patch_geometry(inputs.info, int(inputs.store.manifest["size"]))
        cropper = Cropper(source, geometry.size)
        summary["patches"]["sheets"] = write_sheets(
            findings, activity.top, geometry, cropper, folder / "sheets"
        )


def _describe(
    inputs: RunInputs, config: BranchesConfig, activity: Activity, spans: list[tuple[int, int]]
) -> dict[str, Any]:
    manifest, train_rows = inputs.store.manifest, inputs.stored.train_rows
    read = {"train": 0, "holdout": 0}
    for start, stop in spans:
        read["train" if start < train_rows else "holdout"] += stop - start
    return {
        "analysis": ANALYSIS,
        "run": str(inputs.run),
        "options": to_json(config),
        "store": {"path": inputs.store.location, "content_id": manifest["content_id"]},
        "model": {key: manifest["model"][key] for key in ("name", "weights", "weights_sha256")},
        "images": {
            "spec": manifest["images"]["spec"],
            "fingerprint": manifest["images"]["fingerprint"],
            "rows_read": activity.rows,
            "rows_read_by_split": read,
            "of_rows": inputs.stored.rows,
            "use": "channel deviations: rows of training images; firing and patches: rows read",
        },
        "layer_note": inputs.info.note,
        "active_per_row": float(activity.fired_n.sum() / max(activity.rows, 1)),
    }
