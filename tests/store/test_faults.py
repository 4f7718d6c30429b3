"""Disks, permissions, work folders and photos that fail under way: an error, and nothing is lost.

A fault is brought about from within a build, after a certain step of it, so that its moment is
sure; what the fault does is real. Afterwards `resume` gives the content of an undisturbed build.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isae.errors import ImageError, StoreCorruptError, StoreError
from isae.images import open_source
from isae.progress import Reporter
from isae.store import (
    BuildConfig,
    assemble,
    build_store,
    manifest,
    open_store,
    plan,
    segment_watch,
    segmenting,
    units,
    verify_store,
)
from isae.store.places import open_place
from isae.store.work import Work

Config = Callable[..., BuildConfig]
Fault = Callable[[], object]
Arrange = Callable[..., None]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of 8 images a segment."""
    monkeypatch.setattr(plan, "SEGMENT_BYTES", 1)


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Arrange:
    """Let something happen before or after the n-th call of a step of the build, once."""

    def arrange(owner: Any, name: str, fault: Fault, *, call: int = 1, early: bool = False) -> None:
        step, calls = getattr(owner, name), 0

        def wrapper(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if early and calls == call:
                fault()
            result = step(*args, **options)
            if not early and calls == call:
                fault()
            return result

        monkeypatch.setattr(owner, name, wrapper)

    return arrange


def stop() -> None:
    raise KeyboardInterrupt


def check_resumed(config: BuildConfig, content_id: str) -> None:
    assert build_store(config, resume=True)["content_id"] == content_id
    assert verify_store(config.out) == []
    assert not (Path(config.out) / "work").exists()


# ---- photos ---------------------------------------------------------------------------------


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos(count=28)


@pytest.fixture
def photo_config(photos: Path, small_config: Config) -> BuildConfig:
    return small_config(images=str(photos), layers=("mixed4a",), max_bad=3)


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    """Content by the images' fingerprint; every test makes the same photos."""
    return {}


@pytest.fixture
def undisturbed(
    photo_config: BuildConfig, small_config: Config, tmp_path: Path, known: dict[str, str]
) -> str:
    """The content that an undisturbed build gives."""
    photos = open_source(photo_config.images).fingerprint()
    if photos not in known:
        options = {**vars(photo_config), "out": str(tmp_path / "undisturbed")}
        known[photos] = str(build_store(small_config(**options))["content_id"])
    return known[photos]


@pytest.mark.parametrize("change", ["remove", "rewrite", "replace", "add", "remove all"])
def test_photos_changed_under_way(
    photos: Path,
    photo_config: BuildConfig,
    undisturbed: str,
    after: Arrange,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    if change != "add":
        monkeypatch.setattr(segment_watch, "FIRST_LOOK", 0.0)
    kept = shutil.copytree(photos, tmp_path / "kept")
    last = sorted(photos.rglob("*.jpg"))[-1]
    other = sorted(photos.rglob("*.jpg"))[0]

    def fault() -> None:
        if change == "remove":
            last.unlink()
        elif change == "rewrite":
            shutil.copy(other, last)
        elif change == "replace":
            replace(last)
        elif change == "add":
            shutil.copy(other, photos / "b" / "zebra.jpg")
        else:
            shutil.rmtree(photos)

    after(segmenting, "write_segment", fault)
    with pytest.raises(ImageError, match=r"stay as it was|pictures that cannot be read") as caught:
        build_store(photo_config)
    assert "\n" not in str(caught.value)
    assert change != "replace" or f"'{last.relative_to(photos)}' changed" in str(caught.value)
    shutil.rmtree(photos, ignore_errors=True)
    shutil.copytree(kept, photos)
    check_resumed(photo_config, undisturbed)


def replace(photo: Path) -> None:
    """Another picture, in a file of the same size."""
    data = bytearray(photo.read_bytes())
    data[-40] ^= 255
    photo.unlink()
    photo.write_bytes(data)


def test_a_photo_replaced_before_the_build_goes_on(
    photos: Path, photo_config: BuildConfig, undisturbed: str, after: Arrange, tmp_path: Path
) -> None:
    kept = shutil.copytree(photos, tmp_path / "kept")
    after(segmenting, "write_segment", stop, call=3)
    with pytest.raises(KeyboardInterrupt):
        build_store(photo_config)
    work = Path(photo_config.out) / "work"
    segments = sorted(work.glob("segment-*"))
    assert len(segments) == 3
    replace(photos / "b" / "photo001.jpg")
    replace(photos / "b" / "photo027.jpg")
    with pytest.raises(ImageError, match=r"'b/photo001.jpg' and 1 more changed"):
        build_store(photo_config, resume=True)
    assert sorted(work.glob("segment-*")) == segments
    shutil.rmtree(photos)
    shutil.copytree(kept, photos)
    # Where it is not known what the segments are of, they count for nothing.
    times = work / "times.safetensors"
    times.write_bytes(times.read_bytes()[:-3])
    said = []
    reporter = Reporter(quiet=True)
    reporter.warn = said.append  # type: ignore[method-assign]
    assert build_store(photo_config, resume=True, reporter=reporter)["content_id"] == undisturbed
    assert [line for line in said if "all segments are made again" in line]


def test_units_of_photos_that_can_be_read_again_later_are_made_again(
    photos: Path, photo_config: BuildConfig, undisturbed: str, after: Arrange
) -> None:
    """Cuts and units are of other rows then, though no size or time has changed."""
    photo = photos / "a" / "photo002.jpg"
    data, about = photo.read_bytes(), photo.stat()
    photo.write_bytes(bytes(len(data)))
    os.utime(photo, ns=(about.st_atime_ns, about.st_mtime_ns))
    after(assemble, "_collect", stop, early=True)
    with pytest.raises(KeyboardInterrupt):
        build_store(photo_config)
    assert len(list(Path(photo_config.out).glob("work/unit-*"))) == 1
    photo.write_bytes(data)
    os.utime(photo, ns=(about.st_atime_ns, about.st_mtime_ns))
    check_resumed(photo_config, undisturbed)


def test_a_build_goes_on_however_its_photos_are_written(
    photos: Path,
    photo_config: BuildConfig,
    after: Arrange,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photos.parent)
    (photos.parent / "link").symlink_to(photos)
    first, second, others = (
        BuildConfig(**{**vars(photo_config), "images": text})
        for text in ("./photos", "link/", "others")
    )
    after(segmenting, "write_segment", stop, call=3)
    with pytest.raises(KeyboardInterrupt):
        build_store(first)
    done = build_store(second, resume=True)
    assert build_store(photo_config, resume=True) == done
    # A store that was written when the text was taken as it stands.
    place = open_place(photo_config.out)
    done["identity"]["options"]["images"] = "photos/"
    data = manifest.as_json(done)
    place.write("manifest.json", data)
    place.write("COMPLETE", manifest.mark_of(data))
    assert build_store(photo_config, resume=True) == done
    shutil.copytree(photos, photos.parent / "others")
    with pytest.raises(StoreError, match="something else"):
        build_store(others, resume=True)


@pytest.mark.parametrize("killed", [False, True])
def test_a_photo_that_is_gone_for_a_while(
    photos: Path,
    photo_config: BuildConfig,
    undisturbed: str,
    after: Arrange,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed: bool,
) -> None:
    """No look at the list of photos sees it: it is back at the end, or at --resume."""
    monkeypatch.setattr(segment_watch.Watch, "_look", lambda watch: None)
    last = sorted(photos.rglob("*.jpg"))[-1]
    hidden = tmp_path / "hidden"

    def back() -> None:
        hidden.rename(last)
        if killed:
            raise KeyboardInterrupt

    after(segmenting, "decode_batches", lambda: last.rename(hidden), early=True)
    after(segmenting, "write_segment", back, call=4)
    with pytest.raises(KeyboardInterrupt if killed else ImageError):
        build_store(photo_config)
    assert last.exists()
    check_resumed(photo_config, undisturbed)


def test_photos_that_are_really_broken_are_no_reason_to_begin_again(
    photos: Path, photo_config: BuildConfig, after: Arrange, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "a" / "photo002.jpg").write_bytes(b"\xff\xd8 no picture")
    after(segmenting, "write_segment", stop, call=3)
    with pytest.raises(KeyboardInterrupt):
        build_store(photo_config)
    capsys.readouterr()
    done = build_store(photo_config, resume=True, reporter=Reporter(quiet=True))
    assert done["images"]["unreadable"]["count"] == 1
    assert "made again" not in capsys.readouterr().err
    assert verify_store(photo_config.out) == []


# ---- what a killed build left ---------------------------------------------------------------


def damaged(data: bytes, kind: str, generator: np.random.Generator) -> bytes | None:
    at = int(generator.integers(len(data)))
    changed = bytearray(data)
    changed[at] ^= 1 << int(generator.integers(8))
    cases = {"flip": bytes(changed), "cut": data[:at], "empty": b"", "longer": data + b"x"}
    return cases.get(kind)


def half_built(config: BuildConfig, after: Arrange) -> Path:
    """A build that ended when all segments and the first of two units were done."""
    after(units.UnitMaker, "make", stop, call=2, early=True)
    with pytest.raises(KeyboardInterrupt):
        build_store(config)
    out = Path(config.out)
    assert len(list(out.glob("work/unit-*"))) == 1
    return out


def test_damaged_leftovers_are_made_again(
    built: Path, small_config: Config, after: Arrange, tmp_path: Path
) -> None:
    """Every file in turn: segments, cuts, marks of units, shards that are done."""
    content_id = open_store(built).content_id
    config = small_config()
    left = shutil.copytree(half_built(config, after), tmp_path / "left")
    files = sorted(path.relative_to(left) for path in left.rglob("*") if path.is_file())
    files = [file for file in files if file.name != "plan.json"]
    assert len([file for file in files if file.parts[0] != "work"]) >= 2
    assert {file.name.split("-")[0] for file in files} >= {"segment", "cuts", "unit", "0"}
    generator = np.random.default_rng(0)
    kinds = ("flip", "flip", "cut", "empty", "missing", "longer")
    for number, file in enumerate(files):
        shutil.rmtree(config.out)
        shutil.copytree(left, config.out)
        path = Path(config.out) / file
        changed = damaged(path.read_bytes(), kinds[number % len(kinds)], generator)
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        check_resumed(config, content_id)


@pytest.mark.parametrize("part", ["rows", "header", "sums"])
def test_a_flipped_bit_in_a_segment_is_said(
    built: Path,
    small_config: Config,
    after: Arrange,
    capsys: pytest.CaptureFixture[str],
    part: str,
) -> None:
    config = small_config()
    path = half_built(config, after) / "work" / "segment-000001.safetensors"
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little")
    at = {"rows": 8 + header + 12_345, "header": 100, "sums": len(data) - 3}[part]
    data[at] ^= 2
    path.write_bytes(data)
    capsys.readouterr()
    found = build_store(config, resume=True, reporter=Reporter(quiet=True))
    assert found["content_id"] == open_store(built).content_id
    assert "segment-000001" in capsys.readouterr().err.replace("\n", "")


def test_a_damaged_plan_is_told_and_can_be_overwritten(
    built: Path, small_config: Config, after: Arrange
) -> None:
    config = small_config()
    plan_file = half_built(config, after) / "work" / "plan.json"
    for data in (b"", b"[1]", plan_file.read_bytes()[:30], b"\xff\xff"):
        plan_file.write_bytes(data)
        with pytest.raises(StoreCorruptError, match="--overwrite"):
            build_store(config, resume=True)
    found = build_store(config, overwrite=True)
    assert found["content_id"] == open_store(built).content_id


def test_rows_that_change_between_writing_and_reading_never_get_into_the_store(
    built: Path, small_config: Config, after: Arrange
) -> None:
    config = small_config()
    path = Path(config.out) / "work" / "segment-000002.safetensors"

    def flip() -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.write_bytes(data)

    after(segmenting, "write_segment", flip, call=4)
    with pytest.raises(StoreCorruptError, match=r"segment-000002.*--resume"):
        build_store(config)
    check_resumed(config, open_store(built).content_id)


def test_a_listing_that_lacks_a_segment_leaves_no_rows_out(
    built: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a network's disk may, for a while."""
    listed = Work.segments_done
    monkeypatch.setattr(Work, "segments_done", lambda work: listed(work) - {3})
    assert build_store(small_config())["content_id"] == open_store(built).content_id


def test_units_in_a_bucket_are_the_objects_that_were_sent(
    built: Path, small_config: Config, after: Arrange, tmp_path: Path
) -> None:
    content_id = open_store(built).content_id
    config = small_config(out=f"memory://{tmp_path.name}", scratch=str(tmp_path / "scratch"))
    after(assemble, "_collect", stop, early=True)
    with pytest.raises(KeyboardInterrupt):
        build_store(config)
    place = open_place(config.out)
    key = "stride16/mixed4a/c/0/0"
    other = place.read(key)[:-1] + b"x"
    place.write(key, other)
    made: list[int] = []
    after(units.UnitMaker, "make", lambda: made.append(1))
    after(units.UnitMaker, "make", lambda: made.append(2), call=2)
    assert build_store(config, resume=True)["content_id"] == content_id
    assert made == [1]
    assert place.read(key) != other
    assert verify_store(config.out) == []
    assert "work/plan.json" not in dict(place.keys())


# ---- the work folder ------------------------------------------------------------------------


def begin(config: BuildConfig, after: Arrange) -> None:
    """A build that ends with two segments."""
    after(segmenting, "write_segment", stop, call=2)
    with pytest.raises(KeyboardInterrupt):
        build_store(config)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_work_folder_is_of_one_place(
    built: Path, small_config: Config, after: Arrange, tmp_path: Path
) -> None:
    """Two machines: one --scratch on a disk they share, one --out on a disk of each."""
    scratch, out, away = tmp_path / "scratch", tmp_path / "store", tmp_path / "other machine"
    config = small_config(scratch=str(scratch))
    begin(config, after)
    out.rename(away)
    kept = files_below(scratch)
    assert len(kept) == 3
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(StoreError, match=r"of a place of that name elsewhere.*--scratch"):
            build_store(config, **how)
        assert files_below(scratch) == kept
        assert not out.exists()
    # A complete store has nothing to do with it.
    build_store(small_config())
    assert build_store(config, resume=True)["content_id"] == open_store(built).content_id
    with pytest.raises(StoreError, match=r"of a place of that name elsewhere.*--scratch"):
        build_store(config, overwrite=True)
    assert verify_store(out) == []
    assert files_below(scratch) == kept
    shutil.rmtree(out)
    away.rename(out)
    check_resumed(config, open_store(built).content_id)
    assert list(scratch.iterdir()) == []


def test_a_build_goes_on_with_the_scratch_it_began_with(
    built: Path, small_config: Config, after: Arrange, tmp_path: Path
) -> None:
    config = small_config(scratch=str(tmp_path / "scratch"))
    begin(config, after)
    for other in (None, str(tmp_path / "another")):
        with pytest.raises(StoreError, match=f"its work is in {tmp_path}/scratch/isae-"):
            build_store(small_config(scratch=other), resume=True)
    with pytest.raises(StoreError, match="found an unfinished store"):
        build_store(config)
    check_resumed(config, open_store(built).content_id)
    # What an earlier build left in the store's own folder goes.
    shutil.rmtree(config.out)
    begin(small_config(), after)
    found = build_store(config, overwrite=True)
    assert found["content_id"] == open_store(built).content_id
    assert not (Path(config.out) / "work").exists()


@pytest.mark.parametrize("moment", ["segments", "units"])
@pytest.mark.parametrize("fate", ["removed", "a file", "moved and brought back"])
def test_the_work_folder_goes_under_way(
    built: Path, small_config: Config, after: Arrange, tmp_path: Path, moment: str, fate: str
) -> None:
    config = small_config()
    work, away = Path(config.out) / "work", tmp_path / "away"

    def fault() -> None:
        work.rename(away)
        if fate == "a file":
            work.write_text("somebody's")

    if moment == "units":
        after(units.UnitMaker, "make", fault, early=True)
    else:
        after(segmenting, "write_segment", fault, call=2)
    with pytest.raises((StoreError, OSError)) as caught:
        build_store(config)
    # What the command line can explain: errors of isae, and of the system with a known number.
    if isinstance(caught.value, OSError):
        assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)
    if fate == "a file":
        assert work.read_text() == "somebody's"
        work.unlink()
    if fate != "removed":
        shutil.rmtree(work, ignore_errors=True)
        Path(config.out).mkdir(exist_ok=True)
        away.rename(work)
        assert len(list(work.glob("segment-*"))) >= 2
    check_resumed(config, open_store(built).content_id)


def test_a_scratch_folder_is_never_emptied(
    built: Path, small_config: Config, tmp_path: Path, after: Arrange
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "thesis.txt").write_text("years of work")
    (scratch / "plan.json").write_text("{}")
    config = small_config(scratch=str(scratch))
    after(segmenting, "write_segment", stop, call=3)
    with pytest.raises(KeyboardInterrupt):
        build_store(config)
    other = small_config(scratch=str(scratch), out=str(tmp_path / "other"), layers=("mixed3a",))
    build_store(other)
    check_resumed(config, open_store(built).content_id)
    assert sorted(path.name for path in scratch.iterdir()) == ["plan.json", "thesis.txt"]


# ---- full disks -----------------------------------------------------------------------------


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


STEPS = {
    "segments": (segmenting, "write_segment", {"call": 2}),
    "cuts": (assemble, "write_cuts", {"early": True}),
    "units": (units.UnitMaker, "make", {"early": True}),
    "metadata": (assemble, "_write_metadata", {"early": True}),
    "statistics": (assemble, "save_statistics", {"early": True}),
    "manifest": (manifest, "as_json", {"call": 8}),
}


@pytest.mark.parametrize("step", list(STEPS))
def test_a_full_disk_loses_nothing(
    built: Path, small_config: Config, after: Arrange, small_disk: Path, step: str
) -> None:
    """Really full: also memory mapped to files would end the process here."""
    config = small_config(out=str(small_disk / "store"))
    owner, name, options = STEPS[step]
    after(owner, name, lambda: fill(small_disk), **options)
    with pytest.raises(OSError, match="No space left") as caught:
        build_store(config)
    assert caught.value.errno == errno.ENOSPC
    kept = len(list((small_disk / "store" / "work").glob("segment-*")))
    assert kept == (2 if step == "segments" else 4)
    with pytest.raises(StoreError):
        open_store(config.out)
    # Without space it fails again, at once where much is missing, and still loses nothing.
    if step != "manifest":
        with pytest.raises((OSError, StoreError), match=r"No space left|GB of free disk"):
            build_store(config, resume=True)
    (small_disk / "filler").unlink()
    check_resumed(config, open_store(built).content_id)


# ---- the command line -----------------------------------------------------------------------

CHILD = """
import os, sys
from isae.store import cli, plan, segmenting
plan.SEGMENT_BYTES = 1
step, calls, out = segmenting.write_segment, [], {out!r}
work = out + "/work"
def write_segment(*args):
    step(*args)
    calls.append(args)
    if len(calls) == 2:
        {fault}
segmenting.write_segment = write_segment
sys.argv = ["isae-store", "build", *{options!r}, "--out", out]
cli.main()
"""
FAULTS = {
    "file size": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))",
    # Root may write anywhere, so root becomes somebody else.
    "permission": "os.getuid() or os.setuid(65534); os.getuid() == 65534 or os.chmod(work, 0o500)",
    "work folder": "import shutil; shutil.rmtree(work)",
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_the_command_says_it_in_one_line(built: Path, tmp_path: Path, fault: str) -> None:
    out = tmp_path / "store"
    options = "--images synthetic:26 --layers mixed3b,mixed4a,mixed4b --size 56 --holdout 0.2"
    options += " --batch-size 8 --workers 0 --seed 3 --quiet"
    code = CHILD.format(out=str(out), fault=FAULTS[fault], options=options.split())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    work = out / "work"
    if work.exists():
        work.chmod(0o755)
        assert len(list(work.glob("segment-*"))) == 2
    config = BuildConfig(
        images="synthetic:26", layers=("mixed3b", "mixed4a", "mixed4b"), out=str(out),
        size=56, holdout=0.2, batch_size=8, workers=0, seed=3,
    )  # fmt: skip
    check_resumed(config, open_store(built).content_id)
