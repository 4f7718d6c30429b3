"""Repair refuses what cannot come back as it was, and says why."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isae.errors import StoreCorruptError, StoreError, StoreIncompleteError
from isae.store import BuildConfig, build_store, file_hash, manifest, open_store, verify_store
from isae.store.import_arrays import import_arrays
from isae.store.import_config import ImportConfig
from isae.store.layout import BACKUP, COMPLETE, MANIFEST, STATISTICS
from isae.store.places import Place, open_place
from isae.store.repair import repair_store
from isae.store.statistics import Accumulator, save_statistics

Check = Damage = Callable[..., None]
Contents = Callable[[Place], dict[str, bytes]]
Config = Callable[..., BuildConfig]


def test_manifests_that_were_changed_alike_are_not_taken_for_right(copied: Path) -> None:
    place = open_place(copied)
    for key in (MANIFEST, BACKUP):
        place.write(key, place.read(key).replace(b'"seed": 3', b'"seed": 4'))
    with pytest.raises(StoreCorruptError, match="both copies of the manifest were changed"):
        repair_store(copied)


@pytest.mark.parametrize("change", ["added", "removed", "resized", "same size", "broken"])
def test_other_images_are_refused_but_only_where_images_are_needed(
    small_config: Config,
    make_photos: Callable[..., Path],
    change: str,
    damage: Damage,
    contents: Contents,
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
    damage(place, "stride16/mixed4a/c/0/0", "remove")
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
    damage(place, "zarr.json", "flip")
    with pytest.raises(StoreError):
        repair_store(config.out)
    assert verify_store(config.out) == ["stride16/mixed4a/c/0/0: missing"]


def test_rows_of_imported_stores_do_not_come_back(
    tmp_path: Path, damage: Damage, contents: Contents, check_repaired: Check
) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((40, 6), dtype=np.float32))
    store = str(tmp_path / "store")
    import_arrays(
        ImportConfig(source=str(tmp_path / "rows.npy"), format="npy", layer="c", out=store)
    )
    place = open_place(store)
    whole = contents(place)
    damage(place, STATISTICS, "remove")
    check_repaired(store, whole, {STATISTICS})
    damage(place, "stride1/c/c/0/0", "remove")
    with pytest.raises(StoreError, match=r"found one made of .*rows.npy; convert it"):
        repair_store(store)


def test_files_that_can_be_mended_are_mended_before_the_error(
    copied: Path, built: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage
) -> None:
    place = open_place(copied)
    keys = ["stride16/mixed4a/c/0/0", "stride16/mixed4b/c/0/0", "stride8/mixed3b/c/0/0"]
    for key in keys:
        damage(place, key, "remove")
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


def test_other_weights_are_refused(copied: Path, damage: Damage, contents: Contents) -> None:
    place = open_place(copied)
    damage(place, "stride16/mixed4a/c/0/0", "remove")
    before = contents(place)
    with pytest.raises(StoreError, match="expected the weights that the store was built with"):
        repair_store(copied, weights="random:1")
    assert contents(place) == before


def test_statistics_of_an_older_store_come_back(
    tmp_path: Path, damage: Damage, contents: Contents, check_repaired: Check
) -> None:
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
        damage(place, STATISTICS, "remove")
        check_repaired(store, whole, {STATISTICS})
    assert len(made) == 2
    about["versions"]["arithmetic"] = "3"
    put_statistics(place, b"of a later version", about)
    damage(place, STATISTICS, "remove")
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
    copied: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage, contents: Contents
) -> None:
    """A codec that codes in another way stands for another version of a package."""
    from isae.store import units as module

    place = open_place(copied)
    damage(place, "stride16/mixed4a/c/0/0", "remove")
    before = contents(place)
    encode = module.encode_shard
    monkeypatch.setattr(module, "encode_shard", lambda *given: encode(*given) + b"\0")
    monkeypatch.setattr(module, "chunk_sums", lambda *given: "")
    now = manifest.versions()
    monkeypatch.setattr(manifest, "versions", lambda: {**now, "numcodecs": "99"})
    with pytest.raises(StoreError, match="versions differ: numcodecs 99 instead of"):
        repair_store(copied)
    assert contents(place) == before


def test_unfinished_builds_are_not_completed(copied: Path, damage: Damage) -> None:
    damage(open_place(copied), COMPLETE, "remove")
    (copied / "work").mkdir()
    (copied / "work" / "plan.json").write_text("{}")
    for key in (COMPLETE, MANIFEST, BACKUP):
        (copied / key).unlink(missing_ok=True)
        with pytest.raises(StoreIncompleteError, match="--resume"):
            repair_store(copied)


def test_what_is_beyond_repair_is_one_line_and_exit_code_2(copied: Path, damage: Damage) -> None:
    for key in (MANIFEST, BACKUP):
        damage(open_place(copied), key, "empty")
    command = [sys.executable, "-m", "isae.store.cli", "repair", str(copied)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: expected two of manifest.json")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
