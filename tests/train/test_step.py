"""Steps of the compiled path against the dense definition, and both against formulas."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch

from isae.errors import DataError
from isae.train import TrainConfig
from isae.train.fused import make_stepper
from isae.train.parameters import State, encoder_scale, geometric_median, new_state
from isae.train.plan import Plan, make_plan
from isae.train.step import reference_piece

D, N = 24, 90


@dataclasses.dataclass(frozen=True)
class Layer:
    name: str = "layer"
    channels: int = D
    rows: int = 5000
    train_rows: int = 4000


def plan_of(kernel: str = "cpu", **options: object) -> Plan:
    settings = {"latents": N, "k": 5, "batch_size": 64, "steps": 100, "warmup_steps": 0, **options}
    return make_plan(TrainConfig("layer", kernel=kernel, **settings), Layer(), True)


def batch(step: int, rows: int = 64, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 + step)
    mix = torch.randn(D, D, generator=torch.Generator().manual_seed(7))
    return (torch.randn(rows, D, generator=generator).relu() @ mix * 0.3 + 0.5).to(dtype)


def state_of(plan: Plan, dtype: torch.dtype = torch.float32) -> State:
    sample = None if plan.relative_loss else batch(-1, 500).numpy()
    state = new_state(plan, 3, sample)
    for group in (state.params, state.first, state.second):
        for name in group:
            group[name] = group[name].to(dtype)
    return state


CASES = {
    "topk": {},
    "clipped": {"clip": 1e-3},
    "topk, one third dead": {"dead_rows": 64},
    "topk, more dead than k_aux": {"dead_rows": 1, "k": 2},
    "tied": {"tied": True, "dead_rows": 64},
    "accumulated": {"micro_batch": 17, "dead_rows": 64},
    "ksae": {"recipe": "ksae"},
    "ksae untied, accumulated": {"recipe": "ksae", "tied": False, "micro_batch": 16},
    "k = n": {"k": N},
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_autograd_in_float64(case: str) -> None:
    x = batch(0, 40, torch.float64)
    x[7] = 0
    results = []
    for kernel in ("cpu", "reference"):
        plan = plan_of(kernel, **CASES[case])
        state = state_of(plan, torch.float64)
        state.rows = 100
        state.last_fired_N[:] = 100
        state.last_fired_N[::3] = -(10**8)
        measured = make_stepper(plan, state).step(list(x.split(plan.micro_batch)), 1e-3)
        results.append((state, measured))
    (ours, our_result), (theirs, their_result) = results
    assert our_result.dead == 30
    assert dataclasses.astuple(our_result) == pytest.approx(dataclasses.astuple(their_result))
    for name, moment in theirs.first.items():
        # After one step the first moment is a tenth of the gradient.
        assert torch.allclose(ours.first[name], moment, rtol=1e-9, atol=1e-12), name
        assert float(moment.abs().max()) > 0, name
    assert torch.equal(ours.last_fired_N, theirs.last_fired_N)


@pytest.mark.parametrize("dead", [range(0, 90, 3), range(4, 9)], ids=["30 dead", "5 dead"])
@pytest.mark.parametrize("tied", [False, True])
def test_auxk_is_the_documented_formula(dead: range, tied: bool) -> None:
    plan = plan_of(aux_coefficient=0.3, tied=tied)
    assert plan.k_aux == 12
    state = state_of(plan, torch.float64)
    torch.manual_seed(0)
    for value in state.params.values():
        value += 0.1 * torch.randn_like(value)
    x = batch(0, 33, torch.float64)

    def hand(params: dict[str, np.ndarray], e: np.ndarray | None) -> tuple[float, float, Any]:
        """(sum ||x - x_hat||^2, sum ||e - e_hat||^2, x - x_hat), row by row."""
        W_dec, b_enc, b_dec = params["W_dec"], params["b_enc"], params["b_dec"]
        W_enc = params.get("W_enc", W_dec)
        squares, aux, errors = 0.0, 0.0, []
        for i, row in enumerate(x.numpy()):
            pre = [float(W_enc[j] @ (row - b_dec) + b_enc[j]) for j in range(N)]
            top = sorted(range(N), key=lambda j: -pre[j])[: plan.k]
            errors.append(row - b_dec - sum(max(pre[j], 0.0) * W_dec[j] for j in top))
            squares += float(errors[-1] @ errors[-1])
            target = errors[-1] if e is None else e[i]
            top = sorted(dead, key=lambda j: -pre[j])[:12]
            miss = target - sum(max(pre[j], 0.0) * W_dec[j] for j in top)
            aux += float(miss @ miss)
        return squares, aux, errors

    params = {name: value.numpy().copy() for name, value in state.params.items()}
    grads = {name: torch.zeros_like(value) for name, value in state.params.items()}
    sums = reference_piece(plan, state, x, torch.tensor(list(dead)), grads)
    squares, aux, errors = hand(params, None)
    assert sums.squares == pytest.approx(squares, rel=1e-10)
    assert sums.aux == pytest.approx(aux, rel=1e-10)
    # Half the gradient of squares + 0.3 aux with e held fixed, along a random direction.
    rng = np.random.default_rng(1)
    for name, value in params.items():
        direction, ends = rng.normal(size=value.shape), []
        for sign in (1, -1):
            moved = {**params, name: value + sign * 1e-6 * direction}
            squares, aux, _ = hand(moved, errors)
            ends.append(0.5 * (squares + 0.3 * aux))
        slope = (ends[0] - ends[1]) / 2e-6
        # Central differences: rounding of sums of about 100 by 1e-16 over a step of 1e-6.
        assert float((grads[name].numpy() * direction).sum()) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_thirty_steps_follow_the_reference(case: str) -> None:
    losses: dict[str, list[float]] = {}
    deads: dict[str, list[int]] = {}
    states: dict[str, State] = {}
    for kernel in ("cpu", "reference"):
        plan = plan_of(kernel, **CASES[case])
        states[kernel] = state_of(plan, torch.float64)
        stepper = make_stepper(plan, states[kernel])
        results = []
        for step in range(30):
            x = batch(step, plan.batch, torch.float64)
            results.append(stepper.step(list(x.split(plan.micro_batch)), 1e-3))
        losses[kernel] = [result.loss for result in results]
        deads[kernel] = [result.dead for result in results]
    # In float64 rounding is 1e-16 a step; a wrong tie or sign would show at 1e-3 and more.
    assert losses["cpu"] == pytest.approx(losses["reference"], rel=1e-8)
    assert deads["cpu"] == deads["reference"]
    for name, value in states["cpu"].params.items():
        assert torch.allclose(value, states["reference"].params[name], rtol=1e-6, atol=1e-8), name
    assert losses["cpu"][-1] < losses["cpu"][0]
    if "dead_rows" in CASES[case]:
        assert max(deads["cpu"]) > 0


def test_thirty_float32_steps_stay_near_the_reference() -> None:
    losses = []
    for kernel in ("cpu", "reference"):
        plan = plan_of(kernel, dead_rows=64)
        stepper = make_stepper(plan, state_of(plan))
        losses.append([stepper.step([batch(step)], 1e-3).loss for step in range(30)])
    # Rounding of 1e-7 may swap an almost tied latent (gap 1e-6 of 90 candidates, 64 rows); one
    # swapped latent of nearly equal value changes a batch's loss by far less than a thousandth.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def wide(kernel: str, rows: int = 160) -> tuple[Plan, State, list[torch.Tensor]]:
    """A problem that is large enough for the 8-bit filter of the encoder."""
    layer = Layer(channels=40)
    config = TrainConfig("layer", kernel=kernel, latents=1100, k=8, batch_size=rows, steps=100,
                         warmup_steps=0, dead_rows=2 * rows)  # fmt: skip
    plan = make_plan(config, layer, True)
    generator = torch.Generator().manual_seed(5)
    mix = torch.randn(40, 40, generator=generator)
    batches = [torch.randn(rows, 40, generator=generator).relu() @ mix for _ in range(31)]
    return plan, new_state(plan, 0, batches.pop().numpy()), batches


def test_thirty_steps_behind_the_filter_stay_near_the_reference() -> None:
    losses = []
    for kernel in ("cpu", "reference"):
        plan, state, batches = wide(kernel)
        stepper = make_stepper(plan, state)
        losses.append([stepper.step([x], 1e-3).loss for x in batches])
    # As above: rounding of 1e-7 may swap an almost tied latent of nearly equal value.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][-1] < 0.98 * losses[0][0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_batch_that_is_not_finite_changes_nothing(bad: float) -> None:
    plan, state, batches = wide("cpu")
    before = {name: value.clone() for name, value in state.params.items()}
    batches[0][31, 7] = bad
    with pytest.raises(DataError, match="x: expected finite"):
        make_stepper(plan, state).step([batches[0]], 1e-3)
    assert state.step == 0
    for name, value in state.params.items():
        assert torch.equal(value, before[name]), name


def test_pieces_are_one_batch() -> None:
    x, states = batch(0, 66, torch.float64), []
    for pieces in (1, 3):
        plan = plan_of(batch_size=66, micro_batch=66 // pieces)
        assert (plan.pieces, plan.micro_batch) == (pieces, 66 // pieces)
        state = state_of(plan, torch.float64)
        result = make_stepper(plan, state).step(list(x.split(plan.micro_batch)), 1e-3)
        states.append((state, result))
    assert states[0][1].loss == pytest.approx(states[1][1].loss, rel=1e-12)
    for name, value in states[0][0].params.items():
        # Adam's first step is lr * sign(g) where |g| is far above eps.
        assert torch.allclose(value, states[1][0].params[name], rtol=1e-8, atol=1e-9)


def test_the_loss_is_the_documented_formula() -> None:
    x = batch(0, 50, torch.float64)
    for recipe in ("topk", "ksae"):
        plan = plan_of(recipe=recipe)
        state = state_of(plan, torch.float64)
        x_hat = state.sae(plan.k, "reference")(x)
        squares = (x_hat - x).square()
        fvu = squares.sum() / (x - x.mean(0)).square().sum()
        relative = (squares.mean(1) / x.square().mean(1)).mean()
        result = make_stepper(plan, state).step([x], 1e-3)
        assert result.fvu == pytest.approx(float(fvu), rel=1e-10)
        want = fvu if recipe == "topk" else relative
        assert result.loss == pytest.approx(float(want), rel=1e-10)


def test_decoder_rows_stay_on_the_sphere_only_for_topk() -> None:
    for recipe, stays in (("topk", True), ("ksae", False)):
        plan = plan_of(recipe=recipe)
        state = state_of(plan)
        stepper = make_stepper(plan, state)
        for step in range(5):
            stepper.step([batch(step)], 1e-2)
        off = float((state.params["W_dec"].norm(dim=1) - 1).abs().max())
        assert (off < 1e-6) == stays


def test_dead_latents_are_counted_by_rows() -> None:
    plan = plan_of(dead_rows=128)
    state = state_of(plan)
    state.params["b_enc"][4] = -1e6
    stepper = make_stepper(plan, state)
    assert [stepper.step([batch(i)], 1e-9).dead > 0 for i in range(3)] == [False, False, True]
    assert bool(state.dead_N(128)[4])
    assert int(state.last_fired_N[4]) == 0
    assert state.rows == 192


def sparse_batch(step: int, rows: int = 64) -> torch.Tensor:
    """Rows made of 3 out of 60 directions: more than the live latents of the test below."""
    true_TD = torch.randn(60, D, generator=torch.Generator().manual_seed(5))
    true_TD /= true_TD.norm(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(1000 + step)
    chosen = torch.rand(rows, 60, generator=generator).argsort(1)[:, :3]
    sizes = torch.rand(rows, 3, generator=generator) + 0.5
    return torch.zeros(rows, 60).scatter(1, chosen, sizes) @ true_TD


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_auxk_brings_dead_latents_back(seed: int) -> None:
    # Half of the latents start with a bias that keeps them out of the 3 largest.
    dead = []
    for coefficient in (0.0, 1 / 32):
        plan = plan_of(k=3, dead_rows=256, aux_coefficient=coefficient)
        state = new_state(plan, seed, sparse_batch(-1, 500).numpy())
        # In units of the pre-activations, which have the encoder's scale.
        state.params["b_enc"][:45] = -0.8 * state.params["W_enc"][0].norm()
        stepper = make_stepper(plan, state)
        for step in range(150):
            stepper.step([sparse_batch(1000 * seed + step)], 3e-3)
        dead.append(float(state.dead_N(256)[:45].double().mean()))
    assert dead[0] > 0.7
    assert dead[1] < 0.5 * dead[0], dead


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_on_one_and_two_threads(case: str) -> None:
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        plan = plan_of(**CASES[case])
        state = state_of(plan)
        stepper = make_stepper(plan, state)
        for step in range(5):
            x = batch(step, plan.batch)
            stepper.step(list(x.split(plan.micro_batch)), 1e-3)
        large_plan, large, batches = wide("cpu")
        large_stepper = make_stepper(large_plan, large)
        for x in batches[:3]:
            large_stepper.step([x], 1e-3)
        results.append({**state.params, **{f"wide {k}": v for k, v in large.params.items()}})
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def test_geometric_median_is_the_minimum() -> None:
    rows = np.random.default_rng(0).gamma(0.5, size=(301, 5))
    rows[0] = 1e4

    def distance(centre: np.ndarray) -> float:
        return float(np.linalg.norm(rows - centre, axis=1).sum())

    want = scipy.optimize.minimize(distance, np.median(rows, axis=0), method="BFGS", tol=1e-10)
    median = geometric_median(rows)
    assert distance(median) <= want.fun * (1 + 1e-9)
    assert np.allclose(median, want.x, atol=1e-4)  # BFGS stops at a gradient of about 1e-5
    assert np.allclose(geometric_median(np.ones((3, 2))), 1)


def test_the_first_scale_of_the_encoder_is_a_bit_less_than_the_best() -> None:
    x = batch(0, 300)
    plan = plan_of(recipe="topk")
    state = new_state(plan, 3, x.numpy())
    params = state.params
    scales = params["W_enc"].norm(dim=1) / params["W_dec"].norm(dim=1)
    scale = float(scales[0])
    assert torch.allclose(scales, scales[0].expand(N))
    assert 0 < scale < 1

    def error(a: float) -> float:
        y = (x - params["b_dec"]).double()
        pre = a * y @ params["W_dec"].double().T
        top = pre.topk(plan.k, 1)
        z = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        return float((z @ params["W_dec"].double() - y).square().sum())

    best = scipy.optimize.minimize_scalar(error, bounds=(0.01, 2), method="bounded")
    # The scale is rounded to four digits behind the point.
    assert scale == pytest.approx(7 / 8 * best.x, abs=1e-3)
    tied = new_state(plan_of(tied=True), 3, x.numpy())
    assert "W_enc" not in tied.params


def test_an_encoder_that_reconstructs_nothing_keeps_its_scale() -> None:
    W = torch.eye(D)
    assert encoder_scale(-torch.ones(5, D), W, torch.zeros(D), 3) == 1.0
    # One latent a row, no overlap: the reconstruction is right as it is.
    assert encoder_scale(torch.eye(D), W, torch.zeros(D), 1) == 7 / 8
