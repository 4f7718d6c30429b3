"""Chunks of rows by every codec: exact, checked, and the same as through zarr-python."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd
from PIL import Image

from isae.errors import CodecError, ConfigError, DataError, StoreCorruptError
from isae.images import resize_crop
from isae.inception import load_model
from isae.store import checksum
from isae.store.checksum import crc32c
from isae.store.codecs import codec_from_metadata, named_codec
from isae.store.row_codecs import BitmapRows, RawRows, ZstdRows
from isae.store.zarr_rows import ZarrRows

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
BIG = {"name": "bytes", "configuration": {"endian": "big"}}
CRC = {"name": "crc32c"}


def zstd(level: int, checksum: bool = True) -> dict[str, Any]:
    return {"name": "zstd", "configuration": {"level": level, "checksum": checksum}}


CHAINS: dict[str, tuple[str, type]] = {
    "fast": ("fast", BitmapRows),
    "small": ("small", BitmapRows),
    "none": ("none", RawRows),
    "zstd": (json.dumps([LITTLE, zstd(1), CRC]), ZstdRows),
    "zstd without crc32c": (json.dumps([LITTLE, zstd(3, False)]), ZstdRows),
    "one codec": (json.dumps(LITTLE), RawRows),
    "bitmap": (json.dumps([{"name": "isae.bitmap", "configuration": {"level": 3}}]), BitmapRows),
    "big endian": (json.dumps([BIG, zstd(1), CRC]), ZarrRows),
    "gzip": (json.dumps([LITTLE, {"name": "gzip", "configuration": {"level": 1}}]), ZarrRows),
    "transposed": (
        json.dumps([{"name": "transpose", "configuration": {"order": [1, 0]}}, LITTLE, zstd(1)]),
        ZarrRows,
    ),
    "checked twice": (json.dumps([LITTLE, CRC, zstd(1), CRC]), ZarrRows),
    "blosc": (
        json.dumps(
            [
                LITTLE,
                {
                    "name": "blosc",
                    "configuration": {
                        "cname": "zstd",
                        "clevel": 1,
                        "shuffle": "shuffle",
                        "typesize": 2,
                        "blocksize": 0,
                    },
                },
            ]
        ),
        ZarrRows,
    ),
}


def some_rows(dtype: str, rows: int = 64, columns: int = 37, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.maximum(rng.standard_normal((rows, columns)), 0).astype(kind)
    return (rng.integers(1, 100, (rows, columns)) * (rng.random((rows, columns)) < 0.5)).astype(
        kind
    )


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", "int32"])
def test_round_trip_and_same_as_zarr(chain: str, dtype: str) -> None:
    text, kind = CHAINS[chain]
    codec = named_codec(text).for_array(dtype, 37)
    assert isinstance(codec, kind)
    assert codec.zarr_codecs[-1] == CRC
    rows = some_rows(dtype)
    data = codec.encode(rows)
    assert codec.encode(rows[::1].copy()) == data
    out = np.full_like(rows, 9)
    codec.decode(memoryview(b"xyz" + data)[3:], out)
    assert out.tobytes() == rows.tobytes()
    assert timeless(through_zarr(codec.zarr_codecs, rows), chain) == data
    again = codec_from_metadata(json.loads(json.dumps(codec.zarr_codecs)), np.dtype(dtype), 37)
    assert again.encode(rows) == data


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")  # numcodecs.* has no spec
@pytest.mark.parametrize("name", ["gzip", "numcodecs.gzip"])
def test_gzip_tells_no_time(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text = json.dumps([LITTLE, {"name": name, "configuration": {"level": 1}}])
    codec = named_codec(text).for_array("float16", 37)
    rows = some_rows("float16")
    seen = set()
    for seconds in (1.0, 1e9):
        monkeypatch.setattr("time.time", lambda seconds=seconds: seconds)
        seen.add(codec.encode(rows))
    monkeypatch.undo()
    (data,) = seen
    assert timeless(through_zarr(codec.zarr_codecs, rows), "gzip") == data


def timeless(data: bytes, chain: str) -> bytes:
    """A chunk of zarr's without the time that its gzip writes (RFC 1952, MTIME)."""
    if chain != "gzip":
        return data
    body = np.frombuffer(data[:4] + bytes(4) + data[8:-4], np.uint8)
    return body.tobytes() + crc32c(body).to_bytes(4, "little")


def through_zarr(codecs: list[dict[str, Any]], rows: np.ndarray) -> bytes:
    """The bytes that zarr-python writes for one chunk; what it reads from ours is checked too."""
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store, shape=rows.shape, dtype=rows.dtype, chunks=rows.shape, fill_value=0
    )
    metadata = array.metadata.to_dict()
    metadata["codecs"] = tuple(codecs)
    text = json.dumps(metadata, default=str).encode()
    store._store_dict["zarr.json"] = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(
        text
    )
    array = zarr.open_array(store, mode="r+")
    array[:] = rows
    np.testing.assert_array_equal(np.asarray(array[:]), rows)
    return store._store_dict["c/0/0"].to_bytes()


@pytest.mark.parametrize("chain", CHAINS)
def test_no_damage_is_returned_as_rows(chain: str) -> None:
    codec = named_codec(CHAINS[chain][0]).for_array("float16", 5)
    rows = some_rows("float16", 16, 5)
    data = codec.encode(rows)
    out = np.empty_like(rows)
    for at in range(len(data)):
        with pytest.raises(CodecError):
            codec.decode(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :], out)
        with pytest.raises(CodecError):
            codec.decode(data[:at], out)
    for bad in (data + b"\0", data[1:], b"\0" * len(data), data + data, bytes(200)):
        with pytest.raises(CodecError):
            codec.decode(bad, out)
    with pytest.raises(StoreCorruptError):
        codec.decode(data, np.empty((15, 5), np.float16))


