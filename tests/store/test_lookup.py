"""From places back to rows, within a grid and across grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.errors import DataError, StoreCorruptError, UnknownNameError
from isae.store import BuildConfig, Store, build_store, lookup, open_store
from isae.store.lookup import RowsByPlace, places_on
from isae.store.positions import parent_cells


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three grids of 15, 8 and 4 cells a side, 5 places of the coarsest, pictures held out."""
    path = tmp_path_factory.mktemp("grids") / "store"
    build_store(
        BuildConfig(
            images="synthetic:23",
            layers=("conv2d2", "mixed3b", "mixed4c", "mixed4e"),
            out=str(path),
            size=60,
            positions="5",
            holdout=0.2,
            workers=0,
            seed=5,
        )
    )
    return open_store(path)


def by_place(store: Store, layer: str) -> dict[tuple[int, int, int], int]:
    places = store.positions(layer)[:].tolist()
    return {(place[0], place[1], place[2]): row for row, place in enumerate(places)}


def test_the_grids_are_as_the_tests_need_them(store: Store) -> None:
    grids = [store.layers[name].grid for name in ("conv2d2", "mixed3b", "mixed4c")]
    assert grids == [(15, 15), (8, 8), (4, 4)]
    assert len(store.positions("mixed4c")) == 23 * 5


@pytest.mark.parametrize("layer", ["conv2d2", "mixed3b", "mixed4e"])
def test_rows_of_every_image(store: Store, layer: str) -> None:
    known = by_place(store, layer)
    for image in range(23):
        expected = [row for place, row in sorted(known.items()) if place[0] == image]
        found = store.rows_of_image(layer, image)
        assert found.dtype == np.int64
        assert found.tolist() == expected


@pytest.mark.parametrize("layer", ["conv2d2", "mixed3b", "mixed4e"])
def test_rows_at_places(store: Store, layer: str) -> None:
    known = by_place(store, layer)
    side = store.layers[layer].grid[0]
    axes = np.arange(-1, 24), np.arange(-1, side + 1), np.arange(-1, side + 1)
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    expected = [known.get((int(i), int(y), int(x)), -1) for i, y, x in places]
    assert store.rows_at(layer, places).tolist() == expected
    every = store.rows_at(layer, store.positions(layer)[:])
    np.testing.assert_array_equal(every, np.arange(store.layers[layer].rows))
    assert store.rows_at(layer, np.empty((0, 3), dtype=int)).shape == (0,)


