"""`analyze_layers`: runs on layers of one store in, a folder of tables, summary and figures out.

Layers are matched on the very same places: row by row where they share a grid, else each cell of
the coarser layer against the finer cells beneath it, and image by image. Codes are read once and
kept in files of the output's temporary folder while the comparison runs.

Disk: 16 bytes an active entry and layer (images x cells x k), the same again where a layer is
pooled. Time: reading and encoding each layer once, then 2 (shuffles + 1) correlations of all pairs
a comparison, each linear in images (`isae.analysis.layers.correlation`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isae.analysis.layers.codes import Room
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.figures import write_figures
from isae.analysis.layers.findings import LayerFindings, LayerInfo, bring_together
from isae.analysis.layers.inputs import (
    LayerCodes,
    choose_images,
    layer_pairs,
    load_layer,
    open_runs,
)
from isae.analysis.layers.pairs import Comparison, Split, compare, measures
from isae.analysis.layers.summary import summarise
from isae.analysis.layers.tables import write_tables
from isae.analysis.outputs import SUMMARY, check_out
from isae.config import to_json
from isae.device import resolve_device
from isae.files import swap_folder, write_json
from isae.progress import QUIET, Reporter

ANALYSIS = "layers"


def analyze_layers(
    runs: Sequence[str | Path],
    *,
    store: str | Path | None = None,
    out: str | Path | None = None,
    config: LayersConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Match the features of layers on the same places -> what summary.json holds.

    runs: folders of finished training runs, on different layers of one store; store: where it is
    now (default: as recorded); out: folder to write (default: analysis/layers in the run of the
    earliest layer); it appears whole or not at all. Writes matches, nearest, agreement and
    branch_table as .parquet and .csv, summary.json, figures/*.png and *.svg.

    Raises RunError, StoreError or DataError when the inputs are missing, unfinished, of different
    stores or of the same layer, or hold too few images.
    """
    config = config or LayersConfig()
    started = time.monotonic()
    device = resolve_device(config.device)
    inputs, opened = open_runs(runs, store, device)
    out = Path(out) if out is not None else inputs[0].run / "analysis" / ANALYSIS
    check_out(out, ANALYSIS, overwrite)
    images_I, split, words = choose_images(opened, config)
    manifest = opened.manifest
    summary: dict[str, Any] = {
        "analysis": ANALYSIS,
        "runs": [str(one.run) for one in inputs],
        "options": to_json(config),
        "store": {"path": opened.location, "content_id": manifest["content_id"]},
        "model": {key: manifest["model"][key] for key in ("name", "weights", "weights_sha256")},
        "images": {
            "spec": manifest["images"]["spec"],
            "fingerprint": manifest["images"]["fingerprint"],
            **words,
        },
    }

    def fill(folder: Path) -> None:
        scratch = folder / "codes"
        scratch.mkdir()
        room = Room(scratch)
        layers = [
            load_layer(
                one, opened, images_I, split, config, room=room, device=device, reporter=reporter
            )
            for one in inputs
        ]  # fmt: skip
        findings = _find(layers, split, config, reporter)
        shutil.rmtree(scratch)
        reporter.say("layers: writing tables and figures")
        write_tables(findings, folder)
        (folder / "figures").mkdir()
        summary.update(summarise(findings))
        summary["figures"] = write_figures(findings, folder / "figures")
        summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(folder / SUMMARY, summary)

    swap_folder(out, fill)
    return {**summary, "out": str(out)}


def _find(
    layers: list[LayerCodes], split: Split, config: LayersConfig, reporter: Reporter
) -> LayerFindings:
    comparisons: list[Comparison] = []
    pairs = layer_pairs(layers, config.pairs)
    with reporter.task(len(pairs), "matching", "pairs of layers") as meter:
        for one, two in pairs:
            wanted = measures(
                one.codes, two.codes, (one.stride, two.stride), (one.profiles, two.profiles)
            )
            for measure, (left, right) in wanted.items():
                names = (one.name, two.name)
                comparisons.append(compare(names, measure, left, right, split, config))
            meter.advance()
    return bring_together(comparisons, [LayerInfo.of(layer) for layer in layers], config)
