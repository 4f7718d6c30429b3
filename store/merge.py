"""`isae-store merge`: one new store with the rows of several, of the same network and options.

Images are numbered through, store after store, and keep their names and their side of the held-out
split. All rows are shuffled anew by the order of their keys (store/cuts.py), as in a build: the
permutation depends on the seed, the stores and their order alone.

A photo that is in two stores (store/same_images.py) would count twice, and could be trained on and
held out at once. It is refused, not left out: the stores' owner knows which of them was meant to
have it, and a store with less rows than its sources could not be told from a damaged one. Data sets
that hold true copies are merged with `keep_copies`: both stay, on one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isae.config import check
from isae.errors import ConfigError
from isae.progress import QUIET, Reporter
from isae.store import manifest
from isae.store.alike import check_alike, short
from isae.store.codecs import named_codec
from isae.store.cuts import Ints
from isae.store.gather import Gathering, check_apart, gather
from isae.store.images_table import HOLDOUT
from isae.store.merged_rows import MergedRows, image_parts
from isae.store.reader import Store, open_store
from isae.store.same_images import Copies, find_copies

SHOWN = 3
"""Copies that a message names."""


@dataclass(frozen=True)
class MergeConfig:
    """Options of `isae-store merge`."""

    stores: tuple[str, ...]
    """Folders or addresses of the stores, in the order in which images are numbered."""
    out: str
    """Folder or address of the new store."""
    seed: int = 0
    """Seed of the shuffle."""
    codec: str | None = None
    """As for a build; None is the stores' own if they agree, else small."""
    scratch: str | None = None
    """Folder for what is done so far; as for a build."""
    keep_copies: bool = False
    """Keep photos that are in several stores, all of one photo held out if one of them is."""

    def __post_init__(self) -> None:
        """Check ranges; raise ConfigError."""
        check(len(self.stores) > 1, "at least two stores to merge", list(self.stores))
        check(0 <= self.seed < 2**63, "--seed in [0, 2^63)", self.seed)
        if self.codec is not None:
            named_codec(self.codec)


def merge_stores(
    config: MergeConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    reporter: Reporter = QUIET,
) -> manifest.Manifest:
    """Merge the stores that `config` names; the manifest of the new one.

    Raises ConfigError where the stores differ in what makes rows comparable (network, weights,
    preprocessing, input size, places, dtype, layers), are quantised, or hold a photo twice, and
    whatever `build_store` raises for a place that cannot be written.
    """
    stores = [open_store(path) for path in config.stores]
    check_apart(config.out, [store.place for store in stores])
    check_alike(stores, reporter)
    _check_different_sources(stores)
    copies = find_copies(stores, reporter)
    moved = _moved(config, stores, copies, reporter)
    codecs = {str(store.manifest.get("codec", "small")) for store in stores}
    codec = config.codec or (codecs.pop() if len(codecs) == 1 else "small")
    origin = MergedRows(stores, config.seed, codec, moved, copies.known)
    dtype = str(stores[0].manifest["dtype"])
    job = Gathering.begin(
        config.out, config.scratch, origin.grids, dtype, codec, origin, origin.identity
    )
    return gather(job, overwrite=overwrite, resume=resume, reporter=reporter)


def _check_different_sources(stores: Sequence[Store]) -> None:
    """Raise ConfigError if two stores are of the very same images."""
    seen: dict[str, Store] = {}
    for store in stores:
        for part in image_parts(store):
            if (other := seen.setdefault(part["fingerprint"], store)) is not store:
                raise ConfigError(
                    f"expected each image once, found those of {short(part['spec'])} in "
                    f"{other.path} and in {store.path}; leave one of them out"
                )


def _moved(
    config: MergeConfig, stores: Sequence[Store], copies: Copies, reporter: Reporter
) -> Ints:
    """The images to hold out because a copy is; ConfigError for copies that were not asked for."""
    if copies.untold:
        reporter.warn(
            f"{copies.untold:,} images have the name and size of one in another store, but no "
            "place in common to compare (or nothing is active there): should they be the same "
            "photos, they count twice, and may be held out in one store and trained on in the other"
        )
    if not copies.groups:
        return np.empty(0, dtype=np.int64)
    count = sum(len(group) - 1 for group in copies.groups)
    shown = "; ".join(
        " and ".join(_named(stores, image) for image in group[:2])
        for group in copies.groups[:SHOWN]
    )
    if not config.keep_copies:
        raise ConfigError(
            f"expected each image once, found {count:,} images twice, such as {shown}; merge "
            "stores of other images, build one store of them all, or keep both, on one side of "
            "the held-out split, with --keep-copies"
        )
    out_I = np.concatenate([store.images.column("split").to_numpy() == HOLDOUT for store in stores])
    found = [
        image
        for group in copies.groups
        if out_I[group].any()
        for image in group
        if not out_I[image]
    ]
    reporter.warn(
        f"{count:,} images are there twice, such as {shown}; their rows count twice, and "
        f"{len(found):,} training images are held out because a copy is"
    )
    return np.asarray(sorted(found), dtype=np.int64)


def _named(stores: Sequence[Store], image: int) -> str:
    for store in stores:
        if image < store.images.num_rows:
            return f"{store.images.column('name')[image].as_py()} of {store.path}"
        image -= store.images.num_rows
    raise IndexError(image)
