from __future__ import annotations

import dataclasses
import math

import pytest

from isae.errors import ConfigError, UnknownNameError
from isae.train import TrainConfig
from isae.train.plan import make_plan
from isae.train.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Layer:
    name: str = "layer"
    channels: int = 512
    rows: int = 784_000
    train_rows: int = 744_800


def test_defaults_of_the_topk_recipe() -> None:
    plan = make_plan(TrainConfig("layer"), Layer(), True)
    assert (plan.n, plan.k, plan.batch, plan.pieces) == (8192, 32, 4096, 1)
    assert plan.lr == pytest.approx(2e-4 / math.sqrt(0.5))
    assert (plan.k_aux, plan.aux_coefficient, plan.dead_rows) == (256, 1 / 32, 744_800)
    assert (plan.tied, plan.unit_norm, plan.relative_loss) == (False, True, False)
    assert (plan.patience, plan.eval_every) == (3, 181)
    assert plan.steps == math.ceil(100 * 744_800 / 4096)


def test_defaults_of_the_ksae_recipe() -> None:
    plan = make_plan(TrainConfig("layer", recipe="ksae"), Layer(), True)
    assert (plan.tied, plan.unit_norm, plan.relative_loss, plan.k_aux) == (True, False, True, 0)
    assert (plan.lr, plan.warmup, plan.decay_fraction) == (1e-3, 0, 0.0)
    assert 499_000 < plan.batch <= 500_000
    assert plan.micro_batch <= 8192
    assert (plan.steps, plan.patience) == (math.ceil(100 * 744_800 / plan.batch), None)


def test_batches_are_clipped_to_the_rows() -> None:
    small = Layer(rows=1100, train_rows=1000)
    plan = make_plan(TrainConfig("layer", recipe="ksae", micro_batch=300), small, True)
    assert (plan.batch, plan.pieces, plan.micro_batch) == (1000, 4, 250)
    assert make_plan(TrainConfig("layer", steps=5), small, True).dead_rows == 1000


@pytest.mark.parametrize("recipe", ["topk", "ksae"])
@pytest.mark.parametrize(
    ("rows", "batch", "epochs"), [(1000, 300, 3), (1000, 1000, 7), (77, 76, 5)]
)
def test_epochs_are_at_least_that_many_passes(
    recipe: str, rows: int, batch: int, epochs: int
) -> None:
    config = TrainConfig("layer", recipe=recipe, batch_size=batch, epochs=epochs)
    plan = make_plan(config, Layer(rows=rows, train_rows=rows), False)
    assert epochs * rows <= plan.steps * plan.batch < epochs * rows + plan.batch


def test_ksae_has_no_auxk() -> None:
    with pytest.raises(ConfigError, match="no AuxK with the recipe ksae"):
        TrainConfig("layer", recipe="ksae", aux_coefficient=0.1)
    assert TrainConfig("layer", recipe="ksae", aux_coefficient=0.0).aux_coefficient == 0


def test_bad_options_are_named() -> None:
    for option in ("k", "expansion", "latents", "batch_size", "steps", "epochs", "patience"):
        with pytest.raises(ConfigError, match=f"expected {option} >= 1"):
            TrainConfig("layer", **{option: 0})
    with pytest.raises(ConfigError, match="steps or epochs"):
        TrainConfig("layer", steps=3, epochs=3)
    with pytest.raises(ConfigError, match="0 < lr < 1"):
        TrainConfig("layer", lr=-1.0)
    for clip in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="clip >= 0 and finite"):
            TrainConfig("layer", clip=clip)
    assert make_plan(TrainConfig("layer", clip=0.5), Layer(), True).clip == 0.5
    with pytest.raises(UnknownNameError, match=r"unknown recipe 'topp': nearest: topk"):
        TrainConfig("layer", recipe="topp")
    with pytest.raises(UnknownNameError, match="unknown kernel 'cuda'"):
        TrainConfig("layer", kernel="cuda")
    with pytest.raises(ConfigError, match="expected k <= 16"):
        make_plan(TrainConfig("layer", latents=16), Layer(), True)
    with pytest.raises(ConfigError, match="held-out rows"):
        make_plan(TrainConfig("layer"), Layer(), False)


def test_learning_rate_rises_stays_and_falls() -> None:
    config = TrainConfig("layer", steps=100, lr=0.1, warmup_steps=10, decay_fraction=0.2)
    plan = make_plan(config, Layer(), True)
    schedule = Schedule.of(plan)
    rates = [plan.lr_at(step, schedule.decay_start, schedule.end) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.01 * i for i in range(1, 11)])
    assert rates[10:80] == [0.1] * 70
    assert rates[80:] == pytest.approx([0.1 * i / 21 for i in range(20, 0, -1)])


def test_the_end_begins_when_the_fvu_no_longer_falls() -> None:
    config = TrainConfig("layer", steps=1000, patience=2, decay_fraction=0.2, eval_every=10)
    plan = make_plan(config, Layer(), True)
    schedule = Schedule.of(plan)
    # 0.4998 is the best, but falls by less than 0.1 %, so it does not count as progress.
    marks = [schedule.observe(plan, 10 * i + 10, fvu) for i, fvu in enumerate([0.6, 0.5, 0.4998])]
    assert marks == [True, True, True]
    assert (schedule.end, schedule.idle) == (1000, 1)
    assert not schedule.observe(plan, 40, 0.5)
    assert (schedule.plateau_step, schedule.decay_start, schedule.end) == (40, 40, 50)
    assert schedule.observe(plan, 50, 0.45)
    assert (schedule.best_step, schedule.best_fvu, schedule.end) == (50, 0.45, 50)


def test_how_small_a_fall_counts_is_an_option() -> None:
    for min_fall, idle in ((0.0, 0), (0.01, 1), (0.1, 1)):
        config = TrainConfig("layer", steps=1000, patience=5, min_fall=min_fall)
        plan = make_plan(config, Layer(), True)
        schedule = Schedule.of(plan)
        schedule.observe(plan, 10, 0.5)
        schedule.observe(plan, 20, 0.496)
        assert schedule.idle == idle
    with pytest.raises(ConfigError, match="min_fall"):
        TrainConfig("layer", min_fall=1.0)


def test_without_patience_or_late_the_end_stays() -> None:
    plan = make_plan(TrainConfig("layer", steps=100), Layer(), True)
    schedule = Schedule.of(plan)
    for step in range(1, 80):
        schedule.observe(plan, step, 0.5)
    assert (schedule.end, schedule.plateau_step) == (100, None)
    late = make_plan(TrainConfig("layer", steps=100, patience=1), Layer(), True)
    schedule = Schedule.of(late)
    schedule.observe(late, 85, 0.5)
    schedule.observe(late, 90, 0.5)
    assert (schedule.decay_start, schedule.end) == (80, 100)
