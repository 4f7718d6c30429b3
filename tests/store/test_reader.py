"""Reading by slice, index and mask; refusing what is damaged or unfinished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from isae.errors import StoreCorruptError, StoreError, StoreIncompleteError, UnknownNameError
from isae.store import assemble, file_hash, layout, manifest, open_store, verify_store
from isae.store.array import StoredArray
from isae.store.codecs import named_codec
from isae.store.places import open_place
from isae.store.shards import encode_shard


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredArray, np.ndarray]:
    """An array of five shards of 64-row chunks, the last shard and chunk not full."""
    place = open_place(tmp_path_factory.mktemp("shards"))
    rows = 1024 * 4 + 101
    values = np.random.default_rng(0).standard_normal((rows, 9000)).astype(np.float16)
    form = assemble.array_form(rows, 9000, "float16", named_codec("fast"), shard_rows=1024)
    contents = {layout.metadata_file("a"): json.dumps(form.metadata({})).encode()}
    for shard in range(5):
        part = values[shard * 1024 : (shard + 1) * 1024]
        contents[layout.shard_key("a", shard)] = encode_shard(form, part)
    for key, data in contents.items():
        place.write(key, data)
    files = {key: file_hash.entry(data) for key, data in contents.items()}
    return StoredArray(place, "a", files), values


@pytest.mark.parametrize(
    "rows",
    [
        slice(None),
        slice(0, 0),
        slice(5, 3),
        slice(63, 66),
        slice(1023, 1025),
        slice(-7, None),
        slice(10, 3000, 997),
        slice(None, None, -500),
        [0],
        [],
        [4, 4, 4000, 1, -1],
    ],
)
def test_rows_are_numpy_rows(
    many_shards: tuple[StoredArray, np.ndarray], rows: slice | list[int]
) -> None:
    array, values = many_shards
    expected = values[rows if isinstance(rows, slice) else np.asarray(rows, dtype=int)]
    np.testing.assert_array_equal(array[rows], expected)


def test_a_mask_selects_rows(many_shards: tuple[StoredArray, np.ndarray]) -> None:
    array, values = many_shards
    mask = np.arange(len(values)) % 700 == 3
    np.testing.assert_array_equal(array[mask], values[mask])
    with pytest.raises(IndexError, match="a mask of"):
        array[mask[:-1]]


def test_one_row_is_a_vector(many_shards: tuple[StoredArray, np.ndarray]) -> None:
    array, values = many_shards
    np.testing.assert_array_equal(array[-1], values[-1])
    np.testing.assert_array_equal(array[np.int64(70)], values[70])
    np.testing.assert_array_equal(array[np.asarray(70)], values[70])
    assert len(array) == len(values)


@pytest.mark.parametrize(
    "rows", [[10**9], [-(10**9)], [0.5], np.uint64([2**64 - 1]), True, np.float32(1), "0"]
)
def test_rows_that_are_not_there(many_shards: tuple[StoredArray, np.ndarray], rows: Any) -> None:
    with pytest.raises(IndexError):
        many_shards[0][rows]


def test_arrays_behave_as_numpy_expects(built: Path) -> None:
    places = open_store(built).positions("mixed4a")
    whole = places[:]
    np.testing.assert_array_equal(np.asarray(places), whole)
    with pytest.raises(ValueError, match="leave to copy"):
        np.asarray(places, copy=False)
    np.testing.assert_array_equal(places[:, 0], whole[:, 0])
    np.testing.assert_array_equal(places[5:9, 1:], whole[5:9, 1:])
    np.testing.assert_array_equal(places[[7, 2], [0, 2]], whole[[7, 2]][:, [0, 2]])
    assert places[3, 2] == whole[3, 2]
    with pytest.raises(IndexError, match="one axis of rows"):
        places[np.zeros((2, 2), dtype=int)]
    with pytest.raises(IndexError, match="found 3 indices"):
        places[0, 0, 0]  # type: ignore[index]


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00 no text", b"", None])
def test_a_damaged_completion_mark_is_refused(copied: Path, damage: bytes | None) -> None:
    mark = copied / "COMPLETE"
    mark.unlink()
    if damage is None:
        mark.mkdir()
    else:
        mark.write_bytes(damage)
    with pytest.raises(StoreCorruptError, match="COMPLETE states"):
        open_store(copied)
    (problem,) = verify_store(copied)
    assert problem.startswith("COMPLETE: ")


def test_any_zarr_reader_opens_the_arrays(built: Path) -> None:
    store = open_store(built)
    plain = zarr.open_group(built, mode="r")["stride16/mixed4a"]
    np.testing.assert_array_equal(np.asarray(plain[:]), store.activations("mixed4a")[:])


def test_a_chunk_that_changed_is_never_returned(copied: Path) -> None:
    """Any flipped bit, also where only a part of a shard is read."""
    path = copied / layout.shard_key("stride16/mixed4a", 0)
    whole = path.read_bytes()
    store = open_store(copied)
    expected = store.activations("mixed4a")[:]
    generator = np.random.default_rng(0)
    caught = 0
    for offset in generator.integers(0, len(whole), 60):
        data = bytearray(whole)
        data[offset] ^= 1 << int(generator.integers(8))
        path.write_bytes(data)
        try:
            found = open_store(copied).activations("mixed4a")[3:9]
        except StoreCorruptError:
            caught += 1
        else:
            np.testing.assert_array_equal(found, expected[3:9])
    assert caught > 0


@pytest.mark.parametrize("damage", ["missing", "empty", "shorter", "longer"])
def test_a_shard_that_is_not_whole_is_never_read_as_zeros(copied: Path, damage: str) -> None:
    path = copied / layout.shard_key("stride16/mixed4b", 0)
    early = open_store(copied)
    early.activations("mixed4b")
    data = path.read_bytes()
    changed = {"empty": b"", "shorter": data[:-1], "longer": data + b"x"}
    path.unlink()
    if damage != "missing":
        path.write_bytes(changed[damage])
    with pytest.raises(StoreCorruptError, match="stride16/mixed4b"):
        early.activations("mixed4b")[0]
    with pytest.raises(StoreCorruptError, match="stride16/mixed4b"):
        open_store(copied).activations("mixed4b")


def test_every_damaged_file_is_named_by_verify(copied: Path) -> None:
    files = [path for path in copied.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        data = path.read_bytes()
        name = path.relative_to(copied).as_posix()
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 4
        for changed in (bytes(flipped), data[: len(data) // 2], b"", None):
            path.unlink()
            if changed is not None:
                path.write_bytes(changed)
            problems = verify_store(copied)
            (problem,) = problems
            assert problem.startswith(f"{name}: ")
            assert ("did not finish" in problem) == (name == "COMPLETE" and changed is None)
            path.write_bytes(data)
    assert verify_store(copied) == []


def test_files_that_do_not_belong_are_named(copied: Path) -> None:
    (copied / "stride16" / "mixed4a" / "c" / "1").mkdir()
    (copied / "stride16" / "mixed4a" / "c" / "1" / "0").write_bytes(b"more")
    assert verify_store(copied) == ["stride16/mixed4a/c/1/0: not part of the store"]


def test_an_unfinished_store_is_refused(copied: Path) -> None:
    (copied / "COMPLETE").unlink()
    with pytest.raises(StoreIncompleteError, match="did not finish"):
        open_store(copied)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="found nothing there"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="found something else"):
        open_store(tmp_path)


def test_unknown_layers_are_refused_with_the_nearest(built: Path) -> None:
    with pytest.raises(UnknownNameError, match="nearest: mixed4"):
        open_store(built).activations("mixed4c")


def test_a_damaged_images_table_is_not_read(copied: Path) -> None:
    path = copied / "images.parquet"
    shutil.copy(copied / "statistics.safetensors", path)
    with pytest.raises(StoreCorruptError, match=r"images\.parquet"):
        _ = open_store(copied).images


def test_verify_compares_the_parts_with_each_other(copied: Path) -> None:
    """Whole files with the wrong contents, and a manifest to match, are still found."""
    from isae.store.statistics import ChannelStatistics, save_statistics

    store = open_store(copied)
    good = {name: store.statistics(name) for name in store.layers}
    one = good["mixed4a"]
    wrong = ChannelStatistics(one.count, one.mean_C + 1, one.var_C, one.max_C, one.nonzero_C)
    save_statistics(copied / "statistics.safetensors", {**good, "mixed4a": wrong})
    whole = dict(store.manifest)
    data = (copied / "statistics.safetensors").read_bytes()
    files = {**whole.pop("files"), "statistics.safetensors": file_hash.entry(data)}
    (copied / "COMPLETE").unlink()
    del whole["content_id"]
    manifest.finish(open_place(copied), whole, files)
    assert verify_store(copied) == ["statistics of mixed4a: mean_C does not fit the rows"]
