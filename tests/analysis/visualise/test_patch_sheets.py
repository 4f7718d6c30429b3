"""Patches of every feature of a made-up SAE on a real small store, against dense codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.visualise.patch_choice import choose_images
from isae.analysis.visualise.patch_config import PatchesConfig
from isae.analysis.visualise.patch_sheets import write_patches
from isae.errors import DataError
from isae.images import ImageSource, open_source, resize_crop
from isae.progress import QUIET
from isae.store import BuildConfig, build_store
from isae.train import SAE

LAYER, SIZE, GRID, N, K, DEAD, TILE = "mixed3a", 64, 8, 70, 6, 4, 16
CONFIG = PatchesConfig(tile=TILE, quality=95, field_pictures=2, seed=1, threads=1)
GONE = 3
"""The picture that can no longer be read when patches are cut."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in two classes, one of which is no picture."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(4)
    for number in range(22):
        target = folder / "ab"[number % 2]
        target.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90, 70)).save(target / f"{number:02d}.png")
    (folder / "a" / "00.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def inputs(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, random_run: Callable[..., Path]
) -> RunInputs:
    """A finished run's folder around an SAE with random rows and dead features."""
    folder = tmp_path_factory.mktemp("run")
    build_store(
        BuildConfig(
            images=str(photos), layers=(LAYER,), out=str(folder / "store"), size=SIZE, workers=0,
            holdout=0.3, seed=2, device="cpu", max_bad=1,
        )
    )  # fmt: skip
    return open_run(random_run(folder, LAYER, N, K, DEAD))


@pytest.fixture(scope="module")
def source(photos: Path, inputs: RunInputs) -> ImageSource:
    """The pictures of the store, one of them spoilt since."""
    found = open_source(str(photos))
    (photos / str(found.row(GONE)["name"])).write_bytes(b"spoilt")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("patches")


@pytest.fixture(scope="module")
def said(inputs: RunInputs, source: ImageSource, folder: Path) -> dict:
    """What the whole step returns, run once for most tests here."""
    return write_patches(inputs, source, folder, CONFIG, QUIET)


@pytest.fixture(scope="module")
def rows(said: dict, folder: Path) -> list[dict]:
    return pq.read_table(folder / "patches.parquet").to_pylist()


@pytest.fixture(scope="module")
def dense(inputs: RunInputs) -> np.ndarray:
    """Every code by a plain product [I, G, G, N]: the k largest pre-activations, if above 0."""
    x = np.asarray(inputs.store.activations(LAYER)[:], dtype=np.float64)
    place = np.asarray(inputs.store.positions(LAYER)[:])
    W, b, c = (
        part.detach().double().numpy()
        for part in (inputs.sae.W_enc_ND, inputs.sae.b_enc_N, inputs.sae.b_dec_D)
    )
    z = (x - c) @ W.T + b
    z[z < np.sort(z, axis=1)[:, -K][:, None]] = 0
    value = np.full((inputs.store.images.num_rows, GRID, GRID, N), np.nan)
    value[tuple(place.T)] = np.maximum(z, 0)
    return value


def test_values_and_places_agree_with_dense_codes(
    rows: list[dict], said: dict, dense: np.ndarray, inputs: RunInputs
) -> None:
    table = inputs.store.images.to_pylist()
    for row in rows:
        feature = row["feature"]
        value = dense[row["image"], row["y"], row["x"], feature]
        assert row["value"] == pytest.approx(value, abs=1e-5)
        positive = dense[..., feature][dense[..., feature] > 0]
        # Values may differ in their last bits, and so may the order of two that nearly tie.
        if row["value"] > 0:
            least = (positive <= value - 1e-5).mean() + 1 / len(positive)
            assert least - 1e-6 <= row["quantile"] <= (positive <= value + 1e-5).mean() + 1e-6
        else:
            assert row["quantile"] == 0
        image = table[row["image"]]
        assert [row[key] for key in ("name", "label", "split")] == [
            image[key] for key in ("name", "label", "split")
        ]
    assert len(rows) == said["patches"]
    assert said["read"]["places"] == np.isfinite(dense[..., 0]).sum() == 21 * GRID**2


def test_top_patches_of_both_splits(rows: list[dict], dense: np.ndarray, inputs: RunInputs) -> None:
    split = np.array(inputs.store.images.column("split").to_pylist())
    for feature in range(N - DEAD):
        best_I = np.nan_to_num(dense[..., feature]).max(axis=(1, 2))
        for name, count in (("train", CONFIG.top), ("holdout", CONFIG.top_held_out)):
            best = [float(best_I[i]) for i in np.flatnonzero(split == name) if best_I[i] > 0]
            found = [
                row
                for row in rows
                if (row["feature"], row["group"], row["split"]) == (feature, "top", name)
            ]
            assert [row["rank"] for row in found] == list(range(len(found)))
            assert len({row["image"] for row in found}) == len(found)
            expected = sorted(best, reverse=True)[:count]
            np.testing.assert_allclose([row["value"] for row in found], expected, atol=1e-5)


