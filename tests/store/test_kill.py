"""A build killed at any moment leaves a folder that readers refuse and --overwrite replaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from isae.errors import IsaeError
from isae.store import BuildConfig, build_store, open_store, verify_store

COMMAND = [sys.executable, "-m", "isae.store.cli", "build", "--images", "synthetic:48"]
OPTIONS = ["--layers", "mixed4a", "--size", "48", "--workers", "0", "--quiet"]


def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *OPTIONS, "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_until_building(out: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    mark = out / "building.json"
    while process.poll() is None and not (mark.exists() and mark.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.soak)])
def test_killed_builds_are_refused_and_replaced(tmp_path: Path, kills: int) -> None:
    out = tmp_path / "store"
    config = BuildConfig(
        images="synthetic:48", layers=("mixed4a",), size=48, workers=0, out=str(tmp_path / "whole")
    )
    expected = build_store(config)["content_id"]
    generator = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    unfinished = 0
    for _ in range(kills):
        process = start(out, "--overwrite")
        wait_until_building(out, process)
        time.sleep(float(generator.uniform(0, 1.0)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (out / "COMPLETE").exists():
            assert open_store(out).content_id == expected
            continue
        unfinished += 1
        with pytest.raises(IsaeError, match=r"did not finish|found nothing there"):
            open_store(out)
        again = start(out)
        error = again.communicate()[1].decode()
        assert again.returncode == 2
        assert "found an unfinished store" in error
        assert "--overwrite" in error
    assert unfinished > 0
    last = start(out, "--overwrite", "--json")
    output = last.communicate()[0]
    assert last.returncode == 0
    assert json.loads(output)["content_id"] == expected
    assert verify_store(out) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.0, 0.3, 0.6])
def test_an_interrupted_build_removes_what_it_wrote(
    tmp_path: Path, number: signal.Signals, delay: float
) -> None:
    out = tmp_path / "store"
    process = start(out)
    wait_until_building(out, process)
    time.sleep(delay)
    process.send_signal(number)
    error = process.communicate()[1].decode()
    if process.returncode == 0:  # it was done before the signal came
        assert delay > 0
        assert verify_store(out) == []
        return
    assert process.returncode == 130
    assert error == "interrupted\n"
    assert not out.exists()


def test_a_second_build_into_a_running_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "store"
    first = start(out)
    wait_until_building(out, first)
    first.send_signal(signal.SIGSTOP)
    try:
        second = start(out, "--overwrite")
        error = second.communicate()[1].decode()
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert "expected no running build" in error
    assert f'"pid": {first.pid}' in error
    first.communicate()
    assert first.returncode == 0
    assert verify_store(out) == []
