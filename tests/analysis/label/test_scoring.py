"""Choice, test and rule of labels, against naive code, exact laws and planted truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom, binomtest

from isae.analysis.codes import Codes, codes_from_dense
from isae.analysis.label import loops
from isae.analysis.label.chance import chance_labels
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.factors import factor_names, has_factors
from isae.analysis.label.images import CHOOSING, SCORING, deal_halves
from isae.analysis.label.joined import Joined, orientation_agreement
from isae.analysis.label.names import (
    CLASS,
    EDGE,
    FACTOR,
    POSITION,
    SUPERCLASS,
    Names,
    border_cells,
    class_names,
    image_names,
    place_names,
)
from isae.analysis.label.padding import Mirrored, no_padding_test
from isae.analysis.label.scoring import best, score_names, share_in, statistics
from isae.analysis.label.strongest import sampled_images, strongest_images
from isae.analysis.label.taxonomy import (
    KINDS,
    ORIENTATION,
    RARE,
    TAXONOMY,
    UNEXPLAINED,
    Labels,
    find_labels,
    name_text,
)
from isae.analysis.label.tree import read_tree
from isae.images import open_source

GRID = (6, 6)
CELLS = GRID[0] * GRID[1]
CONFIG = LabelConfig(seed=3, shuffles=4)


@pytest.fixture(scope="module")
def factor_table() -> pa.Table:
    """The factors of 1,200 procedural pictures, as a store's images table has them."""
    source = open_source("synthetic:1200", seed=5)
    return pa.Table.from_pylist([{"split": "train", **source.row(i)} for i in range(len(source))])


def made_codes(value_IGN: np.ndarray[Any, Any]) -> Codes:
    """Codes from values [images, cells, features]."""
    images, cells, features = value_IGN.shape
    image, cell = np.divmod(np.arange(images * cells), cells)
    places = np.stack([image, *np.divmod(cell, GRID[1])], axis=1)
    return codes_from_dense(value_IGN.reshape(-1, features), places, GRID)


def halves(images: int, labels: list[str] | None = None) -> Any:
    return deal_halves(np.arange(images), labels or [""] * images, 0)


def noise(rng: np.random.Generator, images: int, features: int) -> np.ndarray[Any, Any]:
    """Features without content, half of them with a strong effect of the whole image."""
    value = rng.exponential(size=(images, CELLS, features))
    value *= rng.random((images, CELLS, features)) < 0.1
    whole = rng.exponential(size=(images, 1, features)) * (rng.random((images, 1, features)) < 0.3)
    value[:, :, ::2] += (
        5 * whole[:, :, ::2] * rng.uniform(0.9, 1, (images, CELLS, features))[:, :, ::2]
    )
    return value


def taxonomy(labels: Labels) -> list[str]:
    return [TAXONOMY[i] for i in labels.kind_N]


def text(labels: Labels, feature: int) -> str:
    kind = TAXONOMY[labels.kind_N[feature]]
    return name_text(labels, kind, feature, {}) if kind in KINDS else ""


def test_halves_split_every_class_and_are_equal() -> None:
    labels = [f"c{i % 7}" for i in range(100)] + ["", "", "lone"]
    half_I = halves(len(labels), labels)
    for label in set(labels):
        counts = np.bincount(half_I[[one == label for one in labels]], minlength=2)
        assert abs(int(counts[0]) - int(counts[1])) <= 1
    assert abs(int((half_I == 0).sum()) - int((half_I == 1).sum())) <= 1
    assert (deal_halves(np.arange(103), labels, 0) == half_I).all()
    assert (deal_halves(np.arange(103), labels, 1) != half_I).any()


def test_strongest_images_are_those_of_a_naive_search() -> None:
    rng = np.random.default_rng(0)
    value = rng.exponential(size=(30, CELLS, 5)) * (rng.random((30, CELLS, 5)) < 0.05)
    value[:, :, 4] = 0
    half_I = halves(30)
    found = strongest_images(made_codes(value), half_I, 4)
    for half in (CHOOSING, SCORING):
        for feature in range(5):
            mine = np.flatnonzero(half_I == half)
            peak_I = value[mine, :, feature].max(axis=1)
            order = mine[np.argsort(-peak_I, kind="stable")][: min(4, int((peak_I > 0).sum()))]
            held = found.image_HNK[half, feature] >= 0
            assert found.image_HNK[half, feature][held].tolist() == order.tolist()
            cells = value[order, :, feature].argmax(axis=1)
            assert found.cell_HNK[half, feature][held].tolist() == cells.tolist()
            assert found.images_HN[half, feature] == (peak_I > 0).sum()
    sample = sampled_images(made_codes(value), half_I, 4, 1)
    assert set(sample.image_HNK[0, 0]) != set(found.image_HNK[0, 0])
    active = value[:, :, 0].max(axis=1) > 0
    assert active[sample.image_HNK[0, 0]].all()


