"""`analyze_visualise`: patches of every feature, and pictures by optimisation of some."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.network import store_network
from isae.analysis.outputs import SUMMARY, write_table
from isae.analysis.patches import draw_pictures, find_pictures
from isae.analysis.tuning.effective_field import ReadCell, read_cell, smallest_free_size
from isae.analysis.visualise.ascent import Ascent
from isae.analysis.visualise.config import DIVERSITY, NEURON, OWN, UNSEEN, VisualiseConfig
from isae.analysis.visualise.figures import write_picture_figures
from isae.analysis.visualise.folder import ANALYSIS, drop_strays, open_folder, split_wanted
from isae.analysis.visualise.patch_config import PatchesConfig
from isae.analysis.visualise.patch_sheets import write_patches
from isae.analysis.visualise.picture_space import (
    PictureSpace,
    Statistics,
    measure_statistics,
    plain_statistics,
    statistics_from_json,
)
from isae.analysis.visualise.ranking import RULE, rank_features, rank_neurons
from isae.analysis.visualise.records import PICTURES, settings_id
from isae.analysis.visualise.summary import NOTES, summarise_pictures
from isae.analysis.visualise.targets import Picture, check_units, pictures_of_units
from isae.analysis.visualise.workshop import Workshop
from isae.config import to_json
from isae.device import resolve_device
from isae.files import sha256, write_json
from isae.images import ImageSource
from isae.inception import LayerInfo, Network
from isae.progress import QUIET, Reporter
from isae.train.sae import WEIGHTS

_VERSION = 1
_PHOTOS, _STATISTICS_SEED = 256, 0
_OF_PATCHES = ("patches", "tile", "tiles")
_KEPT = (*_OF_PATCHES, "statistics", "settings", "pictures")


def analyze_visualise(
    run: str | Path,
    *,
    store: str | Path | None = None,
    images: str | None = None,
    weights: str | None = None,
    out: str | Path | None = None,
    config: VisualiseConfig | None = None,
    patches: PatchesConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Patches of every feature, and pictures by optimisation of some -> summary.json's dict.

    run: folder of a finished training run; store, images, weights: where its store, the store's
    pictures and the network's weights are now (default: as recorded); out: folder to write
    (default: RUN/analysis/visualise). The folder grows: patches, and pictures made before with the
    same settings, stay as they are, byte for byte; each batch of pictures is on disk before the
    next begins, so that a killed call is gone on with by the same call. Writes patches.parquet,
    densities.parquet, sheets/*.jpg (`write_patches`), pictures.parquet, pictures/*.png,
    ranking_*.parquet, summary.json, figures/*.png.

    Raises RunError, StoreError, WeightsError, ConfigError or DataError when the inputs are missing,
    unfinished or do not belong together, and RunError for a folder of another dictionary.
    """
    config, started = config or VisualiseConfig(), time.monotonic()
    inputs = open_run(run, store, device=resolve_device(config.device))
    check_units(inputs, config)
    out = Path(out) if out is not None else inputs.run / "analysis" / ANALYSIS
    network = store_network(inputs.store, weights, inputs.sae.W_enc_ND.device)
    manifest = inputs.store.manifest
    source = find_pictures(
        manifest["images"], int(manifest["seed"]), images, reporter, "patches and colours"
    )
    at = read_cell(inputs.info, config.size or default_side(inputs.info, int(manifest["size"])))
    summary = _describe(inputs, config, at)
    earlier = open_folder(out, summary["made_of"], overwrite)
    summary |= {key: earlier[key] for key in _KEPT if key in earlier}
    write_json(out / SUMMARY, summary)
    job = _Job(inputs, network, source, config, at, out, earlier, reporter)
    summary |= job.patches(patches or PatchesConfig(seed=config.seed), summary)
    write_json(out / SUMMARY, summary)
    summary |= job.pictures()
    summary["seconds"] = round(time.monotonic() - started, 2)
    write_json(out / SUMMARY, {**summary, "complete": True})
    return {**summary, "complete": True, "out": str(out)}


