"""Tuning with planted truth: curves of known formulas, oriented filters, flat units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from isae.analysis.tuning.findings import find_tuning
from isae.analysis.tuning.radial import (
    angle_design,
    fourier_modes,
    half_widths,
    invariance,
    measure_curves,
    positive_blocks,
    radius_curves,
    variance_shares,
)
from isae.analysis.tuning.responses import read_responses
from isae.analysis.tuning.stimuli import StimulusPlan, StimulusSet, make_stimuli
from isae.analysis.tuning.summary import largest_gap, summarise_tuning
from isae.analysis.tuning.tables import curves_table, units_table
from isae.errors import DataError
from isae.inception import Network, WeightsInfo
from isae.inception.layers import Op
from isae.train import SAE

ANGLES = np.arange(24) * 15.0
SIZE, FIELD = 33, 28.0
PLAN = StimulusPlan(
    directions=24, radii=(0.3, 1.0), widths=(0.08, 0.16), colours=("grey", "red"),
    cycles=(2.0, 4.0), phases=2, openings=(90.0,), diameters=(0.3,), hues=2, lightnesses=(0.5,),
)  # fmt: skip


@pytest.fixture(scope="module")
def stimuli() -> StimulusSet:
    return make_stimuli(PLAN, SIZE, (SIZE / 2, SIZE / 2), FIELD)


def apart(a: np.ndarray, b: np.ndarray, period: float) -> np.ndarray:
    return np.abs((np.asarray(a) - b + period / 2) % period - period / 2)


def von_mises(preferred: np.ndarray, kappa: np.ndarray, period: float = 360.0) -> np.ndarray:
    """Curves [A, U] over 24 angles of a period, from near 0 to 1."""
    angles = ANGLES * period / 360
    turn = np.cos(2 * np.pi * (angles[:, None] - preferred) / period)
    return np.exp(kappa * (turn - 1))


def test_curves_of_a_formula_give_its_angles_and_widths() -> None:
    preferred = np.linspace(0, 345.5, 12)
    kappa = np.linspace(0.8, 6, 12)
    found = measure_curves(von_mises(preferred, kappa), 360)
    assert apart(found.vector_U, preferred, 360).max() < 0.1
    assert apart(found.peak_U, preferred, 360).max() <= 7.5 + 1e-9
    low = np.exp(-2 * kappa)
    expected = np.degrees(np.arccos(np.log((1 + low) / 2) / kappa + 1))
    assert np.abs(found.half_width_U - expected).max() < 2
    assert (np.diff(found.selectivity_2U[0]) > 0).all()  # rises with kappa
    lines = measure_curves(von_mises(preferred / 2, kappa, 180.0), 180)
    np.testing.assert_allclose(lines.half_width_U, found.half_width_U / 2, rtol=1e-9)
    assert apart(lines.vector_U, preferred / 2, 180).max() < 0.05
    two = measure_curves(1 + np.cos(np.deg2rad(2 * (ANGLES - 40)))[:, None], 360)
    assert two.axis_U[0] == pytest.approx(40)
    assert two.selectivity_2U[:, 0] == pytest.approx([0, 0.5], abs=1e-12)


def test_flat_silent_and_single_angle_curves_are_free_of_surprises() -> None:
    curve = np.zeros((24, 3))
    curve[:, 1] = 0.7
    curve[5, 2] = 2.0
    found = measure_curves(curve, 360)
    assert np.isnan(found.selectivity_2U[:, 0]).all()
    np.testing.assert_allclose(found.selectivity_2U[:, 1], 0, atol=1e-12)
    np.testing.assert_allclose(found.selectivity_2U[:, 2], 1)
    rounded = measure_curves((1 + 6e-8 * (np.arange(24) % 3 == 0))[:, None], 360)
    assert np.isnan([rounded.vector_U, rounded.peak_U, rounded.half_width_U]).all()
    for one in (found.vector_U, found.axis_U, found.peak_U, found.half_width_U):
        assert np.isnan(one[:2]).all()
    assert (found.vector_U[2], found.peak_U[2], found.half_width_U[2]) == pytest.approx(
        (75, 75, 7.5)
    )
    plateau = np.array([1.0, 3, 3, 1, 0, 0, 0, 0])[:, None]
    assert half_widths(plateau, 360)[0] == pytest.approx((1 + 0.75 + 0.75) / 2 * 45)


def test_modes_of_a_population_of_turned_curves_are_those_of_one() -> None:
    coefficients = np.array([2.0, 1.0, 0.5, 0.25])
    preferred = np.linspace(0, 345, 9)
    turn = np.deg2rad(ANGLES[:, None] - preferred)
    curves = 5 + sum(c * np.cos((m + 1) * turn) for m, c in enumerate(coefficients))
    expected = coefficients**2 / (coefficients**2).sum()
    np.testing.assert_allclose(fourier_modes(curves), expected, atol=1e-12)
    assert fourier_modes(np.ones((24, 3))) is None
    strong = np.concatenate([curves, 1e3 * np.cos(2 * turn[:, :1])], axis=1)
    assert fourier_modes(strong)[1] > 0.99
    np.testing.assert_allclose(
        fourier_modes(strong, alike=True), (9 * expected + [0, 1, 0, 0]) / 10, atol=1e-12
    )
    edge = fourier_modes(np.cos(np.pi * np.arange(8))[:, None], (1, 4))
    np.testing.assert_allclose(edge, [0, 1], atol=1e-12)
    assert largest_gap(np.array([10.0, 350, 100]), 360) == pytest.approx(250)
    assert largest_gap(np.array([np.nan]), 360) is None


def test_invariances_and_shares_tell_what_a_unit_depends_on(stimuli: StimulusSet) -> None:
    design = angle_design(stimuli, "arc")
    column = {name: stimuli.column(name) for name in ("orientation", "polarity", "colour")}
    curve = 1 + np.cos(np.deg2rad(column["orientation"] - 30))
    dark = (column["polarity"] < 0).astype(float)
    red = (column["colour"] == "red").astype(float)
    turned = 1 + np.cos(np.deg2rad(column["orientation"] - 30 - 180 * red))
    answers = np.stack([curve, curve * dark, red + 0 * curve, turned, 0 * curve], axis=1)
    positive = positive_blocks(answers, design)
    found = {name: invariance(positive, design, name) for name in ("polarity", "colour", "fill")}
    assert found["polarity"][0] == pytest.approx(1)
    assert np.isnan(found["polarity"][3])  # both colours together are flat
    assert found["polarity"][1] == pytest.approx(0.25)
    assert found["colour"][[0, 1]] == pytest.approx(1)
    assert found["colour"][[2, 3]] == pytest.approx(0, abs=1e-12)
    assert np.isnan(found["fill"][4])
    shares = variance_shares(positive, design)
    assert shares["orientation"][[0, 2]] == pytest.approx([1, 0], abs=1e-12)
    assert shares["colour"][2] == pytest.approx(1)
    # curve * dark has variance 3/4 - 1/4: polarity 1/4, orientation 1/8, their interaction 1/8.
    assert shares["polarity"][1] == pytest.approx(0.5)
    assert shares["orientation"][1] == pytest.approx(0.25)
    assert all(np.isnan(part[4]) for part in shares.values())


def test_the_preferred_radius_is_read_at_the_peak_beside_straight_ones(
    stimuli: StimulusSet,
) -> None:
    """A curve detector, a straight one, and one of the larger arcs; in strokes and in discs."""
    whole = angle_design(stimuli, "arc")
    radius, angle = stimuli.column("radius"), stimuli.column("orientation")
    family = stimuli.column("family")
    up = apart(angle, 90, 360) < 1
    tangent = (family == "line") & (apart(angle, 0, 180) < 1) | (family == "edge") & up
    arcs = (family == "arc") & up
    answers = np.stack(
        [1.0 * arcs * (radius < 20), arcs + 2.0 * tangent, arcs * (radius > 20) + 0.5 * tangent],
        axis=1,
    )
    for look in range(len(whole.looks)):
        design = whole.of_look(look)
        blocks = positive_blocks(answers, design)
        peak = blocks.mean(axis=0).argmax(axis=0)
        radii = np.array([0.3 * FIELD, FIELD, np.inf])
        curves = radius_curves(blocks, answers, design, peak, radii)
        np.testing.assert_allclose(curves, [[1, 1, 0], [0, 1, 1], [0, 2, 0.5]])
    one = make_stimuli(replace(PLAN, radii=(0.3,)), SIZE, (SIZE / 2, SIZE / 2), FIELD)
    found = find_tuning("neuron", [(0, np.ones((len(one), 1)))], one).families["arc"]
    np.testing.assert_allclose(found.radii_L, [0.3 * FIELD, np.inf])


def test_turned_gratings_make_the_same_curve_whatever_their_phase() -> None:
    """An odd filter turned through 180 degrees: its phase dependence is that of the filter."""
    stimuli = make_stimuli(replace(PLAN, phases=4), SIZE, (SIZE / 2, SIZE / 2), FIELD)
    at = np.arange(SIZE) + 0.5 - SIZE / 2
    u, v = np.meshgrid(at, -at)
    filters = []
    for turn in np.deg2rad([0.0, 15, 45, 90, 135, 165]):
        along, across = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
        envelope = np.exp(-((across / 4) ** 2) / 2 - (along / 6) ** 2 / 2)
        filters.append(envelope * np.sin(4 * np.pi * across / FIELD))
    waves = np.flatnonzero(np.isin(stimuli.column("family"), ["grating", "gabor"]))
    pixels = np.stack([stimuli.draw(number)[..., 0] for number in waves.tolist()]) - 128.0
    answers = np.zeros((len(stimuli), len(filters)))
    answers[waves] = np.maximum(np.einsum("shw,uhw->su", pixels, np.stack(filters)), 0)
    for family in ("grating", "gabor"):
        design = angle_design(stimuli, family)
        assert sorted(set(design.levels["phase"].tolist())) == [0, 90, 180]
        shares = variance_shares(positive_blocks(answers, design), design)["phase"]
        assert shares.max() < 1.15 * shares.min()


def test_designs_that_are_not_whole_are_refused(stimuli: StimulusSet) -> None:
    arcs = [number for number, one in enumerate(stimuli.stimuli) if one.family == "arc"]
    part = replace(stimuli, stimuli=tuple(stimuli.stimuli[number] for number in arcs[:-1]))
    with pytest.raises(DataError, match="every block"):
        angle_design(part, "arc")
    assert angle_design(part, "line") is None


class FilterBank(Network):
    """A linear network: channel c of its one cell is relu of a picture's product with filter c."""

    def __init__(self, filters_CHW: np.ndarray) -> None:
        super().__init__(
            "inceptionv1", WeightsInfo("planted", None, ""), input_size=SIZE, preprocessing="none",
            classes=None, class_count=1,
        )  # fmt: skip
        weight = torch.from_numpy(filters_CHW.astype(np.float32))[:, None].repeat(1, 3, 1, 1)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def _preprocess(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return (pixels_BCHW - 128) / 128

    def _ops(self) -> list[Op]:
        return [Op("conv2d0", "conv")]

    def _apply_op(self, op: Op, x_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x_BCHW, self.weight).relu()

    def _head(self, x_BC: torch.Tensor) -> torch.Tensor:
        return x_BC


PREFERRED = np.array([0.0, 30.0, 52.0, 90.0, 117.0, 165.0])


def oriented_filters() -> np.ndarray:
    """Filters of mean 0 for light lines at PREFERRED, for dark ones there, and a round one."""
    at = np.arange(SIZE) + 0.5 - SIZE / 2
    u, v = np.meshgrid(at, -at)
    bank = []
    for angle in np.deg2rad(PREFERRED):
        along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
        bank.append(
            (1 - (across / 2.5) ** 2) * np.exp(-((across / 2.5) ** 2) / 2 - (along / 8) ** 2)
        )
    radius = np.hypot(u, v)
    bank += [-one for one in bank]
    bank.append(np.exp(-((radius / 3) ** 2)) - 0.25 * np.exp(-((radius / 6) ** 2)))
    filters = np.stack(bank)
    filters -= filters.mean(axis=(1, 2), keepdims=True)
    return filters / np.abs(filters).sum(axis=(1, 2), keepdims=True)


@pytest.fixture(scope="module")
def bank(stimuli: StimulusSet) -> dict:
    """Both kinds of findings on the filter bank, through an SAE with one latent per filter."""
    network = FilterBank(oriented_filters())
    channels, dead = len(network.weight), 3
    W = torch.eye(channels + dead, channels)
    bias = torch.zeros(channels + dead)
    bias[channels:] = -1e6
    sae = SAE(W, bias, W.clone(), torch.zeros(channels), channels)
    answers = read_responses(network, sae, "conv2d0", 0, stimuli, batch_size=100)
    assert answers.neurons_SC.shape == (len(stimuli), channels)
    return {
        "feature": find_tuning("feature", answers.contested_chunks(5), stimuli),
        "neuron": find_tuning("neuron", answers.neuron_chunks(4), stimuli),
        "answers": answers,
    }


def test_oriented_filters_are_recovered_through_network_and_dictionary(bank: dict) -> None:
    count = len(PREFERRED)
    for kind in ("neuron", "feature"):
        found = bank[kind]
        lines = found.families["line"]
        assert found.kinds("line")["axis"][: 2 * count].all()
        assert found.clear("line")[: 2 * count].all()
        assert apart(lines.vector_N[: 2 * count], np.tile(PREFERRED, 2), 180).max() < 3
        assert apart(lines.peak_N[: 2 * count], np.tile(PREFERRED, 2), 180).max() <= 7.5 + 1e-9
        assert (lines.half_width_N[: 2 * count] < 40).all()
        gabors = found.families["gabor"]
        assert apart(gabors.vector_N[: 2 * count], np.tile(PREFERRED, 2), 180).max() < 4
        # The round filter answers, but to every angle alike.
        assert found.fired_N[2 * count] > 0
        assert lines.selectivity_NM[2 * count].max() < 0.1
        assert not found.tuned["line"][2 * count]
    np.testing.assert_allclose(
        bank["feature"].families["line"].curve_NA[: 2 * count + 1],
        bank["neuron"].families["line"].curve_NA, rtol=1e-4, atol=1e-6,
    )  # fmt: skip


def test_polarity_is_told_and_dead_features_are_silent(bank: dict, stimuli: StimulusSet) -> None:
    neurons, count = bank["answers"].neurons_SC, len(PREFERRED)
    grey_line = (stimuli.column("family") == "line") & (stimuli.column("colour") == "grey")
    polarity = stimuli.column("polarity")
    light = neurons[grey_line & (polarity > 0)].max(axis=0)
    dark = neurons[grey_line & (polarity < 0)].max(axis=0)
    assert (light[:count] > 1.5 * dark[:count]).all()
    assert (dark[count : 2 * count] > 1.5 * light[count : 2 * count]).all()
    lines = bank["neuron"].families["line"]
    assert (lines.variance["polarity"][: 2 * count] > 0.03).all()
    found = bank["feature"]
    assert (found.fired_N[-3:] == 0).all()
    assert (found.best_N[-3:] == -1).all()
    for family, one in found.families.items():
        assert np.isnan(one.p_NM[-3:]).all()
        assert not found.tuned[family][-3:].any()
    table = units_table(found, {})
    assert table.num_rows == 2 * count + 4
    for name in table.schema.names:
        values = table.column(name).to_pylist()
        assert not any(isinstance(one, float) and one != one for one in values), name
    curves = curves_table(found)
    assert curves.num_rows == sum(
        int((one.curve_NA.max(axis=1) > 0).sum()) for one in found.families.values()
    )
    summary = summarise_tuning(found)
    assert (summary["units"], summary["silent"]) == (2 * count + 4, 3)
    assert summary["axis_tuned"]["lines"]["tuned"] == 2 * count
    assert summary["axis_tuned"]["lines"]["share"] == 2 * count / (2 * count + 4)


def test_stimuli_are_shown_once_to_the_same_weights(stimuli: StimulusSet) -> None:
    few = replace(stimuli, stimuli=stimuli.stimuli[:5])
    network = FilterBank(oriented_filters())
    sae = SAE(torch.eye(13), torch.zeros(13), torch.eye(13), torch.zeros(13), 2)
    passes = []
    original = network._preprocess
    network._preprocess = lambda pixels: passes.append(1) or original(pixels)
    read_responses(network, sae, "conv2d0", 0, few)
    read_responses(network, sae, "conv2d0", 0, few)
    assert len(passes) == 2  # planted weights have no hash: never kept
    network.weights = WeightsInfo("planted", None, "a hash of its own")
    first = read_responses(network, sae, "conv2d0", 0, few)
    again = read_responses(network, sae, "conv2d0", 0, few)
    assert len(passes) == 3
    np.testing.assert_array_equal(first.neurons_SC, again.neurons_SC)
    read_responses(network, sae, "conv2d0", 0, replace(few, field=FIELD - 1))
    network.weights = WeightsInfo("planted", None, "another")
    read_responses(network, sae, "conv2d0", 0, few)
    assert len(passes) == 5
