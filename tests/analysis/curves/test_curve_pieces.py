"""Pieces of the curve analysis against definitions written out: stimuli, gaps, parts, splits."""

from __future__ import annotations

import numpy as np
import pytest

from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.controls import factorise, read_out
from isae.analysis.curves.coverage import equal_count, find_gaps, uniform_count, uniformity
from isae.analysis.curves.drawing_on import lies_between
from isae.analysis.curves.rows import RealRows, feature_scale, grouped_quantile, neuron_scale
from isae.analysis.curves.splits import NeuronParts, explain_neurons, find_splits
from isae.analysis.curves.stimuli import CurveStimuli, curve_stimuli
from isae.analysis.curves.summary import count_clusters, wilson
from isae.errors import ConfigError

SIZE, FIELD = 48, 40.0
CONFIG = CurvesConfig(directions=8, radii=(0.3, 0.6, 3.0), widths=(0.1,), colours=("grey",))


@pytest.fixture(scope="module")
def stimuli() -> CurveStimuli:
    return curve_stimuli(CONFIG, SIZE, (SIZE / 2, SIZE / 2), FIELD)


def figure(stimuli: CurveStimuli, number: int) -> np.ndarray:
    """How far each pixel is from the ground, 0 to 1."""
    picture = stimuli.shown.draw(int(number))[..., 0].astype(np.float64)
    ground = 230 if stimuli.shown.stimuli[int(number)].polarity < 0 else 26
    return np.abs(picture - ground) / 204


def middle(share: np.ndarray) -> complex:
    """The centroid, right and up of the picture's centre."""
    at = np.arange(SIZE) + 0.5 - SIZE / 2
    u, v = np.meshgrid(at, -at)
    return complex((share * u).sum(), (share * v).sum()) / share.sum()


