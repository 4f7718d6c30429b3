"""Intervals of differences between two sides of images: how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from isae.analysis.label.names import CELL, CLASS, POSITION, Names, class_names, position_names
from isae.analysis.label.resampled import DRAWS, SHIFT, Draws, image_weights, interval
from isae.analysis.label.scoring import score_in
from isae.analysis.label.strongest import Strongest
from isae.analysis.label.tree import read_tree
from isae.analysis.label.unseen_images import OWN, UNSEEN

GRID, CELLS, CLASSES, FEATURES, TOP = (3, 3), 9, 12, 24, 10
TREE = read_tree(None)


def side_of(rng: np.random.Generator, label_I: np.ndarray, liking: float) -> np.ndarray:
    """Activations [I, N]: feature i likes class i modulo 12; some pictures suit all features."""
    suits = 0.6 * rng.normal(size=(len(label_I), 1))
    own = label_I[:, None] == np.arange(FEATURES) % CLASSES
    return np.asarray(liking * own + suits + 0.8 * rng.normal(size=own.shape))


def lists(value_SIN: list[np.ndarray], rng: np.random.Generator) -> Strongest:
    """The strongest images of both sides, numbered one side after the other, in cells at random."""
    images, parts = len(value_SIN[0]), []
    for side, value_IN in enumerate(value_SIN):
        parts.append(np.argsort(-value_IN, axis=0)[: 2 * TOP].T + side * images)
    image_HNK = np.stack(parts).astype(np.int64)
    cell_HNK = rng.integers(CELLS, size=image_HNK.shape)
    return Strongest(image_HNK, cell_HNK, np.full((2, FEATURES), images))


def cut(longer: Strongest) -> Strongest:
    return Strongest(
        longer.image_HNK[:, :, :TOP].copy(), longer.cell_HNK[:, :, :TOP].copy(), longer.images_HN
    )


def one_sample(
    a_class: int, own: float, unseen: float, seed: int
) -> tuple[float, tuple[float, float]]:
    """The difference of mean gains of a sample of `a_class` images a class, and its interval."""
    rng = np.random.default_rng([seed, a_class])
    label_X = np.tile(np.repeat(np.arange(CLASSES), a_class), 2)
    set_X = np.repeat([OWN, UNSEEN], CLASSES * a_class)
    names, _ = class_names([f"c{one:02d}" for one in label_X], set_X, CELLS, TREE, 2)
    assert names is not None
    half = label_X[: CLASSES * a_class]
    longer = lists([side_of(rng, half, one) for one in (own, unseen)], rng)
    name_N = np.arange(FEATURES) % CLASSES
    weights = [image_weights(set_X, label_X, side, seed) for side in (OWN, UNSEEN)]
    draws = Draws(longer, TOP, np.ones(FEATURES, bool), (weights[0], weights[1]), CELLS)
    gain = [score_in(names, cut(longer), name_N, CELLS, side).gain_N.mean() for side in (0, 1)]
    mean_D = np.mean(draws.gains(names, name_N, OWN) - draws.gains(names, name_N, UNSEEN), axis=1)
    return gain[0] - gain[1], interval(gain[0] - gain[1], mean_D)


@pytest.mark.parametrize("a_class", [4, 10, 25])
@pytest.mark.parametrize(("own", "unseen"), [(2.0, 2.0), (3.0, 1.5)])
def test_intervals_hold_the_truth_as_often_as_they_say(
    a_class: int, own: float, unseen: float
) -> None:
    """150 samples from the same classes. The truth: what the difference is on average over samples
    of that size, 0 where both sides like their class alike.
    """
    found = [one_sample(a_class, own, unseen, seed) for seed in range(150)]
    value = np.array([one for one, _ in found])
    low, high = np.array([reach for _, reach in found]).T
    truth = 0.0 if own == unseen else value.mean()
    assert truth == 0 or truth > 0.2
    inside = ((low <= truth) & (truth <= high)).mean()
    # Of 150 samples 95 % are inside give or take 1.8 %.
    assert inside >= 0.9
    # Not by being far too wide: half a width is 1.96 times the spread over samples, or a bit more.
    assert 0.85 <= ((high - low) / 2 / 1.96).mean() / value.std() <= 1.4


def test_weights_leave_every_label_its_images_and_spread_means_as_samples_do() -> None:
    rng = np.random.default_rng(0)
    label_X = np.repeat([3, 5, 6, 9, 11], [4, 7, 1, 1, 2])
    set_X = np.full(len(label_X), OWN)
    set_X = np.concatenate([set_X, np.full(3, UNSEEN), [-1]])
    label_X = np.concatenate([label_X, [3, 5, 9, 3]])
    many = np.concatenate([image_weights(set_X, label_X, OWN, seed) for seed in range(40)])
    assert len(many) == 40 * DRAWS
    assert (many[:, 15:] == 0).all()
    assert many[:, :15].min() > 0
    value_X = rng.normal(size=len(label_X))
    for label in (3, 5, 11):
        mine = np.flatnonzero((label_X == label) & (set_X == OWN))
        np.testing.assert_allclose(many[:, mine].sum(axis=1), len(mine))
        assert len(np.unique(many[:, mine[0]])) > 1
        spread = (many[:, mine] @ value_X[mine] / len(mine)).std() / SHIFT
        expected = value_X[mine].std(ddof=1) / np.sqrt(len(mine))
        assert spread == pytest.approx(expected, rel=0.05)
    alone = np.isin(label_X, [6, 9]) & (set_X == OWN)
    np.testing.assert_allclose(many[:, alone].sum(axis=1), 2)
    assert many[:, alone].std() > 0, "labels of one image are drawn together"
    lone = image_weights(np.array([OWN, OWN, OWN]), np.array([0, 0, 1]), OWN, 0)
    assert (lone[:, 2] == 1).all()
    again = image_weights(set_X, label_X, OWN, 3)
    assert (again == image_weights(set_X, label_X, OWN, 3)).all()


def test_gains_of_draws_are_those_of_lists_with_weights() -> None:
    """Against lists counted in thousandths; with weights of 1 the gains are the tested ones."""
    rng = np.random.default_rng(5)
    label_X = np.tile(np.repeat(np.arange(CLASSES), 7), 2)
    set_X = np.repeat([OWN, UNSEEN], CLASSES * 7)
    longer = lists([side_of(rng, label_X[: CLASSES * 7], 2.0)] * 2, rng)
    longer.image_HNK[:, 3, 5:] = -1
    unknown = set(longer.image_HNK[:, :8, 1].ravel().tolist())
    texts = ["" if x in unknown else f"c{one:02d}" for x, one in enumerate(label_X)]
    names, _ = class_names(texts, set_X, CELLS, TREE, 1)
    assert names is not None
    assert len(names.texts) == CLASSES
    name_N = np.arange(FEATURES) % CLASSES
    name_N[7] = -1
    weights = rng.integers(1, 2000, (2, len(set_X))) / 1000
    for side in (OWN, UNSEEN):
        plain = np.ones((1, len(set_X))) * (set_X == side)
        weight_DX = np.concatenate([plain, weights * (set_X == side)])
        draws = Draws(longer, TOP, np.ones(FEATURES, bool), (weight_DX, weight_DX), CELLS)
        found = draws.gains(names, name_N, side)
        tested = score_in(names, cut(longer), name_N, CELLS, side)
        np.testing.assert_allclose(found[0], tested.gain_N)
        for d in (1, 2):
            chance_A = (
                weight_DX[d] * names.known_R @ names.has_RA / weight_DX[d, names.known_R].sum()
            )
            for i in np.flatnonzero(name_N >= 0):
                listed = [
                    x
                    for x in longer.image_HNK[side, i]
                    for _ in range(round(1000 * weight_DX[d, x]))
                    if x >= 0
                ][: 1000 * int(names.limit_HA[side, name_N[i]])]
                kept = [x for x in listed if names.known_R[x]]
                share = names.has_RA[kept, name_N[i]].mean()
                chance = chance_A[name_N[i]]
                assert found[d, i] == pytest.approx((share - chance) / (1 - chance))


def test_positions_are_compared_with_all_places_of_the_draw() -> None:
    """Pictures that are strongest at the top for all features alike say nothing of a feature."""
    rng = np.random.default_rng(1)
    set_X = np.repeat([OWN, UNSEEN], 60)
    top_I = np.arange(120) % 2 == 0
    longer = lists([rng.random((60, FEATURES)) for _ in (OWN, UNSEEN)], rng)
    longer.cell_HNK[:] = np.where(top_I[longer.image_HNK], 1, 7)
    weights = [image_weights(set_X, np.zeros(120, np.int64), side, 0) for side in (OWN, UNSEEN)]
    draws = Draws(longer, TOP, np.ones(FEATURES, bool), (weights[0], weights[1]), CELLS)
    names = position_names(GRID, cut(longer).pooled(CELLS, np.ones(FEATURES, bool)))
    assert (names.kind, names.at) == (POSITION, CELL)
    name_N = np.full(FEATURES, names.texts.index("top of the picture"))
    gain_DN = draws.gains(names, name_N, OWN)
    np.testing.assert_allclose(gain_DN.mean(axis=1), 0, atol=1e-9)
    assert gain_DN.std() > 0.01


def test_a_name_that_is_true_of_all_places_of_a_draw_has_no_gain() -> None:
    longer = lists([np.random.default_rng(2).random((20, FEATURES))] * 2, np.random.default_rng(3))
    everywhere = Names(
        CLASS, ("a",), "image", np.ones((40, 1), np.uint8), np.ones(40, bool),
        np.full((2, 1), 20), np.ones((2, CELLS, 1)),
    )  # fmt: skip
    weight = np.ones((3, 40))
    draws = Draws(longer, TOP, np.ones(FEATURES, bool), (weight, weight), CELLS)
    assert np.isnan(draws.gains(everywhere, np.zeros(FEATURES, np.int64), OWN)).all()
