"""Whole runs on the Triton kernels: resumed ones, and such with rows that are not numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isae.errors import DataError
from isae.train import TrainConfig, loop, train
from isae.train.checkpoint import load_checkpoint
from isae.train.fused import FusedStepper
from isae.train.parameters import State

pytestmark = pytest.mark.usefixtures("nan_filled_allocations")

MakeStore = Callable[..., Any]


def small(device: torch.device, **options: Any) -> TrainConfig:
    settings = {
        "k": 2, "latents": 7, "batch_size": 8, "steps": 5, "lr": 3e-3, "dead_rows": 8,
        "eval_every": 2, "checkpoint_every": 2, "log_every": 1, **options,
    }  # fmt: skip
    return TrainConfig("layer", kernel="triton", device=device.type, **settings)


def last_state(run: Path) -> State:
    found = load_checkpoint(run / "checkpoints", torch.device("cpu"))
    assert found is not None
    return found[0]


def measured(run: Path) -> list[dict[str, Any]]:
    timing = ("rows_per_s", "seconds")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in timing} for line in lines]


@pytest.mark.parametrize("options", [{}, {"recipe": "ksae", "micro_batch": 3, "clip": 0.1}])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    options: dict[str, Any],
    device: torch.device,
    memory_store: MakeStore,
    planted: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, config = memory_store(planted[0][:60], holdout=12), small(device, **options)
    train(config, store, tmp_path / "whole")
    step, calls = FusedStepper.step, 0

    def dying(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:  # after the checkpoint of step 2: step 3 is done twice
            raise RuntimeError("killed")
        return step(self, *args)

    monkeypatch.setattr(FusedStepper, "step", dying)
    with pytest.raises(RuntimeError, match="killed"):
        train(config, store, tmp_path / "cut", resume=True)
    assert not (tmp_path / "cut" / "sae").exists()
    train(config, store, tmp_path / "cut", resume=True)
    assert calls == 4 + 3
    both = [tmp_path / "whole", tmp_path / "cut"]
    weights = [(run / "sae/layer/sae_weights.safetensors").read_bytes() for run in both]
    assert weights[0] == weights[1]
    assert measured(both[0]) == measured(both[1])
    whole, cut = (last_state(run) for run in both)
    assert (whole.step, whole.rows) == (cut.step, cut.rows)
    assert torch.equal(whole.last_fired_N, cut.last_fired_N)
    for group in ("params", "first", "second"):
        for name, value in getattr(whole, group).items():
            assert torch.equal(value, getattr(cut, group)[name]), (group, name)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [30, 58], ids=["training", "held out"])
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_bad_rows_are_named(
    where: int,
    bad: float,
    device: torch.device,
    memory_store: MakeStore,
    planted: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = planted[0][:60].copy()
    rows[where, 3] = bad
    store = memory_store(rows, holdout=12)
    if where < 48:
        monkeypatch.delattr(loop, "evaluate")  # the step itself is to meet the training row
    # A store's statistics are of when it was built, and ksae takes no sample for its start: nothing
    # else looks at the rows before.
    store.statistics = memory_store(planted[0][:60], holdout=12).statistics
    config = small(device, recipe="ksae", batch_size=48, steps=1, eval_every=1)
    with pytest.raises(DataError, match=f"layer layer: .* first in row {where}, last in row"):
        train(config, store, tmp_path / "run")
    assert not (tmp_path / "run" / "sae").exists()
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))