def test_p_is_the_exact_tail_of_coins_with_the_cells_chances() -> None:
    rng = np.random.default_rng(1)
    chance_GA = rng.uniform(0.05, 0.6, (CELLS, 2))
    rows, cell = rng.integers(0, 50, (3, 20)), rng.integers(0, CELLS, (3, 20))
    has_RA = (rng.random((50, 2)) < 0.5).astype(np.uint8)
    rows[1, 15:] = -1
    used, count = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    chance, p = np.full(3, np.nan), np.full(3, np.nan)
    limit = np.array([18, 100])
    name = np.array([0, 1, -1])
    loops.tail_of_one(rows, cell, has_RA, chance_GA, limit, name, used, count, chance, p)
    for i, places in ((0, range(18)), (1, range(15))):
        coins = chance_GA[cell[i, list(places)], name[i]]
        draws = (rng.random((200_000, len(coins))) < coins).sum(axis=1)
        assert used[i] == len(coins)
        assert count[i] == has_RA[rows[i, list(places)], name[i]].sum()
        assert chance[i] == pytest.approx(coins.mean())
        assert p[i] == pytest.approx((draws >= count[i]).mean(), abs=0.005)
    assert np.isnan(p[2])
    even = np.full((CELLS, 2), 0.3)
    loops.tail_of_one(rows, cell, has_RA, even, limit, name, used, count, chance, p)
    assert p[0] == pytest.approx(binom.sf(count[0] - 1, 18, 0.3), rel=1e-12)


def test_the_statistic_is_images_times_bits() -> None:
    rng = np.random.default_rng(2)
    half_I = halves(40)
    codes = made_codes(noise(rng, 40, 3))
    has = {"a": rng.random(40) < 0.4, "b": rng.random(40) < 0.7}
    names = image_names("x", has, np.ones(40, dtype=bool), half_I, CELLS, 2)
    assert names is not None
    found = strongest_images(codes, half_I, 10)
    bits = statistics(names, found, CELLS)
    for feature in range(3):
        for a, name in enumerate(("a", "b")):
            mine = half_I == CHOOSING
            c = has[name][mine].mean()
            top = found.image_HNK[CHOOSING, feature]
            top = top[top >= 0][: int(has[name][mine].sum())]
            s = has[name][top].mean()
            terms = [x * np.log2(x / y) for x, y in ((s, c), (1 - s, 1 - c)) if x > 0]
            assert bits[feature, a] == pytest.approx(
                len(top) * sum(terms) if s > c else 0, abs=1e-4
            )
    chosen = best(bits, np.array([True, True, False]))
    assert chosen[2] == -1
    tested = score_names(names, found, chosen, CELLS)
    assert np.isnan(tested.p_N[2])
    assert share_in(names, found, np.array([0, 1, -1]), CELLS)[0] == pytest.approx(
        has["a"][found.image_HNK[SCORING, 0]].mean()
    )


def planted(table: pa.Table, rng: np.random.Generator) -> tuple[Any, list[str], Names]:
    """Features that fire on one factor each, three images of four; then noise."""
    images = table.num_rows
    half_I = halves(images, table.column("label").to_pylist())
    names = factor_names(table, half_I, CELLS, CONFIG.name_images)
    assert names is not None
    value = noise(rng, images, len(names.texts) + 300)
    value[:, :, : len(names.texts)] *= 0.05
    for a in range(len(names.texts)):
        on = np.flatnonzero(names.has_RA[:, a])
        on = on[rng.random(len(on)) < 0.75]
        value[on, rng.integers(0, CELLS, len(on)), a] += rng.uniform(1, 2, len(on))
    return value, list(names.texts), names


