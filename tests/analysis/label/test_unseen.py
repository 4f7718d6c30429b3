"""Names on unseen pictures: planted losses are found, what does not change is not called a loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from isae.analysis.codes import Codes, codes_from_dense
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.images import CHOOSING, SCORING, Halves, deal_halves
from isae.analysis.label.names import CLASS, Names, class_names, place_names
from isae.analysis.label.padding import no_padding_test
from isae.analysis.label.strongest import strongest_images
from isae.analysis.label.taxonomy import COLOUR, Labels, find_labels
from isae.analysis.label.tree import read_tree
from isae.analysis.label.unseen import (
    Unseen,
    renumbered,
    score_unseen,
    strongest_of_both,
)
from isae.analysis.label.unseen_images import (
    OWN,
    UNSEEN,
    Second,
    label_numbers,
    labels_of_both,
    match_images,
)
from isae.analysis.label.unseen_summary import unseen_lines
from isae.errors import DataError

GRID, CELLS, CLASSES, FEATURES = (3, 3), 9, 8, 60
CONFIG = LabelConfig(seed=2, shuffles=3, top=24)


def made(rng: np.random.Generator, images: int, share: float) -> tuple[Codes, list[str]]:
    """Feature i fires most strongly on class i modulo 8: in that share of its images, else in as
    many drawn from all.
    """
    label_I = np.arange(images) % CLASSES
    value = rng.exponential(size=(images, CELLS, FEATURES)) * (
        rng.random((images, CELLS, FEATURES)) < 0.1
    )
    for i in range(FEATURES):
        count = images // CLASSES
        of_class = rng.permutation(np.flatnonzero(label_I == i % CLASSES))[: round(share * count)]
        others = rng.permutation(np.flatnonzero(label_I != i % CLASSES))[: count - len(of_class)]
        for image in (*of_class, *others):
            value[image, rng.integers(CELLS), i] = 10 + rng.random()
    image, cell = np.divmod(np.arange(images * CELLS), CELLS)
    places = np.stack([image, *np.divmod(cell, GRID[1])], axis=1)
    codes = codes_from_dense(value.reshape(-1, FEATURES), places, GRID)
    return codes, [f"c{one}" for one in label_I]


def second_of(labels: list[str]) -> Second:
    inputs: Any = None  # Matching reads the images table alone.
    table = pa.table({"label": labels, "name": [f"u{i}" for i in range(len(labels))]})
    return Second(inputs, np.arange(len(labels)), table)


def halves_of(labels: list[str]) -> Halves:
    half_I = deal_halves(np.arange(len(labels)), labels, 0)
    return Halves(np.arange(len(labels)), half_I, pa.table({"label": labels}))


def compared(own_share: float, unseen_share: float, seed: int = 0) -> tuple[Labels, Unseen]:
    """Names chosen on 480 own images, compared with 200 unseen ones."""
    rng, tree = np.random.default_rng(seed), read_tree(None)
    own, own_labels = made(rng, 480, own_share)
    other, other_labels = made(rng, 200, unseen_share)
    halves, second = halves_of(own_labels), second_of(other_labels)
    classes, _ = class_names(own_labels, halves.half_I, CELLS, tree, 4)
    assert classes is not None
    none = no_padding_test(FEATURES)
    strongest = strongest_images(own, halves.half_I, CONFIG.top)
    labels = find_labels({CLASS: classes}, strongest, none, GRID, CONFIG)
    set_X = match_images(halves, second, np.zeros(200, dtype=bool), 0)
    assert (set_X == OWN).sum() == (set_X == UNSEEN).sum() == 200
    names, _ = class_names(labels_of_both(halves, second, set_X), set_X, CELLS, tree, 4)
    assert names is not None
    both = strongest_of_both(own, other, set_X, CONFIG.top)
    label_X = label_numbers(halves, second)
    found = score_unseen(labels, {CLASS: names}, both, [none, none], set_X, label_X, GRID, CONFIG)
    return labels, found


def test_a_name_that_is_true_in_both_holds_and_its_loss_is_none() -> None:
    losses = []
    for seed in range(4):
        labels, found = compared(0.8, 0.8, seed)
        one = found.kinds[CLASS]
        named = labels.kinds[CLASS].name_N >= 0
        assert named.sum() >= FEATURES - 2
        assert one.pair_N.sum() == named.sum()
        assert one.holds_SN.sum(axis=1).min() >= 0.95 * named.sum()
        assert one.chosen.low < one.chosen.mean < one.chosen.high
        losses.append(one.chosen)
        assert one.chance_SD.mean() < 2
    assert sum(one.low <= 0 <= one.high for one in losses) >= 3


def test_a_name_that_is_true_of_the_own_images_alone_is_told() -> None:
    _, found = compared(0.8, 1 / CLASSES)
    one = found.kinds[CLASS]
    assert one.holds_SN[OWN].sum() > 50
    assert one.holds_SN[UNSEEN].sum() <= 2
    # Gains of 0.77 (0.8 of the strongest are of a class of chance 1/8) and of about none.
    assert one.chosen.mean == pytest.approx(0.77, abs=0.1)
    assert one.chosen.low > 0.5
    assert found.chosen.low > 0
    assert one.labels.features == (one.label_N & one.pair_N).sum() > 50


def test_half_a_loss_lies_in_its_interval() -> None:
    _, found = compared(0.9, 0.6)
    one = found.kinds[CLASS].chosen
    expected = (0.9 - 0.6) / (1 - 1 / CLASSES)
    assert one.low < expected < one.high
    assert one.high - one.low < 0.2


def test_both_sides_have_as_many_images_of_every_label() -> None:
    own = ["a"] * 20 + ["b"] * 30 + ["only here"] * 6
    theirs = ["a"] * 4 + ["b"] * 40 + ["only there"] * 5
    both = np.zeros(len(theirs), dtype=bool)
    both[0] = True
    halves, second = halves_of(own), second_of(theirs)
    set_X = match_images(halves, second, both, 1)
    label_X = np.array([*own, *theirs])
    for label, count in (("a", 3), ("b", 15), ("only here", 0), ("only there", 0)):
        for side in (OWN, UNSEEN):
            assert ((label_X == label) & (set_X == side)).sum() == count
    assert set_X[len(own)] == -1, "an image of both stores is on neither side"
    assert (set_X[: len(own)][halves.half_I == CHOOSING] == -1).all()
    assert (set_X == match_images(halves, second, both, 1)).all()
    texts = labels_of_both(halves, second, set_X)
    assert set(texts[len(own) :]) == {"a", "b", ""}
    number_X = label_numbers(halves, second)
    assert ((number_X[:, None] == number_X) == (label_X[:, None] == label_X)).all()
    plain = match_images(halves, second_of([""] * 9), np.zeros(9, dtype=bool), 1)
    assert [(plain == side).sum() for side in (OWN, UNSEEN)] == [9, 9]
    # Drawn among all alike, so that a class may have more images in another sample.
    assert len(set(label_numbers(halves, second_of([""] * 9)).tolist())) == 1
    with pytest.raises(DataError, match="--unseen"):
        match_images(halves, second_of(["c"] * 9), np.zeros(9, dtype=bool), 1)
    with pytest.raises(DataError, match="--unseen"):
        match_images(halves, second, np.ones(len(theirs), dtype=bool), 1)


def test_names_keep_their_meaning_under_other_numbers() -> None:
    tree, half_I = read_tree(None), np.arange(40) // 4 % 2
    old, _ = class_names(["a", "b", "c", "d"] * 10, half_I, 1, tree, 1)
    new, _ = class_names(["a", "c", "c", "d"] * 10, half_I, 1, tree, 1)
    assert old is not None
    assert new is not None
    number = renumbered(np.array([0, 1, 2, 3, -1]), old, new)
    assert [new.texts[i] if i >= 0 else None for i in number] == ["a", None, "c", "d", None]


def test_a_name_that_is_true_of_every_place_looked_at_is_no_pair() -> None:
    """Of light pictures 'light' has chance 1 where a feature fires, and no gain: 0 / 0."""
    rng, images = np.random.default_rng(3), 160
    light_IG = rng.random((images, CELLS)) < 0.3
    light_IG[80:, :3] = True
    value = np.zeros((images, CELLS, FEATURES))
    for i in range(FEATURES):
        first, last = (0, 3) if i % 2 else (3, 9)
        for image in rng.permutation(images)[:70]:
            light = np.flatnonzero(light_IG[image, first:last])
            if len(light):
                value[image, first + rng.choice(light), i] = 1 + rng.random()
    image, cell = np.divmod(np.arange(images * CELLS), CELLS)
    places = np.stack([image, *np.divmod(cell, GRID[1])], axis=1)
    half_I = np.where(np.arange(80) < 40, CHOOSING, SCORING)
    set_X = np.concatenate([np.where(half_I == SCORING, OWN, -1), np.tile([UNSEEN, -1], 40)])
    known_R = np.ones(images * CELLS, dtype=bool)

    def names_of(first: int, last: int, side_I: np.ndarray) -> Names:
        has = {"light": light_IG[first:last].ravel()}
        found = place_names(COLOUR, has, known_R[: (last - first) * CELLS], side_I, CELLS)
        assert found is not None
        return found

    sides = []
    for first in (0, 80):
        rows = slice(first * CELLS, (first + 80) * CELLS)
        where = places[rows] - [first, 0, 0]
        sides.append(codes_from_dense(value.reshape(-1, FEATURES)[rows], where, GRID))
    own, other = sides
    none, strongest = no_padding_test(FEATURES), strongest_images(own, half_I, CONFIG.top)
    labels = find_labels({COLOUR: names_of(0, 80, half_I)}, strongest, none, GRID, CONFIG)
    both = strongest_of_both(own, other, set_X, CONFIG.top)
    config = replace(CONFIG, least_images=2)
    found = score_unseen(
        labels, {COLOUR: names_of(0, 160, set_X)}, both, [none, none], set_X,
        np.zeros(160, dtype=np.int64), GRID, config,
    )  # fmt: skip
    one, named_N = found.kinds[COLOUR], labels.kinds[COLOUR].name_N >= 0
    odd_N = np.arange(FEATURES) % 2 == 1
    assert (named_N & odd_N).sum() > 10
    assert not (one.pair_N & odd_N).any()
    assert (one.pair_N == (named_N & ~odd_N)).all()
    assert one.pair_N.sum() > 10
    assert np.isfinite([one.chosen.mean, one.chosen.low, one.chosen.high]).all()
    assert np.isfinite([found.chosen.mean, *found.chosen.gain_S]).all()


def test_what_has_no_number_is_a_dash() -> None:
    nothing = {
        "chosen_tested": 0, "chosen_hold": {"own": 0, "unseen": 0}, "by_chance": {"unseen": 0.0},
        "chosen": {"features": 0, "difference": None, "interval_95": [None, None]},
        "labels": 3, "labels_tested": 0, "labels_hold": {"own": 0, "unseen": 0},
    }  # fmt: skip
    images = {"of_each_side": 9, "called": "unseen", "in_both_stores_and_left_out": 0}
    summary = {
        "images": images, "kinds": {COLOUR: nothing}, "all": dict(nothing),
        "padding": {"unseen": {"pictures": 3}},
    }  # fmt: skip
    lines = unseen_lines(summary)
    assert lines[-2].split() == ["all", "0", "0", "0", "0.0", "-", "-", "to", "-"]
    assert not any(line.startswith("colour") for line in lines)
