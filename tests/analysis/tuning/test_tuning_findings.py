"""What is counted as tuned, and what is not: units of known preferences, and units with none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isae.analysis.tuning.design import angle_design
from isae.analysis.tuning.findings import find_tuning
from isae.analysis.tuning.mirrored import second_reads, shown_again
from isae.analysis.tuning.responses import Responses
from isae.analysis.tuning.stimuli import StimulusPlan, StimulusSet, make_stimuli
from isae.analysis.tuning.strength import grouped_quantile
from isae.analysis.tuning.summary import largest_gap, summarise_tuning
from isae.train import SAE

SIZE, FIELD = 33, 28.0
PLAN = StimulusPlan(
    radii=(0.3, 0.5, 1.0), widths=(0.08, 0.16), cycles=(2.0, 4.0, 6.0), phases=2, openings=(90.0,),
    diameters=(0.3,), hues=2, lightnesses=(0.5,),
)  # fmt: skip


@pytest.fixture(scope="module")
def stimuli() -> StimulusSet:
    return make_stimuli(PLAN, SIZE, (SIZE / 2, SIZE / 2), FIELD)


def apart(a: np.ndarray, b: np.ndarray, period: float) -> np.ndarray:
    return np.abs((np.asarray(a) - b + period / 2) % period - period / 2)


def tuned_to(angles: np.ndarray, preferred: np.ndarray, kappa: float, period: float = 360.0):
    """Von Mises curves at the stimuli's angles, from near 0 to 1; 0 where there is no angle."""
    turn = np.cos(2 * np.pi * (np.asarray(angles)[:, None] - preferred) / period)
    return np.nan_to_num(np.exp(kappa * (turn - 1)))


def test_edge_detectors_point_the_same_way_in_each_polarity(stimuli: StimulusSet) -> None:
    """Dark to one side of an edge is light to the other: no look may be averaged with another."""
    at = np.arange(SIZE) + 0.5 - SIZE / 2
    u, v = np.meshgrid(at, -at)
    preferred = np.arange(0.0, 360, 30)
    filters = []
    for turn in np.deg2rad(preferred):
        out, along = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
        one = out / 3 * np.exp(-((out / 3) ** 2) / 2 - (along / 6) ** 2 / 2)
        filters.append((one - one.mean()) / np.abs(one).sum())
    pixels = np.concatenate(list(stimuli.batches(200))).astype(np.float64).mean(axis=3) - 128
    answers = np.maximum(np.einsum("shw,uhw->su", pixels, np.stack(filters)), 0)
    found = find_tuning("neuron", [(0, answers)], stimuli)
    arcs = found.families["arc"]
    # Light lies outside of dark figures: what points at 30 degrees for dark ones is 210 for light.
    looks = np.array([name.split()[0] == "light" for name in arcs.design.looks])
    expected = preferred + 180 * looks[arcs.look_N]
    for family in ("arc", "edge"):
        one = found.families[family]
        light = np.array([name.split()[0] == "light" for name in one.design.looks])
        assert found.kinds(family)["direction"].all()
        assert found.clear(family).all()
        expected = preferred + 180 * light[one.look_N]
        assert apart(found.vector(family), expected, 360).max() < 3
        assert (one.selectivity_NM[:, 0] > 0.5).all()
    assert found.agreeing("arc").all()
    assert np.isinf(arcs.best_radius_N).all()  # edges, not curves
    assert summarise_tuning(found)["direction_tuned"]["arcs"]["share"] == 1
    for number, name in enumerate(arcs.design.looks):
        curve_NA = arcs.look_curves_NKA[:, number]
        angle = np.rad2deg(np.angle(curve_NA @ np.exp(1j * np.deg2rad(arcs.design.angles_A))))
        assert apart(angle, preferred + 180 * name.startswith("light"), 360).max() < 3