def test_planted_factors_are_found_and_chance_stays_at_its_rate(factor_table: pa.Table) -> None:
    assert has_factors(factor_table)
    value, texts, names = planted(factor_table, np.random.default_rng(4))
    half_I = halves(factor_table.num_rows, factor_table.column("label").to_pylist())
    found = strongest_images(made_codes(value), half_I, CONFIG.top)
    mirrored = no_padding_test(value.shape[2])
    labels = find_labels({FACTOR: names}, found, mirrored, GRID, CONFIG)
    given = [text(labels, i) for i in range(value.shape[2])]
    right = [given[i] == name for i, name in enumerate(texts)]
    assert np.mean(right) >= 0.95, [(t, g) for t, g in zip(texts, given, strict=False) if t != g]
    false = sum(bool(one) for one in given[len(texts) :])
    labelled = sum(bool(one) for one in given)
    assert false <= max(3, 0.1 * labelled)
    assert set(taxonomy(labels)[len(texts) :]) <= {UNEXPLAINED, FACTOR, POSITION}
    chance = chance_labels(labels, found, mirrored, half_I, GRID, CONFIG)
    by_chance = (chance.kind_DN < len(KINDS)).sum(axis=1)
    assert by_chance.mean() <= 1.5 * CONFIG.alpha * labelled
    assert chance.own_D.max() <= 1
    score_N = labels.kinds[FACTOR].share_N[: len(texts)]
    assert np.nanmedian(score_N) > 0.8
    assert np.nanmin(score_N[np.array(right)]) >= CONFIG.min_gain


def test_features_without_content_get_valid_p_though_places_of_an_image_go_together() -> None:
    """Labels of classes, places and positions on noise: none, and p as small as it may be."""
    rng = np.random.default_rng(6)
    images, features = 300, 1500
    labels_I = [f"c{i % 20}" for i in range(images)]
    half_I = halves(images, labels_I)
    look = rng.random((images, 1, 4)) + 0.3 * rng.random((images, CELLS, 4))
    has = {f"look {a}": (look[..., a] > 0.9).ravel() for a in range(4)}
    kinds = {
        CLASS: class_names(labels_I, half_I, CELLS, read_tree(None), 4)[0],
        "colour": place_names("colour", has, np.ones(images * CELLS, dtype=bool), half_I, CELLS),
    }
    found = strongest_images(made_codes(noise(rng, images, features)), half_I, CONFIG.top)
    free = LabelConfig(min_gain=0.0, seed=3)
    labels = find_labels(kinds, found, no_padding_test(features), GRID, free)  # type: ignore[arg-type]
    for kind in (CLASS, "colour", POSITION):
        p = labels.kinds[kind].p_N
        p = p[np.isfinite(p)]
        assert len(p) > 700
        for level in (0.002, 0.02, 0.1):
            assert (p <= level).mean() <= level + 3.5 * np.sqrt(level / len(p)), (kind, level)
    strict = find_labels(kinds, found, no_padding_test(features), GRID, CONFIG)  # type: ignore[arg-type]
    assert sum(one in KINDS for one in taxonomy(strict)) <= 1


def test_positions_taken_for_images_would_give_false_labels() -> None:
    """The trap is real: with every place as a unit of its own the same noise looks significant."""
    rng = np.random.default_rng(7)
    images = 60
    labels_I = rng.permutation([f"c{i % 4}" for i in range(images)])
    value_I = rng.exponential(size=(images, 200)) * (rng.random((images, 200)) < 0.1)
    wrong = 0
    for feature in range(200):
        on = np.flatnonzero(value_I[:, feature] > 0)
        counts = Counter(np.repeat(labels_I[on], CELLS).tolist())
        wrong += any(
            binomtest(n, len(on) * CELLS, 0.25, alternative="greater").pvalue < 1e-4
            for n in counts.values()
        )
    assert wrong > 100


def test_class_and_superclass_go_to_what_explains_more() -> None:
    tree = read_tree(None)
    rng = np.random.default_rng(8)
    cats = [one for one in tree.parent if "n02121808" in tree.ancestors(one)]
    classes = ["n02123045", "n02123394", "n02124075", "n01443537", "n02132136", "n07747607"]
    assert set(cats) >= set(classes[:3])
    labels_I = [classes[i % 6] for i in range(600)]
    half_I = halves(600, labels_I)
    one, several = class_names(labels_I, half_I, CELLS, tree, 4)
    assert one is not None
    assert several is not None
    value = noise(rng, 600, 40) * 0.05
    of_class = np.array(labels_I)
    for feature, on in ((0, ["n02123394"]), (1, classes[:3]), (2, ["n07747607"])):
        mine = np.flatnonzero(np.isin(of_class, on))
        value[mine, 7, feature] += rng.uniform(1, 2, len(mine))
    found = strongest_images(made_codes(value), half_I, CONFIG.top)
    labels = find_labels(
        {CLASS: one, SUPERCLASS: several}, found, no_padding_test(40), GRID, CONFIG
    )
    assert taxonomy(labels)[:3] == [CLASS, SUPERCLASS, CLASS]
    assert [text(labels, i) for i in (0, 2)] == ["n02123394", "n07747607"]
    below = several.members_A[labels.kinds[SUPERCLASS].name_N[1]]
    assert {one.texts[i] for i in below} == set(classes[:3])
    assert not labels.qualified_KN[KINDS.index(SUPERCLASS), 0]


