"""One behaviour for every kind of place, and what is special to each."""

from __future__ import annotations

import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from isae import files
from isae.errors import ConfigError
from isae.store import local_place
from isae.store.places import LocalPlace, ObjectPlace, Place, open_place

KINDS = ("folder", "file", "memory", "s3")


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "folder": lambda: str(tmp_path / "place"),
        "file": lambda: (tmp_path / "a place").as_uri(),
        "memory": lambda: f"memory://{uuid4().hex}/place",
        "s3": lambda: request.getfixturevalue("s3_url"),
    }[request.param]()


@pytest.fixture
def place(address: str) -> Place:
    return open_place(address)


def test_what_is_written_is_read(place: Place) -> None:
    data = random.Random(0).randbytes(100_003)
    place.write("a/b/c", data)
    assert place.read("a/b/c") == data
    assert type(place.read("a/b/c")) is bytes
    assert place.size("a/b/c") == 100_003
    place.write("a/b/c", b"other")
    assert (place.read("a/b/c"), place.size("a/b/c")) == (b"other", 5)


def test_what_was_written_is_there_for_another_place_object(address: str) -> None:
    open_place(address).write("a/b", b"12")
    assert open_place(address).read("a/b") == b"12"
    assert open_place(address + "/").keys() == [("a/b", 2)]


@pytest.mark.parametrize("data", [b"", b"0123456789"])
@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, None), (0, 4), (3, 7), (3, 3), (0, 0), (7, 50), (4, None), (10, 12), (10, None), (25, 30)],
)
def test_a_range_is_pythons_slice(place: Place, data: bytes, start: int, stop: int | None) -> None:
    place.write("x", data)
    assert place.read("x", start, stop) == data[start:stop]


def test_a_range_that_runs_backwards_is_refused(place: Place) -> None:
    place.write("x", b"0123")
    for start, stop in ((3, 2), (-1, 2), (-1, None), (0, -1)):
        with pytest.raises(ConfigError, match="0 <= start <= stop"):
            place.read("x", start, stop)


def test_absent_files(place: Place) -> None:
    place.write("a/b", b"1")
    for key in ("no", "a", "a/c", "a/b/c"):
        assert place.size(key) is None
        for part in ((0, None), (0, 5), (3, 3), (4, None)):
            with pytest.raises(FileNotFoundError) as raised:
                place.read(key, *part)
            assert str(raised.value.filename).endswith(key)
        place.delete(key)
    assert place.keys() == [("a/b", 1)]


def test_create_never_replaces(place: Place) -> None:
    assert place.create("a/mark", b"first")
    assert not place.create("a/mark", b"second")
    assert not place.create("a/mark", b"first")
    assert place.read("a/mark") == b"first"
    place.write("b", b"written")
    assert not place.create("b", b"created")
    assert place.read("b") == b"written"
    place.delete("a/mark")
    assert place.create("a/mark", b"third")
    assert place.keys() == [("a/mark", 5), ("b", 7)]


def test_of_many_creators_one_wins_and_its_content_stays(place: Place) -> None:
    for turn in range(5):
        ready = threading.Barrier(8)

        def create(name: int, turn: int = turn, ready: threading.Barrier = ready) -> bool:
            ready.wait()
            return place.create(f"mark{turn}", b"%d" % name * 1000)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert sum(won) == 1
        assert place.read(f"mark{turn}") == b"%d" % won.index(True) * 1000
    assert len(place.keys()) == 5


def test_keys_are_sorted_and_below_the_prefix(place: Place) -> None:
    assert place.keys() == []
    assert place.keys("nothing/here") == []
    names = ["b", "a/2", "a/10", "a/b/c", "ab", "a-b", "zarr.json", "Z", "a b/é~%20+#?&='[x]"]
    for number, name in enumerate(names):
        place.write(name, bytes(number))
    expected = sorted((name, number) for number, name in enumerate(names))
    assert place.keys() == expected
    assert place.keys("a") == [item for item in expected if item[0].startswith("a/")]
    assert place.keys("a/b") == [("a/b/c", 3)]
    assert place.keys("a/b/c") == []
    for number, name in enumerate(names):
        assert place.read(name) == bytes(number)