@pytest.mark.parametrize("chain", CHAINS)
def test_damage_under_a_right_checksum(chain: str) -> None:
    codec = named_codec(CHAINS[chain][0]).for_array("float16", 5)
    rows = some_rows("float16", 16, 5)
    body = codec.encode(rows)[:-4]
    out = np.empty_like(rows)
    rng = np.random.default_rng(0)
    bodies = [body[:length] for length in range(len(body))] + [body + b"\0", bytes(len(body) + 1)]
    bodies += [rng.bytes(int(rng.integers(100))) for _ in range(50)]
    for bad in bodies:
        if isinstance(codec, ZarrRows) and bad == body + b"\0":
            continue  # zarr's codecs allow bytes behind a stream
        with pytest.raises(CodecError):
            codec.decode(bad + crc32c(np.frombuffer(bad, np.uint8)).to_bytes(4, "little"), out)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 30_000))
def test_crc32c(data: bytes, zeros: int) -> None:
    whole = data + bytes(zeros) + data
    assert crc32c(np.frombuffer(whole, np.uint8)) == google_crc32c.value(whole)


@pytest.mark.parametrize("instructions", [True, False])
def test_crc32c_of_every_length(instructions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not instructions:
        monkeypatch.setattr(checksum, "has_instructions", lambda: False)
    data = np.random.default_rng(0).integers(0, 256, 3 * checksum.PART * 2 + 20, dtype=np.uint8)
    edge = 3 * checksum.PART
    for length in [*range(40), *range(edge - 9, edge + 10), 2 * edge - 1, 2 * edge, data.size]:
        expected = google_crc32c.value(data[:length].tobytes())
        assert crc32c(data[:length]) == expected
        assert crc32c(data[data.size - length :]) == google_crc32c.value(
            data[data.size - length :].tobytes()
        )
    assert crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283  # RFC 3720's polynomial


def test_threads_share_a_codec() -> None:
    chunks = [some_rows("float16", 256, 37, seed) for seed in range(6)]
    for chain in ("fast", "small", "zstd", "none", "big endian"):
        codec = named_codec(CHAINS[chain][0]).for_array("float16", 37)
        coded = [codec.encode(chunk) for chunk in chunks]

        def work(i: int, codec: Any = codec, coded: list[bytes] = coded) -> None:
            for _ in range(10):
                out = np.empty_like(chunks[i])
                codec.decode(coded[i], out)
                assert out.tobytes() == chunks[i].tobytes()

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Fast",
        "zstd",
        "[]",
        "3",
        "[3]",
        '["fast"]',
        "[{}]",
        '[{"name": "no.such"}]',
        '[{"name": "isae.bitmap", "configuration": {"level": 99}}]',
        json.dumps([LITTLE, zstd(99)]),
        json.dumps([LITTLE, {"name": "zstd", "configuration": {"speed": 1}}]),
    ],
)
def test_unknown_codecs(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected .*, found"):
        named_codec(text)


@pytest.mark.parametrize(
    "chain",
    [
        [zstd(1)],
        [LITTLE, LITTLE],
        [zstd(1), LITTLE],
        [{"name": "sharding_indexed", "configuration": {}}],
        [{"name": "transpose", "configuration": {"order": [0, 1, 2]}}, LITTLE],
    ],
)
def test_chains_that_do_not_fit(chain: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"expected .*, found"):
        codec_from_metadata([*chain, CRC], np.float16, 5)
    with pytest.raises(ConfigError, match="end in crc32c"):
        codec_from_metadata([LITTLE], np.float16, 5)


def test_types_and_rows_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="1, 2 or 4 bytes"):
        named_codec("fast").for_array("float64", 3)
    codec = named_codec("fast").for_array("float16", 3)
    data = codec.encode(np.ones((4, 3), np.float16))
    for wrong in (np.ones((4, 3), np.float32), np.ones((4, 2), np.float16), np.ones(12, "f2")):
        with pytest.raises(DataError, match="expected rows of 3 columns of float16"):
            codec.encode(wrong)
    frozen = np.empty((4, 3), np.float16)
    frozen.flags.writeable = False
    for out in (np.empty((3, 4), np.float16).T, frozen):
        with pytest.raises(DataError):
            codec.decode(data, out)


@pytest.mark.photos
def test_sizes_on_activations_of_photos(shared_dir: Path) -> None:
    photos = sorted((shared_dir / "data" / "tiny_imagenet" / "val").glob("*/*.JPEG"))[::100]
    pixels = [resize_crop(np.asarray(Image.open(p).convert("RGB")), 112) for p in photos]
    layers = ["mixed4a", "mixed4c", "mixed4e"]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        maps = load_model(dtype=torch.float32).activations(images, layers)
    for layer in layers:
        rows = maps[layer].movedim(1, -1).flatten(0, -2).to(torch.float16).numpy()
        rows = np.random.default_rng(0).permutation(rows)
        sizes = {
            name: len(named_codec(name).for_array("float16", rows.shape[1]).encode(rows))
            for name in ("fast", "small")
        }
        assert sizes["small"] * 1.25 <= len(Zstd(3).encode(rows))
        assert sizes["fast"] <= len(Zstd(1).encode(rows))
