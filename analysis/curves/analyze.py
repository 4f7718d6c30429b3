"""`analyze_curves`: one run in, a folder of tables, summary and figures about curve detectors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from isae.analysis.curves import known_units
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.figures import write_curve_figures
from isae.analysis.curves.findings import Dictionary, find_curves
from isae.analysis.curves.rows import RealRows, read_rows
from isae.analysis.curves.stimuli import CurveStimuli, curve_stimuli
from isae.analysis.curves.summary import CORRECTION, NOTES, NULLS, summarise_curves
from isae.analysis.curves.tables import write_curve_tables
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.network import store_network
from isae.analysis.outputs import SUMMARY, check_out
from isae.analysis.tuning.effective_field import effective_field, read_cell
from isae.analysis.tuning.inputs import field_pictures
from isae.analysis.tuning.responses import read_responses
from isae.analysis.tuning.summary import describe_place
from isae.config import to_json
from isae.device import resolve_device
from isae.errors import DataError
from isae.files import swap_folder, write_json
from isae.progress import QUIET, Reporter
from isae.train import SAE

ANALYSIS = "curves"


def analyze_curves(
    run: str | Path,
    *,
    store: str | Path | None = None,
    images: str | None = None,
    weights: str | None = None,
    out: str | Path | None = None,
    config: CurvesConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Curve detectors among a run's features, its layer's neurons and controls -> summary's dict.

    run: folder of a finished training run; store, images, weights: where its store, the store's
    pictures and the network's weights are now (default: as recorded); out: folder to write
    (default: RUN/analysis/curves); it appears whole or not at all. Writes neurons, features,
    controls, gaps, draws_on, neuron_parts and stimuli as Parquet and CSV, neuron_curves.parquet,
    feature_curves.parquet, summary.json, figures/*.png and *.svg.

    Raises RunError, StoreError, WeightsError or DataError when the inputs are missing, unfinished
    or do not belong together.
    """
    config = config or CurvesConfig()
    started = time.monotonic()
    device = resolve_device(config.device)
    inputs = open_run(run, store, device=device)
    out = Path(out) if out is not None else inputs.run / "analysis" / ANALYSIS
    check_out(out, ANALYSIS, overwrite)
    network = store_network(inputs.store, weights, device)
    at = read_cell(inputs.info, config.size or int(inputs.store.manifest["size"]))
    pictures, about = field_pictures(
        inputs.store, images, at.size, config.pictures, config.seed, reporter
    )
    field = effective_field(
        network, inputs.layer, at, pictures, seed=config.seed, reporter=reporter
    )
    side = min(field.side, at.size)
    stimuli = curve_stimuli(config, at.size, (at.centre, at.centre), side)
    answers = read_responses(
        network, inputs.sae, inputs.layer, at.cell, stimuli.shown,
        batch_size=config.batch_size, device=device, reporter=reporter,
    )  # fmt: skip
    training, held_out, used = _read(inputs, config, device, reporter)
    found = find_curves(
        answers, training, held_out, _dictionary(inputs.sae), stimuli, config,
        layer=inputs.layer, reporter=reporter,
    )  # fmt: skip
    summary = _describe(inputs, config, stimuli, {"effective_field": about, **used})
    summary["place"] = describe_place(inputs.info, at, field, stimuli.shown)
    summary |= summarise_curves(found, held_out, config, inputs.sae.W_dec_ND.detach().cpu().numpy())
    neurons = found.units["neuron"]
    summary["known_units"] = (
        known_units.compare_known(neurons.direction_N, neurons.detector_N, seed=config.seed)
        if known_units.applies(network, inputs.layer)
        else {
            "skipped": f"the known units are those of {known_units.LAYER} with inception5h's "
            "weights; this is another layer or network"
        }
    )

    def fill(folder: Path) -> None:
        write_curve_tables(found, stimuli, config, dict(inputs.stored.branches), folder)
        (folder / "figures").mkdir()
        summary["figures"] = write_curve_figures(
            inputs.layer, found, stimuli, config, folder / "figures"
        )
        summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(folder / SUMMARY, summary)

    swap_folder(out, fill)
    return {**summary, "out": str(out)}


def _dictionary(sae: SAE) -> Dictionary:
    encoder, decoder, bias = (
        part.detach().cpu().numpy().astype(np.float32)
        for part in (sae.W_enc_ND, sae.W_dec_ND, sae.b_dec_D)
    )
    return Dictionary(encoder, decoder, bias)


def _read(
    inputs: RunInputs, config: CurvesConfig, device: Any, reporter: Reporter
) -> tuple[RealRows, RealRows, dict[str, Any]]:
    """Training rows, held-out rows, and which they are."""
    train_rows, rows = inputs.stored.train_rows, inputs.stored.rows
    held_out = rows > train_rows
    first = min(config.rows, train_rows if held_out else train_rows // 2)
    start = train_rows if held_out else first
    stop = min(start + config.held_out_rows, rows)
    if first < 2 or stop - start < 2:
        raise DataError(
            f"expected at least 2 training and 2 other rows of '{inputs.layer}', found {first} "
            f"and {stop - start}; build a larger store"
        )
    training, other = (
        read_rows(inputs.sae, inputs.store, inputs.layer, span, device=device, reporter=reporter)
        for span in ((0, first), (start, stop))
    )
    used = {
        "rates_and_percentiles": {
            "split": "train", "rows": len(training), "images": len(np.unique(training.image_R)),
        },
        "neurons_taken_apart": {
            "split": "holdout" if held_out else "other rows of training images: the store has no "
            "held-out ones",
            "rows": len(other),
            "images": len(np.unique(other.image_R)),
        },
    }  # fmt: skip
    return training, other, used


def _describe(
    inputs: RunInputs, config: CurvesConfig, stimuli: CurveStimuli, images: dict[str, Any]
) -> dict[str, Any]:
    manifest = inputs.store.manifest
    return {
        "analysis": ANALYSIS,
        "run": str(inputs.run),
        "layer": inputs.layer,
        "layer_note": inputs.info.note,
        "options": to_json(config),
        "seed": config.seed,
        "store": {"path": inputs.store.location, "content_id": manifest["content_id"]},
        "model": {key: manifest["model"][key] for key in ("name", "weights", "weights_sha256")},
        "images": images,
        "stimuli": {
            "count": len(stimuli.shown),
            "looks": len(stimuli.arc_LRA),
            "radii_pixels": stimuli.radii_R.tolist(),
            "directions": len(stimuli.angles_A),
            "arcs": int(stimuli.arc_LRA.size),
            "straight": len(np.unique(stimuli.straight_LA)),
            "corners": int(stimuli.corner_KOA.size),
            "circles": int(stimuli.circle_KQA.size),
        },
        "nulls": NULLS,
        "correction": CORRECTION,
        "notes": list(NOTES),
    }