def test_units_with_an_axis_have_no_direction(stimuli: StimulusSet) -> None:
    rng = np.random.default_rng(0)
    arcs = stimuli.column("family") == "arc"
    angle = stimuli.column("orientation")
    answers = np.zeros((len(stimuli), 60))
    answers[arcs] = 1 + np.cos(np.deg2rad(2 * (angle[arcs, None] - 40)))
    answers[arcs] += 0.05 * rng.random((arcs.sum(), 60))
    found = find_tuning("neuron", [(0, answers)], stimuli)
    assert found.kinds("arc")["axis"].all()
    assert not found.kinds("arc")["direction"].any()
    assert np.isnan(found.vector("arc")).all()
    assert apart(found.axis("arc"), 40, 180).max() < 1
    summary = summarise_tuning(found)
    assert summary["axis_tuned"]["arcs"]["count"] == 60
    assert summary["direction_tuned"]["arcs"]["count"] == 0
    assert summary["families"]["arc"]["largest_gap_degrees"] is None
    assert summary["families"]["arc"]["largest_gap_of_axes_degrees"] > 175
    assert largest_gap(found.vector("arc"), 360) is None


def test_near_duplicates_are_no_agreement_and_levels_that_agree_are(stimuli: StimulusSet) -> None:
    """Smooth curves, one random angle a radius; widths and colours of a radius are alike."""
    rng = np.random.default_rng(1)
    units, true = 3000, 1000
    radii = sorted({one.radius for one in stimuli.stimuli if one.family == "arc"})
    number = np.array([radii.index(r) if r in radii else 0 for r in stimuli.column("radius")])
    preferred_RU = 15.0 * rng.integers(0, 24, (len(radii), units))
    preferred_RU[:, :true] = preferred_RU[0, :true]
    arcs = np.flatnonzero(stimuli.column("family") == "arc")
    angle = stimuli.column("orientation")[arcs]
    turn = np.cos(np.deg2rad(angle[:, None] - preferred_RU[number[arcs]]))
    answers = np.zeros((len(stimuli), units), dtype=np.float32)
    noise = rng.lognormal(0, 0.2, (len(arcs), units))
    answers[arcs] = np.exp(3 * (turn - 1)) * noise
    found = find_tuning("feature", [(0, answers.astype(float))], stimuli, min_selectivity=0.0)
    arc = found.families["arc"]
    p = arc.factors["radius"][true:, 0]
    for level in (0.05, 0.01, 0.002):
        allowed = level * len(p)
        assert (p <= level).sum() <= allowed + 3 * np.sqrt(allowed)
    assert (arc.p_NM[true:, 0] < 1e-4).mean() > 0.05  # blocks agree, being alike
    assert found.agreeing("arc")[:true].mean() > 0.95
    assert found.agreeing("arc")[true:].sum() <= 0.05 * true + 3 * np.sqrt(0.05 * true)
    # Two widths cannot be tested, nor can what answers to one radius alone.
    assert np.isnan(arc.factors["width"]).all()
    lone = np.where(number[:, None] == 1, answers[:, :3], 0).astype(float)
    lone[stimuli.column("colour") != "red"] = 0
    single = find_tuning("feature", [(0, lone)], stimuli)
    assert np.isnan(single.families["arc"].p_agree_NM).all()


def test_few_sharp_blocks_are_tuned_and_agree(stimuli: StimulusSet) -> None:
    """One angle of 12, in the six line blocks of a polarity; and the same at 15-degree steps."""
    lines, angle = stimuli.column("family") == "line", stimuli.column("orientation")
    dark = lines & (stimuli.column("polarity") < 0)
    answers = np.zeros((len(stimuli), 40))
    for unit in range(40):
        answers[dark & (angle == 15.0 * (unit % 12)), unit] = 1 + unit
    found = find_tuning("neuron", [(0, answers)], stimuli)
    assert found.families["line"].p_NM[:, 0] == pytest.approx(12.0**-5)
    assert found.kinds("line")["axis"].all()
    assert found.agreeing("line").all()
    assert found.vector("line") == pytest.approx(15.0 * (np.arange(40) % 12))


