"""Steps on the Triton kernels, on a GPU or in the interpreter, follow the reference."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from isae.errors import ConfigError, DataError, KernelError
from isae.train import TrainConfig
from isae.train.fused import FusedStepper, make_stepper
from isae.train.parameters import State, new_state
from isae.train.plan import Plan, make_plan
from isae.train.source import piece_of
from isae.train.step import Stepper

pytestmark = pytest.mark.usefixtures("nan_filled_allocations", "exact_float32")

CPU = torch.device("cpu")
D, N = 24, 37
CASES = {
    "topk": {},
    "topk, dead latents": {"dead_rows": 24},
    "topk, more dead than k_aux": {"dead_rows": 1, "k": 2},
    "tied": {"tied": True, "dead_rows": 24},
    "ksae": {"recipe": "ksae"},
    "k = n": {"k": N},
}


@dataclasses.dataclass(frozen=True)
class Layer:
    name: str = "layer"
    channels: int = D
    rows: int = 5000
    train_rows: int = 4000


def plan_of(
    kernel: str, device: torch.device = CPU, *, low: bool = False, **options: object
) -> Plan:
    settings = {"latents": N, "k": 5, "batch_size": 24, "steps": 100, "warmup_steps": 0}
    settings |= {"precision": "float32", **options}
    config = TrainConfig("layer", kernel=kernel, device=device.type, **settings)
    plan = make_plan(config, Layer(), True)
    return dataclasses.replace(plan, precision="bfloat16") if low else plan


def batch(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 + step)
    mix = torch.randn(D, D, generator=torch.Generator().manual_seed(7))
    return torch.randn(24, D, generator=generator).relu() @ mix * 0.3 + 0.5


def trained(
    kernel: str, steps: int, device: torch.device = CPU, **options: object
) -> tuple[State, list[float]]:
    """The state after some steps, on the CPU, and their losses."""
    plan = plan_of(kernel, device, **options)
    sample = None if plan.relative_loss else torch.cat([batch(-1), batch(-2)]).numpy()
    state = new_state(plan, 3, sample)
    stepper = make_stepper(plan, state)
    assert isinstance(stepper, FusedStepper if kernel == "triton" else Stepper)
    losses = []
    for step in range(steps):
        found = stepper.step([batch(step).to(device)], 2e-3)
        losses.append(found.loss)
    state.params = {name: value.cpu() for name, value in state.params.items()}
    state.last_fired_N = state.last_fired_N.cpu()
    return state, losses


def test_the_cases_have_the_dead_latents_that_they_name() -> None:
    for case, options in CASES.items():
        plan = plan_of("reference", **options)
        sample = None if plan.relative_loss else torch.cat([batch(-1), batch(-2)]).numpy()
        stepper = make_stepper(plan, new_state(plan, 3, sample))
        dead = [stepper.step([batch(step)], 2e-3).dead for step in range(3)]
        if case == "topk, more dead than k_aux":
            assert min(dead[1:]) > plan.k_aux
        else:
            assert (0 < min(dead[1:]) <= max(dead) <= plan.k_aux) == ("dead_rows" in options)


@pytest.mark.parametrize("case", CASES)
def test_three_steps_equal_the_reference(case: str, device: torch.device) -> None:
    ours, our_losses = trained("triton", 3, device, **CASES[case])
    want, losses = trained("reference", 3, **CASES[case])
    assert our_losses == pytest.approx(losses, rel=1e-5)
    assert torch.equal(ours.last_fired_N, want.last_fired_N)
    assert ours.rows == want.rows == 72
    for name, value in want.params.items():
        # Adam's first steps are lr * sign(gradient): where a gradient is near 0, rounding decides
        # the size of a step, not more.
        assert float((ours.params[name] - value).abs().max()) <= 2e-3
        assert float((ours.params[name] - value).abs().mean()) <= 2e-6


def test_a_dozen_steps_follow_the_reference_s_loss(device: torch.device) -> None:
    few = {"latents": 30, "k": 3, "dead_rows": 144}  # latents are dead from the sixth step on
    _, ours = trained("triton", 12, device, **few)
    _, want = trained("reference", 12, **few)
    assert ours == pytest.approx(want, rel=1e-3)
    fall = want[0] - want[-1]
    assert fall > 0.02 * want[0]  # far above the rounding that the line before allows
    assert ours[0] - ours[-1] == pytest.approx(fall, rel=0.05)


def hand_step(
    plan: Plan, state: dict[str, dict[str, torch.Tensor]], x: torch.Tensor, step: int, lr: float
) -> list[bool]:
    """Loss, clipping and Adam as documented, dense in float64; which rows were shortened."""
    leaves = {name: value.clone().requires_grad_() for name, value in state["params"].items()}
    W_dec = leaves["W_dec"]
    pre = (x - leaves["b_dec"]) @ leaves.get("W_enc", W_dec).T + leaves["b_enc"]
    top = pre.topk(plan.k)
    z = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    squares = (z @ W_dec + leaves["b_dec"] - x).square().sum(1)
    fvu = squares.sum() / (x - x.mean(0)).square().sum()
    ((squares / x.square().sum(1)).mean() if plan.relative_loss else fvu).backward()
    shortened: list[bool] = []
    for name, leaf in leaves.items():
        on_sphere, w, g = name == "W_dec" and plan.unit_norm, leaf.detach(), leaf.grad
        if on_sphere:
            g = g - (g * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True) * w
        if name in ("W_enc", "W_dec"):
            length = g.norm(dim=1, keepdim=True)
            shortened += (length > plan.clip)[length > 0].tolist()
            g = torch.where(length > plan.clip, g * plan.clip / length, g)
        first = state["first"][name].mul_(0.9).add_(0.1 * g)
        second = state["second"][name].mul_(0.999).add_(0.001 * g * g)
        root = (second / (1 - 0.999**step)).sqrt() + 1e-8
        w = w - lr * first / (1 - 0.9**step) / root
        state["params"][name] = w / w.norm(dim=1, keepdim=True) if on_sphere else w
    return shortened


@pytest.mark.parametrize(
    "options",
    [{"clip": 0.03}, {"clip": 0.05, "tied": True}, {"clip": 0.06, "recipe": "ksae"}],
    ids=["untied", "tied", "ksae"],
)
def test_clipped_steps_equal_the_documented_formula(
    options: dict[str, object], device: torch.device
) -> None:
    plan = plan_of("triton", device, latents=13, k=3, **options)
    state = new_state(plan, 3, None if plan.relative_loss else batch(-1).numpy())
    groups = ("params", "first", "second")
    want = {
        group: {name: value.cpu().double() for name, value in getattr(state, group).items()}
        for group in groups
    }
    stepper = make_stepper(plan, state)
    shortened: list[bool] = []
    for step in (1, 2):
        stepper.step([batch(step).to(device)], 2e-3)
        shortened += hand_step(plan, want, batch(step).double(), step, 2e-3)
    assert 0.1 < sum(shortened) / len(shortened) < 0.9
    for group in groups:
        for name, value in want[group].items():
            off = (getattr(state, group)[name].cpu() - value).abs()
            if group == "params":  # Adam: where a gradient is near 0, rounding decides its sign
                assert float(off.mean()) <= 2e-6
            else:  # 1 - beta2 in float32 is off by up to 2^-25 of 0.001
                assert float(off.max()) <= 5e-5 * float(value.abs().max())


@pytest.mark.parametrize("case", ["topk", "topk, more dead than k_aux"])
def test_bfloat16_copies_follow_within_their_precision(case: str, device: torch.device) -> None:
    state, ours = trained("triton", 4, device, low=True, **CASES[case])
    _, want = trained("reference", 4, **CASES[case])
    # Operands are rounded to 8 bits; an FVU near 1/2 sums many of them, signs mixed.
    assert ours == pytest.approx(want, rel=2.0**-6)
    assert state.params["W_dec"].dtype == torch.float32


def test_pieces_are_one_batch(device: torch.device) -> None:
    plan = plan_of("triton", device, dead_rows=24)
    states = []
    for sizes in ([24], [7, 17]):
        state = new_state(plan, 3, batch(-1).numpy())
        stepper = make_stepper(plan, state)
        for step in range(2):
            found = stepper.step(list(batch(step).to(device).split(sizes)), 2e-3)
        assert found.dead > 0
        states.append(state)
    for name, value in states[0].params.items():
        assert torch.equal(value, states[1].params[name])


def test_the_same_bits_again(device: torch.device) -> None:
    first, _ = trained("triton", 2, device, dead_rows=24)
    second, _ = trained("triton", 2, device, dead_rows=24)
    for name, value in first.params.items():
        assert torch.equal(value, second.params[name])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_bad_rows_give_a_loss_that_is_not_finite(bad: float, device: torch.device) -> None:
    plan = plan_of("triton", device)
    stepper = make_stepper(plan, new_state(plan, 0, batch(0).numpy()))
    x = batch(1)
    x[3, 4] = bad
    assert not torch.isfinite(torch.tensor(stepper.step([x.to(device)], 1e-3).loss))


def test_precision_needs_the_kernel(device: torch.device) -> None:
    with pytest.raises(ConfigError, match="use --kernel triton"):
        plan_of("reference", precision="bfloat16")
    assert plan_of("reference").evaluation_kernel == "reference"
    plan = plan_of("triton", device, precision="auto")
    if device.type == "cuda":
        assert (plan.precision, plan.evaluation_kernel) == ("bfloat16", "triton")
        return
    assert (plan.precision, plan.evaluation_kernel) == ("float32", "auto")
    with pytest.raises(ConfigError, match="interpreter"):
        plan_of("triton", device, precision="bfloat16")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("low", [False, True])
def test_float16_rows_as_stored_give_the_bits_of_scaled_float32(case: str, low: bool) -> None:
    plan = plan_of("cpu", low=low, **CASES[case])
    found = []
    for as_stored in (True, False):
        sample = None if plan.relative_loss else torch.cat([batch(-1), batch(-2)]).numpy()
        stepper = make_stepper(plan, new_state(plan, 3, sample), scale=0.37)
        assert stepper.takes_halves != plan.relative_loss, "whose weights need the rows themselves"
        takes = as_stored and stepper.takes_halves
        results = []
        for step in range(3):
            piece = piece_of(batch(step).half(), 0.37, CPU, takes)
            assert piece.dtype == (torch.float16 if takes else torch.float32)
            results.append(stepper.step([piece], 2e-3))
        found.append((results, stepper.state.params))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        assert torch.equal(value, found[1][1][name])


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_rows_as_stored_change_nothing(bad: float, low: bool) -> None:
    plan = plan_of("cpu", low=low)
    state = new_state(plan, 3, torch.cat([batch(-1), batch(-2)]).numpy())
    before = {name: value.clone() for name, value in state.params.items()}
    x = batch(0).half()
    x[3, 4] = bad
    with pytest.raises(DataError, match="x: expected finite numbers, found 1 NaN or infinite"):
        make_stepper(plan, state, scale=0.37).step([x], 2e-3)
    assert state.step == state.rows == 0
    for name, value in before.items():
        assert torch.equal(state.params[name], value)


@pytest.mark.parametrize(
    "pieces",
    [
        [batch(0), batch(1).half()],
        [batch(0).double()],
        [batch(0)[:, 1:].contiguous()],
        [batch(0), batch(1)[:, :1]],
        [batch(0)[0]],
    ],
)
def test_rows_that_do_not_fit_are_refused(pieces: list[torch.Tensor]) -> None:
    plan = plan_of("cpu")
    stepper = make_stepper(plan, new_state(plan, 3, batch(-1).numpy()))
    with pytest.raises(KernelError, match="rows: expected"):
        stepper.step(pieces, 2e-3)
    assert stepper.state.step == 0
