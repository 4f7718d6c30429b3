"""Photos that change, vanish or come back between the start of a build and its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isae.errors import ImageError, StoreError
from isae.images import open_source
from isae.progress import Reporter
from isae.store import (
    BuildConfig,
    assemble,
    build_store,
    manifest,
    segment_watch,
    segmenting,
    verify_store,
)
from isae.store.places import open_place

Config = Callable[..., BuildConfig]
Arrange = Callable[..., None]
CheckResumed = Callable[[BuildConfig, str], None]
pytestmark = pytest.mark.usefixtures("small_segments")


def stop() -> None:
    raise KeyboardInterrupt


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
    check_resumed: CheckResumed,
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
    os.utime(photos / "b" / "photo001.jpg")
    with pytest.raises(ImageError, match=r"'b/photo001.jpg' changed.*--resume --same-photos"):
        build_store(photo_config, resume=True)
    after(segmenting, "usable_segments", stop)
    with pytest.raises(KeyboardInterrupt):
        build_store(photo_config, resume=True, same_photos=True)
    assert sorted(work.glob("segment-*")) == segments
    # Where it is not known what the segments are of, they count for nothing.
    times = work / "times.safetensors"
    times.write_bytes(times.read_bytes()[:-3])
    said = []
    reporter = Reporter(quiet=True)
    reporter.warn = said.append  # type: ignore[method-assign]
    assert build_store(photo_config, resume=True, reporter=reporter)["content_id"] == undisturbed
    assert [line for line in said if "all segments are made again" in line]


def test_units_of_photos_that_can_be_read_again_later_are_made_again(
    photos: Path,
    photo_config: BuildConfig,
    undisturbed: str,
    after: Arrange,
    check_resumed: CheckResumed,
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
    check_resumed: CheckResumed,
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