def test_planted_units_are_found_at_the_stated_rate(stimuli: StimulusSet) -> None:
    rng = np.random.default_rng(6)
    angle, family = stimuli.column("orientation"), stimuli.column("family")
    units, planted = 700, 60
    answers = rng.exponential(size=(len(stimuli), units)) * (
        rng.random((len(stimuli), units)) < rng.uniform(0.2, 1, units)
    )
    preferred = rng.uniform(0, 360, planted)
    arcs = family == "arc"
    answers[np.ix_(arcs, np.arange(planted))] += 2 * tuned_to(angle[arcs], preferred, 2.0)
    answers[:, planted] = 0.4
    answers[:, planted + 1] = -1.0
    chunks = [(0, answers[:, :400]), (400, answers[:, 400:])]
    found = find_tuning("feature", chunks, stimuli)
    tuned = found.kinds("arc")["direction"]
    assert tuned[:planted].mean() >= 0.95
    false = sum(int(one[planted:].sum()) for one in found.tuned.values())
    false += sum(int(one[:planted].sum()) for name, one in found.tuned.items() if name != "arc")
    assert false <= 0.05 * tuned.sum() + 3 * np.sqrt(0.05 * tuned.sum())
    arc = found.families["arc"]
    assert np.median(apart(arc.vector_N[:planted], preferred, 360)) < 8
    assert np.isnan(arc.p_NM[planted : planted + 2]).all()  # flat, and silent
    assert (found.fired_N[planted + 1], found.best_N[planted + 1]) == (0, -1)
    assert found.tests == (units - 2) * 6 * 2
    whole = find_tuning("feature", [(0, answers)], stimuli)
    for name, one in whole.families.items():
        np.testing.assert_allclose(one.p_NM, found.families[name].p_NM, rtol=1e-9)


@pytest.mark.parametrize("field", [7.0, 12.0, 20.0])
def test_round_units_with_a_threshold_are_tuned_to_no_line(field: float) -> None:
    """Thin strokes on the pixel lattice must not be stronger at some angles than at others."""
    shown = make_stimuli(StimulusPlan(colours=("grey",)), 48, (24.5, 24.5), field)
    lines = np.flatnonzero(shown.column("family") == "line")
    distance = (np.arange(48) + 0.5 - 24.5) ** 2
    weight = np.exp(-(distance[:, None] + distance) / 2 / (field / 4) ** 2)
    contrast = np.zeros(len(shown))
    for number in lines.tolist():
        pixels = shown.draw(number)[..., 0].astype(np.float64)
        contrast[number] = abs((weight * (pixels - pixels[0, 0])).sum())
    thin = shown.column("width") == shown.column("width")[lines].min()
    level = np.median(contrast[lines][thin[lines]])
    answers = np.maximum(contrast[:, None] - level * np.array([0, 0.8, 0.95]), 0) * thin[:, None]
    found = find_tuning("neuron", [(0, answers)], shown)
    assert found.families["line"].selectivity_NM.max() < 0.07
    assert not found.tuned["line"].any()


def test_tuning_by_losing_to_stronger_features_is_told(stimuli: StimulusSet) -> None:
    """k = 1: a flat feature that loses where a tuned one is strong, and the tuned one."""
    arcs = stimuli.column("family") == "arc"
    rows = np.zeros((len(stimuli), 2), dtype=np.float32)
    rows[arcs, 0] = 0.5
    rows[arcs, 1] = tuned_to(stimuli.column("orientation")[arcs], np.array([82.5]), 2.0)[:, 0]
    sae = SAE(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2), 1)
    values, indices = sae.encode(torch.from_numpy(rows))
    answers = Responses(rows, values.numpy(), indices.numpy(), 2, sae)
    found = find_tuning("feature", answers.contested_chunks(), stimuli)
    assert found.kinds("arc")["direction"].all()
    assert apart(found.vector("arc"), np.array([262.5, 82.5]), 360).max() < 1
    assert found.doubts("arc")["lost_to_k"].tolist() == [True, False]
    assert found.clear("arc").tolist() == [False, True]
    headline = summarise_tuning(found)["direction_tuned"]["arcs"]
    assert (headline["tuned"], headline["count"], headline["lost_to_k"]) == (2, 1, 1)


