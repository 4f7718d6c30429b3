"""Whole runs on rows in memory: quality, files, resuming, refusing."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isae.errors import ConfigError, DataError, RunError, UnknownNameError
from isae.progress import Reporter
from isae.train import SAE, TrainConfig, loop, train
from isae.train.checkpoint import load_checkpoint
from isae.train.evaluate import evaluate

MakeStore = Callable[..., Any]
SHORT: dict[str, Any] = {"k": 3, "latents": 60, "batch_size": 256, "lr": 3e-3, "dead_rows": 1500}


def short(**options: Any) -> TrainConfig:
    return TrainConfig("layer", **{**SHORT, "steps": 30, "eval_every": 10, **options})


def digest(run: Path) -> str:
    return hashlib.sha256((run / "sae/layer/sae_weights.safetensors").read_bytes()).hexdigest()


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", ["topk", "ksae"])
def test_a_planted_dictionary_is_recovered(
    recipe: str, memory_store: MakeStore, planted: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    rows, directions = planted
    if recipe == "ksae":  # has no start for b_dec: give it rows about the origin
        rows = rows - rows.mean(axis=0)
    config = short(recipe=recipe, steps=400, eval_every=400, lr=5e-3)
    summary = train(config, memory_store(rows), tmp_path / "run")
    sae = SAE.load(summary["sae"])
    unit = torch.nn.functional.normalize(sae.W_dec_ND, dim=1).double().numpy()
    best = (unit @ directions.T).max(axis=0)
    # 60 directions drawn at random in 24 dimensions come to a mean best cosine of about 0.5.
    assert best.mean() > 0.9
    assert summary["holdout_fvu"] < 0.2
    assert summary["holdout_fvu"] == pytest.approx(summary["train_fvu"], rel=0.25)


def test_fvu_equals_hand_computation(
    memory_store: MakeStore, planted: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    summary = train(short(), memory_store(), tmp_path / "run")
    sae = SAE.load(summary["sae"])
    rows = planted[0][-600:].astype(np.float64)
    values, indices = sae.encode(torch.from_numpy(planted[0][-600:]))
    x_hat = sae.b_dec_D.double().numpy() + sum(
        values[:, [j]].double().numpy() * sae.W_dec_ND[indices[:, j]].double().numpy()
        for j in range(3)
    )
    fvu = ((rows - x_hat) ** 2).sum() / ((rows - rows.mean(axis=0)) ** 2).sum()
    # float32 reconstruction: 1e-7 relative to rows, whose error is about a tenth of their size.
    assert summary["holdout_fvu"] == pytest.approx(fvu, rel=1e-4)
    assert summary["holdout_l0"] == pytest.approx(float((values > 0).sum()) / 600)
    silent = 60 - len(np.unique(indices[values > 0]))
    assert summary["holdout_silent"] == pytest.approx(silent / 60)
    assert summary["holdout_rows"] == 600


def test_evaluation_in_pieces_is_evaluation_at_once(
    planted: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = SAE(*(torch.randn(s) for s in ((50, 24), (50,), (50, 24), (24,))), 3)
    whole = evaluate(sae, planted[0], 100, 900)
    monkeypatch.setattr("isae.train.evaluate.PIECE", 77)
    pieces = evaluate(sae, planted[0], 100, 900)
    assert pieces.fvu == pytest.approx(whole.fvu, rel=1e-6)
    assert (pieces.l0, pieces.silent, pieces.rows) == (whole.l0, whole.silent, 800)
    with pytest.raises(DataError, match="empty range"):
        evaluate(sae, planted[0], 5, 5)


def test_the_run_folder_holds_what_is_promised(memory_store: MakeStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = train(short(), memory_store(), run)
    assert json.loads((run / "summary.json").read_text()) == summary
    config = json.loads((run / "config.json").read_text())
    assert (config["layer"], config["store"]) == ("layer", str(Path.cwd() / "memory"))
    assert summary["store"] == config["store"]
    assert config["store_content_id"] == "memory"
    assert config["options"]["k"] == 3
    found = lines(run)
    assert [line["step"] for line in found] == [10, 20, 30]
    wanted = {"step", "rows", "epoch", "loss", "fvu", "train_fvu", "holdout_fvu", "l0", "dead"}
    assert wanted | {"rows_per_s", "lr", "seconds"} <= set(found[0])
    metadata = json.loads((run / "sae/layer/cfg.json").read_text())["metadata"]
    assert metadata["layer"] == "layer"
    assert metadata["store_content_id"] == "memory"
    assert metadata["scale"] == summary["scale"]
    assert len(list((run / "checkpoints").iterdir())) == 1
    train(short(checkpoint_every=7), memory_store(), run, overwrite=True)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["step-000000028", "step-000000030"]


def test_the_same_seed_gives_the_same_bytes(memory_store: MakeStore, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b", "other")]
    for run, seed in zip(runs, (0, 0, 1), strict=True):
        train(short(seed=seed), memory_store(), run)
    assert digest(runs[0]) == digest(runs[1]) != digest(runs[2])


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"recipe": "ksae", "micro_batch": 100}])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    options: dict[str, Any],
    memory_store: MakeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = short(steps=None, patience=1, max_epochs=2, decay_fraction=0.3, **options)
    config_steps = {"steps": None, "eval_every": 5}
    config = TrainConfig(**{**config.__dict__, **config_steps, "checkpoint_every": 4})
    train(config, memory_store(), tmp_path / "whole")
    original = loop.FusedStepper.step
    calls = 0

    def dying(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 7 == 0:
            raise RuntimeError("killed")
        return original(self, *args)

    monkeypatch.setattr(loop.FusedStepper, "step", dying)
    attempts = 0
    while not (tmp_path / "cut" / "summary.json").exists():
        attempts += 1
        try:
            train(config, memory_store(), tmp_path / "cut", resume=True)
        except RuntimeError:
            assert attempts < 40
    assert attempts > 3
    assert digest(tmp_path / "whole") == digest(tmp_path / "cut")
    timing = ("rows_per_s", "seconds")
    both = [
        [{key: value for key, value in line.items() if key not in timing} for line in lines(run)]
        for run in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert both[0] == both[1]


def test_resuming_a_complete_run_leaves_it(memory_store: MakeStore, tmp_path: Path) -> None:
    summary = train(short(), memory_store(), tmp_path / "run")
    before = (tmp_path / "run" / "summary.json").stat().st_mtime_ns
    assert train(short(), memory_store(), tmp_path / "run", resume=True) == summary
    assert (tmp_path / "run" / "summary.json").stat().st_mtime_ns == before


def test_resuming_asks_only_for_options_that_change_the_result(
    memory_store: MakeStore, tmp_path: Path
) -> None:
    summary = train(short(), memory_store(), tmp_path / "run")
    otherwise = {
        "log_every": 3, "checkpoint_every": 5, "tensorboard": True, "warmup_steps": 3,
        "expansion": 4, "max_epochs": 9, "device": "cpu", "min_fall": 1e-3,
    }  # fmt: skip
    assert train(short(**otherwise), memory_store(), tmp_path / "run", resume=True) == summary


def test_runs_from_before_an_option_are_runs_with_its_default(
    memory_store: MakeStore, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    summary = train(short(), memory_store(), run)
    config = json.loads((run / "config.json").read_text())
    for name in ("clip", "precision"):
        del config["plan"][name]
    (run / "config.json").write_text(json.dumps(config))
    assert train(short(), memory_store(), run, resume=True) == summary
    with pytest.raises(RunError, match=r"plan\.clip: run 0\.0, now 0\.5"):
        train(short(clip=0.5), memory_store(), run, resume=True)


def test_overwriting_needs_a_run_that_can_be_made(memory_store: MakeStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = train(short(), memory_store(), run)
    nan = np.ones((1000, 4), np.float32)
    nan[5, 2] = math.nan
    for rows, words in ((np.ones((1000, 4), np.float32), "that vary"), (nan, "first in row 5")):
        with pytest.raises(DataError, match=words):
            train(short(), memory_store(rows), run, overwrite=True)
        assert json.loads((run / "summary.json").read_text()) == summary
        assert SAE.load(run / "sae" / "layer").d == 24


def test_a_kill_while_overwriting_leaves_an_unfinished_run(
    memory_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(short(), memory_store(), run)
    entries = sum(1 for _ in run.iterdir())
    for moment in range(1, 3):  # checkpoints and sae are the folders of a run
        left = moment

        def dying(path: Path, real: Any = shutil.rmtree, **options: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise RuntimeError("killed")
            real(path, **options)

        with monkeypatch.context() as patch:
            patch.setattr("isae.train.run_folder.shutil.rmtree", dying)
            with pytest.raises(RuntimeError, match="killed"):
                train(short(seed=2), memory_store(), run, overwrite=True)
        assert not (run / "summary.json").exists()
        assert (run / "config.json").exists()
        assert sum(1 for _ in run.iterdir()) < entries
        with pytest.raises(RunError, match="already holds a run"):
            train(short(seed=2), memory_store(), run)
        assert train(short(seed=2), memory_store(), run, overwrite=True)["steps"] == 30


def test_a_link_to_a_run_is_followed(memory_store: MakeStore, tmp_path: Path) -> None:
    run, link = tmp_path / "run", tmp_path / "link"
    train(short(), memory_store(), run)
    link.symlink_to(run)
    before = digest(run)
    train(short(seed=5), memory_store(), link, overwrite=True)
    assert link.is_symlink()
    assert digest(run) == digest(link) != before


def test_held_out_rows_never_influence_training(
    memory_store: MakeStore,
    planted: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = planted[0].copy()
    other[-600:] = 100 - 7 * other[-600:]
    starts: list[torch.Tensor] = []
    original = loop.new_state

    def recording(*args: Any) -> Any:
        state = original(*args)
        starts.append(state.params["b_dec"].clone())
        return state

    monkeypatch.setattr(loop, "new_state", recording)
    summaries, states = [], []
    for name, rows in (("a", planted[0]), ("b", other)):
        summaries.append(train(short(), memory_store(rows), tmp_path / name))
        found = load_checkpoint(tmp_path / name / "checkpoints", torch.device("cpu"))
        assert found is not None
        states.append(found[0])
    assert torch.equal(starts[0], starts[1])
    assert starts[0].abs().max() > 0
    assert summaries[0]["scale"] == summaries[1]["scale"]
    for name, value in states[0].params.items():
        assert torch.equal(value, states[1].params[name]), name
    # The held-out rows do differ.
    assert abs(summaries[0]["holdout_fvu"] - summaries[1]["holdout_fvu"]) > 0.1


def test_dead_is_reported_once_latents_could_be_dead(
    memory_store: MakeStore, tmp_path: Path
) -> None:
    summary = train(short(dead_rows=4000), memory_store(), tmp_path / "run")
    dead = [line["dead"] for line in lines(tmp_path / "run")]  # after 2560, 5120 and 7680 rows
    assert dead[0] is None
    assert dead[1] is not None
    assert summary["dead"] is not None
    config = short(dead_rows=10**6)
    assert train(config, memory_store(), tmp_path / "early")["dead"] is None
    assert [line["dead"] for line in lines(tmp_path / "early")] == [None] * 3


def test_folders_that_may_not_be_used(memory_store: MakeStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(short(), memory_store(), run)
    with pytest.raises(RunError, match="already holds a run; continue it with --resume"):
        train(short(), memory_store(), run)
    with pytest.raises(RunError, match=r"differences: plan\.k: run 3, now 4"):
        train(short(k=4), memory_store(), run, resume=True)
    with pytest.raises(RunError, match=r"options\.seed: run 0, now 9"):
        train(short(seed=9), memory_store(), run, resume=True)
    with pytest.raises(RunError, match=r"options\.recipe: run 'topk', now 'ksae'"):
        train(short(recipe="ksae"), memory_store(), run, resume=True)
    with pytest.raises(RunError, match="store_content_id: run 'memory', now 'changed'"):
        train(short(), memory_store(content_id="changed"), run, resume=True)
    other = tmp_path / "letters"
    other.mkdir()
    (other / "dear.txt").write_text("keep me")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(RunError, match="expected a free folder or a run"):
            train(short(), memory_store(), other, **flags)
    assert (other / "dear.txt").read_text() == "keep me"
    (run / "checkpoints" / "step-000000030" / "state.json").write_text("{")
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match="cannot be read"):
        train(short(), memory_store(), run, resume=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_the_run_goes_on(
    number: signal.Signals,
    memory_store: MakeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(short(), memory_store(), tmp_path / "whole")
    original = loop.FusedStepper.step

    def interrupting(self: Any, *args: Any) -> Any:
        if self.state.step == 12:
            os.kill(os.getpid(), number)
        return original(self, *args)

    monkeypatch.setattr(loop.FusedStepper, "step", interrupting)
    handlers = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(short(), memory_store(), tmp_path / "run")
    assert signal.getsignal(number) is handlers
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000000013"]
    assert not (tmp_path / "run/summary.json").exists()
    train(short(), memory_store(), tmp_path / "run", resume=True)
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_a_run_without_progress_ends_early(memory_store: MakeStore, tmp_path: Path) -> None:
    config = short(steps=None, patience=2, lr=1e-9, decay_fraction=0.5)
    summary = train(config, memory_store(), tmp_path / "run")
    assert (summary["plateau_step"], summary["steps"]) == (30, 60)


def test_the_best_weights_are_kept(
    memory_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.FusedStepper.step

    def spoiling(self: Any, pieces: Any, lr: float) -> Any:
        result = original(self, pieces, lr)
        if self.state.step > 20:
            self.state.params["b_dec"] += 1.0
        return result

    monkeypatch.setattr(loop.FusedStepper, "step", spoiling)
    summary = train(short(), memory_store(), tmp_path / "run")
    found = lines(tmp_path / "run")
    assert summary["best_step"] == 20
    assert summary["holdout_fvu"] == pytest.approx(found[1]["holdout_fvu"], rel=1e-5)
    assert found[2]["holdout_fvu"] > 2 * summary["holdout_fvu"]


def test_without_held_out_rows(memory_store: MakeStore, tmp_path: Path) -> None:
    store = memory_store(holdout=0)
    with pytest.raises(ConfigError, match="held-out rows"):
        train(short(steps=None), store, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    said: list[str] = []
    reporter = Reporter(quiet=True)
    reporter.say = said.append  # type: ignore[method-assign]
    summary = train(short(patience=2), store, tmp_path / "run", reporter=reporter)
    assert any("--patience has no effect" in text for text in said)
    assert summary["holdout_fvu"] is None
    assert summary["train_fvu"] < 1


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
@pytest.mark.parametrize("where", [1234, 5800])
def test_bad_activations_are_named(
    where: int,
    kernel: str,
    memory_store: MakeStore,
    planted: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
) -> None:
    rows = planted[0].copy()
    rows[where, 3] = math.nan
    with pytest.raises(DataError, match=f"layer layer: .* first in row {where}, last in row"):
        train(short(kernel=kernel), memory_store(rows), tmp_path / "run")
    assert not (tmp_path / "run" / "sae").exists()


def test_activations_without_variance_and_unknown_layers(
    memory_store: MakeStore, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="expected activations that vary"):
        train(short(), memory_store(np.ones((1000, 4), np.float32)), tmp_path / "run")
    with pytest.raises(UnknownNameError, match="unknown layer 'laier': nearest: layer"):
        train(TrainConfig("laier"), memory_store(), tmp_path / "run")


def test_tensorboard_files(memory_store: MakeStore, tmp_path: Path) -> None:
    train(short(tensorboard=True), memory_store(), tmp_path / "run")
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