@dataclass(frozen=True)
class _Job:
    """One call's inputs, and the summary of the calls before it."""

    inputs: RunInputs
    network: Network
    source: ImageSource | None
    config: VisualiseConfig
    at: ReadCell
    out: Path
    earlier: dict[str, Any]
    reporter: Reporter

    def patches(self, config: PatchesConfig, so_far: dict[str, Any]) -> dict[str, Any]:
        """The summary's part about patches, which are cut unless they are there.

        so_far: the summary without it. It is written without any patches before others are cut, so
        that what a kill leaves is not described by an earlier call.
        """
        options = to_json(config)
        made_with = {key: options[key] for key in options if key not in ("batch_size", "threads")}
        made_with["pictures"] = self.source is not None
        found = self.earlier.get("patches", {}).get("made_with")
        # What was cut when the pictures were there is better.
        enough = (made_with, {**made_with, "pictures": True})
        if found in enough and (self.out / "patches.parquet").is_file():
            return {}
        others = {key: one for key, one in so_far.items() if key not in _OF_PATCHES}
        write_json(self.out / SUMMARY, others)
        about = write_patches(
            self.inputs, self.source, self.out, config, self.reporter, network=self.network
        )
        about["made_with"] = made_with
        return {"patches": about, "tile": about["tile"], "tiles": about["tiles"]}

    def pictures(self) -> dict[str, Any]:
        """The summary's part about optimised pictures, of which missing ones are made."""
        config, size = self.config, self.at.size
        statistics = self._statistics()
        settings = {kind: _settings(config, kind, size, statistics) for kind in config.kind}
        names = {kind: settings_id(one) for kind, one in settings.items()}
        wanted, ranking = self._wanted()
        missing, kept = split_wanted(wanted, names, self.out)
        space = PictureSpace(size, statistics, self.inputs.sae.W_enc_ND.device)
        ascent = Ascent(self.network, self.inputs.layer, self.at.cell, space, config)
        workshop = Workshop(self.inputs, ascent, names, self.out, self.reporter)
        known = {**self.earlier.get("settings", {}), **{names[k]: settings[k] for k in names}}
        made = workshop.make(missing, kept)
        records = [*kept, *made]
        drop_strays(records, self.out, PICTURES)
        used = {one.settings for one in records}
        return {
            "statistics": to_json(statistics),
            "settings": {key: one for key, one in known.items() if key in used},
            "ranking": ranking,
            "pictures": summarise_pictures(records, made=len(made), wanted=len(wanted)),
            "figures": write_picture_figures(self.inputs.layer, records, self.out),
            "notes": list(NOTES),
        }

    def _statistics(self) -> Statistics:
        """Those of the store's pictures, at the store's own size; as measured by an earlier call,
        where one did, so that its pictures stay.
        """
        side, before = int(self.inputs.store.manifest["size"]), self.earlier.get("statistics", {})
        if self.config.colours == OWN and before.get("pictures"):
            return statistics_from_json(before)
        if self.config.colours == OWN and self.source is not None:
            pixels, _ = draw_pictures(
                self.inputs.store, self.source, "train", _PHOTOS, side, _STATISTICS_SEED
            )
            if len(pixels):
                return measure_statistics(pixels)
        return plain_statistics(side)

    def _wanted(self) -> tuple[list[Picture], dict[str, Any]]:
        """The pictures asked for, and how units were ranked (those given by number are not)."""
        config, inputs = self.config, self.inputs
        if config.features or not config.visualise:
            units = {kind: list(config.features) for kind in config.kind}
            about: dict[str, Any] = {"given": list(config.features)}
        else:
            about, units = {"rule": RULE}, {}
            for what in dict.fromkeys(_unit_of(kind) for kind in config.kind):
                ranking = (
                    rank_neurons(inputs, config)
                    if what == NEURON
                    else rank_features(inputs, config, self.reporter)
                )
                write_table(ranking.table(what), self.out / f"ranking_{what}s")
                about[f"{what}s"] = {"rows": ranking.rows, "ranked": len(ranking.unit_U)}
                chosen = ranking.unit_U.tolist()
                if len(chosen) < config.visualise:
                    self.reporter.warn(
                        f"{len(chosen)} pictures of {what}s instead of {config.visualise}: no more "
                        "pass the ranking's rule; name others with --features"
                    )
                units |= {kind: chosen for kind in config.kind if _unit_of(kind) == what}
        return [
            picture
            for kind in config.kind
            for picture in pictures_of_units(inputs, kind, units[kind], config)
        ], about


def default_side(info: LayerInfo, stored: int) -> int:
    """The store's side, or that of the field where a whole field fits into less."""
    return min(stored, smallest_free_size(info))


def _unit_of(kind: str) -> str:
    return NEURON if kind == NEURON else "feature"


def _settings(
    config: VisualiseConfig, kind: str, size: int, statistics: Statistics
) -> dict[str, Any]:
    """Everything that a picture of a kind depends on, beside the dictionary and the network."""
    unseen = {*UNSEEN, *(() if kind == DIVERSITY else ("set_size", "diversity"))}
    unseen |= set() if kind == NEURON else {"redirect"}
    options = {key: value for key, value in to_json(config).items() if key not in unseen}
    options |= {"size": size, "colours": statistics.source}
    return {"version": _VERSION, **options, "statistics": to_json(statistics)}


def _describe(inputs: RunInputs, config: VisualiseConfig, at: ReadCell) -> dict[str, Any]:
    manifest = inputs.store.manifest
    model = {key: manifest["model"][key] for key in ("name", "weights_sha256")}
    return {
        "analysis": ANALYSIS,
        "complete": False,
        "run": str(inputs.run),
        "layer": inputs.layer,
        "layer_note": inputs.info.note,
        "options": to_json(config),
        "seed": config.seed,
        "store": {"path": inputs.store.location, "content_id": manifest["content_id"]},
        "made_of": {
            "store": manifest["content_id"],
            "sae": sha256(inputs.run / "sae" / inputs.layer / WEIGHTS),
            "model": model,
            "layer": inputs.layer,
        },
        "place": {
            "size": at.size, "cell": at.cell, "cells": at.cells, "window": list(at.window),
            "padding_reaches_the_cell": at.padded,
        },
    }  # fmt: skip
