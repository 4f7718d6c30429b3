"""Which places stand for a feature, and their heat maps, against plain loops over dense values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from isae.analysis.codes import codes_from_dense
from isae.analysis.patches import PatchGeometry, patch_geometry
from isae.analysis.visualise.patch_choice import choose_places, draw_keys, fall
from isae.analysis.visualise.patch_collect import DENSITY_BINS, Patches, collect_patches
from isae.analysis.visualise.patch_config import PatchesConfig
from isae.errors import ConfigError
from isae.inception import layer_table

IMAGES, GRID, N = 30, 6, 24
CONFIG = PatchesConfig(top=3, top_held_out=2, ranges=4, random=3, anywhere=2, seed=5)
SILENT, ONCE, EVERYWHERE = 0, 1, 2


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    """Values [I, G, G, N] with many ties; a tenth of the cells are not stored (NaN)."""
    rng = np.random.default_rng(3)
    shape = (IMAGES, GRID, GRID, N)
    value = np.where(rng.random(shape) < 0.08, rng.integers(1, 9, shape) / 4, 0.0)
    value[..., SILENT] = 0
    value[..., ONCE] = 0
    value[4, 2, 5, ONCE] = 0.5
    value[..., EVERYWHERE] = rng.integers(1, 5, shape[:3])
    lost = rng.random(shape[:3]) < 0.1
    lost[4, 2, 5] = False
    value[lost] = np.nan
    return value


@pytest.fixture(scope="module")
def held_out() -> np.ndarray:
    return np.random.default_rng(8).random(IMAGES) < 0.3


@pytest.fixture(scope="module")
def geometry() -> PatchGeometry:
    return patch_geometry(layer_table("inceptionv1")["mixed3a"], GRID * 8, 19)


def collected(
    dense: np.ndarray, held_out: np.ndarray, geometry: PatchGeometry, config: PatchesConfig = CONFIG
) -> Patches:
    place = np.argwhere(np.isfinite(dense[..., 0]))
    shuffled = np.random.default_rng(0).permutation(len(place))
    codes = codes_from_dense(dense[tuple(place[shuffled].T)], place[shuffled], (GRID, GRID))
    return collect_patches(codes, held_out, geometry, config)


@pytest.fixture(scope="module")
def patches(dense: np.ndarray, held_out: np.ndarray, geometry: PatchGeometry) -> Patches:
    return collected(dense, held_out, geometry)


def places_of(dense: np.ndarray) -> list[tuple[int, int, int]]:
    """(image, y, x) of each place in the order of the codes."""
    return [tuple(place) for place in np.argwhere(np.isfinite(dense[..., 0])).tolist()]


def shown(patches: Patches, dense: np.ndarray, feature: int) -> dict[int, tuple[int, int, int]]:
    """(image, y, x) by column of a feature's patches."""
    places, mine = places_of(dense), np.flatnonzero(patches.feature_M == feature)
    return {int(patches.column_M[m]): places[patches.place_M[m]] for m in mine}


def test_top_patches_are_the_best_of_each_image_in_their_split(
    patches: Patches, dense: np.ndarray, held_out: np.ndarray
) -> None:
    for feature in range(N):
        found = shown(patches, dense, feature)
        for part, columns in ((False, (0, 1, 2)), (True, (3, 4))):
            best = []
            for image in np.flatnonzero(held_out == part).tolist():
                values = np.nan_to_num(dense[image, :, :, feature])
                if values.max() > 0:
                    y, x = divmod(int(values.argmax()), GRID)
                    best.append((-values[y, x], image, y, x))
            expected = [place for _, *place in sorted(best)[: len(columns)]]
            assert [list(found[c]) for c in columns if c in found] == expected


