"""Work folders: whose they are, and what happens where they go or hold other things."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isae.errors import StoreError
from isae.store import (
    BuildConfig,
    assemble,
    build_store,
    claim,
    open_store,
    segmenting,
    units,
    verify_store,
)
from isae.store.ownership import is_ours
from isae.store.places import open_place
from isae.store.work import Work

Config = Callable[..., BuildConfig]
Arrange = Callable[..., None]
CheckResumed = Callable[[BuildConfig, str], None]
pytestmark = pytest.mark.usefixtures("small_segments")


def stop() -> None:
    raise KeyboardInterrupt


def begin(config: BuildConfig, after: Arrange) -> None:
    """A build that ends with two segments."""
    after(segmenting, "write_segment", stop, call=2)
    with pytest.raises(KeyboardInterrupt):
        build_store(config)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_work_folder_is_of_one_place(
    built: Path, small_config: Config, after: Arrange, tmp_path: Path, check_resumed: CheckResumed
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
    built: Path, small_config: Config, after: Arrange, tmp_path: Path, check_resumed: CheckResumed
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


def another_begins(
    config: BuildConfig, after: Arrange, away: Path, folder: str = "other machine"
) -> Callable[[], dict[str, bytes]]:
    """A build on another machine, into a disk of its own, of two segments; the files it left."""

    def run() -> dict[str, bytes]:
        out = Path(config.out)
        mine = out.rename(out.with_name("mine"))
        begin(config, after)
        out.rename(away / folder)
        mine.rename(out)
        return files_below(Path(config.scratch or ""))

    return run


def test_of_two_that_begin_at_once_one_has_the_work_folder(
    built: Path, small_config: Config, after: Arrange, tmp_path: Path, check_resumed: CheckResumed
) -> None:
    """Wherever the other one comes in between."""
    scratch, out = tmp_path / "scratch", tmp_path / "store"
    config, other = small_config(scratch=str(scratch), seed=4), small_config(scratch=str(scratch))
    for owner, step in ((claim, "check_disk"), (claim, "own"), (Work, "begin")):
        left: dict[str, bytes] = {}
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(tmp_path / "other machine", ignore_errors=True)
        run = another_begins(other, after, tmp_path)
        after(owner, step, lambda run=run, left=left: left.update(run()), early=True)
        with pytest.raises(StoreError, match="another --scratch"):
            build_store(config)
        assert len(left) == 3
        assert files_below(scratch) == left
        assert not out.exists()
    (tmp_path / "other machine").rename(out)
    check_resumed(other, open_store(built).content_id)


@pytest.mark.parametrize("moment", [(segmenting, "write_segment"), (assemble, "write_cuts")])
def test_a_work_folder_that_another_build_took_is_left_to_it(
    built: Path,
    small_config: Config,
    after: Arrange,
    tmp_path: Path,
    moment: tuple[object, str],
    check_resumed: CheckResumed,
) -> None:
    """Somebody removed it under way, and then that build began: rows of both would fit."""
    scratch = tmp_path / "scratch"
    config, other = small_config(scratch=str(scratch), seed=4), small_config(scratch=str(scratch))
    left: dict[str, bytes] = {}
    run = another_begins(other, after, tmp_path)

    def fault() -> None:
        shutil.rmtree(scratch)
        left.update(run())

    after(*moment, fault, call=2)
    with pytest.raises(StoreError, match="found that another one began in it"):
        build_store(config)
    found = files_below(scratch)
    assert {path: found.get(path) for path in left} == left
    (tmp_path / "store").rename(tmp_path / "ended")
    (tmp_path / "other machine").rename(tmp_path / "store")
    check_resumed(other, open_store(built).content_id)


def test_a_scratch_disk_that_is_not_there_is_told(
    built: Path, small_config: Config, after: Arrange, tmp_path: Path, check_resumed: CheckResumed
) -> None:
    """As one that is not mounted: the folder is there, without anything in it."""
    scratch, unmounted = tmp_path / "scratch", tmp_path / "unmounted"
    config = small_config(scratch=str(scratch))
    begin(config, after)
    scratch.rename(unmounted)
    scratch.mkdir()
    with pytest.raises(StoreError, match=r"found nothing there; bring that folder back.*mounted"):
        build_store(config, resume=True)
    assert list(scratch.iterdir()) == []
    # Begun anew meanwhile: what is on the disk that comes back is not of that build.
    after(segmenting, "write_segment", stop, call=1)
    with pytest.raises(KeyboardInterrupt):
        build_store(config, overwrite=True)
    scratch.rename(tmp_path / "below")
    unmounted.rename(scratch)
    with pytest.raises(StoreError, match="found that of an earlier one"):
        build_store(config, resume=True)
    shutil.rmtree(scratch)
    (tmp_path / "below").rename(scratch)
    check_resumed(config, open_store(built).content_id)


def test_a_build_that_was_killed_before_it_began_begins_anew(
    built: Path, small_config: Config, after: Arrange, tmp_path: Path, check_resumed: CheckResumed
) -> None:
    config = small_config(scratch=str(tmp_path / "scratch"))
    after(Work, "begin", stop, early=True)
    with pytest.raises(KeyboardInterrupt):
        build_store(config)
    assert (Path(config.out) / "work" / "plan.json").is_file()
    check_resumed(config, open_store(built).content_id)


def test_a_plan_that_names_no_place_is_nobodys(tmp_path: Path) -> None:
    place, work = open_place(tmp_path / "store"), Work(tmp_path / "scratch" / "isae")
    assert is_ours(place, work)
    work.begin({"seed": 3})
    assert not is_ours(place, work)


@pytest.mark.parametrize("moment", ["segments", "units"])
@pytest.mark.parametrize("fate", ["removed", "a file", "moved and brought back"])
def test_the_work_folder_goes_under_way(
    built: Path,
    small_config: Config,
    after: Arrange,
    tmp_path: Path,
    moment: str,
    fate: str,
    check_resumed: CheckResumed,
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
    built: Path, small_config: Config, tmp_path: Path, after: Arrange, check_resumed: CheckResumed
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
