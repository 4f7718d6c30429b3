from __future__ import annotations

import functools
import importlib
import operator
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from isae.errors import ConfigError, ImageError, IsaeError
from isae.images import (
    BadImage,
    BadImageTally,
    ImageBatch,
    ImageSource,
    decode_batches,
    default_max_bad,
    open_source,
)


def content(batches: list[ImageBatch]) -> list[tuple[object, ...]]:
    return [
        (b.indices.tolist(), b.pixels_BCHW.numpy().tobytes(), b.sizes_B2.tolist(), b.bad)
        for b in batches
    ]


def child_processes() -> set[int]:
    children: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread ended meanwhile
            children |= {int(pid) for pid in (task / "children").read_text().split()}
    return children


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="finds its child processes in /proc"
)


def test_batches_are_the_same_for_any_number_of_workers(photo_folder: Path) -> None:
    source = open_source(str(photo_folder))
    expected = content(list(decode_batches(source, 15, 3, 0)))
    assert [len(item[0]) + len(item[3]) for item in expected] == [3, 3, 2]
    for workers in (1, 2, 7):
        assert content(list(decode_batches(source, 15, 3, workers))) == expected


def test_bad_pictures_are_named_and_the_good_ones_follow_in_order(photo_folder: Path) -> None:
    source = open_source(str(photo_folder))
    (batch,) = decode_batches(source, 15, 100, 0)
    assert [bad.name for bad in batch.bad] == ["cat/broken.jpg", "dog/zero.png"]
    assert [bad.reason for bad in batch.bad] == [
        "not a picture in a known format",
        "the file is empty",
    ]
    assert [bad.index for bad in batch.bad] == [2, 6]
    assert batch.indices.tolist() == [0, 1, 3, 4, 5, 7]
    assert batch.pixels_BCHW.dtype == torch.uint8
    for place, index in enumerate(batch.indices):
        height, width = source.load(int(index)).shape[:2]
        assert batch.sizes_B2[place].tolist() == [width, height]


@pytest.mark.parametrize("workers", [0, 2])
def test_chosen_pictures_come_in_the_order_asked_for(workers: int) -> None:
    source = open_source("synthetic:9")
    wanted = [7, 0, 7, 3, 8]
    batches = list(decode_batches(source, 128, 2, workers, indices=wanted))
    assert [i for batch in batches for i in batch.indices] == wanted
    pixels = torch.cat([batch.pixels_BCHW for batch in batches])
    for place, index in enumerate(wanted):
        np.testing.assert_array_equal(pixels[place].permute(1, 2, 0), source.load(index))
    assert list(decode_batches(source, 8, 2, workers, indices=[])) == []