@pytest.mark.parametrize(
    ("layer", "other", "most"),
    [
        ("mixed4c", "mixed4e", 1),
        ("mixed4c", "mixed3b", 4),
        ("mixed4c", "conv2d2", 16),
        ("mixed3b", "conv2d2", 4),
        ("conv2d2", "mixed3b", 1),
        ("conv2d2", "mixed4e", 1),
        ("mixed3b", "mixed4c", 1),
    ],
)
def test_the_same_place_in_another_layer(store: Store, layer: str, other: str, most: int) -> None:
    here, there = store.layers[layer], store.layers[other]
    known = by_place(store, other)
    places = store.positions(layer)[:]
    found = store.same_place(layer, np.arange(here.rows), other)
    assert found.shape == (here.rows, most)
    assert found.dtype == np.int64
    for row, (image, y, x) in enumerate(places.tolist()):
        if here.stride == there.stride:
            expected = [row]
        elif here.stride < there.stride:
            ratio = there.stride // here.stride
            expected = [known[image, y // ratio, x // ratio]]
        else:
            ratio = here.stride // there.stride
            expected = [
                known[image, fine_y, fine_x]
                for fine_y in range(ratio * y, min(ratio * (y + 1), there.grid[0]))
                for fine_x in range(ratio * x, min(ratio * (x + 1), there.grid[1]))
            ]
        assert found[row][found[row] >= 0].tolist() == expected


def test_places_that_are_not_stored_are_absent(store: Store) -> None:
    """One row, a slice, and a grid whose cells were not drawn."""
    assert store.same_place("mixed4c", 3, "mixed4e").tolist() == [[3]]
    assert store.same_place("mixed4c", slice(2, 5), "mixed4e").tolist() == [[2], [3], [4]]
    assert store.same_place("mixed4c", [-1, 0], "mixed4e").tolist() == [[23 * 5 - 1], [0]]
    mask = np.arange(23 * 5) == 7
    assert store.same_place("mixed4c", mask, "mixed4e").tolist() == [[7]]
    assert store.same_place("mixed4c", [], "mixed4e").shape == (0, 1)
    cells = np.stack(np.meshgrid([0], range(4), range(4), indexing="ij"), axis=-1).reshape(-1, 3)
    found = store.rows_at("mixed4c", cells)
    assert (found >= 0).sum() == 5
    finer = places_on(cells[found < 0], (4, 4), (8, 8), (16, 8))
    assert (store.rows_at("mixed3b", finer.reshape(-1, 3)) == -1).all()


def test_across_grids_there_and_back(store: Store) -> None:
    inside = store.same_place("mixed4c", slice(None), "conv2d2")
    for column in inside.T:
        rows = np.flatnonzero(column >= 0)
        back = store.same_place("conv2d2", column[rows], "mixed4c")
        np.testing.assert_array_equal(back[:, 0], rows)
    every = np.sort(inside[inside >= 0])
    np.testing.assert_array_equal(every, np.arange(store.layers["conv2d2"].rows))


@given(
    images=st.integers(1, 30),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    share=st.floats(0, 1),
    piece=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_any_index_is_turned_round(
    images: int, grid: tuple[int, int], share: float, piece: int, seed: int
) -> None:
    """Any subset of places in any order, with images that have none, in pieces of any size."""
    generator = np.random.default_rng(seed)
    stored = np.argwhere(generator.random((images, *grid)) < share).astype(np.int32)
    generator.shuffle(stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "PIECE_ROWS", piece)
        rows = RowsByPlace(stored, images, grid)
    for image in range(images):
        mine = np.flatnonzero(stored[:, 0] == image)
        mine = mine[np.lexsort((stored[mine, 2], stored[mine, 1]))]
        assert rows.of_image(image).tolist() == mine.tolist()
    every = np.argwhere(np.ones((images, *grid), dtype=bool))
    table = np.full((images, *grid), -1)
    table[tuple(stored.T)] = np.arange(len(stored))
    np.testing.assert_array_equal(rows.at(every), table.ravel())


@given(fine=st.integers(1, 40), ratio=st.sampled_from([2, 4, 8]), spare=st.integers(0, 1))
@settings(max_examples=60)
def test_cells_inside_are_those_whose_parent_it_is(fine: int, ratio: int, spare: int) -> None:
    """Also where a pool without padding leaves fine cells over at the end."""
    coarse = max(1, -(-fine // ratio) - spare)
    places = np.asarray([[7, y, 0] for y in range(coarse)])
    found = places_on(places, (coarse, 1), (fine, 1), (8 * ratio, 8))
    parents = parent_cells(fine, coarse, ratio)
    for y in range(coarse):
        inside = found[y][(found[y] >= 0).all(axis=1)]
        assert inside[:, 1].tolist() == np.flatnonzero(parents == y).tolist()
        assert set(inside[:, 0].tolist()) == {7}


def test_six_bytes_a_row(store: Store) -> None:
    rows = store._grid_rows("conv2d2")
    assert rows is store._grid_rows("conv2d2")
    held = rows.rows_N.nbytes + rows.cells_N.nbytes
    assert held == 6 * store.layers["conv2d2"].rows
    assert store._grid_rows("mixed4c") is store._grid_rows("mixed4e")


def test_what_is_not_there(store: Store) -> None:
    for image in (-1, 23):
        with pytest.raises(DataError, match=rf"expected an image in \[0, 23\), found {image}"):
            store.rows_of_image("mixed4c", image)
    with pytest.raises(UnknownNameError, match="nearest: mixed4"):
        store.rows_of_image("mixed4d", 0)
    with pytest.raises(UnknownNameError, match="nearest: mixed4"):
        store.same_place("mixed4c", [0], "mixed4d")
    for rows in ([10**6], [-(10**6)], [0.5], [True, False]):
        for other in ("mixed4e", "mixed3b"):
            with pytest.raises(IndexError):
                store.same_place("mixed4c", rows, other)
    for places in (np.zeros((2, 2), dtype=int), np.zeros((2, 3)), [1, 2, 3]):
        with pytest.raises(DataError, match=r"expected integer places \[R, 3\]"):
            store.rows_at("mixed4c", places)


@pytest.mark.parametrize("place", [[2, 0, 0], [-1, -1, -1], [0, 3, 0], [0, 0, 2]])
def test_an_index_off_the_grid_is_damaged(place: list[int]) -> None:
    with pytest.raises(StoreCorruptError, match="expected places on 2 images"):
        RowsByPlace(np.asarray([[0, 0, 0], place]), 2, (3, 2))


@pytest.mark.parametrize("side", [2**8 + 1, 2**16 + 1])
def test_cells_of_large_grids_stay_apart(side: int) -> None:
    """Their numbers leave 16 and 32 bits."""
    stored = np.asarray([[0, side - 1, side - 1], [0, 0, 0], [0, side - 2, side - 1]])
    rows = RowsByPlace(stored, 1, (side, side))
    assert rows.at(stored).tolist() == [0, 1, 2]
    assert rows.of_image(0).tolist() == [1, 2, 0]
    cell = ((side - 1) * side + side - 1) % (2**16 if side < 2**16 else 2**32)
    assert rows.at([[0, cell // side, cell % side]]).tolist() == [-1]