def test_ranges_are_drawn_one_from_each_bin_of_equal_counts(
    patches: Patches, dense: np.ndarray
) -> None:
    for feature in range(N):
        found = shown(patches, dense, feature)
        places = [p for p in places_of(dense) if dense[(*p, feature)] > 0]
        places.sort(key=lambda p: (-dense[(*p, feature)], p))
        edges = [int(np.ceil(b * len(places) / 4)) for b in range(5)]
        for number in range(4):
            bin_places = places[edges[number] : edges[number + 1]]
            assert (5 + number in found) == bool(bin_places)
            assert not bin_places or found[5 + number] in bin_places


def test_random_places_are_positive_and_differ_and_anywhere_is_any_place(
    patches: Patches, dense: np.ndarray
) -> None:
    silent = 0
    for feature in range(N):
        found = shown(patches, dense, feature)
        positive = int((dense[..., feature] > 0).sum())
        drawn = [found[column] for column in (9, 10, 11) if column in found]
        assert len(set(drawn)) == len(drawn) == min(positive, 3)
        assert all(dense[(*place, feature)] > 0 for place in drawn)
        if feature != SILENT:
            assert found[12] != found[13]
            silent += sum(dense[(*found[column], feature)] == 0 for column in (12, 13))
    assert silent > N


def test_falling_order_is_that_of_plain_sorting() -> None:
    rng = np.random.default_rng(6)
    value = np.concatenate([rng.random(50), rng.integers(1, 5, 50), [1e-40, 3e38, 1e-45]])
    value = rng.permutation(value).astype(np.float32)
    place = np.sort(rng.choice(2**31 - 1, len(value), replace=False)).astype(np.int32)
    falling, values = fall(place, value)
    expected = sorted(zip(value.tolist(), place.tolist(), strict=True), key=lambda e: (-e[0], e[1]))
    assert list(zip(values.tolist(), falling.tolist(), strict=True)) == expected


def test_draws_are_uniform() -> None:
    """Over many seeds each of 12 places is drawn as often as the others, in each group."""
    place = np.arange(0, 24, 2)
    image, held_out = np.arange(24, dtype=np.int32), np.zeros(24, dtype=np.bool_)
    counts = np.zeros((14, 24))
    for seed in range(600):
        config = dataclasses.replace(CONFIG, seed=seed)
        chosen = choose_places(place, image, held_out, draw_keys(8, config)[7].tolist(), config)
        counts[np.flatnonzero(chosen >= 0), chosen[chosen >= 0]] += 1
    for number in range(4):
        drawn = counts[5 + number, place[3 * number : 3 * number + 3]]
        assert drawn.sum() == 600
        assert abs(drawn - 200).max() < 5 * np.sqrt(200)
    positive = counts[9:12].sum(axis=0)[place]
    assert positive.sum() == 1800
    assert abs(positive - 150).max() < 5 * np.sqrt(150)
    anywhere = counts[12:].sum(axis=0)
    assert abs(anywhere - 50).max() < 5 * np.sqrt(50)


def test_values_quantiles_and_densities(patches: Patches, dense: np.ndarray) -> None:
    places = places_of(dense)
    for m, (feature, place) in enumerate(zip(patches.feature_M, patches.place_M, strict=True)):
        value = dense[(*places[place], feature)]
        positive = dense[..., feature][dense[..., feature] > 0]
        assert patches.value_M[m] == np.float32(value)
        assert patches.quantile_M[m] == pytest.approx((positive <= value).mean(), abs=1e-6)
    for feature in range(N):
        values = np.nan_to_num(dense[..., feature])
        positive = values[values > 0]
        assert patches.count_N[feature] == len(positive)
        assert patches.images_N[feature] == (values.max(axis=(1, 2)) > 0).sum()
        assert patches.sum_N[feature] == pytest.approx(positive.sum())
        largest = positive.max(initial=0)
        assert patches.largest_N[feature] == np.float32(largest)
        expected = np.histogram(positive, DENSITY_BINS, (0, largest or 1))[0]
        assert patches.density_ND[feature].tolist() == expected.tolist()


