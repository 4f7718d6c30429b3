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
from isae.analysis.branches.shares import check_branches
from isae.analysis.branches.sheets import write_sheets
from isae.analysis.branches.summary import summarise
from isae.analysis.branches.tables import features_table, write_tables
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.outputs import SUMMARY, check_out
from isae.analysis.patches import Cropper, find_pictures, patch_geometry, patch_table
from isae.config import to_json
from isae.device import resolve_device
from isae.files import swap_folder, write_json
from isae.progress import QUIET, Reporter

ANALYSIS = "branches"


def analyze_branches(
    run: str | Path,
    *,
    store: str | Path | None = None,
    images: str | None = None,
    out: str | Path | None = None,
    config: BranchesConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Place every feature of a run's SAE among its layer's branches -> what summary.json holds.

    run: folder of a finished training run; store: where its store is now (default: as recorded);
    images: where the store's pictures are now (default: as recorded); out: folder to write
    (default: RUN/analysis/branches); it appears whole or not at all. Writes features.parquet,
    features.csv, patches.parquet, summary.json, figures/*.png and *.svg, sheets/*.png.

    Raises RunError, StoreError or DataError when the inputs are missing, unfinished, do not belong
    together, or the layer has no branches.
    """
    config = config or BranchesConfig()
    started = time.monotonic()
    device = resolve_device(config.device)
    inputs = open_run(run, store, device=device)
    check_branches(inputs.layer, inputs.stored.branches, inputs.stored.channels)
    out = Path(out) if out is not None else inputs.run / "analysis" / ANALYSIS
    check_out(out, ANALYSIS, overwrite)
    spans = rows_to_read(inputs.stored.rows, inputs.stored.train_rows, config.max_rows)
    activity = read_activity(
        inputs.sae, inputs.store, inputs.layer, spans,
        keep=config.top, batch_size=config.batch_size, device=device, reporter=reporter,
    )  # fmt: skip
    reporter.say(f"{inputs.layer}: testing {int(activity.alive_n.sum()):,} features")
    findings = find(
        inputs.sae.W_dec_ND.detach().cpu().double().numpy(),
        np.sqrt(inputs.store.statistics(inputs.layer).var_C),
        inputs.stored.branches,
        layer=inputs.layer,
        alive_N=activity.alive_n,
        alpha=config.alpha,
        seed=config.seed,
        samples=config.samples,
    )
    summary = _describe(inputs, config, activity, spans) | summarise(findings)

    def fill(folder: Path) -> None:
        _write(folder, inputs, findings, activity, images, summary, reporter)
        summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(folder / SUMMARY, summary)

    swap_folder(out, fill)
    return {**summary, "out": str(out)}


def _write(
    folder: Path,
    inputs: RunInputs,
    findings: Findings,
    activity: Activity,
    images: str | None,
    summary: dict[str, Any],
    reporter: Reporter,
) -> None:
    manifest = inputs.store.manifest
    geometry = patch_geometry(inputs.info, int(manifest["size"]))
    described = inputs.store.images
    write_tables(
        features_table(findings, activity, described),
        patch_table(activity.top, described, geometry),
        folder,
    )
    reporter.say(f"{inputs.layer}: drawing figures and contact sheets")
    (folder / "figures").mkdir()
    summary["figures"] = write_figures(findings, folder / "figures")
    source = find_pictures(manifest["images"], int(manifest["seed"]), images, reporter)
    shown: dict[str, list[int]] = {}
    if source is not None:
        (folder / "sheets").mkdir()
        cropper = Cropper(source, geometry.size)
        shown = write_sheets(findings, activity.top, geometry, cropper, folder / "sheets")
    summary["patches"] = {
        "side": geometry.side,
        "picture": geometry.size,
        "receptive_field": inputs.info.receptive_field,
        "box": "square about the centre of the theoretical receptive field, side min(field, half "
        "the picture), moved inside the picture; pixels of the resized, cropped picture",
        "sheets": shown,
    }


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
