"""Several processes build one store, by torchrun: the content of one process, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from isae.benchmarks.soak import SoakReport
from isae.errors import StoreIncompleteError
from isae.store import BuildConfig, build_store, open_store, verify_store

IMAGES = 96
OPTIONS = ["--layers", "mixed4a", "--size", "48", "--workers", "0", "--batch-size", "8"]
# Small segments and units, so that every process has some. With a pause for the tests that come
# in between.
SCRIPT = """
import sys, time
from isae.store import plan, segmenting
plan.SEGMENT_BYTES = 60_000
write = segmenting.write_segment
def slowly(*args):
    write(*args)
    time.sleep({pause})
segmenting.write_segment = slowly
from isae.store.build import main
main()
"""
BOUND_S = 60
"""An end of the launcher after this is a hang; torchrun itself waits 30 s for a process to end."""


class Launcher:
    """torchrun with some processes, and what they said."""

    def __init__(self, processes: int, program: list[str], options: list[str]) -> None:
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        self.process = subprocess.Popen(
            [sys.executable, *command, *program, *OPTIONS, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def pids(self) -> dict[int, int]:
        """Process numbers by rank, of those that have started."""
        launcher = self.process.pid
        found = {}
        for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
            for text in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                if text.startswith(b"RANK="):
                    found[int(text[5:])] = int(child)
        return found

    def end(self) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        output, error = self.process.communicate(timeout=BOUND_S)
        return self.process.returncode, output, error


Launch = Callable[..., Launcher]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start torchrun; whatever still runs at the end of the test is killed."""
    started: list[Launcher] = []

    def run(processes: int, *options: str, pause: float | None = None) -> Launcher:
        program = ["-m", "isae.store.build"]
        if pause is not None:
            script = tmp_path / f"build{pause}.py"
            script.write_text(SCRIPT.format(pause=pause))
            program = [str(script)]
        started.append(Launcher(processes, program, list(options)))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            for pid in one.pids().values():
                os.kill(pid, signal.SIGKILL)
            one.process.kill()
            one.process.communicate()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("alone") / "store")
    images = f"synthetic:{IMAGES}"
    config = BuildConfig(images, ("mixed4a",), out, size=48, workers=0, batch_size=8)
    return str(build_store(config)["content_id"])


def images() -> list[str]:
    return ["--images", f"synthetic:{IMAGES}"]


def error_lines(error: str) -> list[str]:
    return [line for line in error.splitlines() if line.startswith("error:")]


def wait_for_segments(one: Launcher, out: Path, count: int) -> dict[int, int]:
    """Until so many are done; the process numbers by rank."""
    deadline = time.monotonic() + BOUND_S
    while len(list((out / "work").glob("segment-*"))) < count:
        assert one.process.poll() is None, one.end()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return one.pids()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@contextmanager
def stopped(pids: dict[int, int]) -> Iterator[None]:
    """The processes stand still inside the block, and go on however it ends."""
    try:
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def kill_one(launch: Launch, out: Path, processes: int, rank: int, segments: int) -> str:
    """Kill a rank in the middle of a build, and see that all of it ends; its errors."""
    one = launch(processes, *images(), "--out", str(out), pause=0.1)
    pids = wait_for_segments(one, out, segments)
    assert sorted(pids) == list(range(processes))
    os.kill(pids[rank], signal.SIGKILL)
    code, output, error = one.end()
    assert code == 1
    assert output == ""
    assert f"exitcode  : -9 (pid: {pids[rank]})" in error
    assert all(is_gone(pid) for pid in pids.values())
    with pytest.raises(StoreIncompleteError):
        open_store(out)
    return error


def complete(launch: Launch, out: Path, processes: int) -> tuple[dict[str, Any], str]:
    """Go on with a build; the results, which are printed once, and what was said."""
    last = launch(processes, *images(), "--out", str(out), "--resume", "--json", pause=0)
    code, output, error = last.end()
    assert code == 0, error
    assert verify_store(out) == []
    assert not (out / "work").exists()
    assert not (out / "building.json").exists()
    results: dict[str, Any] = json.loads(output)
    return results, error


def test_a_killed_process_ends_the_build_and_two_go_on(
    tmp_path: Path, launch: Launch, expected: str
) -> None:
    out = tmp_path / "store"
    error = kill_one(launch, out, 2, rank=1, segments=3)
    assert error_lines(error) == []
    results, error = complete(launch, out, 2)
    assert results["content_id"] == expected
    assert "resuming:" in error