def test_heat_maps_and_boxes(rows: list[dict], said: dict, dense: np.ndarray) -> None:
    side, centres = said["place"]["side"], np.array(said["place"]["centres"])
    windows = [(8 * cell - 22, 8 * cell + 37) for cell in range(GRID)]
    np.testing.assert_allclose(centres, np.clip([sum(w) / 2 for w in windows], 0, SIZE))
    for row in rows:
        box = [row[key] for key in ("left", "top", "right", "bottom")]
        assert box[2] - box[0] == box[3] - box[1] == side
        for start, cell in zip(box, (row["x"], row["y"]), strict=False):
            assert abs(start - np.clip(centres[cell] - side / 2, 0, SIZE - side)) <= 0.5
        inside = [
            np.flatnonzero((centres >= start) & (centres <= start + side)) for start in box[:2]
        ]
        assert [row["heat_left"], row["heat_columns"]] == [inside[0][0], len(inside[0])]
        assert [row["heat_top"], row["heat_rows"]] == [inside[1][0], len(inside[1])]
        around = dense[row["image"]][np.ix_(inside[1], inside[0])][..., row["feature"]]
        level = 255 * around / np.nanmax(dense[..., row["feature"]])
        heat = np.array(row["heat"]).reshape(around.shape)
        assert abs(heat - np.where(level > 0, np.maximum(level, 1), 0)).max() < 0.51
        assert ((heat > 0) == (around > 0)).all()


def test_border_places_are_those_whose_effective_field_leaves_the_picture(
    rows: list[dict], said: dict
) -> None:
    half = said["place"]["effective_field"]["side"] / 2
    middle = [8 * cell + 7.5 for cell in range(GRID)]
    free = [c for c in range(GRID) if middle[c] - half >= -0.5 and middle[c] + half <= SIZE + 0.5]
    assert 0 < len(free) < GRID
    for row in rows:
        assert row["border"] == (row["x"] not in free or row["y"] not in free)
    assert said["place"]["border_cells"] == GRID**2 - len(free) ** 2
    assert {row["border"] for row in rows} == {True, False}


def test_tiles_show_the_patches(
    rows: list[dict], said: dict, folder: Path, source: ImageSource
) -> None:
    sheets = [Image.open(folder / "sheets" / f"{number}.jpg") for number in (0, 1)]
    tiles = said["tiles"]
    assert [sheet.size for sheet in sheets] == [
        (tiles * TILE, rows * TILE) for rows in (64, N - 64)
    ]
    assert said["sheets"]["count"] == len(list((folder / "sheets").iterdir())) == 2
    pixels = [np.asarray(sheet).astype(int) for sheet in sheets]
    alike, seen = [], np.zeros((2, 64, tiles), dtype=bool)
    for row in rows:
        sheet, line = divmod(row["feature"], 64)
        y, x = line * TILE, row["tile"] * TILE
        found = pixels[sheet][y : y + TILE, x : x + TILE]
        seen[sheet, line, row["tile"]] = True
        assert row["shown"] == (row["image"] != GONE)
        if row["shown"]:
            picture = resize_crop(source.load(row["image"]), SIZE)
            patch = picture[row["top"] : row["bottom"], row["left"] : row["right"]]
            expected = Image.fromarray(patch).resize((TILE, TILE), Image.Resampling.BILINEAR)
            alike.append(np.corrcoef(found.ravel(), np.asarray(expected).ravel())[0, 1])
        else:
            # JPEG's colours bleed over a tile's edge.
            assert abs(found[3:-3, 3:-3] - 200).max() < 5
    # A tile starts on a whole pixel of the scaled picture, up to half a pixel off.
    assert min(alike) > 0.85
    assert np.median(alike) > 0.97
    for sheet, line, tile in np.argwhere(~seen):
        if 64 * sheet + line < N:
            y, x = line * TILE, tile * TILE
            assert pixels[sheet][y : y + TILE, x : x + TILE][3:-3, 3:-3].min() > 250
    assert said["sheets"]["unreadable"] == 1


