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
    build_store,
    open_store,
    segmenting,
    units,
    verify_store,
)

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
