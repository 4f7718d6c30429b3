"""Repair beside others, after one that was ended, among strangers; dry runs and the command."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from isae.errors import StoreCorruptError, StoreError
from isae.store import mending, open_store, redo
from isae.store.cli import app
from isae.store.layout import BUILDING, COMPLETE
from isae.store.locks import PlaceLock
from isae.store.places import LocalPlace, Place, open_place
from isae.store.repair import repair_store

Check = Damage = Callable[..., None]
Contents = Callable[[Place], dict[str, bytes]]


def test_a_repair_that_was_ended_goes_on(
    built: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage, contents: Contents
) -> None:
    monkeypatch.setattr(redo, "SEGMENT_BYTES", 1)
    place = open_place(copied)
    for key in ("stride16/mixed4a/c/0/0", "stride16/mixed4b/c/0/0"):
        damage(place, key, "remove")
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
    built: Path,
    copied: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Damage,
    contents: Contents,
) -> None:
    """Copies of one store, of one path on each machine, and one --scratch."""
    scratch, key = str(tmp_path / "scratch"), "stride16/mixed4a/c/0/0"
    damage(open_place(copied), key, "remove")

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
    damage(open_place(copied), key, "remove")
    repair_store(copied, scratch=scratch)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert contents(open_place(copied)) == contents(open_place(built))


def test_rows_that_a_repair_of_other_files_left_are_not_taken(
    built: Path,
    copied: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Damage,
    contents: Contents,
    check_repaired: Check,
) -> None:
    place = open_place(copied)
    damage(place, "stride16/mixed4a/c/0/0", "remove")

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redo, "save_cuts", ended)
        with pytest.raises(KeyboardInterrupt):
            repair_store(copied)
    assert list(copied.glob("work/repair/layers/segment-*"))
    damage(place, "stride8/mixed3b/c/0/0", "remove")
    check_repaired(
        copied,
        contents(open_place(built)),
        {"stride16/mixed4a/c/0/0", "stride8/mixed3b/c/0/0"},
    )


def test_a_repair_and_a_build_exclude_each_other(copied: Path) -> None:
    lock = PlaceLock(LocalPlace(copied), BUILDING)
    lock.take({})
    try:
        with pytest.raises(StoreError, match="expected no running build"):
            repair_store(copied)
    finally:
        lock.release()
    assert repair_store(copied).broken == {}


def test_readers_meanwhile_get_right_rows_or_an_error(
    built: Path, copied: Path, damage: Damage
) -> None:
    expected = open_store(built).activations("mixed4a")[:]
    damage(open_place(copied), "stride16/mixed4a/c/0/0", "flip")
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


def test_a_dry_run_writes_nothing_and_says_what_it_takes(
    copied: Path, damage: Damage, contents: Contents
) -> None:
    place = open_place(copied)
    for key in (COMPLETE, "stride8/mixed3b/c/0/0", "zarr.json"):
        damage(place, key, "flip")
    place.write("stray.txt", b"mine")
    place.write("work/left", b"over")
    before = contents(place)
    done = repair_store(copied, dry_run=True)
    assert contents(place) == before
    assert set(done.broken) == {COMPLETE, "stride8/mixed3b/c/0/0", "zarr.json"}
    assert (done.images, done.repaired) == (26, [])
    assert done.strangers == ["stray.txt", "work/left"]


def test_strangers_are_named_and_removed_only_if_asked(
    built: Path, copied: Path, contents: Contents
) -> None:
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
    assert sorted(contents(place)) == sorted([*contents(open_place(built)), *strangers])
    done = repair_store(copied, remove_strangers=True)
    assert done.removed == strangers
    assert contents(place) == contents(open_place(built))
    assert not (copied / "work").exists()


def test_the_command(copied: Path, damage: Damage) -> None:
    def run(*more: str) -> Any:
        return CliRunner().invoke(app, ["repair", str(copied), *more])

    damage(open_place(copied), "stride8/index/c/0/0", "remove")
    done = run("--dry-run", "--json", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["broken"] == {"stride8/index/c/0/0": "missing"}
    assert "stride8/index/c/0/0: missing, would be repaired" in run("--dry-run").stdout
    assert "stride8/index/c/0/0: missing, repaired" in run().stdout
    assert "every file is as it was written" in run().stdout