def test_faint_and_suppressed_units_are_counted_apart(stimuli: StimulusSet) -> None:
    """The same curve strong, faint beside photos, without photos, and under an answer to ground."""
    arcs = stimuli.column("family") == "arc"
    curve = np.where(arcs, tuned_to(stimuli.column("orientation"), np.array([50.0]), 2.0)[:, 0], 0)
    answers = np.repeat(curve[:, None], 4, axis=1)
    answers[stimuli.column("family") == "blank", 3] = 1.0
    scale = np.array([2.0, 50.0, np.nan, 2.0])
    found = find_tuning("neuron", [(0, answers)], stimuli, scale_N=scale)
    doubts = found.doubts("arc")
    assert doubts["faint"].tolist() == [False, True, True, False]
    assert doubts["suppressed"].tolist() == [False, False, False, True]
    assert found.clear("arc").tolist() == [True, False, False, False]
    assert found.blank_N.tolist() == [0, 0, 0, 1]
    summary = summarise_tuning(found)
    assert summary["without_positive_values_on_photos"] == 1
    assert summary["direction_tuned"]["arcs"]["faint"] == 2
    assert find_tuning("neuron", [(0, answers)], stimuli).clear("arc").sum() == 3
    quantile = grouped_quantile(np.array([2, 0, 2, 2]), np.array([3, 1, 9, 5], np.float32), 3)
    np.testing.assert_array_equal(quantile, [1, np.nan, 9])


def test_a_preference_that_turns_with_the_frame_is_told(stimuli: StimulusSet) -> None:
    shown, chosen = shown_again(stimuli, "grey", 20.0)
    assert shown.centre == (20.0, 20.0)
    assert set(shown.column("colour")) == {"grey"}
    curve = [tuned_to(one.column("orientation"), np.array([50.0, 50, 50]), 2.0)
             for one in (stimuli, shown)]  # fmt: skip
    curve[1][:, 1] = tuned_to(shown.column("orientation"), np.array([230.0]), 2.0)[:, 0]
    curve[1][:, 2] = 1.0
    reads = second_reads([(0, curve[0])], [(0, curve[1])], shown, chosen)
    found = find_tuning("neuron", [(0, curve[0])], stimuli, again=reads)
    assert found.doubts("arc")["framed"].tolist() == [False, True, True]
    assert reads["arc"].off_NM[:2, 0] == pytest.approx([0, 180], abs=1e-6)
    assert found.clear("arc").tolist() == [True, False, False]


def test_looks_grounds_and_straight_controls_are_the_right_stimuli(stimuli: StimulusSet) -> None:
    design = angle_design(stimuli, "arc")
    assert set(design.looks) == {"dark stroke", "dark disc", "light stroke", "light disc"}
    for block in (0, 5, 11):
        arc = stimuli.stimuli[design.index_BA[block, 3]]
        straight = stimuli.stimuli[design.straight_BA[block, 3]]
        assert straight.family == ("line" if arc.fill == "stroke" else "edge")
        assert (straight.colour, straight.polarity) == (arc.colour, arc.polarity)
        assert straight.orientation == (135 if arc.fill == "stroke" else 45)
        ground = stimuli.draw(int(design.ground_K[design.look_B[block]]))
        assert (ground == stimuli.draw(int(design.index_BA[block, 3]))[0, 0]).all()
