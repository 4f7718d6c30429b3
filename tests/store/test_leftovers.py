"""What a killed or failing build left: taken up again where it is sound, made again where not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isae.errors import StoreCorruptError
from isae.progress import Reporter
from isae.store import (
    BuildConfig,
    assemble,
    build_store,
    open_store,
    segmenting,
    units,
    verify_store,
)
from isae.store.places import open_place
from isae.store.work import Work

Config = Callable[..., BuildConfig]
Arrange = Callable[..., None]
CheckResumed = Callable[[BuildConfig, str], None]
pytestmark = pytest.mark.usefixtures("small_segments")


def stop() -> None:
    raise KeyboardInterrupt


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
    built: Path, small_config: Config, after: Arrange, tmp_path: Path, check_resumed: CheckResumed
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
    built: Path, small_config: Config, after: Arrange, check_resumed: CheckResumed
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
