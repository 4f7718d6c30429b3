"""Builds: the rows are the network's activations, and the contents depend on the seed alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from isae.errors import (
    ConfigError,
    DataError,
    ImageError,
    StoreCorruptError,
    StoreError,
    UnknownNameError,
)
from isae.images import open_source, resize_crop
from isae.inception import load_model
from isae.progress import Reporter
from isae.store import BuildConfig, build_store, open_store, plan, verify_store
from isae.store.summary import describe, summarise

Config = Callable[..., BuildConfig]


def test_rows_are_the_activations_at_their_places(built: Path) -> None:
    store = open_store(built)
    source = open_source("synthetic:26", seed=3)
    network = load_model("inceptionv1", "default")
    for layer in store.layers.values():
        index, rows = store.positions(layer.name)[:], store.activations(layer.name)[:]
        assert len(index) == 26 * layer.grid[0] * layer.grid[1] == layer.rows
        for image in (0, 11, 25):
            pixels = resize_crop(source.load(image), 56).transpose(2, 0, 1)[None]
            with torch.inference_mode():
                maps = network.activations(torch.from_numpy(pixels.copy()), [layer.name])
            expected = maps[layer.name][0].float().numpy()
            mine = index[:, 0] == image
            found = expected[:, index[mine, 1], index[mine, 2]].T
            # float16 keeps 11 bits: relative 2^-11; and a convolution's last bits may depend on
            # the batch it ran in.
            np.testing.assert_allclose(rows[mine], found, rtol=1e-3, atol=1e-4)


def test_layers_of_a_grid_share_their_rows_and_grids_their_places(built: Path) -> None:
    store = open_store(built)
    fine, coarse = store.positions("mixed3b")[:], store.positions("mixed4a")[:]
    np.testing.assert_array_equal(coarse, store.positions("mixed4b")[:])
    cells = {(image, y // 2, x // 2) for image, y, x in fine.tolist()}
    assert cells == {tuple(place) for place in coarse.tolist()}


def test_held_out_images_never_reach_training_rows(built: Path) -> None:
    store = open_store(built)
    splits = np.array(store.images.column("split").to_pylist())
    assert (splits == "holdout").sum() == 5
    for name, layer in store.layers.items():
        image = store.positions(name)[:][:, 0]
        assert set(splits[image[: layer.train_rows]]) == {"train"}
        assert set(splits[image[layer.train_rows :]]) == {"holdout"}


def test_statistics_are_of_training_rows_only(built: Path) -> None:
    store = open_store(built)
    for name, layer in store.layers.items():
        rows = store.activations(name)[: layer.train_rows].astype(np.float64)
        found = store.statistics(name)
        assert found.count == layer.train_rows
        np.testing.assert_allclose(found.mean_C, rows.mean(axis=0), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.var_C, rows.var(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(found.max_C, rows.max(axis=0))
        np.testing.assert_allclose(found.nonzero_C, (rows != 0).mean(axis=0), rtol=1e-12)


def test_workers_and_segments_do_not_change_the_contents(
    built: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SEGMENT_BYTES", 300_000)
    manifest = build_store(small_config(workers=2))
    assert manifest["content_id"] == open_store(built).content_id


def test_another_seed_is_another_order(built: Path, small_config: Config) -> None:
    manifest = build_store(small_config(seed=4))
    assert manifest["content_id"] != open_store(built).content_id


def test_batch_size_and_threads_do_not_change_the_contents(
    built: Path, small_config: Config
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        manifest = build_store(small_config(batch_size=5, device="cpu"))
    finally:
        torch.set_num_threads(threads)
    assert manifest["content_id"] == open_store(built).content_id


@pytest.mark.parametrize("size", [97, 120])
def test_googlenet_stores_every_place_also_on_odd_grids(small_config: Config, size: int) -> None:
    layers = ("inception3a", "inception4a")
    config = small_config(
        images="synthetic:5", model="googlenet", weights="random:0", size=size, layers=layers
    )
    manifest = build_store(config)
    store = open_store(config.out)
    for layer in layers:
        height, width = store.layers[layer].grid
        assert store.layers[layer].rows == 5 * height * width
    assert "3x3" in manifest["layers"]["inception4a"]["note"]
    assert verify_store(config.out) == []
    few = small_config(
        **{**vars(config), "out": config.out + "2", "positions": "5:norm:inception3a"}
    )
    build_store(few)
    assert verify_store(few.out) == []


def test_too_few_readable_images_to_hold_one_out_is_said(
    small_config: Config, make_photos: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_photos(count=3)
    for number in range(3):
        (folder / "b" / f"broken{number}.jpg").write_bytes(b"")
    reporter = Reporter(quiet=True)
    held_out = set()
    for seed in range(6):
        config = small_config(
            images=str(folder), layers=("mixed3a",), seed=seed, holdout=0.17, max_bad=3
        )
        found = build_store(config, overwrite=True, reporter=reporter)["images"]["held_out"]
        layer = open_store(config.out).layers["mixed3a"]
        assert (layer.rows > layer.train_rows) == bool(found)
        held_out.add(found)
        assert ("no image is held out" in capsys.readouterr().err) == (not found)
    assert held_out == {0, 1}


def test_an_empty_folder_of_the_users_stays_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_config: Config
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "x.jpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ImageError, match="expected readable pictures"):
        build_store(small_config(images=str(bad), out="."))
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(("dtype", "worst"), [("int8", 0.02), ("float8_e4m3", 0.04)])
def test_one_byte_a_number_and_what_it_costs(
    built: Path, small_config: Config, dtype: str, worst: float
) -> None:
    config = small_config(dtype=dtype)
    manifest = build_store(config)
    exact, found = open_store(built), open_store(config.out)
    for name, layer in found.layers.items():
        np.testing.assert_array_equal(found.positions(name)[:], exact.positions(name)[:])
        rows = exact.activations(name)[: layer.train_rows].astype(np.float64)
        error = found.activations(name)[: layer.train_rows].astype(np.float64) - rows
        told = manifest["layers"][name]["quantisation"]
        relative = np.sqrt((error**2).sum() / (rows**2).sum())
        assert 0 < relative < worst  # half a step of int8, three bits of a float8's significand
        assert told["relative_error"] == pytest.approx(relative, rel=1e-9)
        variance = ((rows - rows.mean(axis=0)) ** 2).sum()
        assert told["fvu_floor"] == pytest.approx((error**2).sum() / variance, rel=1e-9)
        assert f"{told['fvu_floor']:.2e}" in describe(summarise(config.out, manifest))
    assert verify_store(config.out) == []


@pytest.mark.parametrize("positions", ["2", "2:norm:mixed3b", "2:norm:mixed4b"])
def test_few_places_an_image(small_config: Config, positions: str) -> None:
    config = small_config(positions=positions, layers=("mixed3b", "mixed4b"), dtype="float32")
    build_store(config)
    store = open_store(config.out)
    assert store.layers["mixed4b"].rows == 26 * 2
    fine = {(i, y // 2, x // 2) for i, y, x in store.positions("mixed3b")[:].tolist()}
    assert fine == {tuple(place) for place in store.positions("mixed4b")[:].tolist()}
    assert store.activations("mixed4b")[0].dtype == np.float32
    assert verify_store(config.out) == []


def test_unreadable_pictures_are_named_and_counted(
    tmp_path: Path, small_config: Config, make_photos: Callable[..., Path]
) -> None:
    folder = make_photos(count=9)
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    config = small_config(images=str(folder), layers=("mixed3a",), max_bad=1)
    manifest = build_store(config)
    assert manifest["images"]["unreadable"]["count"] == 1
    assert "broken.jpg" in str(manifest["images"]["unreadable"])
    table = open_store(config.out).images
    row = table.column("name").to_pylist().index("b/broken.jpg")
    assert table.column("split")[row].as_py() == "unreadable"
    assert row not in open_store(config.out).positions("mixed3a")[:][:, 0]
    assert verify_store(config.out) == []


def test_the_source_is_found_again_from_another_folder(
    small_config: Config, make_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_photos(count=4)
    monkeypatch.chdir(folder.parent)
    manifest = build_store(small_config(images=folder.name, layers=("mixed3a",)))
    assert manifest["images"]["spec"] == str(folder)
    monkeypatch.chdir("/")
    again = open_source(manifest["images"]["spec"], seed=3)
    assert again.fingerprint() == manifest["images"]["fingerprint"]


def test_too_many_unreadable_pictures_end_the_build_and_leave_nothing(
    small_config: Config, make_photos: Callable[..., Path]
) -> None:
    folder = make_photos(count=2)
    for number in range(2):
        (folder / "b" / f"broken{number}.jpg").write_bytes(b"")
    config = small_config(images=str(folder), max_bad=1)
    with pytest.raises(ImageError, match="expected at most 1 pictures that cannot be read"):
        build_store(config)
    assert not Path(config.out).exists()


def test_a_store_is_never_overwritten_unasked(copied: Path, small_config: Config) -> None:
    with pytest.raises(StoreError, match="found a store"):
        build_store(small_config(out=str(copied)))
    assert verify_store(copied) == []
    build_store(small_config(out=str(copied), layers=("mixed3a",)), overwrite=True)
    assert list(open_store(copied).layers) == ["mixed3a"]


def test_other_folders_are_never_emptied(tmp_path: Path, small_config: Config) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="deletes nothing that it did not write"):
        build_store(small_config(out=str(tmp_path / "mine")), overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["manifest.json", "COMPLETE", "building.json"])
@pytest.mark.parametrize("how", ["overwrite", "resume"])
def test_a_folder_with_a_file_of_a_stores_name_is_not_emptied(
    tmp_path: Path, small_config: Config, name: str, how: str
) -> None:
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / name).write_text("{}")
    (mine / "sub" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"found other files there \(sub/thesis\.tex\)"):
        build_store(small_config(out=str(mine)), **{how: True})
    assert (mine / "sub" / "thesis.tex").read_text() == "years of work"
    assert (mine / name).read_text() == "{}"


def test_a_store_that_lost_its_mark_is_not_built_over(copied: Path, small_config: Config) -> None:
    (copied / "COMPLETE").unlink()
    before = sorted(path for path in copied.rglob("*") if path.is_file())
    with pytest.raises(StoreError, match="isae-store repair"):
        build_store(small_config(out=str(copied), layers=("mixed3a",)), resume=True)
    assert sorted(path for path in copied.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("codec", ["small", "none"])
def test_a_chunk_of_another_place_is_never_returned(small_config: Config, codec: str) -> None:
    config = small_config(layers=("mixed4b", "mixed4c"), codec=codec)
    build_store(config)
    store = Path(config.out)
    one, other = (store / "stride16" / name / "c" / "0" / "0" for name in config.layers)
    data = one.read_bytes(), other.read_bytes()
    if len(data[0]) == len(data[1]):
        one.write_bytes(data[1])
        other.write_bytes(data[0])
        for name in config.layers:
            with pytest.raises(StoreCorruptError, match="belongs elsewhere"):
                open_store(store).activations(name)[:3]
    assert (len(data[0]) == len(data[1])) == (codec == "none")


def test_unknown_layers_are_refused_with_the_nearest(small_config: Config) -> None:
    with pytest.raises(UnknownNameError, match="nearest: mixed4a"):
        build_store(small_config(layers=("mixed4aa",)))


def test_activations_that_are_not_finite_end_the_build(
    small_config: Config, tmp_path: Path
) -> None:
    packaged = resources.files("isae.inception") / "inceptionv1_tin200.safetensors"
    weights = load_file(str(packaged))
    cases = (("weight", 3e38, "found NaN or infinity"), ("bias", 1e5, "--dtype float32"))
    for name, value, message in cases:
        changed = {key: tensor.float() for key, tensor in weights.items()}
        changed[f"mixed3a_1x1_pre_relu_conv.{name}"][:] = value
        save_file(changed, tmp_path / "w.safetensors")
        config = small_config(weights=str(tmp_path / "w.safetensors"), layers=("mixed3a",))
        with pytest.raises(DataError, match=message):
            build_store(config)
        assert not Path(config.out).exists()


def test_a_full_disk_is_foreseen(small_config: Config) -> None:
    free = shutil.disk_usage("/").free
    # 4,096 cells of 480 float16 values an image.
    images = 2 * free // (4096 * 480 * 2)
    config = small_config(images=f"synthetic:{images}", layers=("mixed3b",), size=512)
    with pytest.raises(StoreError, match="GB of free disk"):
        build_store(config)
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "at least one layer"),
        ({"layers": ("a", "a")}, "each layer once"),
        ({"dtype": "int4"}, "--dtype"),
        ({"codec": "zip"}, "a codec of fast, small, none"),
        ({"holdout": 1.0}, "--holdout"),
        ({"size": 3}, "--size"),
        ({"batch_size": 0}, "--batch-size"),
        ({"positions": "few"}, "--positions"),
        ({"positions": "9:norm:mixed4b", "layers": ("mixed3b",)}, "cells are 8 pixels or finer"),
    ],
)
def test_wrong_options_are_refused(
    small_config: Config, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_store(small_config(**changes))
