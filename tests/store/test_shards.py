"""Shard files: read back exactly, by zarr-python too, and zarr-python's by us; damage is found."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.errors import CodecError, StoreCorruptError
from isae.store.array import StoredArray
from isae.store.codecs import named_codec
from isae.store.file_hash import entry
from isae.store.manifest import as_json
from isae.store.places import Place, open_place
from isae.store.shards import ABSENT, ShardFormat, decode_index, encode_shard

Array = npt.NDArray[Any]
DTYPES = ["float16", "float32", "int32", "uint8"]


def make_rows(rows: int, columns: int, dtype: str, seed: int = 0) -> Array:
    """Half zeros, as activations are."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 120, (rows, columns)) / (2 if dtype.startswith("float") else 1)
    return np.where(rng.random((rows, columns)) < 0.5, 0, values).astype(dtype)


def make_form(
    rows: int, columns: int, dtype: str, codec: str = "small", sizes: tuple[int, int] = (8, 32)
) -> ShardFormat:
    """`sizes` are rows of a chunk and of a shard."""
    kind = np.dtype(dtype)
    return ShardFormat(rows, columns, kind, *sizes, named_codec(codec).for_array(kind, columns))


def write_array(place: Place, name: str, form: ShardFormat, rows_RC: Array) -> Mapping[str, Any]:
    """Write an array as a build does; what its manifest would say."""
    written = {f"{name}/zarr.json": as_json(form.metadata({}))}
    for shard in range(form.shards):
        mine = rows_RC[shard * form.shard_rows : (shard + 1) * form.shard_rows]
        written[f"{name}/c/{shard}/0"] = encode_shard(form, mine)
    for key, data in written.items():
        place.write(key, data)
    return {key: entry(data) for key, data in written.items()}


def listed(place: Place) -> Mapping[str, Any]:
    """What a manifest would say of the files that are there."""
    files = place.keys()
    return {key: entry(place.read(key)) for key, _ in files}


def memory_place() -> Place:
    return open_place("memory://shards")


