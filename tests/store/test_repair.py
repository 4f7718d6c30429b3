"""Repair: every file, damaged or missing, comes back with the same bytes, or nothing is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from typer.testing import CliRunner

from isae.errors import StoreCorruptError, StoreError, StoreIncompleteError
from isae.store import (
    BuildConfig,
    build_store,
    file_hash,
    manifest,
    mending,
    open_store,
    redo,
    verify_store,
)
from isae.store.cli import app
from isae.store.import_arrays import import_arrays
from isae.store.import_config import ImportConfig
from isae.store.layout import BACKUP, BUILDING, COMPLETE, IMAGES, MANIFEST, STATISTICS
from isae.store.locks import PlaceLock
from isae.store.merge import MergeConfig, merge_stores
from isae.store.places import LocalPlace, Place, open_place
from isae.store.repair import repair_store
from isae.store.statistics import Accumulator, save_statistics

Config = Callable[..., BuildConfig]
ROOTS = (MANIFEST, BACKUP, COMPLETE)
GRIDS = {"stride8": ("mixed3b",), "stride16": ("mixed4a", "mixed4b")}
ARRAYS = [f"{grid}/{name}" for grid, layers in GRIDS.items() for name in ("index", *layers)]
METADATA = ["zarr.json", *(f"{name}/zarr.json" for name in (*GRIDS, *ARRAYS))]
FILES = sorted([*ROOTS, IMAGES, STATISTICS, *METADATA, *(f"{name}/c/0/0" for name in ARRAYS)])


def flip(place: Place, key: str) -> None:
    data = bytearray(place.read(key))
    data[len(data) // 3] ^= 16
    place.write(key, bytes(data))


def cut(place: Place, key: str) -> None:
    place.write(key, place.read(key)[:-1])


def empty(place: Place, key: str) -> None:
    place.write(key, b"")


def remove(place: Place, key: str) -> None:
    place.delete(key)


def contents(place: Place) -> dict[str, bytes]:
    listed = place.keys()
    return {key: place.read(key) for key, _ in listed}


def check_repaired(where: str | Path, whole: dict[str, bytes], damaged: set[str]) -> None:
    """The damage is found by verify, and repaired: every byte of the store is as before."""
    assert verify_store(where) != []
    done = repair_store(where)
    assert set(done.broken) == damaged
    assert sorted(done.repaired) == sorted(damaged)
    assert contents(open_place(where)) == whole
    assert verify_store(where) == []


def test_a_whole_store_stays_as_it_is(built: Path, copied: Path) -> None:
    done = repair_store(copied)
    assert (done.broken, done.repaired, done.images) == ({}, [], 0)
    assert contents(open_place(copied)) == contents(open_place(built))


def test_the_list_of_files_is_whole(built: Path) -> None:
    assert sorted(contents(open_place(built))) == FILES


@pytest.mark.parametrize("damage", [flip, remove])
@pytest.mark.parametrize("key", FILES)
def test_every_file_comes_back(
    built: Path, copied: Path, key: str, damage: Callable[[Place, str], None]
) -> None:
    damage(open_place(copied), key)
    check_repaired(copied, contents(open_place(built)), {key})


@pytest.mark.parametrize("damage", [cut, empty])
def test_short_files_come_back(
    built: Path, copied: Path, damage: Callable[[Place, str], None]
) -> None:
    place, whole = open_place(copied), contents(open_place(built))
    for key in (*ROOTS, IMAGES, "stride16/zarr.json", "stride16/mixed4a/c/0/0"):
        damage(place, key)
        check_repaired(copied, whole, {key})


@pytest.mark.parametrize(
    ("first", "second"), [*zip(FILES[::2], FILES[1::2], strict=True), (COMPLETE, MANIFEST)]
)
def test_two_files_come_back(built: Path, copied: Path, first: str, second: str) -> None:
    place = open_place(copied)
    flip(place, first)
    remove(place, second)
    if {first, second} <= set(ROOTS):
        with pytest.raises(StoreCorruptError, match="all three are missing or differ"):
            repair_store(copied)
        return
    check_repaired(copied, contents(open_place(built)), {first, second})


def test_manifests_that_were_changed_alike_are_not_taken_for_right(copied: Path) -> None:
    place = open_place(copied)
    for key in (MANIFEST, BACKUP):
        place.write(key, place.read(key).replace(b'"seed": 3', b'"seed": 4'))
    with pytest.raises(StoreCorruptError, match="both copies of the manifest were changed"):
        repair_store(copied)


def test_all_but_the_manifest_comes_back(built: Path, copied: Path) -> None:
    place = open_place(copied)
    for key in set(FILES) - {MANIFEST, BACKUP}:
        place.delete(key)
    check_repaired(copied, contents(open_place(built)), set(FILES) - {MANIFEST, BACKUP})


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3"])
def test_quantised_stores_come_back(small_config: Config, dtype: str) -> None:
    config = small_config(dtype=dtype, layers=("mixed4a",), codec="fast")
    build_store(config)
    place = open_place(config.out)
    whole = contents(place)
    for key in ("stride16/mixed4a/zarr.json", "stride16/mixed4a/c/0/0", STATISTICS):
        flip(place, key)
        check_repaired(config.out, whole, {key})
    for key in set(whole) - {MANIFEST, BACKUP}:
        place.delete(key)
    check_repaired(config.out, whole, set(whole) - {MANIFEST, BACKUP})


@pytest.mark.parametrize(
    ("key", "images"), [("stride16/mixed4b/c/0/0", 26), ("stride16/index/c/0/0", 26)]
)
def test_places_by_norm_come_back(small_config: Config, key: str, images: int) -> None:
    """Which places were taken is known only after a forward pass."""
    config = small_config(positions="3:norm:mixed3b", layers=("mixed3b", "mixed4b"))
    build_store(config)
    place = open_place(config.out)
    whole = contents(place)
    remove(place, key)
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
    units: Path, tmp_path: Path, keys: set[str], monkeypatch: pytest.MonkeyPatch
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
        flip(place, key)
    check_repaired(store, contents(open_place(units)), keys)
    index = open_store(units).positions("mixed3a")
    shards = [int(key.split("/")[3]) for key in keys if "mixed3a" in key]
    wanted = [np.unique(index[16384 * n : 16384 * (n + 1), 0]) for n in shards]
    assert sorted(seen) == sorted({image for part in wanted for image in part.tolist()})
    if shards == [1]:
        assert len(seen) == 4


def test_unreadable_pictures_stay_unreadable(
    small_config: Config, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_photos(count=9)
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    config = small_config(images=str(folder), layers=("mixed4a",), max_bad=1)
    build_store(config)
    place = open_place(config.out)
    whole = contents(place)
    for key in (IMAGES, "stride16/index/c/0/0", "stride16/mixed4a/c/0/0"):
        remove(place, key)
        check_repaired(config.out, whole, {key})
    elsewhere = folder.rename(tmp_path / "elsewhere")
    remove(place, "stride16/mixed4a/c/0/0")
    with pytest.raises(StoreError, match="give the place where they are now with --images"):
        repair_store(config.out)
    repair_store(config.out, images=str(elsewhere))
    assert contents(place) == whole


@pytest.mark.parametrize("change", ["added", "removed", "resized", "same size", "broken"])
def test_other_images_are_refused_but_only_where_images_are_needed(
    small_config: Config, make_photos: Callable[..., Path], change: str
) -> None:
    folder = make_photos(count=9)
    config = small_config(images=str(folder), layers=("mixed4a",))
    build_store(config)
    one, other = sorted(folder.rglob("*.jpg"))[:2]
    if change == "added":
        shutil.copy(one, folder / "a" / "zzz.jpg")
    elif change == "removed":
        one.unlink()
    elif change == "resized":
        one.write_bytes(other.read_bytes() + b"\0" * 7)
    elif change == "same size":
        size = one.stat().st_size
        one.write_bytes(other.read_bytes()[:size].ljust(size, b"\0"))
    else:
        one.write_bytes(b"\0" * one.stat().st_size)
    place = open_place(config.out)
    remove(place, "stride16/mixed4a/c/0/0")
    before = contents(place)
    with pytest.raises(StoreError, match="expected") as error:
        repair_store(config.out)
    expected = {
        "added": "found 10 with other names or sizes",
        "removed": "found 8 with other names or sizes",
        "resized": "found as many with other names or sizes",
        "same size": "the images or the processor must be others",
        "broken": "to be readable, as when the store was built",
    }
    assert expected[change] in str(error.value)
    assert contents(place) == before
    told = repair_store(config.out, dry_run=True).obstacle
    assert (told is None) == (change in ("same size", "broken"))
    flip(place, "zarr.json")
    with pytest.raises(StoreError):
        repair_store(config.out)
    assert verify_store(config.out) == ["stride16/mixed4a/c/0/0: missing"]


def test_merged_stores_come_back_from_all_their_images(
    small_config: Config, make_photos: Callable[..., Path], tmp_path: Path
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
    remove(place, "stride16/mixed4a/c/0/0")
    with pytest.raises(StoreError, match=f"found none in {copies} .*--images 'merge:"):
        repair_store(stores[4])
    with pytest.raises(StoreError, match="each of the 3 that the store was merged of, found 1"):
        repair_store(stores[4], images=str(elsewhere))
    now = json.dumps([sources[0], sources[1], str(elsewhere)])
    repair_store(stores[4], images=f"merge:{now}")
    assert contents(place) == whole


def test_rows_of_imported_stores_do_not_come_back(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((40, 6), dtype=np.float32))
    store = str(tmp_path / "store")
    import_arrays(
        ImportConfig(source=str(tmp_path / "rows.npy"), format="npy", layer="c", out=store)
    )
    place = open_place(store)
    whole = contents(place)
    remove(place, STATISTICS)
    check_repaired(store, whole, {STATISTICS})
    remove(place, "stride1/c/c/0/0")
    with pytest.raises(StoreError, match=r"found one made of .*rows.npy; convert it"):
        repair_store(store)


def test_a_repair_that_was_ended_goes_on(
    built: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redo, "SEGMENT_BYTES", 1)
    place = open_place(copied)
    for key in ("stride16/mixed4a/c/0/0", "stride16/mixed4b/c/0/0"):
        remove(place, key)
    decode, seen = redo.decode_batches, []

    def ended(*arguments: Any, **options: Any) -> Iterator[Any]:
        for batch in decode(*arguments, **options):
            if len(seen) == 2:
                raise KeyboardInterrupt
            seen.append(batch.indices.tolist())
            yield batch

    monkeypatch.setattr(redo, "decode_batches", ended)
    with pytest.raises(KeyboardInterrupt):
        repair_store(copied)
    kept = sorted(path.name for path in copied.glob("work/repair/layers/segment-*"))
    assert 1 <= len(kept) <= 2
    asked: list[int] = []

    def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
        asked.extend(options["indices"].tolist())
        return iter(decode(*arguments, **options))

    monkeypatch.setattr(redo, "decode_batches", watched)
    repair_store(copied)
    assert asked == list(range(8 * len(kept), 26))
    assert contents(place) == contents(open_place(built))
    assert not (copied / "work").exists()


def test_a_repair_leaves_the_rows_of_one_on_another_machine(
    built: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of one store, of one path on each machine, and one --scratch."""
    scratch, key = str(tmp_path / "scratch"), "stride16/mixed4a/c/0/0"
    remove(open_place(copied), key)

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redo, "save_cuts", ended)
        with pytest.raises(KeyboardInterrupt):
            repair_store(copied, scratch=scratch)
    kept = list(tmp_path.glob("scratch/*/layers/*"))
    assert kept
    with monkeypatch.context() as patch:
        patch.setattr(mending, "machine_name", lambda: ("other", "other"))
        repair_store(copied, scratch=scratch)
    assert all(path.is_file() for path in kept)
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    remove(open_place(copied), key)
    repair_store(copied, scratch=scratch)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert contents(open_place(copied)) == contents(open_place(built))


