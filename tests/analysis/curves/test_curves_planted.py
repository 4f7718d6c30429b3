"""Planted truth: oriented curve filters with known directions and gaps, features that fill one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from isae.analysis.curves import known_units
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.curves.coverage import find_gaps
from isae.analysis.curves.criterion import PARTS, direction_pvalues, measure_units, turn_between
from isae.analysis.curves.findings import CurvesFindings, Dictionary, filling, find_curves, gap_rows
from isae.analysis.curves.rows import RealRows
from isae.analysis.curves.stimuli import CurveStimuli, curve_stimuli
from isae.analysis.tuning.responses import Responses
from isae.images import shapes

SIZE, FIELD = 41, 36.0
CONFIG = CurvesConfig(
    directions=24, radii=(0.25, 0.4, 1.0), widths=(0.1,), colours=("grey", "red"), draws=200,
    resamples=50, rows=2000, held_out_rows=2000,
)  # fmt: skip

SEEN = np.array([12.0, 45.0, 77.0, 104.0, 135.0, 165.0, 232.0, 262.0, 290.0])
"""Curve features that are neurons of their own; the gaps are 165 to 232 and 290 to 12."""
HIDDEN = np.array([200.0, 60.0])
"""Curve features in one mixed neuron: the first fills a gap, the second does not."""
MIXED = len(SEEN)


@pytest.fixture(scope="module")
def stimuli() -> CurveStimuli:
    return curve_stimuli(CONFIG, SIZE, (SIZE / 2, SIZE / 2), FIELD)


@pytest.fixture(scope="module")
def pixels(stimuli: CurveStimuli) -> np.ndarray:
    """All pictures as grey values from -1 to 1 -> [S, SIZE * SIZE]."""
    pictures = np.concatenate([batch.mean(axis=3) for batch in stimuli.shown.batches(256)])
    return (pictures.reshape(len(pictures), -1) - 128) / 128


SCALE = FIELD / SIZE
WIDTH = 0.1 * SCALE
Pair = tuple[np.ndarray, np.ndarray]


def filter_of(mask: np.ndarray) -> np.ndarray:
    """A filter of mean 0 and length 1 from a mask or a wave on a grid four times as fine."""
    fine = mask.reshape(SIZE, 4, SIZE, 4).mean(axis=(1, 3))
    fine = fine - fine.mean()
    return (fine / np.linalg.norm(fine)).ravel()


def pair_of(draw: Callable[[float, float], np.ndarray]) -> Pair:
    """Even and odd filter across a stroke; draw(shift, width) is its mask, moved across itself."""
    stroke, wide = draw(0, WIDTH).astype(float), draw(0, 3 * WIDTH).astype(float)
    even = stroke / stroke.sum() - wide / wide.sum()
    sides = [draw(shift, WIDTH).astype(float) for shift in (WIDTH / 2, -WIDTH / 2)]
    return filter_of(even), filter_of(sides[0] / sides[0].sum() - sides[1] / sides[1].sum())


def curve_pair(at: float) -> Pair:
    u, v = shapes.offsets(SIZE * 4, 0.5, 0.5)
    away = np.exp(1j * np.deg2rad(at))

    def draw(shift: float, width: float) -> np.ndarray:
        moved = u - np.float32(shift * away.real), v - np.float32(shift * away.imag)
        return shapes.arc(*moved, at, 1 / (0.4 * SCALE + shift), 0.9 * SCALE, width)

    return pair_of(draw)


def line_pair(at: float, length: float) -> Pair:
    u, v = shapes.offsets(SIZE * 4, 0.5, 0.5)
    across = 1j * np.exp(1j * np.deg2rad(at))

    def draw(shift: float, width: float) -> np.ndarray:
        moved = u - np.float32(shift * across.real), v - np.float32(shift * across.imag)
        return shapes.bar(*moved, at, length * SCALE, width)

    return pair_of(draw)


def other_pairs() -> list[Pair]:
    """8 lines, 4 Gabors, 6 corners, 3 circles beside the centre, 2 dots, 6 of noise."""
    u, v = shapes.offsets(SIZE * 4, 0.5, 0.5)
    rng = np.random.default_rng(1)
    pairs = [line_pair(at, length) for at in (0.0, 35, 80, 140) for length in (0.5, 0.9)]
    for at in (0.0, 50.0, 75.0, 130.0):
        waves = [shapes.gabor(u, v, at, 4.0, phase, 0.15, 255) for phase in (0.0, 90.0)]
        pairs.append((filter_of(waves[0].astype(float)), filter_of(waves[1].astype(float))))
    for at in (20.0, 110.0, 250.0):
        for opening in (90.0, 120.0):
            masks = [shapes.corner(u, v, at, opening, 0.45 * SCALE, w) for w in (WIDTH, 3 * WIDTH)]
            even = masks[0] / masks[0].sum() - masks[1] / masks[1].sum()
            pairs.append((filter_of(even), np.zeros(SIZE * SIZE)))
    for at in (0.0, 130.0, 250.0):
        away = 0.25 * SCALE * np.exp(1j * np.deg2rad(at))
        square = (u + np.float32(away.real)) ** 2 + (v + np.float32(away.imag)) ** 2
        rings = [np.abs(np.sqrt(square) - 0.25 * SCALE) < w / 2 for w in (WIDTH, 3 * WIDTH)]
        even = rings[0] / rings[0].sum() - rings[1] / rings[1].sum()
        pairs.append((filter_of(even), np.zeros(SIZE * SIZE)))
    discs = [shapes.disc(u, v, size * SCALE).astype(float) for size in (0.08, 0.2)]
    pairs += [(filter_of(one), np.zeros(SIZE * SIZE)) for one in discs]
    noise = rng.standard_normal((6, 2, SIZE * 4, SIZE * 4))
    return pairs + [(filter_of(one), filter_of(two)) for one, two in noise]


def answers_of(pairs: list[Pair], pixels: np.ndarray) -> np.ndarray:
    """relu(|even, odd| - threshold): energy units, each with a largest answer of 1 -> [S, U]."""
    even, odd = (pixels @ np.stack(parts).T for parts in zip(*pairs, strict=True))
    energy = np.hypot(even, odd)
    return np.maximum(energy - 0.4 * energy.max(axis=0), 0) / (0.6 * energy.max(axis=0))


@dataclass(frozen=True)
class Planted:
    """What was found, and what is true: feature i of `truth` has `direction` (NaN: no curve)."""

    found: CurvesFindings
    direction: np.ndarray
    decoder: np.ndarray
    held_out: RealRows


@pytest.fixture(scope="module")
def planted(stimuli: CurveStimuli, pixels: np.ndarray) -> Planted:
    """Features are filters; neurons are features, but for one that mixes the two hidden ones.

    The hidden features have a second neuron each, mixed with a line's and a dot's, so that the
    decoder's rows are independent and the right encoder finds every feature exactly.
    """
    others = other_pairs()
    truth_SN = answers_of([curve_pair(at) for at in (*SEEN, *HIDDEN)] + others, pixels)
    n = truth_SN.shape[1]
    direction = np.concatenate([SEEN, HIDDEN, np.full(len(others), np.nan)])
    decoder = np.eye(n)
    first, second = MIXED, MIXED + 1
    decoder[first, [first, second]] = 1.0, 0.0
    decoder[second, [first, second]] = 1.0, 0.4
    # Neuron `second` answers to dots as strongly as to the second hidden curve.
    decoder[n - 7, second] = 1.0
    encoder = np.linalg.inv(decoder).T
    rng = np.random.default_rng(2)

    def rows(count: int) -> RealRows:
        on = rng.random((count, n)) < 0.04
        code = (on * rng.gamma(4.0, 0.15, (count, n))).astype(np.float32)
        image = np.sort(rng.integers(0, count // 10, count))
        index = np.tile(np.arange(n), (count, 1))
        return RealRows((code @ decoder).astype(np.float32), code, index, image, n)

    training, held_out = rows(2000), rows(2000)
    code = truth_SN.astype(np.float32)
    neurons = (code @ decoder).astype(np.float32)
    answers = Responses(neurons, code, np.tile(np.arange(n), (len(code), 1)), n)
    dictionary = Dictionary(
        encoder.astype(np.float32), decoder.astype(np.float32), np.zeros(n, dtype=np.float32)
    )
    found = find_curves(answers, training, held_out, dictionary, stimuli, CONFIG)
    return Planted(found, direction, decoder, held_out)


def test_all_curve_filters_are_found_and_nothing_else(planted: Planted) -> None:
    features = planted.found.units["feature"]
    curve = np.isfinite(planted.direction)
    assert features.detector_N[curve].all()
    assert not features.detector_N[~curve].any()
    off = turn_between(features.direction_N[curve], planted.direction[curve])
    assert off.max() < 4
    neurons = planted.found.units["neuron"]
    assert neurons.detector_N[: len(SEEN)].all()
    assert not neurons.detector_N[MIXED:].any()


def test_each_part_of_the_criterion_refuses_what_it_is_for(planted: Planted) -> None:
    parts = planted.found.units["feature"].parts
    lines = slice(len(SEEN) + 2, len(SEEN) + 10)
    gabors = slice(lines.stop, lines.stop + 4)
    corners = slice(gabors.stop, gabors.stop + 6)
    circles = slice(corners.stop, corners.stop + 3)
    for straight in (lines, gabors):
        assert not parts["over_reversed"][straight].any()
        assert not parts["directed"][straight].any()
        assert not parts["significant"][straight].any()
    # Corners and circles beside the point have a direction that looks agree on.
    for pointed, part in ((corners, "over_corner"), (circles, "over_circle")):
        tuned = parts["directed"][pointed] & parts["significant"][pointed]
        assert tuned.sum() >= 3
        assert not (tuned & parts[part][pointed]).any()


def test_features_fill_the_planted_gap_alone(planted: Planted) -> None:
    rows = [row for row in gap_rows(planted.found, CONFIG) if row["kind"] == "neuron"]
    wide = {round(row["start"] / 5) * 5: row for row in rows if row["to_fill"]}
    assert rows[0]["width"] == pytest.approx(82, abs=6)  # 290 to 12
    assert rows[0]["features_inside"] == 0
    assert wide[165]["features_inside"] == 1
    assert wide[165]["width"] == pytest.approx(67, abs=6)
    filled = filling(planted.found, CONFIG)
    assert [chosen.tolist() for _, _, chosen in filled][:2] == [[], [MIXED]]
    equal = planted.found.coverage["as_neurons"]
    assert equal["count"] == len(SEEN)
    assert equal["feature"]["largest_gap"][0] >= rows[0]["width"] - 1e-9
    assert equal["uniform"]["gaps_to_fill"] == equal["feature"]["gaps_to_fill"] >= 2
    # Sharp detectors do not blend: each mixture of two prefers one of them, and fills no gap.
    pairs = planted.found.units["pair"].detected()
    assert len(pairs) > 5
    assert turn_between(pairs[:, None], SEEN[None, :]).min(axis=1).max() < 10
    assert (find_gaps(SEEN).at_least(CONFIG.gap).inside(pairs, CONFIG.margin) == 0).all()


def test_features_name_the_neurons_they_draw_on(planted: Planted) -> None:
    sources = planted.found.sources
    assert sources.feature_F.tolist() == list(range(len(SEEN) + 2))
    assert sources.neuron_FT[0, 0] == 0
    assert sources.decoder_share_FT[0, 0] == pytest.approx(1)
    assert (sources.neurons_F[: len(SEEN)] == 1).all()
    last = len(SEEN) + 1
    assert sources.neuron_FT[last, :2].tolist() == [MIXED, MIXED + 1]
    assert sources.decoder_share_FT[last, :2] == pytest.approx([1 / 1.16, 0.16 / 1.16])
    assert not sources.mixed_F.any()  # none has weights on two curve neurons
    assert sources.curve_share_F[[0, MIXED]] == pytest.approx([1, 0])


def test_the_mixed_neuron_splits_into_its_two_curves(planted: Planted) -> None:
    parts, splits = planted.found.parts, planted.found.splits["curve"]
    assert np.flatnonzero(splits.splits_C).tolist() == [MIXED]
    assert splits.turn_C[MIXED] == pytest.approx(140, abs=6)
    assert set(parts.feature_CT[MIXED, :2]) == {MIXED, MIXED + 1}
    assert parts.features_C[MIXED] == 2
    assert (parts.features_C[: len(SEEN)] == 1).all()
    assert np.abs(parts.residual_C).max() < 1e-5
    x = planted.held_out.x_RC[:, MIXED]
    large = x > parts.threshold_C[MIXED]
    assert large.mean() == pytest.approx(0.01, abs=0.002)
    first = planted.held_out.value_RK[large, MIXED].sum() / x[large].sum()
    place = parts.feature_CT[MIXED].tolist().index(MIXED)
    assert parts.part_CT[MIXED, place] == pytest.approx(first, rel=1e-5)
    assert parts.low_CT[MIXED, place] < first < parts.high_CT[MIXED, place]


def test_controls_read_like_features_and_are_on_as_often(planted: Planted) -> None:
    units, fires = planted.found.units, planted.found.fires
    assert list(units) == [
        "neuron",
        "feature",
        "encoder",
        "mixture",
        "pair",
        "pca",
        "nmf",
        "rotated",
    ]
    for kind in ("encoder", "mixture", "pair", "rotated"):
        assert fires[kind].tolist() == fires["feature"].tolist()
    # The right rows, read without TopK, are still the curve detectors; turned at random they fade.
    assert units["encoder"].detector_N[: len(SEEN) + 2].mean() > 0.8
    assert units["rotated"].detector_N.sum() < units["feature"].detector_N.sum() / 2


def test_noise_is_no_curve_detector_and_p_values_hold(stimuli: CurveStimuli) -> None:
    rng = np.random.default_rng(5)
    count = len(stimuli.shown)
    noise = rng.exponential(size=(count, 400)) * (
        rng.random((count, 400)) < rng.uniform(0.02, 1, 400)
    )
    found = measure_units("feature", [(0, noise)], np.full(400, 0.1), stimuli, CONFIG)
    assert not found.detector_N.any()
    assert found.parts["significant"].sum() <= 2
    assert found.tests == 400
    turned = np.exp(3 * (np.cos(np.deg2rad(np.arange(24) * 15)) - 1))
    step = rng.integers(0, 24, (8, 3000))
    looks = turned[(np.arange(24)[None, :, None] - step[:, None, :]) % 24]
    apart = np.arange(8)
    p = direction_pvalues(looks, apart)
    for level in (0.05, 0.01):
        allowed = level * len(p)
        assert (p <= level).sum() <= allowed + 3 * np.sqrt(allowed)
    assert (p <= 0.05).any()
    agreeing = np.tile(turned[None, :, None], (8, 1, 1))
    assert direction_pvalues(agreeing, apart)[0] < 1e-6
    # Looks of one part, such as two widths, move together: they are no evidence of each other.
    assert direction_pvalues(agreeing, np.zeros(8, dtype=np.int64))[0] == 1
    silent = direction_pvalues(np.stack([np.zeros((8, 24)), np.ones((8, 24))], axis=2), apart)
    assert np.isnan(silent[0])
    assert silent[1] == 1


def test_faint_answers_and_silent_units_hold_no_part(
    stimuli: CurveStimuli, pixels: np.ndarray
) -> None:
    curves = answers_of([curve_pair(30.0), curve_pair(200.0)], pixels)
    answers = np.column_stack([curves, np.zeros(len(curves)), np.full(len(curves), 0.5)])
    found = measure_units("neuron", [(0, answers)], np.array([1.0, 9, 1, 1]), stimuli, CONFIG)
    assert found.detector_N.tolist() == [True, False, False, False]
    assert [name for name in PARTS if not found.parts[name][1]] == ["strong"]
    assert not any(found.parts[name][2] for name in PARTS)
    assert np.isnan(found.direction_N[2:]).all()


def test_known_units_are_compared_after_the_best_zero_and_sense() -> None:
    rng = np.random.default_rng(3)
    direction = np.full(480, np.nan)
    units = np.array(list(known_units.KNOWN))
    angles = np.array(list(known_units.KNOWN.values()))
    direction[units] = (-(angles - 37) + rng.normal(0, 4, len(units))) % 360
    detector = np.isfinite(direction)
    found = known_units.compare_known(direction, detector)
    assert found["fit"]["sign"] == -1
    assert found["fit"]["offset"] == pytest.approx(37, abs=5)
    assert found["fit"]["mean_error_degrees"] < 6
    assert found["fit"]["p"] < 0.001
    assert found["curve_detectors"] == 10
    assert max(row["off_by"] for row in found["by_unit"]) < 15
    direction[units] = rng.permutation(direction[units])
    assert known_units.compare_known(direction, detector)["fit"]["p"] > 0.01
    direction[units[:8]] = np.nan
    few = known_units.compare_known(direction, detector)
    assert few["fit"] is None
    assert few["with_direction"] == 2
