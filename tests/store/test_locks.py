"""One builder at a time: real processes that hold a lock, are killed, and fight for it."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from isae.errors import StoreError
from isae.store import locks
from isae.store.locks import PlaceLock
from isae.store.places import ObjectPlace, Place, open_place

# A holder prints whether it got the lock and then does as it is told by a line on its input.
HOLDER = """
import os
from isae.errors import StoreError
from isae.store.locks import PlaceLock
from isae.store.places import open_place
lock = PlaceLock(open_place(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    if line == "take\\n":
        try:
            lock.take({"what": "test"})
            print("taken", flush=True)
        except StoreError as error:
            print(error, flush=True)
    if line == "release\\n":
        lock.release()
        print("released", flush=True)
    if line == "fork\\n":
        child = os.fork()
        if child == 0:
            os.close(0)
            import time
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
"""


class Holder:
    """A process that can hold the lock of a place."""

    def __init__(self, url: str, prelude: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", prelude + HOLDER, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> Holder:
        assert self.answer() == "ready"
        return self

    def tell(self, word: str) -> str:
        self.send(word)
        return self.answer()

    def send(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("s3_url"))
    return str(tmp_path / "store")


@pytest.fixture
def start(light_store: str) -> Iterator[Callable[..., list[Holder]]]:
    """Start processes; they are ended after the test."""
    started: list[Holder] = []

    def run(url: str, count: int = 1) -> list[Holder]:
        new = [Holder(url, light_store) for _ in range(count)]
        started.extend(new)
        return [holder.ready() for holder in new]

    yield run
    for holder in started:
        holder.kill()


def refusal(place: Place) -> str:
    lock = PlaceLock(place)
    with pytest.raises(StoreError) as raised:
        lock.take({})
    assert not lock.held
    lock.release()
    return str(raised.value)


@pytest.mark.parametrize("where", ["folder", "memory", "s3"])
def test_take_and_release(request: pytest.FixtureRequest, tmp_path: Path, where: str) -> None:
    url = {
        "folder": lambda: str(tmp_path / "new" / "store"),
        "memory": lambda: f"memory://{uuid4().hex}",
        "s3": lambda: str(request.getfixturevalue("s3_url")),
    }[where]()
    place = open_place(url)
    lock = PlaceLock(place, "folder/lock.json")
    assert not lock.held
    lock.release()
    for turn in range(2):
        lock.take({"turn": turn, "pid": "not this"})
        assert lock.held
        found = json.loads(place.read("folder/lock.json"))
        assert (found["turn"], found["pid"], found["host"]) == (turn, os.getpid(), platform.node())
        assert found["since"].endswith("+00:00")
        with pytest.raises(StoreError, match="once"):
            lock.take({})
        other = PlaceLock(place, "folder/lock.json")
        with pytest.raises(StoreError, match=f"process {os.getpid()}, since {found['since'][:10]}"):
            other.take({})
        other.release()
        third = PlaceLock(place, "folder/other.json")
        third.take({})
        third.release()
        assert place.size("folder/lock.json") is not None
        lock.release()
        assert place.size("folder/lock.json") is None
        assert not lock.held
        lock.release()


def test_a_holder_that_lives_a_kill_and_a_successor(
    url: str, start: Callable[..., list[Holder]]
) -> None:
    place, (first, second) = open_place(url), start(url, 2)
    assert first.tell("take") == "taken"
    message = refusal(place)
    assert f"host {platform.node()}, process {first.process.pid}, since 20" in message
    assert second.tell("take") == message
    assert ("delete s3://" in message) == url.startswith("s3")
    first.kill()
    assert place.size("building.json") is not None
    assert second.tell("take") == "taken"
    assert json.loads(place.read("building.json"))["pid"] == second.process.pid
    assert f"process {second.process.pid}" in refusal(place)
    assert second.tell("release") == "released"
    assert place.keys() == []


def test_a_killed_process_that_nobody_waited_for_holds_nothing(
    url: str, start: Callable[..., list[Holder]]
) -> None:
    (holder,) = start(url)
    assert holder.tell("take") == "taken"
    holder.process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.process.pid, os.WEXITED | os.WNOWAIT)  # ended, but still listed
    lock = PlaceLock(open_place(url))
    lock.take({})
    lock.release()


def test_a_child_that_outlives_its_killed_parent_holds_nothing(
    url: str, start: Callable[..., list[Holder]]
) -> None:
    (holder,) = start(url)
    assert holder.tell("take") == "taken"
    child = int(holder.tell("fork"))
    try:
        assert f"process {holder.process.pid}" in refusal(open_place(url))
        holder.process.kill()
        holder.process.wait()
        os.kill(child, 0)
        lock = PlaceLock(open_place(url))
        lock.take({})
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_that_is_just_being_started_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent is dead, and it holds the parent's open file for some milliseconds yet."""
    place = open_place(tmp_path)
    path = tmp_path / "building.json"
    path.write_text(json.dumps({**mine(place), "process_start": "1"}))
    with path.open("a") as inherited:
        locks.fcntl.flock(inherited, locks.fcntl.LOCK_EX)
        assert "process_start" in path.read_text()
        assert f"process {os.getpid()}" in refusal(place)
        monkeypatch.setattr(locks, "sleep", lambda seconds: inherited.close())
        lock = PlaceLock(place)
        lock.take({})
    lock.release()


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locks.os, "fsync", full)
    lock = PlaceLock(open_place(tmp_path))
    with pytest.raises(OSError, match="No space"):
        lock.take({})
    monkeypatch.undo()
    assert not lock.held
    assert list(tmp_path.iterdir()) == []
    lock.take({})
    lock.release()


def test_of_many_that_take_over_from_a_dead_process_one_gets_it(
    url: str, start: Callable[..., list[Holder]]
) -> None:
    holder, *others = start(url, 6)
    assert holder.tell("take") == "taken"
    while len(others) > 1:
        holder.kill()
        for other in others:
            other.send("take")
        answers = [other.answer() for other in others]
        assert answers.count("taken") == 1
        holder = others.pop(answers.index("taken"))
        answers.remove("taken")
        assert all(f"host {platform.node()}, process {holder.process.pid}," in a for a in answers)


def test_a_file_that_its_holder_removes_while_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first holder releases just after the second opened the file, which then is no name's."""
    place = open_place(tmp_path)
    first, second = PlaceLock(place), PlaceLock(place)
    first.take({})
    real = locks.fcntl.flock

    def flock(file: object, how: int) -> None:
        first.release()
        real(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    second.take({})
    monkeypatch.undo()
    assert f"process {os.getpid()}" in refusal(place)
    second.release()


def test_a_dead_ones_lock_that_another_takes_over_first(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw the dead holder; the slower one must leave the lock of the faster one alone."""
    fast, slow = open_place(s3_url), open_place(s3_url)
    fast.write("building.json", json.dumps({**mine(fast), "process_start": "1"}).encode())
    winner = PlaceLock(fast)
    assert isinstance(slow, ObjectPlace)
    real = slow.replace

    def replace(key: str, old: bytes, new: bytes) -> bool:
        winner.take({"who": "fast"})
        return bool(real(key, old, new))

    monkeypatch.setattr(slow, "replace", replace)
    refusal(slow)
    assert winner.held
    assert json.loads(fast.read("building.json"))["who"] == "fast"


def test_a_process_that_got_a_dead_ones_number(url: str) -> None:
    """The process 1 lives, but did not start when the holder did."""
    place = open_place(url)
    for start in ("1", "ended"):
        place.write("building.json", json.dumps({**mine(place), "process_start": start}).encode())
        lock = PlaceLock(place)
        lock.take({})
        lock.release()


def mine(place: Place) -> dict[str, object]:
    """What this process writes as a holder."""
    lock = PlaceLock(place, "look.json")
    lock.take({})
    found = json.loads(place.read("look.json"))
    lock.release()
    assert isinstance(found, dict)
    return found


CHANGES = {
    "same process": ({}, False),
    "another host": ({"host": "elsewhere", "pid": 2**22 + 5}, False),
    "dead here": ({"pid": 2**22 + 5}, True),
    "dead in another container": ({"pid": 2**22 + 5, "numbering": "pid:[1]"}, False),
    "before a restart": ({"boot": "other", "machine": "id of this"}, True),
    "a container that moved": (
        {"boot": "other", "machine": "id of this", "numbering": "pid:[4026532001]"},
        False,
    ),
    "another machine of this name": ({"boot": "other", "machine": "another"}, False),
    "a machine without an id": ({"boot": "other", "machine": ""}, False),
    "no number": ({"pid": "x"}, False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_who_is_surely_gone(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For objects, which do not end with their process."""
    real = locks._text_of
    monkeypatch.setattr(
        locks, "_text_of", lambda path: "id of this" if "machine-id" in path else real(path)
    )
    monkeypatch.setattr(locks, "_numbering", lambda: locks.NO_CONTAINER)
    place = open_place(f"memory://{uuid4().hex}")
    fields, gone = CHANGES[change]
    written = json.dumps({**mine(place), "token": "other", **fields}).encode()
    place.write("building.json", written)
    if gone:
        lock = PlaceLock(place)
        lock.take({})
        assert json.loads(place.read("building.json"))["pid"] == os.getpid()
        lock.release()
        assert place.keys() == []
    else:
        assert f"surely dead, delete {place.url}/building.json" in refusal(place)
        assert place.read("building.json") == written


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b'{"pid": 1}'])
def test_a_lock_that_is_no_lock(url: str, data: bytes) -> None:
    place = open_place(url)
    place.write("building.json", data)
    if place.local is None:  # nobody knows whose it is
        assert "host unknown" in refusal(place)
        assert place.read("building.json") == data
    else:
        lock = PlaceLock(place)
        lock.take({})
        assert json.loads(place.read("building.json"))["pid"] == os.getpid()
        lock.release()


def test_release_leaves_the_lock_of_another(s3_url: str) -> None:
    """Somebody deleted our object, as the message tells to do, and another process took it."""
    place = open_place(s3_url)
    ours, theirs = PlaceLock(place), PlaceLock(place)
    ours.take({})
    place.delete("building.json")
    theirs.take({"who": "they"})
    ours.release()
    assert json.loads(place.read("building.json"))["who"] == "they"
    theirs.release()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_release_its_parents_lock(url: str) -> None:
    place = open_place(url)
    lock = PlaceLock(place)
    lock.take({})
    child = os.fork()
    if child == 0:
        code = 1
        try:
            held = lock.held
            lock.release()
            code = 2 if held else 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert place.size("building.json") is not None
    assert f"process {os.getpid()}" in refusal(place)
    lock.release()


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        PlaceLock(open_place(tmp_path / "file")).take({})
