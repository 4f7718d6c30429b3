"""Training steps on the CPU whose products and gathers are of bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from isae.benchmarks.training import MemoryLayer
from isae.errors import ConfigError
from isae.train.config import TrainConfig
from isae.train.fused import FusedStepper, make_stepper
from isae.train.parameters import State, new_state
from isae.train.plan import make_plan
from isae.train.step import StepResult

LOW = torch.bfloat16
CASES: dict[str, dict[str, Any]] = {
    "topk": {},
    "dead latents": {"dead_rows": 1, "k": 2},
    "tied": {"tied": True, "dead_rows": 24},
    "ksae": {"recipe": "ksae"},
    "filtered": {"latents": 2048, "k": 6},
}
LEARNS = ("topk", "ksae", "filtered")
"""Where twelve steps are enough for the loss to fall; elsewhere AuxK comes in on the way."""


def batch(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 + step)
    mix = torch.randn(48, 48, generator=torch.Generator().manual_seed(7))
    return torch.randn(160, 48, generator=generator).relu() @ mix * 0.3 + 0.5


def trained(
    kernel: str, steps: int, precision: str = "float32", **options: Any
) -> tuple[State, FusedStepper, list[StepResult]]:
    settings = {"latents": 200, "k": 5, "batch_size": 160, "steps": 100, "warmup_steps": 0}
    config = TrainConfig("layer", kernel=kernel, precision=precision, **(settings | options))
    plan = make_plan(config, MemoryLayer("layer", 48, 5000, 4000), True)
    state = new_state(plan, 3, None if plan.relative_loss else batch(-1).numpy())
    stepper = make_stepper(plan, state)
    return state, stepper, [stepper.step([batch(step)], 2e-3) for step in range(steps)]  # type: ignore[return-value]


@pytest.mark.parametrize("case", CASES)
def test_losses_follow_the_reference_s(case: str) -> None:
    state, stepper, ours = trained("cpu", 12, "bfloat16", **CASES[case])
    _, _, theirs = trained("reference", 12, **CASES[case])
    want = [one.loss for one in theirs]
    # Operands have 8 bits; an error of a row sums many of them, signs mixed.
    assert [one.loss for one in ours] == pytest.approx(want, rel=2.0**-6)
    assert [one.l0 for one in ours] == pytest.approx([one.l0 for one in theirs], rel=2.0**-6)
    if case in LEARNS:
        assert want[0] - want[-1] > 2.0**-5 * want[0]  # it learns more than may differ
    assert stepper.low
    for name, copy in stepper.low.items():
        assert torch.equal(copy, state.params[name].to(LOW)), name
        assert state.params[name].dtype == torch.float32


def test_dead_latents_were_there() -> None:
    assert trained("cpu", 3, "bfloat16", **CASES["dead latents"])[2][-1].dead > 0


@pytest.mark.parametrize("case", ["dead latents", "filtered"])
def test_the_same_bits_whatever_the_threads_and_from_any_step(case: str) -> None:
    before, states = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        state, stepper, _ = trained("cpu", 4, "bfloat16", **CASES[case])
        if threads == 2:  # a resumed run makes its copies from the masters
            stepper = make_stepper(stepper.plan, state)  # type: ignore[assignment]
        stepper.step([batch(9)], 2e-3)
        states.append(state)
    torch.set_num_threads(before)
    for name, value in states[0].params.items():
        assert torch.equal(value, states[1].params[name]), name


def test_the_reference_has_no_bfloat16() -> None:
    with pytest.raises(ConfigError, match="use --kernel triton or cpu"):
        trained("reference", 0, "bfloat16")
