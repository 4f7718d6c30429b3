"""From the bytes of a picture file to RGB pixels, and from any pixels to one square size.

Both steps are written out in `RESIZE_RULE`, which a store records: with another rule the same
photos give other activations.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from isae.config import check
from isae.images.base import U8, UnreadableError

RESIZE_RULE = (
    "decode to 8-bit RGB: first frame; EXIF orientation applied; transparency laid over white; "
    "16-bit values by their high byte; CMYK by (255-C)(255-K)/255; colour profiles not applied; "
    "resize so that the short side is S and the long side floor(S * long / short), bilinear "
    "(triangle filter) with antialias, Pillow's 8-bit fixed point; then the central S x S, with "
    "offset floor((long - S) / 2)"
)
"""How a picture becomes pixels [S, S, 3], in words, as a store's manifest records it."""

MAX_PIXELS = 89_478_485
"""Pictures of more pixels are bad (Pillow's own limit for a suspected decompression bomb)."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_rgb(data: bytes) -> U8:
    """Pixels uint8 [H, W, 3] of a picture file's bytes; raises UnreadableError with the reason."""
    if not data:
        raise UnreadableError("the file is empty")

    def decode() -> U8:
        with Image.open(io.BytesIO(data)) as image:
            return to_rgb(image)

    return guarded(decode)


def guarded(decode: Callable[[], U8]) -> U8:
    """Call `decode`; whatever a broken picture makes it raise becomes UnreadableError."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of harmless flaws (broken EXIF) and of large pictures, which to_rgb
            # refuses.
            warnings.simplefilter("ignore")
            return decode()
    except (UnreadableError, MemoryError):
        # Lack of memory is the machine's fault: it must not make a picture bad.
        raise
    except UnidentifiedImageError:
        raise UnreadableError("not a picture in a known format") from None
    except Exception as error:
        # Broken files make Pillow's parsers fail in any way: OSError, SyntaxError, KeyError, ...
        raise UnreadableError(_one_line(error)) from error


def to_rgb(image: Image.Image) -> U8:
    """Pixels uint8 [H, W, 3] of an opened picture, by the decoding half of RESIZE_RULE."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"{width} x {height} is over {MAX_PIXELS:,} pixels")
    transpose = _TRANSPOSES.get(_orientation(image))
    image.load()
    if image.mode == "F":
        raise UnreadableError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    image = image.convert("RGB")
    if transpose is not None:
        image = image.transpose(transpose)
    return np.array(image)


def resize_crop(pixels: U8, size: int) -> U8:
    """RGB pixels uint8 [H, W, 3] -> [size, size, 3], by the resizing half of RESIZE_RULE.

    Only the part of the resized picture inside the crop is computed, so a picture of 1 x 10,000
    pixels needs no more memory than its square. Raises ConfigError for another shape or dtype.
    """
    check(size >= 1, "a picture size of at least 1 pixel", size)
    fits = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8 and pixels.size
    check(bool(fits), "uint8 pixels [H, W, 3]", f"{pixels.dtype} {list(pixels.shape)}")
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    short = min(height, width)
    left, right = _window(width, short, size)
    top, bottom = _window(height, short, size)
    resized = Image.fromarray(pixels).resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    return np.asarray(resized)


def _window(side: int, short: int, size: int) -> tuple[float, float]:
    """The stretch of one side, in source pixels, that ends up inside the crop."""
    resized = size * side // short
    offset = (resized - size) // 2
    return offset * side / resized, min((offset + size) * side / resized, float(side))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        # A broken EXIF block says nothing about the pixels: the picture is taken as it lies.
        return 1


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
