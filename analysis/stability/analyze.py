"""`analyze_stability`: runs that differ in the seed in, a folder of tables and figures out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isae.analysis.inputs import RunInputs
from isae.analysis.outputs import SUMMARY, check_out
from isae.analysis.stability.config import StabilityConfig
from isae.analysis.stability.figures import write_figures
from isae.analysis.stability.findings import StabilityFindings, find_stability
from isae.analysis.stability.inputs import (
    Dictionary,
    differing_options,
    load_dictionary,
    open_seeds,
)
from isae.analysis.stability.spread import read_spreads
from isae.analysis.stability.summary import summarise
from isae.analysis.stability.tables import write_tables
from isae.config import to_json
from isae.device import resolve_device
from isae.files import swap_folder, write_json
from isae.progress import QUIET, Reporter

ANALYSIS = "stability"


def analyze_stability(
    runs: Sequence[str | Path],
    *,
    store: str | Path | None = None,
    out: str | Path | None = None,
    config: StabilityConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Which features of runs that differ in the seed come back -> what summary.json holds.

    runs: folders of finished training runs on one layer and one store, at least two; store: where
    it is now (default: as recorded); out: folder to write (default: analysis/stability in the first
    run); it appears whole or not at all. Where runs have analyses of their own (`branches`,
    `tuning`, `curves`), the labels of matched features are compared too, and every number of those
    summaries is spread over the runs. Writes features, matches and spread as .parquet and .csv,
    spread.json, summary.json, figures/*.png and *.svg.

    Raises RunError, StoreError or DataError when the inputs are missing, unfinished, damaged, of
    different layers, networks or stores, or the same SAE twice.
    """
    config = config or StabilityConfig()
    started = time.monotonic()
    device = resolve_device(config.device)
    inputs = open_seeds(runs, store, device)
    out = Path(out) if out is not None else inputs[0].run / "analysis" / ANALYSIS
    check_out(out, ANALYSIS, overwrite)
    spreads = read_spreads([one.run for one in inputs])
    dictionaries = [load_dictionary(one, config, device, reporter) for one in inputs]
    _warn(inputs, dictionaries, reporter)
    reporter.say(f"{inputs[0].layer}: matching {len(inputs)} runs")
    findings = find_stability(dictionaries, config, reporter)
    summary = _describe(inputs, dictionaries, config) | summarise(findings)
    summary["spread_of"] = list(spreads)

    def fill(folder: Path) -> None:
        _write(folder, findings, inputs[0].layer, spreads, summary)
        summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(folder / SUMMARY, summary)

    swap_folder(out, fill)
    return {**summary, "out": str(out)}


def _write(
    folder: Path,
    findings: StabilityFindings,
    layer: str,
    spreads: dict[str, dict[str, Any]],
    summary: dict[str, Any],
) -> None:
    write_tables(findings, spreads, folder)
    if spreads:
        write_json(folder / "spread.json", spreads)
    (folder / "figures").mkdir()
    summary["figures"] = write_figures(findings, layer, folder / "figures")


def _warn(inputs: list[RunInputs], dictionaries: list[Dictionary], reporter: Reporter) -> None:
    options = differing_options(inputs)
    if options:
        reporter.warn(
            f"the runs differ in more than the seed ({', '.join(options)}): what does not come "
            "back may be due to that"
        )
    seeds = [one.seed for one in dictionaries if one.seed is not None]
    if len(set(seeds)) < len(seeds):
        reporter.warn(f"the runs' seeds are {seeds}: runs of one seed start from the same weights")
    if len({one.rows_read for one in dictionaries}) > 1:
        reporter.warn("dead features were told from different numbers of rows; see 'rows_read'")


def _describe(
    inputs: list[RunInputs], dictionaries: list[Dictionary], config: StabilityConfig
) -> dict[str, Any]:
    store = inputs[0].store
    manifest = store.manifest
    return {
        "analysis": ANALYSIS,
        "layer": inputs[0].layer,
        "layer_note": inputs[0].info.note,
        "saes": {str(one.run): one.sae_sha256 for one in inputs},
        "options": to_json(config),
        "options_that_differ": differing_options(inputs),
        "store": {"path": store.location, "content_id": manifest["content_id"]},
        "model": {key: manifest["model"][key] for key in ("name", "weights", "weights_sha256")},
        "images": {
            "spec": manifest["images"]["spec"],
            "fingerprint": manifest["images"]["fingerprint"],
            "use": "dead features and firing rates alone; matching is of weights",
            "firing_from": [one.activity_from for one in dictionaries],
        },
    }