def test_ninety_degrees_is_an_arch_and_corners_point_as_arcs_do(stimuli: CurveStimuli) -> None:
    stroke = int(stimuli.stroke_K[0])
    for place, angle in enumerate(stimuli.angles_A):
        outward = np.exp(1j * np.deg2rad(angle))
        arc = middle(figure(stimuli, stimuli.arc_LRA[stroke, 0, place]))
        corner = middle(figure(stimuli, stimuli.corner_KOA[0, 0, place]))
        for centroid in (arc, corner):
            assert abs(centroid / abs(centroid) + outward) < 0.05
    arch = figure(stimuli, stimuli.arc_LRA[stroke, 0, 2])
    assert stimuli.angles_A[2] == 90
    ends = np.flatnonzero(arch.sum(axis=0) > 0.5)[[0, -1]]
    assert arch[:, ends].argmax(axis=0).min() > arch[:, SIZE // 2].argmax()  # ends hang down


def test_arcs_become_their_straight_stimulus(stimuli: CurveStimuli) -> None:
    assert stimuli.arc_LRA.shape == (4, 3, 8)
    assert set(stimuli.levels) == {"fill", "polarity"}
    for look in range(4):
        for place in (0, 1, 3, 6):
            straight = figure(stimuli, stimuli.straight_LA[look, place])
            apart = [
                np.abs(figure(stimuli, number) - straight).mean()
                for number in stimuli.arc_LRA[look, :, place]
            ]
            assert apart[0] > apart[1] > apart[2]
            wrong = figure(stimuli, stimuli.straight_LA[look, (place + 2) % 8])
            assert np.abs(wrong - straight).mean() > 2 * apart[2]
        back = stimuli.straight_LA[look, (np.arange(8) + 4) % 8]
        same = (back == stimuli.straight_LA[look]).all()
        assert same == (look in stimuli.stroke_K)  # a line serves both sides, an edge does not


@pytest.mark.parametrize(
    "option",
    [{"alpha": 0}, {"radii": ()}, {"widths": (0.2, 0.1)}, {"directions": 10}, {"colours": ("x",)},
     {"openings": (180.0,)}, {"gap": 20.0}, {"rows": 1}, {"min_contrast": 1.0}, {"min_peak": 0.0}],
)  # fmt: skip
def test_options_out_of_range_are_refused(option: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        CurvesConfig(**option)


def test_quantiles_of_groups_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    group, value = rng.integers(0, 7, 300), rng.exponential(size=300)
    group[group == 4] = 5
    group[0], value[0] = 4, 2.5
    found = grouped_quantile(group, value, 9, 0.99)
    for number in range(9):
        own = value[group == number]
        if len(own):
            assert found[number] == pytest.approx(np.quantile(own, 0.99))
        else:
            assert np.isnan(found[number])


def test_thresholds_give_each_direction_its_own_rate() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((211, 5)).astype(np.float32)
    direction = rng.standard_normal((700, 5)).astype(np.float32)
    fires = rng.integers(0, 300, 700)
    read = read_out(direction, fires, x, 0.99)
    values = np.concatenate([answers for _, answers in read.chunks(x, 64)], axis=1)
    wanted = np.clip(fires, 1, 210)
    assert np.array_equal((values > 0).sum(axis=0), wanted)
    for unit in (0, 13, 600):
        positive = values[values[:, unit] > 0, unit]
        assert read.scale_U[unit] == pytest.approx(np.quantile(positive, 0.99), rel=1e-4)


def test_scales_count_positive_values_alone() -> None:
    rows = RealRows(
        np.array([[1, 0], [3, 0], [0, 0]], np.float32),
        np.array([[2, 0], [4, 1], [0, 0]], np.float32),
        np.array([[0, 1], [0, 2], [1, 2]]), np.arange(3), 4,
    )  # fmt: skip
    fires, scale = feature_scale(rows, 0.5)
    assert fires.tolist() == [2, 0, 1, 0]
    np.testing.assert_allclose(scale, [3, np.nan, 1, np.nan])
    fires, scale = neuron_scale(rows, 0.5)
    assert fires.tolist() == [2, 0]
    np.testing.assert_allclose(scale, [2, np.nan])


def test_parts_of_a_factorisation_are_found_again() -> None:
    rng = np.random.default_rng(2)
    truth = np.zeros((4, 20), np.float32)
    for number in range(4):
        truth[number, 5 * number : 5 * number + 5] = rng.uniform(1, 2, 5)
    x = (rng.exponential(size=(300, 4)) * (rng.random((300, 4)) < 0.4)).astype(np.float32) @ truth
    found = factorise(x, 4, 200, rng)
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    assert (np.abs(found @ truth.T).max(axis=0) > 0.99).all()


def test_gaps_and_what_is_inside_them() -> None:
    gaps = find_gaps(np.array([350.0, 20, 100, np.nan]))
    assert gaps.start_G.tolist() == [100, 20, 350]
    assert gaps.width_G.tolist() == [250, 80, 30]
    directions = np.array([5.0, 351, 60, 61, 200, 99, 22])
    assert gaps.inside(directions, 0).tolist() == [1, 4, 2]
    assert gaps.inside(directions, 10).tolist() == [1, 2, 1]
    assert gaps.at_least(80).width_G.tolist() == [250, 80]
    assert find_gaps(np.array([7.0])).width_G.tolist() == [360]
    assert len(find_gaps(np.array([])).width_G) == 0


def test_equal_counts_of_many_even_directions_are_like_uniform_ones() -> None:
    gaps = find_gaps(np.array([0.0, 90, 180])).at_least(100)
    even = np.arange(0, 360, 0.25)
    found = equal_count(even, 5, gaps, 10, 400, 0, "x")
    uniform = uniform_count(5, gaps, 10, 400, 0, "x")
    assert found["gaps_to_fill"] == 1
    assert found["largest_gap"][0] == pytest.approx(uniform["largest_gap"][0], rel=0.15)
    assert found["mean_gaps_filled"] == pytest.approx(1 - (1 - 160 / 360) ** 5, abs=0.05)
    assert equal_count(even[:3], 5, gaps, 10, 9, 0, "x") is None
    assert uniform_count(1, gaps, 10, 9, 0, "x") is None


def test_uniformity_tells_sides_and_rows_from_chance() -> None:
    rng = np.random.default_rng(4)
    one_side = uniformity(rng.normal(90, 30, 20) % 360, 300, 0, "a")
    assert one_side["rayleigh_p"] < 0.01
    regular = uniformity(np.arange(0, 360, 18.0), 300, 0, "a")
    assert regular["rao_p_too_even"] < 0.01
    assert regular["rayleigh_p"] > 0.9
    chance = [uniformity(rng.uniform(0, 360, 9), 100, n, "a")["rao_p"] for n in range(100)]
    assert 0.3 < np.mean(chance) < 0.7
    assert uniformity(np.array([3.0]), 300, 0, "a") is None


def test_between_means_inside_the_shorter_arc() -> None:
    at = np.array([10.0, 355, 180, 10, np.nan])
    one = np.array([350.0, 350, 350, 350, 350])
    two = np.array([20.0, 20, 20, np.nan, 20])
    assert lies_between(at, one, two).tolist() == [True, True, False, False, False]


def parts_of(feature: np.ndarray, part: np.ndarray) -> NeuronParts:
    count = len(feature)
    whole, numbers = np.ones(count), np.ones(count, dtype=np.int64)
    return NeuronParts(whole, numbers, numbers, feature, part, part, part, whole, whole, numbers)


def test_parts_are_sums_over_large_activations_and_add_to_one() -> None:
    rng = np.random.default_rng(6)
    n, channels, rows = 12, 4, 400
    decoder = rng.standard_normal((n, channels)).astype(np.float32)
    index = np.argsort(rng.random((rows, n)), axis=1)[:, :3]
    value = rng.exponential(size=(rows, 3)).astype(np.float32)
    bias = np.array([0.3, -0.1, 0, 0], np.float32)
    x = np.maximum(bias + np.einsum("rk,rkc->rc", value, decoder[index]), 0).astype(np.float32)
    x += rng.uniform(0, 0.2, x.shape).astype(np.float32)
    x[:, 3] = 0
    config = CurvesConfig(large=0.9, resamples=40)
    found = explain_neurons(
        RealRows(x, value, index, np.arange(rows) // 4, n), decoder, bias, config
    )
    for c in range(3):
        large = x[:, c] > np.quantile(x[:, c], 0.9)
        dense = np.zeros((rows, n))
        np.put_along_axis(dense, index, value, axis=1)
        part = (dense[large] * decoder[:, c]).sum(axis=0) / x[large, c].sum()
        top = found.feature_CT[c][found.feature_CT[c] >= 0]
        assert top.tolist() == np.argsort(-part)[: len(top)].tolist()
        np.testing.assert_allclose(found.part_CT[c, : len(top)], part[top], rtol=1e-5)
        assert part.sum() + found.bias_C[c] + found.residual_C[c] == pytest.approx(1)
        positive = np.sort(part[part > 0])[::-1]
        assert positive[: found.features_C[c]].sum() >= 0.8 * positive.sum()
        assert positive[: found.features_C[c] - 1].sum() < 0.8 * positive.sum()
        assert (found.low_CT[c, : len(top)] <= part[top]).all()
        assert (found.high_CT[c, : len(top)] >= part[top]).all()
    assert found.rows_C[3] == 0
    assert (found.feature_CT[3] == -1).all()


def test_splits_by_chance_are_as_many_as_expected_and_planted_ones_more() -> None:
    rng = np.random.default_rng(7)
    n, channels = 600, 150
    tuned, direction = rng.random(n) < 0.4, rng.uniform(0, 360, n)
    fires = rng.integers(1, 50, n)
    feature = np.argsort(rng.random((channels, n)), axis=1)[:, :3]
    part = np.tile([0.5, 0.3, 0.05], (channels, 1))
    config = CurvesConfig(draws=200)
    chance = find_splits(parts_of(feature, part), tuned, direction, fires, config, "a")
    assert chance.tests == channels
    assert chance.splits_C.sum() == pytest.approx(chance.expected, abs=4 * np.sqrt(chance.expected))
    assert chance.count_p > 0.001
    assert not (chance.q_C[chance.splits_C] <= 0.05).any()
    rare = np.zeros(n, dtype=bool)
    rare[:12] = True
    feature[:6, 0], feature[:6, 1] = np.arange(6), np.arange(6, 12)
    direction[:6], direction[6:12] = 10, 100
    planted = find_splits(parts_of(feature, part), rare, direction, fires, config, "a")
    assert np.flatnonzero(planted.splits_C)[:6].tolist() == list(range(6))
    assert planted.turn_C[:6] == pytest.approx(90)
    assert planted.count_p < 0.01
    direction[6:12] = 30  # alike: a family, no split
    assert (
        not find_splits(parts_of(feature, part), rare, direction, fires, config, "a")
        .splits_C[:6]
        .any()
    )


def test_shares_have_intervals_and_like_rows_count_once() -> None:
    assert wilson(0, 0) is None
    assert wilson(0, 50) == pytest.approx([0, 0.0713], abs=1e-3)
    low, high = wilson(25, 50)
    assert low + high == pytest.approx(1)
    rows = np.array([[1, 0, 0], [1, 0.1, 0], [0, 2, 0], [0, 0, 1]], np.float32)
    assert count_clusters(rows, 0.9) == 3
    assert count_clusters(rows[:0], 0.9) == 0
