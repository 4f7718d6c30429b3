"""`analyze_layers`: runs on layers of one store in, a folder of tables, summary and figures out.

Layers are matched on the very same places: row by row where they share a grid, else each cell of
the coarser layer against the finer cells of its window, and image by image; adjacent layers by
virtual weights too, where network and pictures are there. Codes are read once and kept in files of
the output's temporary folder while the comparison runs.

Disk: 16 bytes an active entry and layer (images x cells x k); for the pair at hand up to nine times
that of its finer layer where the grids differ. Time: reading and encoding each layer once, then
2 (shuffles + 1) correlations of all pairs a comparison, each linear in images
(`isae.analysis.layers.correlation`), and the network once over `virtual_images` pictures.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isae.analysis.arrays import I64
from isae.analysis.codes import MAX, Room
from isae.analysis.inputs import RunInputs
from isae.analysis.layers.against import STORED, check_fits, compare_with, read_analysis
from isae.analysis.layers.config import LayersConfig
from isae.analysis.layers.figures import write_figures
from isae.analysis.layers.findings import LayerFindings, LeftOut, MatchedLayer, bring_together
from isae.analysis.layers.inputs import (
    LayerCodes,
    choose_images,
    layer_pairs,
    load_layer,
    open_runs,
)
from isae.analysis.layers.pairs import (
    IMAGE,
    LEAST_SHARED,
    PLACE,
    Comparison,
    Split,
    compare,
    measures,
    shared_places,
)
from isae.analysis.layers.summary import summarise
from isae.analysis.layers.tables import write_tables
from isae.analysis.layers.virtual_pairs import (
    WEIGHTS,
    Pair,
    Paths,
    VirtualFindings,
    compare_weights,
    measure_paths,
    virtual_of,
)
from isae.analysis.layers.windows import pool_windows
from isae.analysis.outputs import SUMMARY, check_out
from isae.config import to_json
from isae.device import resolve_device
from isae.files import swap_folder, write_json
from isae.progress import QUIET, Reporter
from isae.randomness import keyed_rng
from isae.store import Store

ANALYSIS = "layers"


def analyze_layers(
    runs: Sequence[str | Path],
    *,
    store: str | Path | None = None,
    images: str | None = None,
    weights: str | None = None,
    against: Sequence[str | Path] = (),
    out: str | Path | None = None,
    config: LayersConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Match the features of layers on the same places -> what summary.json holds.

    runs: folders of finished training runs, on different layers of one store; store: where it is
    now (default: as recorded); images, weights: where the store's pictures and the network's
    weights are now (default: as recorded), for virtual weights; against: folders of finished layer
    analyses of an untrained network's runs, to compare with; out: folder to write (default:
    analysis/layers in the run of the earliest layer); it appears whole or not at all. Writes
    matches, edges, nearest, virtual_weights, agreement, branch_table, draws and against as .parquet
    and .csv, summary.json, figures/*.png and *.svg.

    Raises RunError, StoreError or DataError when the inputs are missing, unfinished, of different
    stores or of the same layer, or hold too few images.
    """
    config = config or LayersConfig()
    started = time.monotonic()
    others = [read_analysis(folder) for folder in against]
    device = resolve_device(config.device)
    inputs, opened = open_runs(runs, store, device)
    out = Path(out) if out is not None else inputs[0].run / "analysis" / ANALYSIS
    check_out(out, ANALYSIS, overwrite)
    images_I, split, words = choose_images(opened, config)
    manifest = opened.manifest
    summary: dict[str, Any] = {
        "analysis": ANALYSIS,
        "runs": [str(one.run) for one in inputs],
        "saes": {one.layer: one.sae_sha256 for one in inputs},
        "options": to_json(config),
        "store": {
            "path": opened.location,
            "content_id": manifest["content_id"],
            **{key: manifest[key] for key in STORED},
        },
        "model": {key: manifest["model"][key] for key in ("name", "weights", "weights_sha256")},
        "images": {
            "spec": manifest["images"]["spec"],
            "fingerprint": manifest["images"]["fingerprint"],
            **words,
        },
    }
    for other in others:
        check_fits(summary, other.summary, other.folder)
    study = Study(inputs, opened, images_I, split, config, device, reporter)

    def fill(folder: Path) -> None:
        findings = study.find(folder / "codes", images, weights)
        reporter.say("layers: writing tables and figures")
        compared = compare_with(findings, summary, others)
        write_tables(findings, compared, folder)
        (folder / "figures").mkdir()
        summary.update(summarise(findings, compared))
        summary["figures"] = write_figures(findings, folder / "figures")
        summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(folder / SUMMARY, summary)

    swap_folder(out, fill)
    return {**summary, "out": str(out)}


