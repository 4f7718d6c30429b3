"""Open what an analysis reads: a finished training run, its SAE, and the store of its training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from isae.errors import RunError, StoreError
from isae.files import sha256
from isae.inception import LayerInfo, layer_table
from isae.store import Store, StoredLayer, open_store
from isae.store.places import open_place
from isae.train import SAE
from isae.train.sae import WEIGHTS


@dataclass(frozen=True)
class RunInputs:
    """A finished run and its store. `info`: the layer's geometry in the network."""

    run: Path
    config: dict[str, Any]
    layer: str
    sae: SAE
    store: Store
    stored: StoredLayer
    info: LayerInfo

    @property
    def sae_sha256(self) -> str:
        """What tells this SAE from one that was trained later in the same folder."""
        return weights_sha256(self.run, self.layer)


def weights_sha256(run: Path, layer: str) -> str:
    """SHA-256 of the file of a run's SAE; '' where it is not there."""
    path = run / "sae" / layer / WEIGHTS
    if not path.is_file():
        return ""
    state = path.stat()
    return _hash(path, state.st_mtime_ns, state.st_size)


@lru_cache
def _hash(path: Path, changed: int, size: int) -> str:
    """SHA-256 of a file as it was then: a report asks for each SAE once a layer."""
    return sha256(path)


def open_run(
    run: str | Path, store: str | Path | None = None, *, device: str | torch.device = "cpu"
) -> RunInputs:
    """Open a finished run, and the store it was trained on (or `store`, the same one elsewhere).

    Raises RunError for a folder that is no run or a run that did not finish, StoreError for a
    store that is missing or of other contents than the run's.
    """
    run = Path(run)
    config, summary = read_run(run)
    layer = str(config["layer"])
    opened = _open_store(run, config, summary, store)
    stored = opened.layer(layer)
    info = _layer_info(opened, layer)
    sae = SAE.load(run / "sae" / layer, device=device)
    if sae.d != stored.channels:
        raise RunError(
            f"expected an SAE of {stored.channels} inputs for '{layer}', found {sae.d} in {run}; "
            "the run folder mixes two runs: train again"
        )
    return RunInputs(run, config, layer, sae, opened, stored, info)


def _layer_info(store: Store, layer: str) -> LayerInfo:
    model = str(store.manifest["model"]["name"])
    if store.manifest["size"] is None:
        raise StoreError(
            f"expected a store whose network is known, found rows made elsewhere in {store.path}; "
            "convert them again with --model and --size"
        )
    return layer_table(model)[layer]


def read_run(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished run's config.json and summary.json.

    Raises RunError for a folder that is no run, or a run that did not finish.
    """
    if not run.is_dir():
        raise RunError(
            f"expected the folder of a training run, found nothing at {run}; "
            "check the path, or train one with isae-train"
        )
    if not (run / "config.json").is_file():
        raise RunError(
            f"expected the folder of a training run, found no config.json in {run}; "
            "give the folder that isae-train wrote (--out)"
        )
    if not (run / "summary.json").is_file():
        raise RunError(
            f"expected a finished training run, found no summary.json in {run}; "
            "finish it with isae-train ... --resume"
        )
    try:
        config = json.loads((run / "config.json").read_text())
        summary = json.loads((run / "summary.json").read_text())
    except ValueError as error:
        raise RunError(
            f"expected JSON in {run}/config.json and summary.json, found damage ({error}); "
            "restore them from a copy, or train again"
        ) from error
    if not isinstance(config, dict) or not {"store", "layer"} <= set(config):
        raise RunError(
            f"expected 'store' and 'layer' in {run}/config.json, found other contents; "
            "give the folder that isae-train wrote (--out)"
        )
    return config, summary


def _open_store(
    run: Path, config: dict[str, Any], summary: dict[str, Any], store: str | Path | None
) -> Store:
    path = str(config["store"] if store is None else store)
    local = open_place(path).local
    if store is None and local is not None and not local.exists():
        raise StoreError(
            f"expected the store that {run} was trained on at {path}, found nothing there; "
            "give its present place with --store PATH"
        )
    opened = open_store(path)
    trained_on = summary.get("store_content_id") or config.get("store_content_id")
    if trained_on and trained_on != opened.manifest["content_id"]:
        raise StoreError(
            f"expected the store that {run} was trained on (content {trained_on[:12]}), found "
            f"another one at {path} (content {opened.manifest['content_id'][:12]}); "
            "give the right one with --store PATH"
        )
    return opened