def test_a_batch_of_bad_pictures_is_empty_and_not_missing(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").touch()
    for workers in (0, 1):
        batches = list(decode_batches(open_source(str(tmp_path)), 8, 2, workers))
        assert [batch.pixels_BCHW.shape for batch in batches] == [(0, 3, 8, 8)] * 2
        assert [len(batch.bad) for batch in batches] == [2, 2]


def test_options_out_of_range_are_refused_at_once() -> None:
    source = open_source("synthetic:3")
    for options in ((0, 1, 0), (8, 0, 0), (8, 1, -1)):
        with pytest.raises(ConfigError, match="at least"):
            decode_batches(source, *options)
    for wrong in ([-1], [3]):
        with pytest.raises(IndexError, match=r"\[0, 3\)"):
            decode_batches(source, 8, 1, 0, indices=wrong)


@needs_proc
@pytest.mark.parametrize("taken", [0, 1])
def test_a_killed_worker_is_one_clear_error(taken: int) -> None:
    batches = decode_batches(open_source("synthetic:2000"), 64, 4, 2)
    before = child_processes()
    for _ in range(taken + 1):
        next(batches)
    victims = child_processes() - before
    assert len(victims) == 2
    os.kill(min(victims), signal.SIGKILL)
    with pytest.raises(IsaeError, match=r"ended by signal SIGKILL.*fewer --workers"):
        list(batches)
    assert not victims & child_processes()


@needs_proc
def test_stopping_early_leaves_nothing_behind() -> None:
    before, threads = child_processes(), threading.active_count()
    batches = decode_batches(open_source("synthetic:2000"), 64, 4, 2)
    next(batches)
    assert len(child_processes() - before) == 2
    batches.close()  # type: ignore[attr-defined]
    assert child_processes() == before
    assert threading.active_count() == threads


def test_decoding_runs_ahead_by_three_batches_a_worker() -> None:
    source = open_source("synthetic:80")
    asked: list[int] = []
    plain = source.address
    source.address = lambda index: (asked.append(index), plain(index))[1]  # type: ignore[method-assign]
    taken = 0
    for batch in decode_batches(source, 8, 2, 2):
        taken += len(batch.indices)
        time.sleep(0.03)  # A slow consumer, so that the workers run ahead as far as they may.
        assert len(asked) - taken <= 3 * 2 * 2
    assert asked.count(0) == 1
    assert len(asked) == taken == 80


class FailingReader:
    """Its functions come from the standard library, so that a worker can import them."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.read = functools.partial(function, *arguments)  # type: ignore[call-overload]

    def __reduce__(self) -> tuple[object, ...]:
        function = self.read.func
        return types.SimpleNamespace, (), {"read": functools.partial(function, *self.read.args)}


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (operator.truediv, (1,), RuntimeError, "unsupported operand"),
        (os._exit, (), IsaeError, r"ended by exit code 1;"),
        (bytearray, (), IsaeError, "ended by lack of memory"),
    ],
)
def test_what_goes_wrong_in_a_worker_reaches_the_caller(
    function: object, arguments: tuple[object, ...], error: type[Exception], message: str
) -> None:
    source = open_source("synthetic:4")
    source.reader = FailingReader(function, *arguments)  # type: ignore[assignment]
    addresses = {operator.truediv: "x", os._exit: 1, bytearray: 1 << 60}
    source.address = lambda index: addresses[function]  # type: ignore[assignment, method-assign]
    with pytest.raises(error, match=message):
        list(decode_batches(source, 8, 1, 2))


def test_a_reader_that_a_worker_cannot_import_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("class Reader: pass")
    source = open_source("synthetic:4")
    sys.path.insert(0, str(tmp_path))
    try:
        source.reader = importlib.import_module("only_here").Reader()
    finally:
        sys.path.remove(str(tmp_path))
    with pytest.raises(RuntimeError, match="No module named 'only_here'"):
        list(decode_batches(source, 8, 2, 1))


SCRIPT = """
import signal
from isae.images import decode_batches, open_source
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs begin without it
print("module runs", flush=True)
for batch in decode_batches(open_source("synthetic:100000"), 64, 8, 2):
    print("batch", flush=True)
"""


@pytest.fixture
def running_script(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent_and_are_quiet(
    running_script: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert running_script.stdout is not None
    # A script without a __main__ guard: its workers must not run it again.
    assert running_script.stdout.readline() == "module runs\n"
    assert running_script.stdout.readline() == "batch\n"
    tasks = Path(f"/proc/{running_script.pid}/task").glob("*/children")
    workers = [pid for file in tasks for pid in file.read_text().split()]
    assert len(workers) == 2
    running_script.send_signal(number)
    # The pipes reach their end only when no worker holds them open any more.
    out, err = running_script.communicate(timeout=20)
    assert "module runs" not in out
    tracebacks = 1 if number == signal.SIGINT else 0
    assert err.count("Traceback") == tracebacks
    assert err.count("KeyboardInterrupt") == tracebacks


def bad(count: int) -> list[BadImage]:
    return [BadImage(i, f"{i}.png", "the file is empty") for i in range(count)]


def test_the_tally_counts_and_names() -> None:
    tally = BadImageTally(30)
    tally.add(bad(5))
    tally.add(bad(25))
    assert tally.count == 30
    assert len(tally.first) == 20
    assert tally.summary()["count"] == 30
    with pytest.raises(ImageError, match=r"at most 30 .* found 31: '0\.png' \(the file is empty\)"):
        tally.add(bad(1))
    with pytest.raises(ImageError, match="and 12 more"):
        tally.add(bad(1))


def test_no_bad_picture_is_tolerated_with_a_limit_of_zero() -> None:
    tally = BadImageTally(0)
    tally.add([])
    with pytest.raises(ImageError, match="--max-bad"):
        tally.add(bad(1))
    with pytest.raises(ConfigError, match="at least 0"):
        BadImageTally(-1)


def test_the_usual_limit_is_one_in_a_hundred_and_at_least_ten() -> None:
    assert [default_max_bad(n) for n in (1, 1000, 1001, 5000)] == [10, 10, 10, 50]


def test_a_bad_picture_can_be_pickled() -> None:
    image = BadImage(3, "a'b.png", "truncated")
    again = pickle.loads(pickle.dumps(image))
    assert again == image
    assert str(again) == str(image)
    assert (again.index, again.name, again.reason) == (3, "a'b.png", "truncated")


def test_sources_are_what_the_protocol_says() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ImageSource()  # type: ignore[abstract]