def test_more_keys_than_one_page_of_a_listing(place: Place) -> None:
    if isinstance(place, LocalPlace):
        pytest.skip("a folder has no pages")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: place.write(f"k/{n:04d}", b"x"), range(1003)))
    assert place.keys() == [(f"k/{n:04d}", 1) for n in range(1003)]


def test_deleted_files_are_gone(place: Place) -> None:
    for key in ("a/b/c", "a/b/d", "a/e", "f"):
        place.write(key, b"1")
    for key in ("a/b/c", "a/b/c", "a/b/d", "f"):
        place.delete(key)
    assert place.keys() == [("a/e", 1)]
    assert place.size("a/b/d") is None
    place.delete("a/e")
    assert place.keys() == []
    place.write("a/b/c", b"again")
    assert place.read("a/b/c") == b"again"


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/etc/x", "a/", "a//b", "..", "a/../b", "../a", ".", "./a", "a/.", "a\\b"),
        *("a\nb", "a\0b", "\ud800", "x" * 1025, "é" * 513, ".a.12-0123abcd.tmp"),
    ],
)
def test_odd_keys_are_refused(place: Place, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: place.read(key),
        lambda: place.size(key),
        lambda: place.write(key, b"1"),
        lambda: place.create(key, b"1"),
        lambda: place.delete(key),
        *([lambda: place.keys(key)] if key else []),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="expected a key like"):
            call()
    assert place.keys() == []


def test_forty_megabytes(place: Place) -> None:
    data = random.Random(1).randbytes(40_000_001)
    place.write("shard", data)
    assert place.size("shard") == len(data)
    assert place.read("shard") == data
    assert place.read("shard", 39_999_990) == data[-11:]
    assert place.read("shard", 12_345_678, 13_394_254) == data[12_345_678:13_394_254]
    if isinstance(place, ObjectPlace):  # moto states the parts it got in the tag
        assert place.create("whole", data)
        assert place.read("whole") == data


def test_many_threads_at_once(place: Place) -> None:
    contents = {f"t/{n % 7}/{n}": random.Random(n).randbytes(20_000 + n) for n in range(60)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: place.write(*item), contents.items()))
        keys = list(contents) * 3
        assert list(pool.map(place.read, keys)) == [contents[key] for key in keys]
        parts = list(pool.map(lambda key: place.read(key, 999, 5001), keys))
        assert parts == [contents[key][999:5001] for key in keys]
    assert place.keys() == sorted((key, len(data)) for key, data in contents.items())


def test_one_key_written_and_read_by_many_threads_is_always_whole(place: Place) -> None:
    place.write("a/x", b"0" * 50_000)

    def work(number: int) -> None:
        for _ in range(8):
            place.write("a/x", b"%d" % number * 50_000)
            data = place.read("a/x")
            assert len(data) == 50_000
            assert data.count(data[:1]) == 50_000

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert place.keys() == [("a/x", 50_000)]