@dataclass(frozen=True)
class Study:
    """What an analysis reads, and how it goes through the layers."""

    inputs: list[RunInputs]
    store: Store
    images_I: I64
    split: Split
    config: LayersConfig
    device: torch.device
    reporter: Reporter

    def find(self, scratch: Path, images: str | None, weights: str | None) -> LayerFindings:
        """Read the layers, compare their pairs, correct all together; codes lie in `scratch`."""
        room = Room(scratch)
        layers = [
            load_layer(
                one, self.store, self.images_I, self.split, self.config, room=room,
                device=self.device, reporter=self.reporter,
            )
            for one in self.inputs
        ]  # fmt: skip
        pairs = layer_pairs(layers, self.config.pairs)
        paths, missing = measure_paths(
            self.store, [(one.name, two.name) for one, two in pairs], self._shown(), self.config,
            images=images, weights=weights, device=self.device, reporter=self.reporter,
        )  # fmt: skip
        comparisons: list[Comparison] = []
        virtual: dict[Pair, VirtualFindings] = {}
        left_out = [LeftOut(pair, WEIGHTS, why) for pair, why in missing.items()]
        with self.reporter.task(len(pairs), "matching", "pairs of layers") as meter:
            for one, two in pairs:
                self._compare(one, two, paths, room, comparisons, virtual, left_out)
                meter.advance()
        room.clear()
        return bring_together(
            comparisons, [MatchedLayer.of(layer) for layer in layers], self.config, virtual,
            tuple(left_out),
        )  # fmt: skip

    def _shown(self) -> I64:
        """The selection images, in an order that is drawn."""
        chosen = self.images_I[self.split.select_I]
        return chosen[keyed_rng(self.config.seed, "layers", "shown").permutation(len(chosen))]

    def _compare(
        self,
        one: LayerCodes,
        two: LayerCodes,
        paths: dict[Pair, Paths],
        room: Room,
        comparisons: list[Comparison],
        virtual: dict[Pair, VirtualFindings],
        left_out: list[LeftOut],
    ) -> None:
        """All measures of one pair of layers."""
        pair, windows = (one.name, two.name), None
        if one.codes.grid != two.codes.grid:
            along = pool_windows(one.info, two.info, int(self.store.manifest["size"]))
            windows = (along, along)
        pooled = room.beside("pair")
        wanted = measures(one.codes, two.codes, windows, (one.profiles, two.profiles), pooled)
        by_correlation: dict[str, Comparison] = {}
        for measure, codes in wanted.items():
            shared = shared_places(*codes, self.split, self.config.seed)
            if measure != IMAGE and shared < LEAST_SHARED:
                why = (
                    f"images share {100 * shared:.0f}% of their stored places; build the store "
                    "with --positions all"
                )
                self.reporter.warn(f"{one.name}-{two.name} not compared by {measure}: {why}")
                left_out.append(LeftOut(pair, measure, why))
                continue
            by_correlation[measure] = compare(pair, measure, *codes, self.split, self.config)
        comparisons.extend(by_correlation.values())
        like = next((m for m in (PLACE, MAX, IMAGE) if m in by_correlation), None)
        if pair in paths and like is not None:
            runs = {run.layer: run for run in self.inputs}
            found, virtual[pair] = compare_weights(
                virtual_of(paths[pair], runs[one.name], runs[two.name]), paths[pair],
                by_correlation[like], wanted[like], (one.cluster_N, two.cluster_N), self.split,
                self.config, self.device,
            )  # fmt: skip
            comparisons.append(found)
        pooled.clear()
