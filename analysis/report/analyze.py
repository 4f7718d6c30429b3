"""`write_report`: a study or runs in, one folder of pages out that opens from disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from isae.analysis.arrays import I64
from isae.analysis.inputs import open_run
from isae.analysis.outputs import SUMMARY, check_out
from isae.analysis.report.columns import layer_columns
from isae.analysis.report.config import ReportConfig
from isae.analysis.report.copies import copy_pages, link_images
from isae.analysis.report.details import write_details
from isae.analysis.report.feature_map import FeatureMap, lay_out
from isae.analysis.report.overview import (
    NO_MAP,
    layer_entry,
    made_of,
    map_finding,
    missing_parts,
    notes_of,
    summary_findings,
)
from isae.analysis.report.patch_rows import CellPlaces
from isae.analysis.report.profiles import common_images, read_profiles
from isae.analysis.report.scripts import encode, write_script
from isae.analysis.report.sources import Source, Sources, find_sources
from isae.analysis.report.tables import RunTables
from isae.analysis.report.verdict_findings import verdict_findings
from isae.analysis.stability.cosines import top_cosines, unit_rows
from isae.config import to_json
from isae.device import resolve_device
from isae.files import swap_folder, write_json
from isae.progress import QUIET, Reporter
from isae.store import Store, open_store

ANALYSIS = "report"
LEAST_COMMON = 10
"""Images that all runs must share for a map."""


def write_report(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    config: ReportConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Pages of every feature of a study's SAEs, or of single runs -> what summary.json holds.

    paths: a study (seed 0 of its trained network), finished runs, or several of both; out: folder
    to write, which appears whole or not at all: index.html, app/, data/ (see
    isae.analysis.report.scripts), sheets/, pictures/, figures/, summary.json. Shown is what the
    analyses wrote; what is absent is named, with the command that makes it.

    Raises RunError, StoreError or DataError when the inputs are missing, unfinished, damaged or do
    not belong together.
    """
    config = config or ReportConfig()
    started = time.monotonic()
    out = Path(out)
    check_out(out, ANALYSIS, overwrite)
    sources = find_sources(paths)
    writer = _Writer(sources, config, reporter)

    def fill(folder: Path) -> None:
        copy_pages(folder)
        for source in sources.runs:
            writer.layer(source, folder)
        writer.overview(folder)
        writer.summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(folder / SUMMARY, writer.summary)

    swap_folder(out, fill)
    return {**writer.summary, "out": str(out)}


