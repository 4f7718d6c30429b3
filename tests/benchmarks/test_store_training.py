"""Training from a store: a slow reader shows, a wrong step has no speed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from isae.benchmarks import store_training
from isae.benchmarks.step_check import StepCheck
from isae.benchmarks.store_training import bench_training_from_store, turns_of
from isae.store import batches

LAYER = "mixed4a"


def trained(store: Path) -> dict[str, Any]:
    sizes = {"rows": 384, "batch": 96, "steps": 2, "latents": 64, "k": 4}
    return bench_training_from_store(store, LAYER, threads=2, device=torch.device("cpu"), **sizes)


def test_a_reader_that_is_slower_than_the_trainer_shows(
    small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = batches.read_block
    pause, reads = [0.0], [0]

    def slowly(*block: Any) -> None:
        read(*block)
        reads[0] += 1
        time.sleep(pause[0])

    monkeypatch.setattr(batches, "read_block", slowly)
    step_s = 96 / trained(small_store)["rows_per_s"]["memory"]["median"]
    reads[0] = 0
    # A window of 4 steps takes nine times as long to read as to train on: a share of 0.1, and below
    # the bound even where steps are five times as slow by now as when they were measured.
    pause[0] = 36 * step_s
    share = trained(small_store)["store_against_memory"]["median"]
    assert reads[0] >= 9  # three windows in each of three turns
    assert share < 0.6


def test_a_wrong_step_has_no_speed(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = StepCheck(9, {"loss": (0.5, 1e-3)})
    monkeypatch.setattr(store_training, "check_step", lambda *state: wrong)
    found = trained(small_store)
    assert found["fault"].startswith("loss: expected the reference's")
    assert found["rows_per_s"] is None
    assert found["store_against_memory"] is None


@pytest.mark.parametrize(
    ("steps", "turns", "each"),
    [(2, 3, 48), (150, 3, 50), (239, 4, 60), (240, 5, 48), (999, 15, 67)],
)
def test_every_turn_uses_up_three_windows(steps: int, turns: int, each: int) -> None:
    assert turns_of(steps, 65536, 4096) == (turns, each)