def test_heat_is_the_value_at_every_cell_centred_in_the_patch(
    patches: Patches, dense: np.ndarray, geometry: PatchGeometry
) -> None:
    places, info = places_of(dense), layer_table("inceptionv1")["mixed3a"]
    centres = [min(max(sum(info.window(c, 48)) / 2, 0), 48) for c in range(GRID)]
    missing = 0
    for m, (feature, place) in enumerate(zip(patches.feature_M, patches.place_M, strict=True)):
        image, y, x = places[place]
        largest = np.nanmax(dense[..., feature])
        expected: list[int | None] = []
        for row in range(GRID):
            for column in range(GRID):
                top, left = geometry.start_G[y], geometry.start_G[x]
                if 0 <= centres[row] - top <= 19 and 0 <= centres[column] - left <= 19:
                    value = dense[image, row, column, feature]
                    level = round(255 * value / largest) if np.isfinite(value) else None
                    expected.append(max(level, 1) if level is not None and value > 0 else level)
        mine = slice(*patches.heat_M[m : m + 2])
        heat = np.where(patches.missing_F[mine], -1, patches.heat_F[mine].astype(int)).tolist()
        assert heat == [-1 if level is None else level for level in expected]
        missing += expected.count(None)
    assert missing > 0


def test_the_weakest_answer_is_not_drawn_as_silence(geometry: PatchGeometry) -> None:
    value = np.zeros((2, GRID, GRID, 1))
    value[0, 2, 2], value[1, 3, 3] = 1000.0, 0.001
    weak = collected(value, np.zeros(2, dtype=np.bool_), geometry)
    levels = set(weak.heat_F.tolist())
    assert levels == {0, 1, 255}


def test_silent_features_have_no_patches_and_rare_ones_what_there_is(patches: Patches) -> None:
    assert SILENT not in patches.feature_M
    assert patches.count_N[SILENT] == 0
    once = patches.column_M[patches.feature_M == ONCE].tolist()
    assert [column for column in once if column < 12] in ([0, 5, 9], [3, 5, 9])
    assert len(np.unique(patches.feature_M)) == N - 1


def test_a_layer_of_silent_features_gives_no_patches(geometry: PatchGeometry) -> None:
    none = collected(np.zeros((2, GRID, GRID, 3)), np.zeros(2, dtype=np.bool_), geometry)
    assert len(none.feature_M) == len(none.heat_F) == 0
    assert none.heat_M.tolist() == [0]


def test_draws_depend_on_the_seed_and_the_feature_alone(
    patches: Patches, dense: np.ndarray, held_out: np.ndarray, geometry: PatchGeometry
) -> None:
    fewer = collected(dense[..., :5], held_out, geometry)
    first = patches.feature_M < 5
    np.testing.assert_array_equal(fewer.place_M, patches.place_M[first])
    other = collected(dense, held_out, geometry, dataclasses.replace(CONFIG, seed=6))
    top = patches.column_M < 5
    np.testing.assert_array_equal(other.place_M[other.column_M < 5], patches.place_M[top])
    assert (other.place_M[other.column_M >= 5] != patches.place_M[~top]).mean() > 0.8


def test_every_group_can_be_left_out(
    dense: np.ndarray, held_out: np.ndarray, geometry: PatchGeometry
) -> None:
    for name in ("top", "top_held_out", "ranges", "random", "anywhere"):
        only = dict.fromkeys(("top", "top_held_out", "ranges", "random", "anywhere"), 0) | {name: 2}
        found = collected(dense, held_out, geometry, PatchesConfig(**only))
        assert set(found.column_M.tolist()) == {0, 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"top": -1},
        {"tile": 4},
        {"quality": 96},
        {"max_rows": 0},
        {"threads": 0},
        {"top": 0, "top_held_out": 0, "ranges": 0, "random": 0, "anywhere": 0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        PatchesConfig(**wrong)