def test_one_photo_a_class_gives_no_class_but_may_give_a_superclass() -> None:
    tree = read_tree(None)
    leaves = sorted(set(tree.parent) - set(tree.parent.values()))
    half_I = halves(len(leaves), leaves)
    one, several = class_names(leaves, half_I, CELLS, tree, 4)
    assert one is None
    assert several is not None
    assert all(len(below) == 0 for below in several.members_A)
    assert (several.limit_HA >= 4).all()


def edge_case(kept: float) -> tuple[Labels, int]:
    """A feature at the border, where patches have another look than inside, and noise."""
    rng = np.random.default_rng(9)
    images = 400
    half_I = halves(images)
    border_G = border_cells(GRID)
    has = {
        "edges along 90°": (rng.random((images, CELLS)) < np.where(border_G, 0.85, 0.05)).ravel(),
        "edges along 0°": (rng.random((images, CELLS)) < 0.2).ravel(),
    }
    names = place_names(ORIENTATION, has, np.ones(images * CELLS, dtype=bool), half_I, CELLS)
    assert names is not None
    value = noise(rng, images, 30)
    value[:, :, 0] = 0
    value[np.arange(images), rng.choice(np.flatnonzero(border_G), images), 0] = rng.uniform(
        1, 2, images
    )
    value[:, :, 1] = 0
    upright = np.flatnonzero(has["edges along 0°"].reshape(images, CELLS)[:, 14])
    value[upright, 14, 1] = rng.uniform(1, 2, len(upright))
    found = strongest_images(made_codes(value), half_I, CONFIG.top)
    many = np.full(30, 40)
    lost = np.where((np.arange(30) == 0) & (kept < 0.5), 40, 5)
    mirrored = Mirrored(1 - lost / 40, many, lost)
    return find_labels({ORIENTATION: names}, found, mirrored, GRID, CONFIG), images


def test_what_padding_does_is_no_orientation() -> None:
    labels, _ = edge_case(kept=0.1)
    assert taxonomy(labels)[0] == EDGE
    assert text(labels, 0) == "edge artefact: all sides"
    assert np.isnan(labels.kinds[ORIENTATION].p_N[0]) or labels.kinds[ORIENTATION].p_N[0] > 0.001
    assert taxonomy(labels)[1] == ORIENTATION, "a real one beside it is still found"
    assert text(labels, 1) == "edges along 0°"


def test_a_border_that_stays_without_padding_is_no_artefact() -> None:
    labels, _ = edge_case(kept=0.9)
    assert taxonomy(labels)[0] not in (EDGE, ORIENTATION)


def test_orientations_that_crowd_agree_by_chance_as_often_as_they_crowd() -> None:
    labels, _ = edge_case(kept=0.9)
    count = len(labels.kind_N)
    qualified_KN = np.ones_like(labels.qualified_KN)
    name_N = np.where(np.arange(count) < 24, 0, 1)  # 24 labels along 90 degrees, 6 along 0
    kinds = {ORIENTATION: replace(labels.kinds[ORIENTATION], name_N=name_N)}
    labels = replace(labels, qualified_KN=qualified_KN, kinds=kinds)
    assert labels.names[ORIENTATION].texts == ("edges along 90°", "edges along 0°")
    none = np.zeros(count, dtype=bool)
    joined = Joined([""] * count, np.full(count, 100.0), none, np.full(count, np.nan), ("tuning",))
    found = orientation_agreement(joined, labels)
    assert found["features"] == count
    assert found["agree"] == found["by_chance"] == 24


def test_rare_and_dead_features_are_counted_apart() -> None:
    value = noise(np.random.default_rng(10), 60, 4)
    value[:, :, 0] = 0
    value[3:, :, 1] = 0
    found = strongest_images(made_codes(value), halves(60), CONFIG.top)
    labels = find_labels({}, found, no_padding_test(4), GRID, CONFIG)
    assert taxonomy(labels)[:2] == ["dead", RARE]
    assert not labels.tested_N[:2].any()
