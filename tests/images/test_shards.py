from __future__ import annotations

import gzip
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.errors import ImageError
from isae.images import BadImage, open_source
from isae.images.patterns import expand_braces, shard_paths
from isae.images.pixels import decode_rgb

number = st.from_regex(r"-?[0-9]{1,3}", fullmatch=True)
range_part = st.tuples(number, number).map(lambda ends: f"{{{ends[0]}..{ends[1]}}}")
choice_part = st.lists(st.text("xyz", max_size=2), min_size=2, max_size=3).map(
    lambda choices: "{" + ",".join(choices) + "}"
)
plain_part = st.sampled_from(["a", "b-", ".tar", "{}", "{a}", "{1..}"])
patterns = st.lists(st.one_of(range_part, choice_part, plain_part), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None)
@given(patterns.map("".join))
def test_braces_expand_as_in_bash(pattern: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash to compare with")
    # The dot keeps bash from dropping empty words.
    command = f"printf '%s\\n' .{pattern}"
    run = subprocess.run([bash, "-c", command], capture_output=True, text=True, check=True)
    assert ["." + text for text in expand_braces(pattern)] == run.stdout.splitlines()


def test_labels_come_from_cls_then_json_then_folder(shard_folder: Path) -> None:
    source = open_source(str(shard_folder / "*.tar"))
    rows = [(row["name"], row["label"]) for row in map(source.row, range(len(source)))]
    names = [f"part-{n:04d}.tar/n{n}/{i:03d}.jpg" for n in range(3) for i in range(3)]
    labels = ["class 0", "class 1", "class 2", "0", "1", "2", "n2", "n2", "n2"]
    assert rows == list(zip(names, labels, strict=True))


def test_pixels_are_those_of_the_members(shard_folder: Path) -> None:
    source = open_source(str(shard_folder / "part-0002.tar"))
    with tarfile.open(shard_folder / "part-0002.tar") as tar:
        for i in range(len(source)):
            member = tar.extractfile(source.row(i)["name"])
            assert member is not None
            np.testing.assert_array_equal(source.load(i), decode_rgb(member.read()))


def test_a_list_file_is_relative_to_itself(shard_folder: Path) -> None:
    (shard_folder / "list.txt").write_text(
        "# mine\n\npart-0002.tar\n  part-{0000,0001}.tar  \n", encoding="utf-8"
    )
    found = shard_paths(f"@{shard_folder / 'list.txt'}")
    assert [path.name for path in found] == ["part-0002.tar", "part-0000.tar", "part-0001.tar"]
    assert len(open_source(f"@{shard_folder / 'list.txt'}")) == 9
    (shard_folder / "list.txt").write_text("# nothing\n")
    with pytest.raises(ImageError, match="one per line, found none"):
        open_source(f"@{shard_folder / 'list.txt'}")


def test_shards_of_one_name_keep_their_folders(shard_folder: Path) -> None:
    for name in ("a", "b"):
        (shard_folder / name).mkdir()
        shutil.copy(shard_folder / "part-0000.tar", shard_folder / name / "0.tar")
    source = open_source(str(shard_folder / "{a,b}/0.tar"))
    assert source.row(0)["name"] == "a/0.tar/n0/000.jpg"
    assert source.row(3)["name"] == "b/0.tar/n0/000.jpg"


def test_a_shard_listed_twice_is_an_error(shard_folder: Path) -> None:
    with pytest.raises(ImageError, match="found one twice"):
        open_source(str(shard_folder / "part-{0000,0000}.tar"))


def test_of_members_with_one_name_the_last_counts(shard_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "appended.tar"
    picture = tmp_path / "new.png"
    shutil.copy(shard_folder / "part-0002.tar", path)
    picture.write_bytes(_png(7))
    with tarfile.open(path, "a") as tar:
        tar.add(picture, "n2/001.jpg")
    source = open_source(str(path))
    assert len(source) == 3
    assert source.load(1).shape == (7, 7, 3)


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz", ".tar"])
def test_compressed_shards_are_refused(shard_folder: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(gzip.compress((shard_folder / "part-0000.tar").read_bytes()))
    with pytest.raises(ImageError, match="compressed by gzip; decompress it first"):
        open_source(str(path))


def test_every_truncation_is_found(shard_folder: Path, tmp_path: Path) -> None:
    data = (shard_folder / "part-0000.tar").read_bytes()
    with tarfile.open(shard_folder / "part-0000.tar") as tar:
        end = max(member.offset_data + member.size for member in tar)
    path = tmp_path / "cut.tar"
    for length in [0, 1, 511, *range(512, end + 511, 512), end]:
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match="expected a whole tar file"):
            open_source(str(path))


def test_a_shard_without_photos_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(ImageError, match="found none among their 1 other members"):
        open_source(str(tmp_path / "x.tar"))


def test_a_shard_cut_after_opening_gives_bad_pictures(shard_folder: Path) -> None:
    path = shard_folder / "part-0000.tar"
    source = open_source(str(path))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(BadImage, match="has become shorter"):
        source.load(0)
    path.unlink()
    with pytest.raises(BadImage, match="No such file"):
        source.load(0)


def _png(side: int) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()