def test_writing_while_the_neighbour_is_deleted(place: Place) -> None:
    """A folder that `delete` finds empty must not vanish under a file being written."""

    def work(number: int) -> None:
        for _ in range(25):
            place.write(f"a/b/{number}", b"1")
            assert place.create(f"a/c/{number}", b"1")
            place.delete(f"a/b/{number}")
            place.delete(f"a/c/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert place.keys() == []


def test_a_place_goes_to_another_process(address: str, light_store: str) -> None:
    if address.startswith(("memory", "file")):
        pytest.skip("this process's memory, or a folder like the other")
    place = open_place(address)
    place.write("a", b"sent")
    code = (
        f"{light_store}import pickle; place = pickle.load(sys.stdin.buffer); "
        "place.write('b', place.read('a') + b' back')"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(place), check=True)
    assert place.read("b") == b"sent back"


def test_the_address_is_kept(address: str) -> None:
    place = open_place(address)
    if address.startswith("file"):
        assert place.url.endswith("a place")
        address = place.url
    assert place.url == address
    assert address in repr(place)
    assert (place.local is None) == ("://" in address)


def test_paths_and_schemes(tmp_path: Path) -> None:
    place = open_place(tmp_path / "x")
    assert isinstance(place, LocalPlace)
    assert place.local == tmp_path / "x"
    assert open_place(f"file://localhost{tmp_path}/%C3%A9").local == tmp_path / "é"
    assert open_place("memory://").url == "memory://"


def test_a_relative_folder_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = open_place("here")
    monkeypatch.chdir("/")
    place.write("a", b"1")
    assert (tmp_path / "here" / "a").read_bytes() == b"1"
    assert place.url == "here"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "found empty text"),
        ("http://host/x", "unknown kind of place 'http://'; give .*s3://"),
        ("s4://bucket/x", "unknown kind of place 's4://'"),
        ("simplecache::s3://bucket/x", "unknown kind of place 'simplecache::s3://'"),
        ("s3:/bucket/x", "expected 's3://'"),
        ("file:/tmp/x", "expected 'file://'"),
        (Path("s3://bucket/x"), "expected 's3://'"),
        ("s3:///x", "no bucket's name"),
        ("s3://", "no bucket's name"),
        ("s3://bucket/a?versionId=1", r"found '\?'"),
        ("s3://bucket?region=x", r"found '\?'"),
        ("s3://bucket/a#b", "found '#'"),
        ("s3://bucket/a/../b", "expected a key like"),
        ("s3://bucket//a", "expected a key like"),
        ("file://machine/folder", "three slashes"),
        ("file://folder", "three slashes"),
    ],
)
def test_odd_addresses_are_refused(where: str | Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_place(where)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "memory", "file", "http"])
@pytest.mark.parametrize("user", ["AKIAXYZ:hidden/word", "hidden:", "hidden"])
def test_credentials_in_the_address_are_refused_unseen(scheme: str, user: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_place(f"{scheme}://{user}@bucket/folder")
    assert "hidden" not in str(raised.value)
    assert "AKIA" not in str(raised.value)


# ---- local disks


def test_delete_leaves_folders_with_files_and_the_place_itself(tmp_path: Path) -> None:
    (tmp_path / "beside").write_bytes(b"1")
    place = LocalPlace(tmp_path / "root" / "place")
    for key in ("a/b/c", "a/d", "e/f/g"):
        place.write(key, b"1")
    for key in ("a/b/c", "e/f/g"):
        place.delete(key)
    assert sorted(path.name for path in place.local.iterdir()) == ["a"]
    place.delete("a/d")
    assert list(place.local.iterdir()) == []
    assert place.local.is_dir()


def test_a_kill_while_writing_leaves_the_old_file_and_sweep_tidies(
    tmp_path: Path, light_store: str
) -> None:
    place = LocalPlace(tmp_path)
    place.write("a/shard", b"old")
    code = light_store + (
        "import os\nfrom isae import files\nfrom isae.store.places import LocalPlace\n"
        "files.fsync = lambda path: os.kill(os.getpid(), 9)\n"
        "place = LocalPlace(sys.argv[1])\nplace._make = lambda folder: None\n"
        "place.write('a/shard', b'new' * 1000)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "a").iterdir())) == 2
    assert place.keys() == [("a/shard", 3)]
    assert place.read("a/shard") == b"old"
    assert place.sweep() == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["shard"]
    assert place.sweep() == 0


@pytest.mark.parametrize("how", ["write", "create"])
def test_content_and_every_new_folder_are_flushed_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    flushed: list[tuple[int, int, int]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        flushed.append((found.st_ino, found.st_size, found.st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    place = LocalPlace(tmp_path / "place")
    getattr(place, how)("a/b/c", b"12345")
    monkeypatch.undo()
    file = (tmp_path / "place/a/b/c").stat()
    assert (file.st_ino, 5, file.st_mode) in flushed
    folders = [inode for inode, _, mode in flushed if stat.S_ISDIR(mode)]
    for name in ("", "place", "place/a", "place/a/b"):
        assert (tmp_path / name).stat().st_ino in folders
    # The file's own folder once more, after the file got its name.
    assert folders[-1] == (tmp_path / "place/a/b").stat().st_ino
    assert stat.S_ISDIR(flushed[-1][2])


def test_create_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(local_place.os, "link", refuse)
    monkeypatch.setattr(local_place.os.path, "lexists", lambda path: Path(path).exists())
    place = LocalPlace(tmp_path)
    test_create_never_replaces(place)
    for key in ("a/mark", "b"):
        place.delete(key)
    test_of_many_creators_one_wins_and_its_content_stays(place)


def test_a_file_where_a_folder_must_be_and_the_reverse(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    place.write("a/b", b"1")
    with pytest.raises(OSError, match="a/b"):
        place.write("a/b/c", b"1")
    with pytest.raises(OSError, match="a"):
        place.write("a", b"1")
    assert not place.create("a", b"1")
    assert place.keys() == [("a/b", 1)]


def test_a_listing_does_not_pass_over_what_it_may_not_see(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    place.write("a/b", b"1")
    (tmp_path / "a").chmod(0)
    try:
        if os.access(tmp_path / "a", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(PermissionError):
            place.keys()
    finally:
        (tmp_path / "a").chmod(0o755)


def test_links_to_files_are_files(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"123")
    place = LocalPlace(tmp_path / "place")
    place.write("a", b"1")
    (tmp_path / "place" / "link").symlink_to(tmp_path / "elsewhere")
    assert place.keys() == [("a", 1), ("link", 3)]
    assert place.read("link", 1) == b"23"


def test_threads_get_different_temporary_names(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: files.temporary_beside(path).name, range(200)))
    assert len(set(names)) == 200
    assert all(files.is_temporary(name) and name.endswith(".json") for name in names)
    for name in ("manifest.json", ".zattrs", "a.tmp", ".a.1.tmp", "c.12-0123abcd.tmp"):
        assert not files.is_temporary(name)


# ---- buckets


def test_memory_is_this_process_s_and_prefixes_are_apart() -> None:
    name = uuid4().hex
    open_place(f"memory://{name}/a").write("x", b"1")
    assert open_place(f"memory://{name}").keys() == [("a/x", 1)]
    assert open_place(f"memory://{name}/b").keys() == []


def test_a_whole_bucket_is_a_place(s3_url: str) -> None:
    bucket, _, folder = s3_url.rpartition("/")
    open_place(s3_url).write("x", b"123")
    assert open_place(bucket).read(f"{folder}/x", 1, 2) == b"2"
    assert open_place(bucket).keys(folder) == [(f"{folder}/x", 3)]


def test_replace_only_what_was_read(s3_url: str) -> None:
    for url in (s3_url, f"memory://{uuid4().hex}"):
        place = open_place(url)
        assert isinstance(place, ObjectPlace)
        assert not place.replace("x", b"old", b"new")
        assert place.size("x") is None
        place.write("x", b"old")
        assert not place.replace("x", b"other", b"new")
        assert place.read("x") == b"old"
        assert place.replace("x", b"old", b"new")
        assert place.read("x") == b"new"
        ready = threading.Barrier(6)

        def swap(name: int, place: ObjectPlace = place, ready: threading.Barrier = ready) -> bool:
            ready.wait()
            return place.replace("x", b"new", b"%d" % name)

        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(swap, range(6)))
        assert sum(won) == 1
        assert place.read("x") == b"%d" % won.index(True)
