"""Places: drawn once per image, without replacement, by the stated probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.errors import ConfigError
from isae.store.positions import (
    PositionRule,
    draw_cells,
    most_refined,
    pool_norms,
    refine_cells,
)


@pytest.mark.parametrize(
    ("text", "count", "layer"),
    [("all", None, None), ("7", 7, None), ("10:norm:mixed4c", 10, "mixed4c")],
)
def test_rule_is_read(text: str, count: int | None, layer: str | None) -> None:
    assert PositionRule.parse(text) == PositionRule(count, layer)


@pytest.mark.parametrize("text", ["", "0", "-1", "some", "3:norm", "3:norm:", "3:max:x", "all:2"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--positions all, N or N:norm:LAYER"):
        PositionRule.parse(text)


def test_more_places_than_cells_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 12 positions"):
        draw_cells(PositionRule(13, None), np.arange(2), (3, 4), seed=0)


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 2**62),
)
@settings(deadline=None, max_examples=50)
def test_cells_are_distinct_and_depend_on_the_image_alone(
    height: int, width: int, share: float, seed: int
) -> None:
    count = max(1, int(share * height * width))
    images = np.array([5, 17, 400_000, 3])
    cells = draw_cells(PositionRule(count, None), images, (height, width), seed)
    assert cells.shape == (4, count)
    assert all(len(set(row)) == count for row in cells.tolist())
    assert cells.min() >= 0
    assert cells.max() < height * width
    alone = draw_cells(PositionRule(count, None), images[2:3], (height, width), seed)
    np.testing.assert_array_equal(alone[0], cells[2])


def test_uniform_draws_take_every_cell_equally_often() -> None:
    images = 40_000
    cells = draw_cells(PositionRule(3, None), np.arange(images), (3, 5), seed=11)
    counts = np.bincount(cells.reshape(-1), minlength=15)
    # Each count is binomial(40,000, 3/15): standard deviation 80; 5 sigma for 15 cells.
    np.testing.assert_allclose(counts, images * 3 / 15, atol=400)


def test_norm_draws_follow_the_norms() -> None:
    images = 60_000
    norms = np.array([0.0, 1.0, 2.0, 5.0])
    norms_BC = np.broadcast_to(norms, (images, 4))
    rule = PositionRule(1, "mixed4a")
    cells = draw_cells(rule, np.arange(images), (2, 2), seed=3, norms_BC=norms_BC)
    counts = np.bincount(cells.reshape(-1), minlength=4)
    # Largest standard deviation: sqrt(60,000 * 5/8 * 3/8) = 119; 5 sigma.
    np.testing.assert_allclose(counts, images * norms / norms.sum(), atol=600)


def test_second_norm_draw_leaves_out_the_first() -> None:
    images = 60_000
    weights = np.array([1.0, 2.0, 5.0])
    norms_BC = np.broadcast_to(weights, (images, 3))
    rule = PositionRule(2, "mixed4a")
    cells = draw_cells(rule, np.arange(images), (1, 3), seed=5, norms_BC=norms_BC)
    missing = 3 - cells.sum(axis=1)
    # P(pair without c) by drawing one after the other without replacement.
    total = weights.sum()
    expected = []
    for left_out in range(3):
        a, b = (weights[i] for i in range(3) if i != left_out)
        expected.append(a / total * b / (total - a) + b / total * a / (total - b))
    np.testing.assert_allclose(np.bincount(missing, minlength=3) / images, expected, atol=0.01)


@pytest.mark.parametrize(
    ("fine", "coarse", "ratio"),
    [
        ((14, 14), (7, 7), 2),
        ((13, 7), (7, 4), 2),
        ((5, 9), (2, 3), 4),
        # Pools without padding leave cells over, which the last coarse cell takes.
        ((15, 13), (7, 6), 2),
    ],
)
def test_finer_grids_take_the_cells_inside(
    fine: tuple[int, int], coarse: tuple[int, int], ratio: int
) -> None:
    cells = draw_cells(PositionRule(2, None), np.arange(6), coarse, seed=1)
    row, y, x = refine_cells(cells, coarse, fine, ratio)
    expected = {
        (image, fy, fx)
        for image in range(6)
        for fy in range(fine[0])
        for fx in range(fine[1])
        if min(fy // ratio, coarse[0] - 1) * coarse[1] + min(fx // ratio, coarse[1] - 1)
        in cells[image]
    }
    assert max(np.bincount(row)) <= most_refined(2, coarse, fine, ratio)
    found = list(zip(row.tolist(), y.tolist(), x.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_norms_of_a_finer_layer_are_joined() -> None:
    squares = np.random.default_rng(0).random((3, 5, 7))
    # The last of the three columns of coarse cells is three cells wide.
    pooled = pool_norms(squares, (3, 3), 2)
    for image in range(3):
        for y in range(3):
            for x in range(3):
                inside = squares[image, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2 + x // 2]
                assert pooled[image, y * 3 + x] == pytest.approx(np.sqrt(inside.sum()))
