from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isae.errors import ImageError
from isae.images import BadImage, open_source
from isae.images.base import Names
from isae.images.folder import FolderSource

part = st.text("ab-.é0 ", min_size=1, max_size=3).filter(
    lambda text: not text.startswith(".") and text.strip() == text
)


def names_of(root: Path) -> list[str]:
    source = open_source(str(root))
    return [source.row(i)["name"] for i in range(len(source))]


def test_photos_are_listed_by_path_and_labelled_by_first_folder(photo_folder: Path) -> None:
    source = open_source(str(photo_folder))
    rows = [(row["name"], row["label"]) for row in map(source.row, range(len(source)))]
    assert rows == [
        ("cat/a.png", "cat"),
        ("cat/b.JPG", "cat"),
        ("cat/broken.jpg", "cat"),
        ("dog/Zé.png", "dog"),
        ("dog/small/y.jpeg", "dog"),
        ("dog/x.png", "dog"),
        ("dog/zero.png", "dog"),
        ("root.png", ""),
    ]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(paths=st.sets(st.lists(part, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8))
def test_the_order_is_that_of_the_path_bytes(tmp_path: Path, paths: set[str]) -> None:
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    expected = set()
    for path in paths:
        # The folder parts get an ending that no file has, so a file and a folder never collide.
        *folders, last = path.split("/")
        file = "/".join([*(folder + "_d" for folder in folders), last + ".png"])
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
        expected.add(file)
    assert names_of(root) == sorted(expected, key=lambda name: name.encode())


def test_a_copied_folder_is_the_same_source(photo_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photo_folder, copy)
    for file in copy.rglob("*.png"):
        os.utime(file, (1, 1))
    before = open_source(str(photo_folder)).fingerprint()
    assert open_source(str(copy)).fingerprint() == before
    (copy / "root.png").write_bytes(b"x" + (copy / "root.png").read_bytes())
    assert open_source(str(copy)).fingerprint() != before


def test_a_loop_of_links_ends(photo_folder: Path) -> None:
    before = names_of(photo_folder)
    (photo_folder / "cat" / "loop").symlink_to(photo_folder)
    (photo_folder / "dog" / "self").symlink_to(photo_folder / "dog")
    assert names_of(photo_folder) == before


def test_a_linked_folder_is_followed(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "felines").symlink_to(photo_folder / "cat")
    assert names_of(tmp_path / "set") == [f"felines/{n}" for n in ("a.png", "b.JPG", "broken.jpg")]


def test_a_dangling_link_is_a_bad_picture(photo_folder: Path) -> None:
    (photo_folder / "gone.png").symlink_to("nowhere.png")
    source = open_source(str(photo_folder))
    index = [source.row(i)["name"] for i in range(len(source))].index("gone.png")
    with pytest.raises(BadImage, match=r"'gone\.png' .*No such file"):
        source.load(index)


def test_a_named_pipe_is_no_photo(photo_folder: Path) -> None:
    before = names_of(photo_folder)
    os.mkfifo(photo_folder / "pipe.png")
    assert names_of(photo_folder) == before


def test_a_name_that_is_not_unicode_is_read_and_shown(tmp_path: Path, encode: object) -> None:
    assert callable(encode)
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
            file.write(encode(1))
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    source = open_source(str(tmp_path))
    assert source.row(0)["name"] == r"caf\xe9.png"
    assert source.load(0).shape == (30, 40, 3)


@pytest.mark.parametrize("others", [0, 2])
def test_a_folder_without_photos_is_an_error(tmp_path: Path, others: int) -> None:
    for number in range(others):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(ImageError, match=rf"expected photos \(\.jpg.*found none among {others} "):
        open_source(str(tmp_path))


def test_the_list_is_compact(tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / f"photo-{number:05d}.jpg").touch()
    source = FolderSource(tmp_path)
    # The name's 15 bytes, 8 for its end, 8 for the file's size and 8 for its time.
    assert source.names.nbytes + source.sizes.nbytes + source.times.nbytes == 500 * (15 + 24)


@given(st.lists(st.binary(max_size=5), max_size=8))
def test_names_come_back(names: list[bytes]) -> None:
    table = Names(names)
    assert [table.raw(i) for i in range(len(table))] == names
