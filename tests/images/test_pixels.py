from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from isae.errors import ConfigError
from isae.images import open_source, resize_crop
from isae.images.base import UnreadableError
from isae.images.pixels import decode_rgb

F64 = npt.NDArray[np.float64]


def triangle_weights(side: int, resized: int) -> F64:
    """Rows: outputs; columns: inputs. The triangle filter, widened when the picture shrinks."""
    scale = side / resized
    support = max(scale, 1.0)
    centres = (np.arange(resized) + 0.5) * scale
    distance = np.abs(np.arange(side)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    normal: F64 = weights / weights.sum(1, keepdims=True)
    return normal


def reference(pixels: npt.NDArray[np.uint8], size: int) -> F64:
    height, width = pixels.shape[:2]
    short = min(height, width)
    new_h, new_w = math.floor(size * height / short), math.floor(size * width / short)
    full = np.einsum("yh,hwc->ywc", triangle_weights(height, new_h), pixels.astype(np.float64))
    full = np.einsum("xw,ywc->yxc", triangle_weights(width, new_w), full)
    top, left = (new_h - size) // 2, (new_w - size) // 2
    crop: F64 = full[top : top + size, left : left + size]
    return crop


sides = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, size=st.integers(1, 40), seed=st.integers(0, 99))
def test_resize_crop_is_the_triangle_filter(height: int, width: int, size: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = resize_crop(pixels, size)
    assert out.shape == (size, size, 3)
    assert out.dtype == np.uint8
    # Two passes, each rounded to whole levels (0.5) with weights of 22 bits (below 0.01); the first
    # error is averaged by the second pass, so together at most a little over one level.
    assert np.abs(out - reference(pixels, size)).max() <= 1.03


@pytest.mark.parametrize("shape", [(1, 401), (400, 1), (2, 301), (333, 1), (1, 1)])
def test_extreme_shapes(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    out = resize_crop(pixels, 8)
    # As above; the crop's edges are single-precision numbers in Pillow, 400 * 2^-24 of a pixel.
    assert np.abs(out - reference(pixels, 8)).max() <= 1.1


def test_a_long_strip_needs_no_long_memory() -> None:
    pixels = np.full((1, 200_000, 3), 77, dtype=np.uint8)
    # Resized as a whole it would be 224 x 44,800,000 pixels: 30 GB.
    assert (resize_crop(pixels, 224) == 77).all()


@pytest.mark.photos
def test_it_agrees_with_resizing_the_whole_photo(shared_dir: Path) -> None:
    source = open_source(str(shared_dir / "data" / "photos256"), limit=25)
    for index in range(len(source)):
        pixels = source.load(index)
        height, width = pixels.shape[:2]
        new_h, new_w = (112 * side // min(height, width) for side in (height, width))
        whole = Image.fromarray(pixels).resize((new_w, new_h), Image.Resampling.BILINEAR)
        top, left = (new_h - 112) // 2, (new_w - 112) // 2
        expected = np.asarray(whole)[top : top + 112, left : left + 112].astype(int)
        # The crop's edges are rounded to single precision, which can tip a rounding.
        assert np.abs(resize_crop(pixels, 112) - expected).max() <= 1


def test_pixels_of_the_right_size_stay() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_crop(pixels, 9), pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_pixels_are_refused(pixels: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ConfigError, match=r"uint8 pixels \[H, W, 3\]"):
        resize_crop(pixels, 4)


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        resize_crop(np.zeros((4, 4, 3), np.uint8), 0)


def save(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def only_colour(data: bytes) -> list[int]:
    colours = decode_rgb(data).reshape(-1, 3)
    assert (colours == colours[0]).all()
    return [int(value) for value in colours[0]]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (0, 0, 0, 255), [0, 0, 0]),
        ("RGBA", (9, 9, 9, 0), [255, 255, 255]),
        ("LA", (0, 0), [255, 255, 255]),
        ("I;16", 0x1234, [0x12, 0x12, 0x12]),
    ],
)
def test_modes_become_rgb(mode: str, colour: int, expected: list[int]) -> None:
    assert only_colour(save(Image.new(mode, (5, 4), colour))) == expected


def test_half_transparent_black_is_grey() -> None:
    # 255 * (1 - 128 / 255), within Pillow's rounding.
    assert only_colour(save(Image.new("RGBA", (3, 3), (0, 0, 0, 128)))) == [127, 127, 127]


def test_transparent_palette_is_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    assert only_colour(save(image)) == [200, 10, 10]
    assert only_colour(save(image, transparency=1)) == [255, 255, 255]
    assert only_colour(save(image, "GIF", transparency=1)) == [255, 255, 255]


def test_cmyk_and_wide_integers() -> None:
    assert only_colour(save(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF")) == [255, 255, 255]
    assert only_colour(save(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG")) == [0, 0, 0]
    assert only_colour(save(Image.new("I", (4, 4), 70_000), "TIFF")) == [255, 255, 255]


def test_floating_point_pictures_are_refused() -> None:
    with pytest.raises(UnreadableError, match="no agreed range"):
        decode_rgb(save(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert only_colour(data) == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    # How a camera stores an upright picture for each value: (rows from, columns from) of EXIF.
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}
    stored = np.rot90(upright, turns[orientation])
    if orientation in (2, 4):
        stored = stored[:, ::-1]
    if orientation in (5, 7):
        stored = stored[::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(decode_rgb(data), upright)


def test_a_broken_exif_block_is_no_obstacle() -> None:
    data = save(Image.new("RGB", (4, 4), "blue"), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff")
    assert decode_rgb(data).shape == (4, 4, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_truncated_files_are_bad(form: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = save(Image.fromarray(pixels), form)
    assert decode_rgb(data).shape == (32, 32, 3)
    for length in (0, 3, 20, len(data) // 2):
        with pytest.raises(UnreadableError) as caught:
            decode_rgb(data[:length])
        assert str(caught.value)
        assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_damaged_files_are_pictures_or_bad(position: int, value: int, cut: int) -> None:
    data = bytearray(save(Image.radial_gradient("L").resize((24, 24)), "PNG"))
    data[position % len(data)] = value
    if cut < len(data):
        del data[cut:]
    try:
        pixels = decode_rgb(bytes(data))
    except UnreadableError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_a_decompression_bomb_is_bad_and_costs_nothing() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    for side in (10_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        data = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", b"")
            + chunk(b"IEND", b"")
        )
        with pytest.raises(UnreadableError, match="pixels"):
            decode_rgb(data)