@given(
    rows=st.integers(1, 200),
    columns=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
    codec=st.sampled_from(["small", "fast", "none"]),
    sizes=st.sampled_from([(1, 1), (8, 8), (8, 32), (64, 64)]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_rows_come_back(
    rows: int, columns: int, dtype: str, codec: str, sizes: tuple[int, int], data: st.DataObject
) -> None:
    rows_RC = make_rows(rows, columns, dtype, rows)
    form = make_form(rows, columns, dtype, codec, sizes)
    place = memory_place()
    array = StoredArray(place, "a", write_array(place, "a", form, rows_RC))
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    np.testing.assert_array_equal(array[start:stop], rows_RC[start:stop])
    chosen = data.draw(st.lists(st.integers(-rows, rows - 1), max_size=20))
    np.testing.assert_array_equal(array[np.array(chosen, dtype=int)], rows_RC[chosen])
    np.testing.assert_array_equal(array[:], rows_RC)


def test_the_same_rows_are_the_same_bytes() -> None:
    form, rows_RC = make_form(30, 5, "float16"), make_rows(30, 5, "float16")
    assert encode_shard(form, rows_RC) == encode_shard(form, np.asfortranarray(rows_RC))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", ["small", "none"])
def test_zarr_reads_the_same(tmp_path: Path, dtype: str, codec: str) -> None:
    rows_RC = make_rows(77, 6, dtype)
    place = open_place(tmp_path)
    write_array(place, "a", make_form(77, 6, dtype, codec), rows_RC)
    theirs = zarr.open_array(tmp_path / "a", mode="r")
    assert theirs.shape == (77, 6)
    assert theirs.dtype == np.dtype(dtype)
    assert theirs.shards == (32, 6)
    assert theirs.chunks == (8, 6)
    np.testing.assert_array_equal(theirs[:], rows_RC)
    np.testing.assert_array_equal(theirs[30:71, 2], rows_RC[30:71, 2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zstd", [True, False])
def test_zarrs_own_arrays_are_read(tmp_path: Path, dtype: str, zstd: bool) -> None:
    rows_RC = make_rows(77, 6, dtype)
    coded = [zarr.codecs.ZstdCodec(level=3)] if zstd else []
    array = zarr.create_array(
        tmp_path / "a",
        shape=(77, 6),
        dtype=dtype,
        chunks=(8, 6),
        shards=(32, 6),
        compressors=[*coded, zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    array[:] = rows_RC
    place = open_place(tmp_path)
    ours = StoredArray(place, "a", listed(place))
    assert (ours.chunk_rows, ours.shard_rows) == (8, 32)
    np.testing.assert_array_equal(ours[:], rows_RC)
    np.testing.assert_array_equal(ours[9:70], rows_RC[9:70])


def test_chunks_that_zarr_left_out_are_not_taken_for_zeros(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a",
        shape=(32, 4),
        dtype="float16",
        chunks=(8, 4),
        shards=(32, 4),
        compressors=[zarr.codecs.Crc32cCodec()],
    )
    array[8:16] = 1
    place = open_place(tmp_path)
    ours = StoredArray(place, "a", listed(place))
    np.testing.assert_array_equal(ours[8:16], np.ones((8, 4)))
    with pytest.raises(StoreCorruptError, match=r"a/c/0/0.*chunks that were never written"):
        ours[7:16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_no_row_is_in_reads_as_the_fill_value(tmp_path: Path, dtype: str) -> None:
    """Of a shard that is missing, in zarr; the reason why we never read through it."""
    rows_RC = make_rows(40, 4, dtype) + np.ones((), dtype)
    place = open_place(tmp_path)
    files = write_array(place, "a", make_form(40, 4, dtype), rows_RC)
    place.delete("a/c/1/0")
    theirs = zarr.open_array(tmp_path / "a", mode="r")[32:]
    expected = {"float16": np.nan, "float32": np.nan, "int32": -1, "uint8": 0}[dtype]
    np.testing.assert_array_equal(theirs, np.full((8, 4), expected))
    array = StoredArray(place, "a", files)
    np.testing.assert_array_equal(array[:32], rows_RC[:32])
    with pytest.raises(StoreCorruptError, match=r"a/c/1/0.*no file"):
        array[32:]


def test_format_survives_its_metadata() -> None:
    for dtype in DTYPES:
        form = make_form(77, 6, dtype, "small", (8, 32))
        again = ShardFormat.from_metadata(form.metadata({"x": 1}))
        assert vars(again) == {**vars(form), "codec": again.codec}
        assert again.metadata({"x": 1}) == form.metadata({"x": 1})
        assert again.shards == 3


def changed(value: Any, *path: Any, to: Any) -> Any:
    """A copy of nested JSON with one thing changed."""
    if not path:
        return to
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = changed(copy[path[0]], *path[1:], to=to)
    return copy


SHARDING = ("codecs", 0, "configuration")
GRID = ("chunk_grid", "configuration", "chunk_shape")


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("shape",), [10]),
        (("shape",), [10, 6, 2]),
        (("data_type",), "no type"),
        (("codecs",), [{"name": "bytes", "configuration": {"endian": "little"}}]),
        (("codecs", 0, "name"), "other"),
        ((*SHARDING, "index_location"), "start"),
        ((*SHARDING, "codecs"), [{"name": "unknown"}]),
        ((*SHARDING, "codecs"), []),
        ((*SHARDING, "chunk_shape"), [8, 3]),
        ((*SHARDING, "chunk_shape"), [0, 6]),
        ((*SHARDING, "chunk_shape"), [12, 6]),
        ((*SHARDING, "index_codecs"), [{"name": "bytes", "configuration": {"endian": "little"}}]),
        (GRID, [32, 3]),
        (GRID, [32, 12]),
        (("chunk_key_encoding",), {"name": "v2", "configuration": {"separator": "."}}),
        (("chunk_grid",), {}),
    ],
)
def test_other_arrays_are_refused(path: tuple[Any, ...], to: Any) -> None:
    metadata = make_form(77, 6, "float16").metadata({})
    ShardFormat.from_metadata(metadata)
    with pytest.raises(ValueError):
        ShardFormat.from_metadata(changed(metadata, *path, to=to))


def test_every_damaged_bit_of_an_index_is_found() -> None:
    form = make_form(32, 4, "float16")
    data = encode_shard(form, make_rows(32, 4, "float16"))
    tail = data[-form.index_bytes :]
    index = decode_index(form, tail, len(data))
    assert index[:, 0].tolist() == np.cumsum([0, *index[:-1, 1]]).tolist()
    for place in range(len(tail)):
        for bit in range(8):
            bad = bytearray(tail)
            bad[place] ^= 1 << bit
            with pytest.raises(CodecError, match="CRC-32C"):
                decode_index(form, bytes(bad), len(data))
    for length in range(len(tail)):
        with pytest.raises(CodecError, match="an index of"):
            decode_index(form, tail[:length], len(data))


def test_an_index_that_points_behind_the_end_is_found() -> None:
    form = make_form(32, 4, "float16")
    data = encode_shard(form, make_rows(32, 4, "float16"))
    with pytest.raises(CodecError, match="behind the end"):
        decode_index(form, data[-form.index_bytes :], 10)


def test_chunks_without_rows_are_absent() -> None:
    form = make_form(17, 4, "float16")
    data = encode_shard(form, make_rows(17, 4, "float16"))
    index = decode_index(form, data[-form.index_bytes :], len(data))
    assert (index[:3] != ABSENT).all()
    assert (index[3] == ABSENT).all()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_damaged_shard_is_never_read_as_rows(place: float, bit: int, cut: bool) -> None:
    where, rows_RC = memory_place(), make_rows(60, 4, "float16")
    files = write_array(where, "a", make_form(60, 4, "float16"), rows_RC)
    data = bytearray(where.read("a/c/1/0"))
    at = int(place * len(data))
    data[at] ^= 1 << bit
    where.write("a/c/1/0", bytes(data[:at] if cut else data))
    array = StoredArray(where, "a", files)
    with pytest.raises(StoreCorruptError, match="a/c/1/0"):
        array[:]
    np.testing.assert_array_equal(array[:32], rows_RC[:32])


def test_reading_works_inside_an_event_loop(tmp_path: Path) -> None:
    """Notebooks run one, where zarr's own synchronous calls need a thread of theirs."""
    rows_RC = make_rows(20, 3, "float32")
    place = open_place(tmp_path)
    array = StoredArray(place, "a", write_array(place, "a", make_form(20, 3, "float32"), rows_RC))

    async def read() -> Array:
        return array[:]

    np.testing.assert_array_equal(asyncio.run(read()), rows_RC)
