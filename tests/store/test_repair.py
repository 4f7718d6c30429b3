"""Repair: every file, damaged or missing, comes back with the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from isae.errors import StoreCorruptError, StoreError
from isae.store import BuildConfig, build_store, open_store, redo, verify_store
from isae.store.layout import BACKUP, COMPLETE, IMAGES, MANIFEST, STATISTICS
from isae.store.merge import MergeConfig, merge_stores
from isae.store.places import Place, open_place
from isae.store.repair import repair_store

Check = Damage = Callable[..., None]
Contents = Callable[[Place], dict[str, bytes]]
Config = Callable[..., BuildConfig]
ROOTS = (MANIFEST, BACKUP, COMPLETE)
GRIDS = {"stride8": ("mixed3b",), "stride16": ("mixed4a", "mixed4b")}
ARRAYS = [f"{grid}/{name}" for grid, layers in GRIDS.items() for name in ("index", *layers)]
METADATA = ["zarr.json", *(f"{name}/zarr.json" for name in (*GRIDS, *ARRAYS))]
FILES = sorted([*ROOTS, IMAGES, STATISTICS, *METADATA, *(f"{name}/c/0/0" for name in ARRAYS)])


def test_a_whole_store_stays_as_it_is(built: Path, copied: Path, contents: Contents) -> None:
    done = repair_store(copied)
    assert (done.broken, done.repaired, done.images) == ({}, [], 0)
    assert contents(open_place(copied)) == contents(open_place(built))


def test_the_list_of_files_is_whole(built: Path, contents: Contents) -> None:
    assert sorted(contents(open_place(built))) == FILES


@pytest.mark.parametrize("how", ["flip", "remove"])
@pytest.mark.parametrize("key", FILES)
def test_every_file_comes_back(
    built: Path,
    copied: Path,
    key: str,
    how: str,
    damage: Damage,
    contents: Contents,
    check_repaired: Check,
) -> None:
    damage(open_place(copied), key, how)
    check_repaired(copied, contents(open_place(built)), {key})


@pytest.mark.parametrize("how", ["cut", "empty"])
def test_short_files_come_back(
    built: Path, copied: Path, how: str, damage: Damage, contents: Contents, check_repaired: Check
) -> None:
    place, whole = open_place(copied), contents(open_place(built))
    for key in (*ROOTS, IMAGES, "stride16/zarr.json", "stride16/mixed4a/c/0/0"):
        damage(place, key, how)
        check_repaired(copied, whole, {key})


@pytest.mark.parametrize(
    ("first", "second"), [*zip(FILES[::2], FILES[1::2], strict=True), (COMPLETE, MANIFEST)]
)
def test_two_files_come_back(
    built: Path,
    copied: Path,
    first: str,
    second: str,
    damage: Damage,
    contents: Contents,
    check_repaired: Check,
) -> None:
    place = open_place(copied)
    damage(place, first, "flip")
    damage(place, second, "remove")
    if {first, second} <= set(ROOTS):
        with pytest.raises(StoreCorruptError, match="all three are missing or differ"):
            repair_store(copied)
        return
    check_repaired(copied, contents(open_place(built)), {first, second})


def test_all_but_the_manifest_comes_back(
    built: Path, copied: Path, contents: Contents, check_repaired: Check
) -> None:
    place = open_place(copied)
    for key in set(FILES) - {MANIFEST, BACKUP}:
        place.delete(key)
    check_repaired(copied, contents(open_place(built)), set(FILES) - {MANIFEST, BACKUP})


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3"])
def test_quantised_stores_come_back(
    small_config: Config, dtype: str, damage: Damage, contents: Contents, check_repaired: Check
) -> None:
    config = small_config(dtype=dtype, layers=("mixed4a",), codec="fast")
    build_store(config)
    place = open_place(config.out)
    whole = contents(place)
    for key in ("stride16/mixed4a/zarr.json", "stride16/mixed4a/c/0/0", STATISTICS):
        damage(place, key, "flip")
        check_repaired(config.out, whole, {key})
    for key in set(whole) - {MANIFEST, BACKUP}:
        place.delete(key)
    check_repaired(config.out, whole, set(whole) - {MANIFEST, BACKUP})


@pytest.mark.parametrize(
    ("key", "images"), [("stride16/mixed4b/c/0/0", 26), ("stride16/index/c/0/0", 26)]
)
def test_places_by_norm_come_back(
    small_config: Config,
    key: str,
    images: int,
    damage: Damage,
    contents: Contents,
    check_repaired: Check,
) -> None:
    """Which places were taken is known only after a forward pass."""
    config = small_config(positions="3:norm:mixed3b", layers=("mixed3b", "mixed4b"))
    build_store(config)
    place = open_place(config.out)
    whole = contents(place)
    damage(place, key, "remove")
    assert repair_store(config.out, dry_run=True).images == images
    check_repaired(config.out, whole, {key})


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two units: 84 * 196 rows; the second has 80 rows, all of held-out images."""
    path = tmp_path_factory.mktemp("units") / "store"
    build_store(
        BuildConfig(images="synthetic:84", layers=("mixed3a",), out=str(path), size=112, workers=0)
    )
    return path


