"""A build killed at any moment is refused by readers; --resume completes it to the same bytes."""

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

from isae.benchmarks.soak import SoakReport
from isae.errors import IsaeError
from isae.store import BuildConfig, build_store, open_store, verify_store

IMAGES = 96
# Small segments, so that there is something to resume from.
COMMAND = [
    sys.executable,
    "-c",
    "from isae.store import plan, cli; plan.SEGMENT_BYTES = 60_000; cli.main()",
    "build",
    "--images",
    f"synthetic:{IMAGES}",
]
OPTIONS = ["--layers", "mixed4a", "--size", "48", "--workers", "0", "--batch-size", "8", "--quiet"]


def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *OPTIONS, "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_until_building(out: Path, process: subprocess.Popen[bytes], segments: int = 0) -> None:
    """Until the build has begun, and so many segments are done."""
    deadline = time.monotonic() + 120
    work = out / "work"
    while process.poll() is None:
        if (work / "plan.json").exists() and len(list(work.glob("segment-*"))) >= segments:
            return
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("whole") / "store"
    config = BuildConfig(
        images=f"synthetic:{IMAGES}",
        layers=("mixed4a",),
        size=48,
        workers=0,
        batch_size=8,
        out=str(out),
    )
    return str(build_store(config)["content_id"])


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.soak)])
def test_killed_builds_are_refused_and_resumed_to_the_same_content(
    tmp_path: Path, expected: str, kills: int, soak_report: SoakReport
) -> None:
    generator = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    unfinished, resumed_work = 0, 0
    for number in range(kills):
        out = tmp_path / f"store{number}"
        for _ in range(int(generator.integers(1, 4))):
            process = start(out, "--resume")
            # Every other one has something to resume from, however slow the machine is.
            wait_until_building(out, process, segments=number % 2)
            time.sleep(float(generator.uniform(0, 0.2 if number % 2 else 1.5)))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            soak_report.count(builds_killed=int(process.returncode == -signal.SIGKILL))
            if not (out / "COMPLETE").exists():
                unfinished += 1
                with pytest.raises(IsaeError, match=r"did not finish|found nothing there"):
                    open_store(out)
        resumed_work += len(list((out / "work").glob("segment-*")))
        last = start(out, "--resume", "--json")
        output, error = last.communicate()
        assert last.returncode == 0, error
        assert json.loads(output)["content_id"] == expected
        assert verify_store(out) == []
        assert not (out / "work").exists()
        assert not (out / "building.json").exists()
        soak_report.count(killed_builds_completed_to_the_same_content=1)
    soak_report.count(kills_that_left_an_unfinished_store=unfinished)
    assert unfinished > 0
    assert resumed_work > 0


def test_an_unfinished_build_is_not_overwritten_unasked(tmp_path: Path, expected: str) -> None:
    out = tmp_path / "store"
    process = start(out)
    wait_until_building(out, process, segments=1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = start(out)
    other = start(out, "--resume", "--seed", "5")
    error = again.communicate()[1].decode()
    assert again.returncode == 2
    assert "found an unfinished store" in error
    assert "--resume" in error
    error = other.communicate()[1].decode()
    assert other.returncode == 2
    assert "seed 5 instead of 0" in error
    last = start(out, "--overwrite", "--json")
    assert json.loads(last.communicate()[0])["content_id"] == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_keeps_what_it_did(
    tmp_path: Path, number: signal.Signals, expected: str
) -> None:
    out = tmp_path / "store"
    process = start(out)
    wait_until_building(out, process, segments=2)
    process.send_signal(number)
    error = process.communicate()[1].decode()
    assert process.returncode == 130
    assert error == "interrupted\n"
    assert not (out / "building.json").exists()
    done = len(list((out / "work").glob("segment-*")))
    assert done >= 2
    again = start(out, "--resume", "--json")
    output = again.communicate()[0]
    assert json.loads(output)["content_id"] == expected


def test_an_early_interrupt_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "store"
    process = start(out, "--batch-size", str(IMAGES))
    wait_until_building(out, process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert not out.exists()


def test_a_second_build_into_a_running_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "store"
    first = start(out)
    wait_until_building(out, first)
    first.send_signal(signal.SIGSTOP)
    try:
        for option in ("--overwrite", "--resume"):
            second = start(out, option)
            error = second.communicate()[1].decode()
            assert second.returncode == 2
            assert "expected no running build" in error
            assert f"process {first.pid}" in error
    finally:
        first.send_signal(signal.SIGCONT)
    first.communicate()
    assert first.returncode == 0
    assert verify_store(out) == []