def test_rows_that_a_repair_of_other_files_left_are_not_taken(
    built: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_place(copied)
    remove(place, "stride16/mixed4a/c/0/0")

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redo, "save_cuts", ended)
        with pytest.raises(KeyboardInterrupt):
            repair_store(copied)
    assert list(copied.glob("work/repair/layers/segment-*"))
    remove(place, "stride8/mixed3b/c/0/0")
    check_repaired(
        copied,
        contents(open_place(built)),
        {"stride16/mixed4a/c/0/0", "stride8/mixed3b/c/0/0"},
    )


def test_files_that_can_be_mended_are_mended_before_the_error(
    copied: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_place(copied)
    keys = ["stride16/mixed4a/c/0/0", "stride16/mixed4b/c/0/0", "stride8/mixed3b/c/0/0"]
    for key in keys:
        remove(place, key)
    changed = json.loads((copied / MANIFEST).read_bytes())
    files = changed["files"]
    files[keys[0]]["blake3"] = files[keys[1]]["blake3"]
    changed["content_id"] = manifest.content_id(files)
    data = manifest.as_json(changed)
    for key, value in ((MANIFEST, data), (BACKUP, data), (COMPLETE, manifest.mark_of(data))):
        place.write(key, value)
    with pytest.raises(StoreError, match=f"expected {keys[0]} made anew"):
        repair_store(copied)
    assert place.size(keys[0]) is None
    for key in keys[1:]:
        assert place.read(key) == open_place(built).read(key)


def test_other_weights_are_refused(copied: Path) -> None:
    place = open_place(copied)
    remove(place, "stride16/mixed4a/c/0/0")
    before = contents(place)
    with pytest.raises(StoreError, match="expected the weights that the store was built with"):
        repair_store(copied, weights="random:1")
    assert contents(place) == before


def test_statistics_of_an_older_store_come_back(tmp_path: Path) -> None:
    """Of a store that states no arithmetic, however it was summed; else the true reason is told."""
    values = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
    np.save(tmp_path / "rows.npy", values)
    store = str(tmp_path / "store")
    import_arrays(
        ImportConfig(source=str(tmp_path / "rows.npy"), format="npy", layer="c", out=store)
    )
    place, layer = open_place(store), open_store(store).layer("c")
    rows_RC = open_store(store).activations("c")[: layer.train_rows]
    made = set()
    for arithmetic in (1, 2):
        older = Accumulator(64, arithmetic)
        older.add_part(rows_RC)
        save_statistics(tmp_path / "s", {"c": older.finish()})
        data = (tmp_path / "s").read_bytes()
        made.add(data)
        about = json.loads(place.read(MANIFEST))
        about["versions"].pop("arithmetic", None)
        put_statistics(place, data, about)
        whole = contents(place)
        remove(place, STATISTICS)
        check_repaired(store, whole, {STATISTICS})
    assert len(made) == 2
    about["versions"]["arithmetic"] = "3"
    put_statistics(place, b"of a later version", about)
    remove(place, STATISTICS)
    with pytest.raises(StoreError, match="versions differ: arithmetic 2 instead of 3"):
        repair_store(store)


def put_statistics(place: Place, data: bytes, about: dict[str, Any]) -> None:
    """A store with these statistics and this manifest."""
    about["files"][STATISTICS] = file_hash.entry(data)
    about["content_id"] = manifest.content_id(about["files"])
    place.write(STATISTICS, data)
    text = manifest.as_json(about)
    for key, value in ((MANIFEST, text), (BACKUP, text), (COMPLETE, manifest.mark_of(text))):
        place.write(key, value)


def test_what_another_version_would_write_is_refused(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec that codes in another way stands for another version of a package."""
    from isae.store import units as module

    place = open_place(copied)
    remove(place, "stride16/mixed4a/c/0/0")
    before = contents(place)
    encode = module.encode_shard
    monkeypatch.setattr(module, "encode_shard", lambda *given: encode(*given) + b"\0")
    monkeypatch.setattr(module, "chunk_sums", lambda *given: "")
    now = manifest.versions()
    monkeypatch.setattr(manifest, "versions", lambda: {**now, "numcodecs": "99"})
    with pytest.raises(StoreError, match="versions differ: numcodecs 99 instead of"):
        repair_store(copied)
    assert contents(place) == before


def test_a_dry_run_writes_nothing_and_says_what_it_takes(copied: Path) -> None:
    place = open_place(copied)
    for key in (COMPLETE, "stride8/mixed3b/c/0/0", "zarr.json"):
        flip(place, key)
    place.write("stray.txt", b"mine")
    place.write("work/left", b"over")
    before = contents(place)
    done = repair_store(copied, dry_run=True)
    assert contents(place) == before
    assert set(done.broken) == {COMPLETE, "stride8/mixed3b/c/0/0", "zarr.json"}
    assert (done.images, done.repaired) == (26, [])
    assert done.strangers == ["stray.txt", "work/left"]


def test_strangers_are_named_and_removed_only_if_asked(built: Path, copied: Path) -> None:
    place = open_place(copied)
    (copied / BUILDING).write_text("{}")  # as a killed build leaves it
    strangers = ["stray.txt", "stride16/mixed4a/c/9/0", "work/segment-000000.safetensors"]
    for key in strangers:
        place.write(key, b"mine")
    (copied / "work" / "repair").mkdir()
    (copied / "work" / "repair" / "left").write_bytes(b"of a killed repair")
    done = repair_store(copied)
    assert done.strangers == [BUILDING, *strangers]
    assert done.removed == [BUILDING]
    assert sorted(contents(place)) == sorted([*FILES, *strangers])
    done = repair_store(copied, remove_strangers=True)
    assert done.removed == strangers
    assert contents(place) == contents(open_place(built))
    assert not (copied / "work").exists()


def test_unfinished_builds_are_not_completed(copied: Path) -> None:
    remove(open_place(copied), COMPLETE)
    (copied / "work").mkdir()
    (copied / "work" / "plan.json").write_text("{}")
    for key in (COMPLETE, MANIFEST, BACKUP):
        (copied / key).unlink(missing_ok=True)
        with pytest.raises(StoreIncompleteError, match="--resume"):
            repair_store(copied)


def test_a_repair_and_a_build_exclude_each_other(copied: Path) -> None:
    lock = PlaceLock(LocalPlace(copied), BUILDING)
    lock.take({})
    try:
        with pytest.raises(StoreError, match="expected no running build"):
            repair_store(copied)
    finally:
        lock.release()
    assert repair_store(copied).broken == {}


def test_stores_in_memory_come_back(small_config: Config, tmp_path: Path) -> None:
    url = f"memory://{uuid4().hex}"
    build_store(small_config(out=url, scratch=str(tmp_path / "scratch"), layers=("mixed4a",)))
    place = open_place(url)
    whole = contents(place)
    for key in whole:
        flip(place, key)
        assert verify_store(url) != []
        repair_store(url, scratch=str(tmp_path / "scratch"))
        assert contents(place) == whole
    assert verify_store(url) == []


def test_stores_in_a_bucket_come_back(
    small_config: Config, tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build_store(small_config(out=s3_url, layers=("mixed4a",)))
    place = open_place(s3_url)
    whole = contents(place)
    damaged = {MANIFEST, "stride16/mixed4a/c/0/0", "stride16/index/c/0/0", STATISTICS}
    for key in damaged:
        remove(place, key)
    check_repaired(s3_url, whole, damaged)
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_readers_meanwhile_get_right_rows_or_an_error(built: Path, copied: Path) -> None:
    expected = open_store(built).activations("mixed4a")[:]
    flip(open_place(copied), "stride16/mixed4a/c/0/0")
    repairing = threading.Thread(target=repair_store, args=(copied,))
    wrong, refused, right = 0, 0, 0
    repairing.start()
    while repairing.is_alive() or not right:
        try:
            found = open_store(copied).activations("mixed4a")[:]
        except StoreCorruptError:
            refused += 1
            continue
        same = np.array_equal(found, expected)
        right, wrong = right + same, wrong + (not same)
    repairing.join()
    assert wrong == 0
    assert refused > 0


def test_the_command(copied: Path) -> None:
    def run(*more: str) -> Any:
        return CliRunner().invoke(app, ["repair", str(copied), *more])

    remove(open_place(copied), "stride8/index/c/0/0")
    done = run("--dry-run", "--json", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["broken"] == {"stride8/index/c/0/0": "missing"}
    assert "stride8/index/c/0/0: missing, would be repaired" in run("--dry-run").stdout
    assert "stride8/index/c/0/0: missing, repaired" in run().stdout
    assert "every file is as it was written" in run().stdout


def test_what_is_beyond_repair_is_one_line_and_exit_code_2(copied: Path) -> None:
    for key in (MANIFEST, BACKUP):
        empty(open_place(copied), key)
    command = [sys.executable, "-m", "isae.store.cli", "repair", str(copied)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: expected two of manifest.json")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