def test_the_module_starts_without_a_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", "isae.store.build", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--resume" in done.stdout
    assert done.stderr == ""


@pytest.mark.soak
@pytest.mark.parametrize("processes", [2, 3])
def test_content_is_that_of_one_process(
    tmp_path: Path, launch: Launch, expected: str, processes: int
) -> None:
    out = tmp_path / "store"
    code, output, error = launch(processes, *images(), "--out", str(out), "--json").end()
    assert code == 0, error
    results = json.loads(output)
    assert results["content_id"] == expected
    assert "RuntimeWarning" not in error
    # One process tells of the progress.
    assert error.count("writing: ") == 1
    assert verify_store(out) == []
    code, output, error = launch(processes, *images(), "--out", str(out)).end()
    assert code == 1
    (line,) = error_lines(error)
    assert "found a store" in line
    assert "exitcode  : 2 " in error
    assert open_store(out).content_id == expected


@pytest.mark.soak
@pytest.mark.parametrize(
    ("processes", "rank", "segments", "later"),
    [(2, 0, 1, 3), (2, 0, 11, 1), (3, 0, 4, 2), (3, 1, 2, 1), (3, 2, 6, 3), (3, 2, 12, 2)],
)
def test_any_killed_process_ends_the_build_and_any_number_go_on(
    tmp_path: Path,
    launch: Launch,
    expected: str,
    processes: int,
    rank: int,
    segments: int,
    later: int,
    soak_report: SoakReport,
) -> None:
    out = tmp_path / "store"
    kill_one(launch, out, processes, rank, segments)
    results, _ = complete(launch, out, later)
    assert results["content_id"] == expected
    soak_report.count(**{f"builds_of_{processes}_ranks_with_one_killed": 1})


@pytest.mark.soak
def test_a_second_build_into_a_running_one_is_refused_once(
    tmp_path: Path, launch: Launch, expected: str
) -> None:
    out = tmp_path / "store"
    first = launch(2, *images(), "--out", str(out), "--json", pause=0.1)
    pids = wait_for_segments(first, out, 1)
    with stopped(pids):  # it runs for as long as the second one takes to start
        code, _, error = launch(2, *images(), "--out", str(out), "--overwrite", pause=0).end()
    assert code == 1
    (line,) = error_lines(error)
    assert "expected no running build" in line
    assert error.count("ends too, since process 0 failed") == 1
    code, output, error = first.end()
    assert code == 0, error
    assert json.loads(output)["content_id"] == expected


@pytest.mark.soak
@pytest.mark.parametrize("broken", [1, 12])
def test_too_many_bad_pictures_end_all_with_one_error(
    tmp_path: Path, launch: Launch, make_photos: Callable[..., Path], broken: int
) -> None:
    """Of one process that has too many, and of all together."""
    folder = make_photos(count=70)
    for number in range(broken):
        (folder / "a" / f"broken{number}.jpg").write_bytes(b"")
    out = tmp_path / "store"
    options = ["--images", str(folder), "--out", str(out)]
    code, output, error = launch(2, *options, "--max-bad", str(broken - 1), pause=0).end()
    assert code == 1
    assert output == ""
    (line,) = error_lines(error)
    assert f"expected at most {broken - 1} pictures that cannot be read" in line
    assert "exitcode  : 2 " in error
    results = launch(2, *options, "--max-bad", str(broken), "--resume", "--json", pause=0).end()
    assert results[0] == 0, results
    assert json.loads(results[1])["images"]["unreadable"]["count"] == broken


@pytest.mark.soak
def test_an_interrupt_ends_all_and_nothing_is_lost(
    tmp_path: Path, launch: Launch, expected: str
) -> None:
    out = tmp_path / "store"
    one = launch(3, *images(), "--out", str(out), pause=0.2)
    pids = wait_for_segments(one, out, 3)
    one.process.send_signal(signal.SIGTERM)
    code, output, error = one.end()
    assert code != 0
    assert output == ""
    assert error_lines(error) == []
    assert all(is_gone(pid) for pid in pids.values())
    assert not (out / "building.json").exists()
    assert complete(launch, out, 2)[0]["content_id"] == expected
