"""The bitmap codec against a decoder written from its format alone, and against damaged data."""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import struct
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd
from zarr.codecs import Crc32cCodec

from isae.errors import CodecError, ConfigError
from isae.store import bitmap
from isae.store.bitmap_zarr import NAME, BitmapCodec
from isae.store.codecs import named_codec

DTYPES = ("float16", "float32", "uint8", "int8", "int16", "int32", "uint32")
CODECS = [BitmapCodec(None), BitmapCodec(1, False), BitmapCodec(1), BitmapCodec(7)]
HEADER, PART = 16, 8


def reference(data: bytes) -> np.ndarray:
    """Decodes by the format's description; the elements as unsigned integers."""
    magic, version, size, zero, n, m = struct.unpack_from("<4sBBHII", data)
    assert (magic, version, zero) == (b"isbm", 1, 0)
    at = HEADER + PART * (1 + size)
    parts = []
    for i in range(1 + size):
        method, stored = struct.unpack_from("<II", data, HEADER + PART * i)
        part = data[at : at + stored]
        parts.append(bytes(Zstd().decode(part)) if method == 1 else part)
        at += stored
    assert at == len(data)
    bits = np.unpackbits(np.frombuffer(parts[0], np.uint8), bitorder="little")
    assert len(bits) == -(-n // 64) * 64
    assert bits.sum() == bits[:n].sum() == m
    planes = np.stack([np.frombuffer(part, np.uint8) for part in parts[1:]], axis=1)
    out = np.zeros(n, f"<u{size}")
    out[bits[:n] == 1] = np.ascontiguousarray(planes).view(f"<u{size}").ravel()
    return out


def patterns(count: int, size: int, density: float, seed: int) -> np.ndarray:
    """Any bit patterns, among them minus zero, infinities, payloads of NaN, subnormals."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2 ** (8 * size), count, dtype=np.uint64).astype(f"u{size}")
    special = [1 << (8 * size - 1), 1, (1 << (8 * size)) - 1, 0x7C01, 0xFC00, 0x7FC00001]
    chosen = rng.random(count) < 0.2
    values[chosen] = (rng.choice(special, chosen.sum()) % 2 ** (8 * size)).astype(values.dtype)
    values[rng.random(count) >= density] = 0
    return values


def check_round_trip(values: np.ndarray, codec: BitmapCodec) -> bytes:
    data = codec.encode_values(values)
    bits = values.reshape(-1).view(f"u{values.itemsize}")
    np.testing.assert_array_equal(reference(data), bits)
    out = np.full_like(values, 77)
    bitmap.decode(np.frombuffer(data, np.uint8), out)
    assert out.tobytes() == values.tobytes()
    return data


@settings(max_examples=120, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    codec=st.sampled_from(CODECS),
    rows=st.integers(0, 70),
    columns=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.01, 0.5, 0.97, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_round_trip(
    dtype: str, codec: BitmapCodec, rows: int, columns: int, density: float, seed: int
) -> None:
    size = np.dtype(dtype).itemsize
    values = patterns(rows * columns, size, density, seed).view(dtype).reshape(rows, columns)
    first = check_round_trip(values, codec)
    assert codec.encode_values(values.copy()) == first


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_small_size(size: int) -> None:
    for count in [*range(1, 131), 191, 192, 193, 1000]:
        for density in (0.3, 1.0):
            check_round_trip(patterns(count, size, density, count), CODECS[1])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_pattern_of_a_byte_of_the_bitmap(size: int) -> None:
    bits = np.unpackbits(np.arange(256, dtype=np.uint8))
    values = patterns(bits.size, size, 1.0, 0) * bits.astype(f"u{size}")
    check_round_trip(values, CODECS[0])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_same_without_the_processor_instructions(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bitmap, "has_instructions", lambda: False)
    for density in (0.0, 0.5, 1.0):
        check_round_trip(patterns(1003, size, density, 5), CODECS[1])


def test_minus_zero_is_not_zero() -> None:
    values = np.array([[0.0, -0.0, 1.0]], np.float16)
    data = check_round_trip(values, BitmapCodec(None))
    assert struct.unpack_from("<I", data, 12) == (2,)


def test_bytes_of_version_1_do_not_change() -> None:
    values = np.array([[0, 1.5, 0], [0, -0.0, 65504]], np.float16)
    table = struct.pack("<IIIIII", 0, 8, 0, 3, 0, 3)
    expected = b"isbm\x01\x02\0\0\x06\0\0\0\x03\0\0\0" + table
    expected += b"\x32" + bytes(7) + b"\x00\x00\xff" + b"\x3e\x80\x7b"
    assert BitmapCodec(1).encode_values(values) == expected


def test_threads_do_not_share_buffers() -> None:
    chunks = [patterns(5000 + i, 2, 0.5, i).reshape(1, -1) for i in range(8)]
    codec = BitmapCodec(1)
    coded = [codec.encode_values(chunk) for chunk in chunks]

    def work(i: int) -> None:
        for _ in range(30):
            out = np.empty_like(chunks[i])
            bitmap.decode(np.frombuffer(coded[i], np.uint8), out)
            assert out.tobytes() == chunks[i].tobytes()
            assert codec.encode_values(chunks[i]) == coded[i]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def decode(data: bytes, like: np.ndarray) -> np.ndarray:
    out = np.empty_like(like)
    bitmap.decode(np.frombuffer(data, np.uint8), out)
    return out


def set_number(data: bytes, at: int, change: int) -> bytes:
    (number,) = struct.unpack_from("<I", data, at)
    return data[:at] + struct.pack("<I", (number + change) % 2**32) + data[at + 4 :]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_damage_of_header_and_bitmap_is_found(codec: BitmapCodec, size: int) -> None:
    values = patterns(1003, size, 0.4, 1)
    data = codec.encode_values(values)
    for at in range(HEADER + PART * (1 + size) + (126 if codec.level is None else 0)):
        for bit in range(8):
            damaged = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises(CodecError):
                decode(damaged, values)
    for length in range(len(data)):
        with pytest.raises(CodecError):
            decode(data[:length], values)
    for damaged in (data + b"\0", data + data, b"\0" * len(data), data[1:]):
        with pytest.raises(CodecError):
            decode(damaged, values)
    for other in (values[:-1], np.append(values, values[:1])):
        with pytest.raises(CodecError):
            decode(data, other)


def test_counts_that_agree_with_each_other_but_not_with_the_bits() -> None:
    values = patterns(1000, 2, 0.4, 1)
    data = BitmapCodec(None).encode_values(values)
    longer = set_number(set_number(set_number(data, 12, 1), 28, 1), 36, 1) + b"\0\0"
    with pytest.raises(CodecError, match="as many bits as values"):
        decode(longer, values)
    for one, other in ((20, 28), (28, 36), (36, 20)):  # lengths of parts, their sum unchanged
        for change in (1, -1, 8):
            with pytest.raises(CodecError, match="a part of"):
                decode(set_number(set_number(data, one, change), other, -change), values)
    bits = HEADER + 3 * PART
    moved = bytearray(data)
    first = next(i for i in range(1000) if values[i])
    moved[bits + first // 8] ^= 1 << first % 8
    moved[bits + 1001 // 8] |= 1 << 1001 % 8
    with pytest.raises(CodecError, match="behind the last element"):
        decode(bytes(moved), values)


def frame(content: bytes, tail: bytes = b"") -> bytes:
    return bytes(Zstd(1).encode(content)) + tail


def without_size(content: bytes) -> bytes:
    """A frame of one raw block that states no content size."""
    block = (len(content) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00\x58" + block + content


def with_dictionary(content: bytes) -> bytes:
    block = (len(content) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x21\x07" + bytes([len(content)]) + block + content


def one_block(stated: int, block: int) -> bytes:
    """A frame that states another content size than that of its raw block."""
    head = (block << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x20" + bytes([stated]) + head + bytes(block)


BAD_FRAMES = {
    "empty": b"",
    "short": frame(bytes(99)),
    "long": frame(bytes(101)),
    "empty frame behind": frame(bytes(100), frame(b"")),
    "skippable frame behind": frame(bytes(100), b"\x50\x2a\x4d\x18\x01\0\0\0x"),
    "byte behind": frame(bytes(100), b"x"),
    "cut": frame(bytes(range(100)))[:-1],
    "no content size": without_size(bytes(100)),
    "dictionary": with_dictionary(bytes(100)),
    "claims more than it holds": one_block(100, 50),
    "claims less than it holds": one_block(100, 150),
    "huge": b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x01\0\0",
    "other bytes": bytes(100),
}


@pytest.mark.parametrize("bad", BAD_FRAMES)
def test_bad_zstd_frames(bad: str) -> None:
    values = np.arange(1, 101, dtype=np.uint8)
    data = BitmapCodec(None).encode_values(values)
    head = data[: HEADER + PART] + struct.pack("<II", 1, len(BAD_FRAMES[bad]))
    start = HEADER + 2 * PART
    with pytest.raises(CodecError):
        decode(head + data[start : start + 16] + BAD_FRAMES[bad], values)
    good = frame(bytes(100))
    head = data[: HEADER + PART] + struct.pack("<II", 1, len(good))
    assert not decode(head + data[start : start + 16] + good, values).any()


@contextmanager
def guarded(size: int) -> Iterator[np.ndarray]:
    """Bytes that end where memory ends: to touch what is behind them ends the process."""
    page = mmap.PAGESIZE
    whole = -(-size // page) * page
    memory = mmap.mmap(-1, whole + page)
    area = (ctypes.c_char * (whole + page)).from_buffer(memory)
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    behind = ctypes.c_void_p(ctypes.addressof(area) + whole)
    assert libc.mprotect(behind, page, 0) == 0
    yield np.frombuffer(memory, np.uint8)[whole - size : whole]
    assert libc.mprotect(behind, page, mmap.PROT_READ | mmap.PROT_WRITE) == 0


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("compiled", [True, False])
def test_nothing_out_of_bounds_is_touched(
    size: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(bitmap, "has_instructions", lambda: False)
    rng = np.random.default_rng(size)
    outcomes = set()
    for trial in range(150):
        count = int(rng.integers(1, 600))
        values = patterns(count, size, float(rng.choice([0.05, 0.5, 0.95])), trial)
        data = bytearray(CODECS[trial % 4].encode_values(values))
        for _ in range(trial % 3):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        with guarded(len(data)) as stored, guarded(count * size + 8) as room:
            stored[:] = np.frombuffer(data, np.uint8)
            room[:] = 0xAB
            out = room[8:].view(f"u{size}")
            try:
                bitmap.decode(stored, out)
                outcomes.add("decoded")
            except CodecError:
                outcomes.add("refused")
            assert (room[:8] == 0xAB).all()
    assert outcomes == {"decoded", "refused"}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 40))
def test_random_bytes_are_refused(data: bytes, elements: int) -> None:
    head = struct.pack("<4sBBHII", b"isbm", 1, 2, 0, elements, elements // 2)
    for whole in (data, head + data):
        out = np.zeros(elements, np.float16)
        try:
            decode(whole, out)
        except CodecError:
            continue
        # What is accepted must be a chunk by the format's own description.
        assert len(reference(whole)) == elements


def test_zarr_reads_and_writes_it_in_shards() -> None:
    rows = patterns(1100 * 37, 2, 0.5, 3).view(np.float16).reshape(1100, 37)
    rows[np.isnan(rows)] = 2.5  # zarr compares chunks with the fill value
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store,
        shape=rows.shape,
        dtype="float16",
        chunks=(128, 37),
        shards=(512, 37),
        serializer=BitmapCodec(),
        compressors=[Crc32cCodec()],
        fill_value=-1,
        config={"write_empty_chunks": True},
    )
    array[:] = rows
    again = zarr.open_array(store, mode="r")
    assert np.asarray(again[:]).tobytes() == rows.tobytes()
    np.testing.assert_array_equal(again[301:777, 3:9], rows[301:777, 3:9])
    assert again.metadata.to_dict()["codecs"][0]["configuration"]["codecs"] == tuple(  # type: ignore[index,call-overload]
        named_codec("small").zarr_codecs
    )
    codec = named_codec("small").for_array("float16", 37)
    padded = np.full((3 * 512, 37), -1, np.float16)
    padded[:1100] = rows
    found = 0
    for shard in range(3):
        data = store._store_dict[f"c/{shard}/0"].to_bytes()
        index = np.frombuffer(data[-(4 * 16 + 4) : -4], "<u8").reshape(4, 2)
        for chunk, (start, length) in enumerate(index):
            if start == 2**64 - 1:
                continue
            first = 512 * shard + 128 * chunk
            chunk_rows = padded[first : first + 128]
            coded = data[int(start) : int(start) + int(length)]
            assert coded == codec.encode(chunk_rows)
            found += 1
    assert found == 9


def test_entry_point(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["zarr.codecs"][NAME].split(":")
    assert (module, name) == (BitmapCodec.__module__, BitmapCodec.__qualname__)
    assert zarr.registry.get_codec_class(NAME) is BitmapCodec


@pytest.mark.parametrize("codec", CODECS)
def test_json(codec: BitmapCodec) -> None:
    assert BitmapCodec.from_dict(codec.to_dict()) == codec


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "bitmap"},
        {"name": NAME, "configuration": {"level": 0}},
        {"name": NAME, "configuration": {"level": 20}},
        {"name": NAME, "configuration": {"level": True}},
        {"name": NAME, "configuration": {"planes": 1}},
        {"name": NAME, "configuration": {"plane": True}},
        {"name": NAME, "configuration": [1]},
        {"name": NAME, "extra": 1},
    ],
)
def test_wrong_json(metadata: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BitmapCodec.from_dict(metadata)


@pytest.mark.parametrize("dtype", ["float64", "int64", "complex64", "bool"])
def test_types_that_it_cannot_code(dtype: str) -> None:
    with pytest.raises(ConfigError, match="1, 2 or 4 bytes"):
        zarr.create_array(
            zarr.storage.MemoryStore(), shape=(4, 4), dtype=dtype, serializer=BitmapCodec()
        )
