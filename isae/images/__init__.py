"""Where pictures come from: folders, tar shards, torchvision data sets, procedural pictures.

`open_source` gives a source, `decode_batches` its pictures in batches of one size.
"""

from isae.images.bad import BadImageTally, default_max_bad
from isae.images.base import BadImage, ImageSource
from isae.images.loader import ImageBatch, decode_batches
from isae.images.opening import open_source, with_paths
from isae.images.pixels import RESIZE_RULE, resize_crop

__all__ = [
    "RESIZE_RULE",
    "BadImage",
    "BadImageTally",
    "ImageBatch",
    "ImageSource",
    "decode_batches",
    "default_max_bad",
    "open_source",
    "resize_crop",
    "with_paths",
]
