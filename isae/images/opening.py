"""From the text after `--images` to an image source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from isae.config import check
from isae.errors import ImageError
from isae.images.base import ImageSource, SubsetSource
from isae.images.folder import FolderSource
from isae.images.merged import PREFIX, MergedSource, parse_merged, with_parts
from isae.images.patterns import is_shards, shard_paths
from isae.images.shards import ShardSource
from isae.images.synthetic import SyntheticSource

MOST_IMAGES = 2**31
"""Image numbers are stored as int32."""


def open_source(spec: str, *, seed: int = 0, limit: int | None = None) -> ImageSource:
    """The pictures that `spec` names.

    - an existing folder: a tree of photos, class = first folder below it;
    - tar shards: `photos.tar`, `train-{0000..0009}.tar`, `*.tar`, or `@list.txt` (one per line);
    - torchvision:NAME:FOLDER[:SPLIT] (torchvision:FakeData:N): a data set that is on the disk;
    - synthetic:N: N procedural pictures from `seed`;
    - merge:["SPEC", ...]: several of these, one after the other (see isae/images/merged.py).

    `limit` takes that many of them, a fair sample drawn by `seed`, in their order. Raises
    ImageError for a source that is missing, empty or of an unknown form.
    """
    check(limit is None or limit >= 1, "--limit of at least 1", limit)
    source = _open(spec, seed)
    if limit is None or limit >= len(source):
        return source
    return SubsetSource(source, limit, seed)


def with_paths(spec: str, change: Callable[[str], str]) -> str:
    """`spec` with `change` made to every path in it, so that one source has one text."""
    if spec.startswith("synthetic:"):
        return spec
    if spec.startswith(PREFIX):
        return with_parts(spec, lambda one: with_paths(one, change))
    if spec.startswith("torchvision:") and not Path(spec).is_dir():
        from isae.images.torchvision_sets import with_root

        return with_root(spec, change)
    mark = "@" if spec.startswith("@") and not Path(spec).is_dir() else ""
    return mark + change(spec.removeprefix(mark))


def _open(spec: str, seed: int) -> ImageSource:
    if spec.startswith("synthetic:"):
        return _open_synthetic(spec, seed)
    if spec.startswith(PREFIX):
        return _open_merged(spec, seed)
    if Path(spec).is_dir():
        return FolderSource(Path(spec), spec)
    if spec.startswith("torchvision:"):
        from isae.images.torchvision_sets import TorchvisionSource

        return TorchvisionSource(spec)
    if is_shards(spec):
        return ShardSource(shard_paths(spec), spec)
    found = "a file that is no tar shard" if Path(spec).exists() else "nothing of that name"
    raise ImageError(
        f"expected a folder of photos, tar shards, torchvision:NAME:FOLDER or synthetic:N for "
        f"'{spec}', found {found}; check the path"
    )


def _open_merged(spec: str, seed: int) -> ImageSource:
    parts = [open_source(one, seed=s, limit=limit) for one, s, limit in parse_merged(spec, seed)]
    if (total := sum(len(part) for part in parts)) >= MOST_IMAGES:
        raise ImageError(f"expected fewer than {MOST_IMAGES:,} pictures in all, found {total:,}")
    return MergedSource(parts, spec)


def _open_synthetic(spec: str, seed: int) -> ImageSource:
    number = spec.removeprefix("synthetic:")
    if not number.isdecimal() or not 1 <= int(number) < MOST_IMAGES:
        raise ImageError(
            f"expected synthetic:N with a whole number N from 1 to {MOST_IMAGES - 1:,}, found "
            f"'{spec}'"
        )
    return SyntheticSource(int(number), seed, spec)
