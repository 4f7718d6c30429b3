"""Stores in a bucket of a real S3 server: the same content, the same faults found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isae.errors import IsaeError, StoreCorruptError, StoreError
from isae.store import BuildConfig, build_store, open_store, verify_store
from isae.store.layout import COMPLETE, shard_key
from isae.store.places import open_place

Config = Callable[..., BuildConfig]
COMMAND = [
    sys.executable,
    "-c",
    "from isae.store import plan, cli; plan.SEGMENT_BYTES = 1; cli.main()",
]
LAYER = "mixed4a"
OPTIONS = [
    *("--images", "synthetic:26", "--layers", "mixed3b,mixed4a,mixed4b", "--size", "56"),
    *("--holdout", "0.2", "--batch-size", "8", "--workers", "0", "--seed", "3", "--quiet"),
]


@pytest.fixture
def bucket_store(s3_url: str, small_config: Config, tmp_path: Path) -> str:
    """The small store, built in a bucket."""
    build_store(small_config(out=s3_url, scratch=str(tmp_path / "scratch")))
    return s3_url


def test_a_store_in_a_bucket_is_the_same_store(
    bucket_store: str, built: Path, tmp_path: Path
) -> None:
    here, there = open_store(built), open_store(bucket_store)
    assert there.content_id == here.content_id
    assert there.location == bucket_store
    assert verify_store(bucket_store) == []
    assert open_place(bucket_store).size("building.json") is None
    assert list((tmp_path / "scratch").iterdir()) == []
    for name in here.layers:
        np.testing.assert_array_equal(there.activations(name)[:], here.activations(name)[:])
        np.testing.assert_array_equal(there.positions(name)[3:40], here.positions(name)[3:40])
        one, other = there.statistics(name), here.statistics(name)
        np.testing.assert_array_equal(one.mean_C, other.mean_C)
    np.testing.assert_equal(there.images.to_pydict(), here.images.to_pydict())
    for cache in (None, "ram"):
        options = {"seed": 5, "epochs": 2, "cache": cache}
        mine = list(there.batches(LAYER, 50, **options))
        expected = list(here.batches(LAYER, 50, **options))
        assert len(mine) == len(expected) > 10
        for one, other in zip(mine, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_damage_in_a_bucket_is_found(bucket_store: str) -> None:
    place, key = open_place(bucket_store), shard_key(f"stride16/{LAYER}", 0)
    data = place.read(key)
    early = open_store(bucket_store)
    early.activations(LAYER)[0]
    flipped = bytes([data[0] ^ 1]) + data[1:]
    for changed in (None, data[:-1], b"", flipped):
        place.delete(key)
        if changed is not None:
            place.write(key, changed)
        assert verify_store(bucket_store)[0].startswith(f"{key}: ")
        for store in (early, open_store(bucket_store)):
            with pytest.raises(StoreCorruptError, match=key):
                store.activations(LAYER)[0]
    place.write(key, data)
    assert verify_store(bucket_store) == []
    np.testing.assert_array_equal(
        early.activations(LAYER)[:], open_store(bucket_store).activations(LAYER)[:]
    )
    place.delete(COMPLETE)
    with pytest.raises(StoreError, match="did not finish"):
        open_store(bucket_store)


def test_overwriting_in_a_bucket(bucket_store: str, small_config: Config, tmp_path: Path) -> None:
    config = small_config(out=bucket_store, scratch=str(tmp_path / "scratch"), seed=4)
    with pytest.raises(StoreError, match="found a store"):
        build_store(config)
    early = open_store(bucket_store)
    before = early.content_id
    array = early.activations(LAYER)
    array[0]
    build_store(config, overwrite=True)
    assert open_store(bucket_store).content_id != before
    assert verify_store(bucket_store) == []
    with pytest.raises(IsaeError, match="built again"):
        array[0]


def test_other_files_in_a_bucket_stay(s3_url: str, small_config: Config, tmp_path: Path) -> None:
    open_place(s3_url).write("thesis.txt", b"years of work")
    with pytest.raises(StoreError, match="deletes nothing that it did not write"):
        build_store(small_config(out=s3_url, scratch=str(tmp_path)), overwrite=True)
    assert open_place(s3_url).keys() == [("thesis.txt", 13)]


def start(url: str, scratch: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "build", *OPTIONS, "--out", url, "--scratch", str(scratch), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_killed_build_goes_on_and_a_second_one_is_refused(
    s3_url: str, built: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    first = start(s3_url, scratch)
    deadline = time.monotonic() + 120
    while not list(scratch.glob("*/segment-*")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    second = start(s3_url, scratch, "--resume")
    error = second.communicate()[1].decode()
    assert second.returncode == 2
    assert "expected no running build" in error
    assert f"process {first.pid}" in error
    assert error.count("\n") == 1
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with pytest.raises(IsaeError):
        open_store(s3_url)
    last = start(s3_url, scratch, "--resume", "--json")
    output, error_bytes = last.communicate()
    assert last.returncode == 0, error_bytes
    assert json.loads(output)["content_id"] == open_store(built).content_id
    assert verify_store(s3_url) == []
    assert open_place(s3_url).size("building.json") is None


def test_wrong_credentials_are_one_line(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    done = start(s3_url, tmp_path / "scratch")
    error = done.communicate()[1].decode()
    assert done.returncode == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "AWS_ACCESS_KEY_ID" in error
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in error
    assert list(tmp_path.glob("scratch/*")) == []


def test_training_from_a_bucket(bucket_store: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "isae.train.cli", bucket_store, "--layer", LAYER),
            *("--out", str(run), "--steps", "3", "--batch-size", "64", "--k", "4"),
            *("--expansion", "1", "--kernel", "reference", "--json", "--quiet"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3
    assert json.loads((run / "config.json").read_text())["store"] == bucket_store
    from isae.analysis.inputs import open_run

    assert open_run(run).store.content_id == open_store(bucket_store).content_id