@dataclass
class _Writer:
    """Goes through the layers, one in memory at a time; keeps what the first page needs."""

    sources: Sources
    config: ReportConfig
    reporter: Reporter
    layers: list[dict[str, Any]] = field(default_factory=list)
    tables: list[RunTables] = field(default_factory=list)
    profiles: list[csr_array] = field(default_factory=list)
    stores: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    images: list[I64] | None = None
    notes: list[str] = field(default_factory=list)

    def layer(self, source: Source, folder: Path) -> None:
        """Write one layer's columns, details and pictures."""
        device = resolve_device(self.config.device)
        run = open_run(source.run, source.store, device=device)
        self.stores.setdefault(run.store.content_id, run.store.manifest)
        tables = RunTables(source, run.sae.n, run.store.content_id)
        profiles = None
        images_I = self._images(source)
        if images_I is not None:
            with _Clock(self.seconds, "encoding"):
                profiles = read_profiles(
                    run, images_I, self.config.batch_size, device, self.reporter
                )
            self.profiles.append(profiles.profile_NI)
        self.reporter.say(f"{source.name}: pages of {run.sae.n:,} features")
        with _Clock(self.seconds, "neighbours"):
            neighbours = top_cosines(
                unit := unit_rows(run.sae.W_dec_ND), unit, self.config.neighbours, same=True
            )
        nearest_N = np.where(neighbours.r_NK[:, 0] > -2, neighbours.r_NK[:, 0], np.nan)
        with _Clock(self.seconds, "tables"):
            columns = layer_columns(
                tables, list(run.stored.branches), nearest_N,
                None if profiles is None else profiles.active_N,
            )  # fmt: skip
            value = {"features": run.sae.n, "columns": columns}
            write_script(folder, f"columns/{source.name}", value)
        with _Clock(self.seconds, "details"):
            write_details(
                folder, tables, run.stored.branches, neighbours,
                None if profiles is None else profiles.histograms, self._names(source),
                CellPlaces.of(run.info, int(run.store.manifest["size"])),
            )  # fmt: skip
            link_images(tables, folder)
        self.layers.append(layer_entry(run, tables))
        tables.forget()
        self.tables.append(tables)

    def overview(self, folder: Path) -> None:
        """Write the map and the first page."""
        drawn = self._map(folder) if self.profiles else None
        findings = [
            *summary_findings(self.tables),
            *verdict_findings(self.sources.studies, folder),
        ]
        if drawn is not None and (one := map_finding(drawn)) is not None:
            findings.append(one)
        there = {one["name"]: one["has"] for one in self.layers}
        title = self.config.title or self._title()
        missing = missing_parts(self.sources, there)
        notes = notes_of(self.tables)
        said = [*self.notes, *(f"{one['what']}: {one['how']}" for one in missing), *notes]
        of = made_of(self.sources, self.stores)
        value = {
            "title": title, "made_of": of, "layers": self.layers, "findings": findings,
            "missing": [*({"what": note} for note in self.notes), *missing], "notes": notes,
            "map": drawn is not None,
        }  # fmt: skip
        write_script(folder, "overview", value)
        self.summary |= {
            "analysis": ANALYSIS,
            "title": title,
            "options": to_json(self.config),
            "made_of": of,
            "layers": self.layers,
            "features": sum(one["features"] for one in self.layers),
            "map": None if drawn is None else drawn.as_json(),
            "notes": said,
            "findings": [one["title"] for one in findings],
            "seconds_by_stage": {name: round(one, 2) for name, one in self.seconds.items()},
        }

    def _map(self, folder: Path) -> FeatureMap:
        features = sum(one.shape[0] for one in self.profiles)
        self.reporter.say(f"map of {features:,} features")
        with _Clock(self.seconds, "map"):
            drawn = lay_out(self.profiles, self.config)
        value = {
            "layers": [one["name"] for one in self.layers],
            "x": encode(drawn.x_N, "<u2"),
            "y": encode(drawn.y_N, "<u2"),
            "how": drawn.how(self.config),
        }
        write_script(folder, "map", value)
        return drawn

    def _images(self, source: Source) -> I64 | None:
        """The map's images in the store of a run; None without a map."""
        if not self.config.draw_map:
            self.notes = [NO_MAP]
            return None
        if self.images is None:
            stores = [_store(one) for one in self.sources.runs]
            self.images = common_images(stores, self.config.map_images, self.config.seed)
        if len(self.images[0]) < LEAST_COMMON:
            self.notes = [
                f"no map: the stores of the runs share {len(self.images[0]):,} images by name and "
                f"size, fewer than {LEAST_COMMON}"
            ]
            return None
        return self.images[self.sources.runs.index(source)]

    def _names(self, source: Source) -> dict[str, str]:
        """Names in the report of the layers that a run is compared with."""
        return {one.layer: one.name for one in self.sources.runs if one.layers == source.layers}

    def _title(self) -> str:
        studies, runs = self.sources.studies, self.sources.runs
        if studies:
            names = [one.path.resolve().name for one in studies]
        else:
            names = [one.name for one in runs[:3]] + ["..."] * (len(runs) > 3)
        return f"Features of {', '.join(names)}"


def _store(source: Source) -> Store:
    if source.store is not None:
        return open_store(source.store)
    return open_run(source.run).store


class _Clock:
    """Adds the seconds of a block to a stage."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        spent = time.monotonic() - self.started
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + spent
