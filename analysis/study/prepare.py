"""`prepare_study`: the stores and SAEs of a study, each made once, going on where it stopped."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from isae.analysis.study.config import StudyConfig
from isae.analysis.study.layout import TRAINED, Net, Study, begin_study, find_study, locked
from isae.progress import QUIET, Reporter
from isae.store import Store, build_store, open_store
from isae.store.manifest import Manifest
from isae.train import TrainConfig, train
from isae.train.plan import make_plan


def prepare_study(
    path: str | Path, config: StudyConfig | None = None, *, reporter: Reporter = QUIET
) -> dict[str, Any]:
    """Build the stores and train the SAEs of a study -> {study, stores, saes, seconds}.

    path: its folder; config: its options (None: those recorded there). What is complete is left as
    it is; a store or a run that was ended goes on. Raises RunError, StoreError where another
    process works on the study, and what building and
    training raise.
    """
    started = time.monotonic()
    with locked(find_study(path, config).path):
        study = begin_study(path, config)
        stores = _stores(study, reporter)
        saes = _train_all(study, reporter)
    return {
        "study": str(study.path),
        "stores": {
            name: {"path": str(study.path / name / "store"), "content_id": one["content_id"]}
            for name, one in stores.items()
        },
        "saes": saes,
        "seconds": round(time.monotonic() - started, 1),
    }


def _stores(study: Study, reporter: Reporter) -> dict[str, Manifest]:
    stores: dict[str, Manifest] = {}
    for net in study.nets:
        reporter.say(f"{net.name}: store of {len(study.config.layers)} layers ({net.weights})")
        config = study.config.build(net.weights, str(net.store))
        if stores:  # pictures of the studied network's size, whatever the weights' own is
            config = replace(config, size=int(stores[TRAINED]["size"]))
        stores[net.name] = build_store(config, resume=True, reporter=reporter)
    return stores


def _train_all(study: Study, reporter: Reporter) -> list[dict[str, Any]]:
    started, runs, saes = time.monotonic(), list(study.runs()), []
    for number, (net, seed, layer) in enumerate(runs):
        reporter.say(
            f"SAE {number + 1} of {len(runs)}: {net.name}, seed {seed}, {layer}"
            f"{_left(started, number, len(runs))}"
        )
        saes.append(_train(study, net, seed, layer, reporter))
    return saes


def _train(study: Study, net: Net, seed: int, layer: str, reporter: Reporter) -> dict[str, Any]:
    store = open_store(net.store)
    config = _with_steps(study.config, store, layer, seed)
    done = train(config, store, net.run(seed, layer), resume=True, reporter=reporter)
    kept = ("layer", "n", "train_fvu", "holdout_fvu", "holdout_silent", "dead", "rows", "seconds")
    return {"net": net.name, "seed": seed} | {key: done.get(key) for key in kept}


def _with_steps(config: StudyConfig, store: Store, layer: str, seed: int) -> TrainConfig:
    """The run of one SAE: `rows` of a study as steps of this layer's batch."""
    base = config.training(layer, seed)
    if config.rows is None:
        return base
    stored = store.layers[layer]
    batch = make_plan(base, stored, stored.rows > stored.train_rows).batch
    return replace(base, steps=max(1, math.ceil(config.rows / batch)))


def _left(started: float, done: int, total: int) -> str:
    """Time left, by the mean of what is done; SAEs differ by a factor of ten."""
    if not done:
        return ""
    seconds = (time.monotonic() - started) / done * (total - done)
    return f" (about {seconds / 60:,.0f} min left)"