def test_dead_features_are_counted_and_have_no_patches(
    rows: list[dict], said: dict, dense: np.ndarray, folder: Path
) -> None:
    silent = np.flatnonzero(np.nanmax(dense, axis=(0, 1, 2)) == 0)
    assert len(silent) >= DEAD
    assert said["silent"] == len(silent)
    assert not {row["feature"] for row in rows} & set(silent.tolist())
    densities = pq.read_table(folder / "densities.parquet").to_pylist()
    for feature, row in enumerate(densities):
        positive = dense[..., feature][dense[..., feature] > 0]
        assert row["feature"] == feature
        assert row["fired"] == sum(row["counts"]) == len(positive)
        assert row["rate"] == len(positive) / said["read"]["places"]
        assert (row["max"] is None) == (row["mean"] is None) == (not len(positive))
        if len(positive):
            assert row["max"] == pytest.approx(positive.max(), abs=1e-5)
            assert row["mean"] == pytest.approx(positive.mean(), abs=1e-5)


def test_threads_change_no_bit_and_batches_next_to_nothing(
    inputs: RunInputs, source: ImageSource, said: dict, folder: Path, tmp_path: Path
) -> None:
    threads, batches = tmp_path / "threads", tmp_path / "batches"
    for one in (threads, batches):
        one.mkdir()
    again = write_patches(inputs, source, threads, replace(CONFIG, threads=3), QUIET)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"patches.parquet", "densities.parquet", "sheets/0.jpg", "sheets/1.jpg"}
    for name in files:
        assert (folder / name).read_bytes() == (threads / name).read_bytes()
    for one in (said, again):
        assert json.loads(json.dumps(one)) == one
    assert {**again, "seconds": 0} == {**said, "seconds": 0}
    write_patches(inputs, source, batches, replace(CONFIG, batch_size=97), QUIET)
    first, second = (pq.read_table(one / "patches.parquet") for one in (folder, batches))
    # Products of other shapes may differ in their last bit, and so may the order of near ties.
    same = np.ones(len(first), dtype=bool)
    for name in ("feature", "tile", "image", "y", "x"):
        same &= first[name].to_numpy() == second[name].to_numpy()
    assert same.mean() > 0.99
    values = [one["value"].to_numpy()[same] for one in (first, second)]
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_without_pictures_there_are_tables_but_no_sheets(
    inputs: RunInputs, tmp_path: Path, rows: list[dict]
) -> None:
    (tmp_path / "sheets").mkdir()
    (tmp_path / "sheets" / "0.jpg").write_bytes(b"of an earlier call")
    said = write_patches(inputs, None, tmp_path, CONFIG, QUIET)
    assert said["sheets"] is None
    assert said["place"]["measured_on"]["kind"].startswith("noise")
    assert {path.name for path in tmp_path.iterdir()} == {"patches.parquet", "densities.parquet"}
    table = pq.read_table(tmp_path / "patches.parquet")
    assert not any(table["shown"].to_pylist())
    assert table["image"].to_pylist() == [row["image"] for row in rows]


def test_images_are_drawn_whole_and_from_both_splits_in_proportion(inputs: RunInputs) -> None:
    store = inputs.store
    split = np.array(store.images.column("split").to_pylist())
    every = choose_images(store, LAYER, 10**9, 0)
    assert every.tolist() == np.flatnonzero(split != "unreadable").tolist()
    held_out = int((split == "holdout").sum())
    some = choose_images(store, LAYER, 11 * GRID**2, 0)
    assert set(some.tolist()) < set(every.tolist())
    assert (split[some] == "holdout").sum() == held_out * 11 // 21
    assert len(some) <= 11
    assert set(choose_images(store, LAYER, 5 * GRID**2, 0)) < set(some)
    assert choose_images(store, LAYER, 11 * GRID**2, 1).tolist() != some.tolist()
    assert sorted(split[choose_images(store, LAYER, 1, 0)]) == ["holdout", "train"]


def test_what_lies_between_is_removed_after_an_error(
    inputs: RunInputs, source: ImageSource, tmp_path: Path
) -> None:
    broken = SAE(*(part.detach().clone() for part in inputs.sae.parameters()), K)
    broken.W_enc_ND[0, 0] = float("nan")
    with pytest.raises(DataError, match="finite"):
        write_patches(replace(inputs, sae=broken), source, tmp_path, CONFIG, QUIET)
    assert not list(tmp_path.iterdir())


def test_what_was_there_is_replaced_and_a_kill_leaves_no_table(
    inputs: RunInputs, source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sheets").mkdir()
    for name in ("patches.parquet", "sheets/9.jpg"):
        (tmp_path / name).write_bytes(b"of an earlier call")
    full = OSError(28, "No space left on device")

    def no_room(*args: object, **options: object) -> int:
        raise full

    monkeypatch.setattr("isae.analysis.visualise.patch_sheets.write_tile_sheets", no_room)
    with pytest.raises(OSError, match="No space"):
        write_patches(inputs, source, tmp_path, CONFIG, QUIET)
    assert not list(tmp_path.iterdir())
