"""What every image source does, whatever its kind."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isae.errors import ConfigError, ImageError, UnknownNameError
from isae.images import BadImage, ImageSource, decode_batches, open_source, with_paths

KINDS = ("folder", "shard", "shards", "torchvision", "synthetic", "subset")
PYTHON_TYPES = {"string": str, "int": int, "float": float}


@pytest.fixture(params=KINDS)
def reopen(
    request: pytest.FixtureRequest, photo_folder: Path, shard_folder: Path
) -> Callable[[], ImageSource]:
    specs = {
        "folder": str(photo_folder),
        "shard": str(shard_folder / "part-0000.tar"),
        "shards": str(shard_folder / "part-{0000..0002}.tar"),
        "torchvision": "torchvision:FakeData:7",
        "synthetic": "synthetic:9",
        "subset": str(photo_folder),
    }
    limit = 5 if request.param == "subset" else None
    return lambda: open_source(specs[request.param], seed=3, limit=limit)


def pixels_of(source: ImageSource, index: int) -> bytes:
    try:
        pixels = source.load(index)
    except BadImage as error:
        return repr(error).encode()
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels.tobytes()


def test_names_are_unique_and_rows_hold_the_columns(reopen: Callable[[], ImageSource]) -> None:
    source = reopen()
    rows = [source.row(i) for i in range(len(source))]
    assert len({row["name"] for row in rows}) == len(rows) > 0
    assert not {"name", "label"} & set(source.columns)
    for row in rows:
        assert list(row) == ["name", "label", *source.columns]
        assert isinstance(row["name"], str)
        assert isinstance(row["label"], str)
        for column, kind in source.columns.items():
            assert isinstance(row[column], PYTHON_TYPES[kind])


def test_opened_again_or_pickled_it_is_the_same(reopen: Callable[[], ImageSource]) -> None:
    source = reopen()
    for other in (reopen(), pickle.loads(pickle.dumps(source))):
        assert other.spec == source.spec
        assert other.kind == source.kind
        assert other.fingerprint() == source.fingerprint()
        assert len(other) == len(source)
        for i in range(len(source)):
            assert repr(other.row(i)) == repr(source.row(i))
            assert pixels_of(other, i) == pixels_of(source, i)


def test_the_reader_travels_alone(reopen: Callable[[], ImageSource]) -> None:
    source = reopen()
    reader = pickle.loads(pickle.dumps(source.reader))
    for i in range(len(source)):
        if b"BadImage" not in pixels_of(source, i)[:8]:
            assert reader.read(source.address(i)).tobytes() == pixels_of(source, i)


def test_numbers_outside_are_refused(reopen: Callable[[], ImageSource]) -> None:
    source = reopen()
    for index in (-1, len(source)):
        for access in (source.load, source.row, source.address):
            with pytest.raises(IndexError, match="expected a picture number"):
                access(index)


def test_a_fingerprint_is_a_sha256(reopen: Callable[[], ImageSource]) -> None:
    assert len(bytes.fromhex(reopen().fingerprint())) == 32


def test_batches_hold_every_picture_once(reopen: Callable[[], ImageSource]) -> None:
    source = reopen()
    seen = []
    for batch in decode_batches(source, 16, 2, 0):
        assert batch.pixels_BCHW.shape == (len(batch.indices), 3, 16, 16)
        assert batch.sizes_B2.shape == (len(batch.indices), 2)
        seen += [*batch.indices.tolist(), *(bad.index for bad in batch.bad)]
    assert sorted(seen) == list(range(len(source)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/such/folder", "found nothing of that name"),
        (__file__, "found a file that is no tar shard"),
        ("synthetic:", "whole number N"),
        ("synthetic:-3", "whole number N"),
        ("synthetic:0", "whole number N"),
        ("missing-{0..2}.tar", "3 of them missing: missing-0.tar, missing-1.tar"),
        ("missing-*.tar", "found none; check the pattern"),
        ("@missing.txt", "No such file"),
        ("torchvision:CIFAR10", "torchvision:NAME:FOLDER"),
        ("torchvision:FakeData:x", "N of at least 1"),
        ("torchvision:CIFAR10:no-folder", "no such folder; fetch it once"),
        ("torchvision:CIFAR10:no-folder:val", "expected train or test"),
    ],
)
def test_a_wrong_spec_is_one_clear_error(spec: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_source(spec)


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="CIFAR100"):
        open_source("torchvision:Cifar1000:x")


def test_a_data_set_with_missing_files_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="fetch it once"):
        open_source(f"torchvision:CIFAR10:{tmp_path}:test")
    assert not list(tmp_path.iterdir())


def test_smaller_limits_are_parts_of_larger_ones(photo_folder: Path) -> None:
    def names(limit: int | None, seed: int) -> list[str]:
        source = open_source(str(photo_folder), seed=seed, limit=limit)
        return [source.row(i)["name"] for i in range(len(source))]

    everything = names(None, 0)
    assert names(len(everything) + 5, 0) == everything
    for limit in range(1, len(everything)):
        part = names(limit, 0)
        assert len(part) == limit
        assert part == [name for name in everything if name in part]
        assert set(part) <= set(names(limit + 1, 0))
    assert len({tuple(names(3, seed)) for seed in range(20)}) > 1
    with pytest.raises(ConfigError, match="--limit of at least 1"):
        names(0, 0)


def test_fingerprints_tell_sources_apart(photo_folder: Path, shard_folder: Path) -> None:
    part = str(shard_folder / "part-0000.tar")
    prints = [
        open_source(str(photo_folder)).fingerprint(),
        open_source(str(photo_folder), limit=3).fingerprint(),
        open_source(str(photo_folder), limit=3, seed=1).fingerprint(),
        open_source(part).fingerprint(),
        open_source(str(shard_folder / "*.tar")).fingerprint(),
        open_source("synthetic:4").fingerprint(),
        open_source("synthetic:5").fingerprint(),
        open_source("synthetic:5", seed=1).fingerprint(),
        open_source("torchvision:FakeData:4").fingerprint(),
    ]
    assert len(set(prints)) == len(prints)


def test_a_changed_file_is_known_by_its_time(photo_folder: Path, shard_folder: Path) -> None:
    photo, shard = photo_folder / "dog/x.png", shard_folder / "part-0001.tar"
    parts = [str(photo_folder), "synthetic:3", str(shard_folder / "*.tar")]
    named = {
        parts[0]: "dog/x.png",
        parts[1]: None,
        parts[2]: str(shard),
        f"merge:{json.dumps(parts)}": "dog/x.png",
        f"merge:{json.dumps(parts[::-1])}": str(shard),
        f"merge:{json.dumps(parts[1:])}": str(shard),
    }
    before = {spec: open_source(spec) for spec in named}
    for path in (photo, shard):
        data, time = path.read_bytes(), path.stat().st_mtime_ns
        path.write_bytes(data)
        os.utime(path, ns=(time, time + 1))
    for spec, expected in named.items():
        now = open_source(spec)
        assert now.fingerprint() == before[spec].fingerprint()
        changed = np.flatnonzero(now.file_times() != before[spec].file_times())
        assert [now.file_name(int(number)) for number in changed][:1] == [expected][: len(changed)]
        assert (len(changed) > 0) == (expected is not None)
    part, whole = open_source(parts[0], limit=2), open_source(parts[0])
    np.testing.assert_array_equal(part.file_times(), whole.file_times())
    assert part.file_name(4) == whole.file_name(4)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("photos", "/here/photos"),
        ("./photos/", "/here/photos"),
        ("/data/../data/photos", "/data/photos"),
        ("train-{0000..0009}.tar", "/here/train-{0000..0009}.tar"),
        ("@lists/all.txt", "@/here/lists/all.txt"),
        ("synthetic:12", "synthetic:12"),
        ("torchvision:FakeData:7", "torchvision:FakeData:7"),
        ("torchvision:CIFAR10:data", "torchvision:CIFAR10:/here/data"),
        ("torchvision:CIFAR10:data:test", "torchvision:CIFAR10:/here/data:test"),
        (
            'merge:["photos", {"spec": "é.tar", "limit": 3}, "synthetic:2"]',
            'merge:["/here/photos", {"spec": "/here/é.tar", "limit": 3}, "synthetic:2"]',
        ),
        ("merge:[]", "merge:[]"),
    ],
)
def test_paths_in_a_spec_can_be_changed(spec: str, expected: str) -> None:
    assert with_paths(spec, lambda path: os.path.normpath(Path("/here", path))) == expected