@pytest.mark.parametrize(
    "keys",
    [
        {"stride8/mixed3a/c/0/0"},
        {"stride8/mixed3a/c/1/0"},
        {"stride8/index/c/1/0"},
        {"stride8/mixed3a/c/1/0", "stride8/index/c/0/0"},
        {"stride8/mixed3a/c/1/0", "stride8/index/c/1/0", STATISTICS},
    ],
)
def test_single_units_come_back_from_the_images_they_hold(
    units: Path,
    tmp_path: Path,
    keys: set[str],
    monkeypatch: pytest.MonkeyPatch,
    damage: Damage,
    contents: Contents,
    check_repaired: Check,
) -> None:
    monkeypatch.setattr(redo, "SEGMENT_BYTES", 1_000_000)
    store = shutil.copytree(units, tmp_path / "store")
    place = open_place(store)
    seen: list[int] = []
    decode = redo.decode_batches

    def watched(*arguments: object, **options: object) -> Iterator[object]:
        for batch in decode(*arguments, **options):  # type: ignore[arg-type]
            seen.extend(batch.indices.tolist())
            yield batch

    monkeypatch.setattr(redo, "decode_batches", watched)
    for key in keys:
        damage(place, key, "flip")
    check_repaired(store, contents(open_place(units)), keys)
    index = open_store(units).positions("mixed3a")
    shards = [int(key.split("/")[3]) for key in keys if "mixed3a" in key]
    wanted = [np.unique(index[16384 * n : 16384 * (n + 1), 0]) for n in shards]
    assert sorted(seen) == sorted({image for part in wanted for image in part.tolist()})
    if shards == [1]:
        assert len(seen) == 4


def test_unreadable_pictures_stay_unreadable(
    small_config: Config,
    make_photos: Callable[..., Path],
    tmp_path: Path,
    damage: Damage,
    contents: Contents,
    check_repaired: Check,
) -> None:
    folder = make_photos(count=9)
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    config = small_config(images=str(folder), layers=("mixed4a",), max_bad=1)
    build_store(config)
    place = open_place(config.out)
    whole = contents(place)
    for key in (IMAGES, "stride16/index/c/0/0", "stride16/mixed4a/c/0/0"):
        damage(place, key, "remove")
        check_repaired(config.out, whole, {key})
    elsewhere = folder.rename(tmp_path / "elsewhere")
    damage(place, "stride16/mixed4a/c/0/0", "remove")
    with pytest.raises(StoreError, match="give the place where they are now with --images"):
        repair_store(config.out)
    repair_store(config.out, images=str(elsewhere))
    assert contents(place) == whole


def test_merged_stores_come_back_from_all_their_images(
    small_config: Config,
    make_photos: Callable[..., Path],
    tmp_path: Path,
    damage: Damage,
    contents: Contents,
    check_repaired: Check,
) -> None:
    """Also when merged twice, with places drawn, samples, copies, and a picture that is broken."""
    folder, copies = make_photos(count=5), tmp_path / "copies"
    shutil.copytree(folder, copies)
    (folder / "b" / "broken.jpg").write_bytes(b"no picture")
    sources = [str(folder), "synthetic:4", str(copies)]
    stores = [str(tmp_path / name) for name in ("first", "second", "third", "inner", "merged")]
    options = {"layers": ("mixed3b", "mixed4a"), "positions": "9", "holdout": 0.4, "batch_size": 4}
    for seed, images in enumerate(sources):
        limit = 4 if images == str(copies) else None
        out = stores[seed]
        build_store(small_config(images=images, out=out, seed=seed, limit=limit, **options))
    merge_stores(MergeConfig((stores[0], stores[1]), stores[3], seed=7))
    merge_stores(MergeConfig((stores[3], stores[2]), stores[4], seed=8, keep_copies=True))
    assert open_store(stores[4]).manifest["images"]["moved_to_holdout"]
    for store in stores[:4]:
        shutil.rmtree(store)
    place = open_place(stores[4])
    whole = contents(place)
    for key in set(whole) - {MANIFEST, BACKUP}:
        place.delete(key)
    check_repaired(stores[4], whole, set(whole) - {MANIFEST, BACKUP})
    elsewhere = copies.rename(tmp_path / "elsewhere")
    damage(place, "stride16/mixed4a/c/0/0", "remove")
    with pytest.raises(StoreError, match=f"found none in {copies} .*--images 'merge:"):
        repair_store(stores[4])
    with pytest.raises(StoreError, match="each of the 3 that the store was merged of, found 1"):
        repair_store(stores[4], images=str(elsewhere))
    now = json.dumps([sources[0], sources[1], str(elsewhere)])
    repair_store(stores[4], images=f"merge:{now}")
    assert contents(place) == whole


def test_stores_in_memory_come_back(
    small_config: Config, tmp_path: Path, damage: Damage, contents: Contents
) -> None:
    url = f"memory://{uuid4().hex}"
    build_store(small_config(out=url, scratch=str(tmp_path / "scratch"), layers=("mixed4a",)))
    place = open_place(url)
    whole = contents(place)
    for key in whole:
        damage(place, key, "flip")
        assert verify_store(url) != []
        repair_store(url, scratch=str(tmp_path / "scratch"))
        assert contents(place) == whole
    assert verify_store(url) == []


def test_stores_in_a_bucket_come_back(
    small_config: Config,
    tmp_path: Path,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    damage: Damage,
    contents: Contents,
    check_repaired: Check,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build_store(small_config(out=s3_url, layers=("mixed4a",)))
    place = open_place(s3_url)
    whole = contents(place)
    damaged = {MANIFEST, "stride16/mixed4a/c/0/0", "stride16/index/c/0/0", STATISTICS}
    for key in damaged:
        damage(place, key, "remove")
    check_repaired(s3_url, whole, damaged)
    assert not list((tmp_path / "cache").rglob("*.*"))
