"""Sheets of tiles: the patches of 64 features on one JPEG, a row a feature.

Every picture is read once, scaled so that a patch has a tile's side, and kept in a file until all
sheets are written; a tile is then a plain slice. Neither threads nor their order change a byte.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from isae.analysis.arrays import I64, U8, Bools
from isae.analysis.codes import Room
from isae.analysis.patches import Cropper, PatchGeometry
from isae.analysis.visualise.patch_config import PatchesConfig
from isae.files import write_bytes
from isae.images import ImageSource
from isae.progress import QUIET, Reporter

FEATURES_PER_SHEET = 64
_WHITE, _UNREADABLE_GREY = 255, 200


@dataclass(frozen=True)
class ScaledPictures:
    """Pictures in the scale of tiles.

    pixels_JSS3: uint8; number_I: of each image its picture, -1 where it was not wanted; shown_I:
    whether an image's picture was wanted and could be read; size: side of what the network saw.
    """

    pixels_JSS3: U8
    number_I: I64
    shown_I: Bools
    size: int

    @property
    def side(self) -> int:
        """Side of the scaled pictures in pixels."""
        return int(self.pixels_JSS3.shape[1])


def read_pictures(
    source: ImageSource,
    images_I: I64,
    wanted: I64,
    geometry: PatchGeometry,
    config: PatchesConfig,
    room: Room,
    reporter: Reporter = QUIET,
) -> ScaledPictures:
    """Read the wanted ones of the images, each once, and scale a patch's side to a tile's.

    images_I: the source's number of each image; wanted: rising places in images_I. A picture is
    first brought to what the network saw. Memory: one picture a thread; the rest lies in `room`.
    """
    side = max(round(geometry.size * config.tile / geometry.side), config.tile)
    shape = (len(wanted), side, side, 3)
    pixels_JSS3 = room.empty(int(np.prod(shape)), np.uint8).reshape(shape)
    number_I = np.full(len(images_I), -1, dtype=np.int64)
    number_I[wanted] = np.arange(len(wanted))
    shown_I = np.zeros(len(images_I), dtype=np.bool_)
    cropper = Cropper(source, geometry.size)
    whole_14 = np.array([[0, 0, geometry.size, geometry.size]])

    def read(image: int) -> None:
        seen = cropper.cut([int(images_I[image])], whole_14)[0]
        if seen is not None:
            scaled = Image.fromarray(seen).resize((side, side), Image.Resampling.BILINEAR)
            pixels_JSS3[number_I[image]] = np.asarray(scaled)
            shown_I[image] = True

    with (
        reporter.task(len(wanted), "pictures", "pictures") as meter,
        ThreadPoolExecutor(config.threads or torch.get_num_threads()) as pool,
    ):
        for _ in pool.map(read, wanted.tolist()):
            meter.advance()
    return ScaledPictures(pixels_JSS3, number_I, shown_I, geometry.size)


@dataclass(frozen=True)
class Tiles:
    """Where each tile goes and comes from: int64 [M] each, features rising.

    image_M: place in `images_I`; left_M, top_M: of the patch in the picture that the network saw.
    """

    feature_M: I64
    column_M: I64
    image_M: I64
    left_M: I64
    top_M: I64


def write_tile_sheets(
    tiles: Tiles,
    pictures: ScaledPictures,
    features: int,
    config: PatchesConfig,
    folder: Path,
    reporter: Reporter = QUIET,
) -> int:
    """Write <C>.jpg of features 64 C to 64 C + 63 into a new folder -> bytes written.

    A row is a tile for each of `config.columns`, without gaps; an empty place is white, a picture
    that could not be read is grey. Every sheet has 64 rows but the last, which ends with the last
    feature.
    """
    folder.mkdir()
    sheets, written = -(-features // FEATURES_PER_SHEET), 0

    def write(number: int) -> int:
        first = number * FEATURES_PER_SHEET
        rows = min(FEATURES_PER_SHEET, features - first)
        coded = io.BytesIO()
        sheet = Image.fromarray(_lay_out(tiles, pictures, first, rows, config))
        sheet.save(coded, "JPEG", quality=config.quality, optimize=True)
        write_bytes(folder / f"{number}.jpg", coded.getvalue())
        return coded.tell()

    with (
        reporter.task(sheets, "sheets", "sheets") as meter,
        ThreadPoolExecutor(config.threads or torch.get_num_threads()) as pool,
    ):
        for size in pool.map(write, range(sheets)):
            written += size
            meter.advance()
    return written


def _lay_out(
    tiles: Tiles, pictures: ScaledPictures, first: int, rows: int, config: PatchesConfig
) -> U8:
    """The tiles of the features [first, first + rows) on one canvas uint8 [H, W, 3]."""
    side = config.tile
    canvas = np.full((rows * side, len(config.columns) * side, 3), _WHITE, dtype=np.uint8)
    scale, most = pictures.side / pictures.size, pictures.side - side
    for m in range(*np.searchsorted(tiles.feature_M, (first, first + rows))):
        y, x = (tiles.feature_M[m] - first) * side, tiles.column_M[m] * side
        place, image = canvas[y : y + side, x : x + side], tiles.image_M[m]
        if pictures.shown_I[image]:
            left, top = (
                min(round(float(start_M[m]) * scale), most)
                for start_M in (tiles.left_M, tiles.top_M)
            )
            picture = pictures.pixels_JSS3[pictures.number_I[image]]
            place[:] = picture[top : top + side, left : left + side]
        else:
            place[:] = _UNREADABLE_GREY
    return canvas
