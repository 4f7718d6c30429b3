"""What the stability analysis reads: runs of one layer and store, their dictionaries and labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from isae.analysis.activity import read_activity, rows_to_read
from isae.analysis.arrays import F32, F64, I64
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.layers.matching import duplicate_clusters
from isae.analysis.outputs import SUMMARY
from isae.analysis.stability.config import StabilityConfig
from isae.analysis.stability.cosines import top_cosines, unit_rows
from isae.errors import RunError
from isae.progress import Reporter

NO_LABEL = "none"
LABELS = {
    "branches": ("assigned", "dominant_decoder", "dominant_spread"),
    "label": ("taxonomy",),
}
_TABLES = {"label": "labels.parquet"}
_TRUTHS = ("tuning", "curves")
_UNIMPORTANT = ("seed", "device", "tensorboard", "log_every", "checkpoint_every", "eval_every")


@dataclass(frozen=True)
class Dictionary:
    """The live features of a run.

    feature_A: their numbers in the SAE of `features`; decoder_AC, encoder_AC: unit rows;
    fired_A: rows they fire on, of rows_read; cluster_A: clusters of near-duplicate decoder rows;
    neighbour_A: largest cosine with another live decoder row of the same dictionary;
    labels: {name: label of each feature as str [A]}.
    """

    run: Path
    seed: int | None
    features: int
    feature_A: I64
    decoder_AC: F32
    encoder_AC: F32
    fired_A: I64
    rows_read: int
    activity_from: str
    cluster_A: I64
    neighbour_A: F64
    labels: dict[str, npt.NDArray[np.object_]]

    def __len__(self) -> int:
        """Live features."""
        return len(self.feature_A)

    @property
    def rate_A(self) -> F64:
        """Share of the rows read on which each feature fires."""
        return np.asarray(self.fired_A / max(self.rows_read, 1), dtype=np.float64)


def open_seeds(
    runs: Sequence[str | Path], store: str | Path | None, device: torch.device
) -> list[RunInputs]:
    """Open runs of one layer and one store, in the order given.

    Raises RunError for fewer than two runs, a run given twice, runs of different layers, networks
    or stores, and two runs whose SAEs are the same.
    """
    if len(runs) < 2:
        raise RunError(
            f"expected at least two runs that differ in the seed, found {len(runs)}; train the "
            "layer again with another --seed"
        )
    folders = [Path(run).resolve() for run in runs]
    if len(set(folders)) < len(folders):
        twice = next(run for run in folders if folders.count(run) > 1)
        raise RunError(f"expected different runs, found {twice} twice; leave one out")
    inputs = [open_run(run, store, device=device) for run in runs]
    for other in inputs[1:]:
        _check_alike(inputs[0], other)
    for one, other in combinations(inputs, 2):
        W_one, W_other = one.sae.W_dec_ND, other.sae.W_dec_ND
        if W_one.shape == W_other.shape and torch.equal(W_one, W_other):
            raise RunError(
                f"expected SAEs that were trained apart, found the same decoder in {one.run} and "
                f"{other.run}; train one with another --seed, or leave one out"
            )
    return inputs


def _check_alike(one: RunInputs, other: RunInputs) -> None:
    if one.layer != other.layer:
        raise RunError(
            f"expected runs of one layer, found '{one.layer}' in {one.run} and '{other.layer}' in "
            f"{other.run}; compare layers with isae-analyze layers"
        )
    weights = [run.store.manifest["model"]["weights_sha256"] for run in (one, other)]
    if weights[0] != weights[1]:
        raise RunError(
            f"expected runs on one network, found weights {weights[0][:12]} for {one.run} and "
            f"{weights[1][:12]} for {other.run}; seeds can be compared on the same network only"
        )
    if one.store.content_id != other.store.content_id:
        raise RunError(
            f"expected runs of one store, found {one.run} on {one.store.content_id[:12]} and "
            f"{other.run} on {other.store.content_id[:12]}; train both on one store"
        )


def differing_options(inputs: Sequence[RunInputs]) -> dict[str, list[Any]]:
    """Training options, apart from the seed, in which the runs differ -> {option: by run}."""
    options = [dict(one.config.get("options") or {}) for one in inputs]
    names = dict.fromkeys(name for one in options for name in one if name not in _UNIMPORTANT)
    values = {name: [one.get(name) for one in options] for name in names}
    return {name: found for name, found in values.items() if any(v != found[0] for v in found)}


def load_dictionary(
    run: RunInputs, config: StabilityConfig, device: torch.device, reporter: Reporter
) -> Dictionary:
    """Live features of a run with their rows, firing, duplicates and labels.

    Firing comes from the run's branch analysis, or from one pass over `max_rows` rows. Raises
    RunError for tables of another SAE or store, and where fewer than two features are alive.
    """
    fired_n, rows_read, source = _firing(run, config, device, reporter)
    feature_A = np.flatnonzero(fired_n > 0)
    if len(feature_A) < 2:
        raise RunError(
            f"expected at least 2 features that fire, found {len(feature_A)} of {run.sae.n} in "
            f"{run.run}; train it longer, or read more rows with --max-rows"
        )
    decoder_AC = unit_rows(run.sae.W_dec_ND[feature_A])
    inside = top_cosines(decoder_AC, decoder_AC, config.candidates, same=True)
    seed = (run.config.get("options") or {}).get("seed")
    return Dictionary(
        run=run.run,
        seed=None if seed is None else int(seed),
        features=run.sae.n,
        feature_A=feature_A,
        decoder_AC=decoder_AC,
        encoder_AC=unit_rows(run.sae.W_enc_ND[feature_A]),
        fired_A=fired_n[feature_A],
        rows_read=rows_read,
        activity_from=source,
        cluster_A=duplicate_clusters(inside, config.duplicate_cosine),
        neighbour_A=inside.r_NK[:, 0],
        labels={name: label_n[feature_A] for name, label_n in read_labels(run)},
    )


def _firing(
    run: RunInputs, config: StabilityConfig, device: torch.device, reporter: Reporter
) -> tuple[I64, int, str]:
    """(rows each feature fires on, rows read, where that is from)."""
    analysis = _features(run, "branches")
    if analysis is not None:
        table, about = analysis
        fired_n = table.column("fired_rows").to_numpy().astype(np.int64)
        return fired_n, int(about["images"]["rows_read"]), "branch analysis"
    spans = rows_to_read(run.stored.rows, run.stored.train_rows, config.max_rows)
    activity = read_activity(
        run.sae, run.store, run.layer, spans,
        keep=1, batch_size=config.batch_size, device=device, reporter=reporter,
    )  # fmt: skip
    return activity.fired_n, activity.rows, "rows of the store"


def read_labels(run: RunInputs) -> Iterator[tuple[str, npt.NDArray[np.object_]]]:
    """('ANALYSIS COLUMN', label of every feature) from the analyses that the run has.

    Of `branches` and `label` the columns of LABELS, of `tuning` and `curves` every column of truth
    values, as 'true' and 'false'. A missing label is NO_LABEL.
    """
    for name in (*LABELS, *_TRUTHS):
        analysis = _features(run, name)
        if analysis is None:
            continue
        for field in analysis[0].schema:
            values = analysis[0].column(field.name).to_pylist()
            if name in _TRUTHS and pa.types.is_boolean(field.type):
                values = [None if value is None else str(value).lower() for value in values]
            elif field.name not in LABELS.get(name, ()):
                continue
            label_n = np.array([NO_LABEL if one is None else one for one in values], dtype=object)
            yield f"{name} {field.name}", label_n


def _features(run: RunInputs, name: str) -> tuple[pa.Table, dict[str, Any]] | None:
    """(table of features, summary) of one of the run's analyses, or None where there is none."""
    folder = run.run / "analysis" / name
    path = folder / _TABLES.get(name, "features.parquet")
    if not (path.is_file() and (folder / SUMMARY).is_file()):
        return None
    try:
        about = json.loads((folder / SUMMARY).read_text())
        table = pq.read_table(path)
        content = str(about["store"]["content_id"])
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise RunError(
            f"expected a whole analysis in {folder}, found damage ({error}); make it again with "
            "--overwrite, or remove it"
        ) from error
    if table.num_rows != run.sae.n or content != run.store.content_id:
        raise RunError(
            f"expected an analysis of the {run.sae.n:,} features of {run.run} on store "
            f"{run.store.content_id[:12]}, found {table.num_rows:,} features on {content[:12]} in "
            f"{folder}; make it again with --overwrite, or remove it"
        )
    return table, about
