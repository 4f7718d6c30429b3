"""What a store was built from, opened again: image sources and networks, of each part of it.

A store that was built has one part. A merged one has those of the stores it was made of, one after
the other: the rows of each are made as its build made them, then numbered through and keyed anew as
the merge did (store/merged_rows.py). The stores themselves are not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isae.config import from_json
from isae.errors import ImageError, StoreError
from isae.images import ImageSource, open_source
from isae.images.merged import FORM, PREFIX, MergedSource, parse_merged
from isae.inception import Network, load_model
from isae.interrupts import Interrupts
from isae.progress import Reporter
from isae.store.config import BuildConfig
from isae.store.cuts import Ints, row_keys
from isae.store.images_table import Split
from isae.store.manifest import Manifest
from isae.store.merged_rows import is_merged
from isae.store.segments import GridRows


@dataclass
class Part:
    """Images of one source whose rows one build made."""

    manifest: Manifest
    """Of the store; `model` tells the device and number type of this part."""
    config: BuildConfig
    source: ImageSource
    weights: str
    first: int = 0
    """The number of its first image in the store."""
    networks: dict[tuple[str, str], Network] = field(default_factory=dict)
    """Those loaded, by device and number type; shared by the parts of a store."""

    @cached_property
    def split(self) -> Split:
        """Which images are held out."""
        return Split(self.config.seed, len(self.source), self.config.holdout)

    @property
    def network(self) -> Network:
        """The network; StoreError if it is not the one that the store was built with."""
        model = self.manifest["model"]
        kind = ("cuda" if model["device"].startswith("cuda") else "cpu", model["compute_dtype"])
        if kind not in self.networks:
            dtype = getattr(torch, kind[1])
            network = load_model(model["name"], self.weights, device=kind[0], dtype=dtype)
            if network.weights.sha256 != model["weights_sha256"]:
                raise StoreError(
                    f"expected the weights that the store was built with (SHA-256 "
                    f"{model['weights_sha256'][:16]}), found others in {self.weights} "
                    f"({network.weights.sha256[:16]}); give the right ones with --weights"
                )
            self.networks[kind] = network
        return self.networks[kind]

    def mine(self, images: Ints) -> Ints:
        """Those of the store's images that are of this part, by their numbers in it."""
        local = images - self.first
        return local[(local >= 0) & (local < len(self.source))]

    def whole_batches(self, images: Ints) -> Ints:
        """`images`, on a GPU with all others that were computed in one batch with them.

        There the last bits depend on the whole batch, on a CPU they do not.
        """
        if self.network.device.type == "cpu":
            return images
        size = self.config.batch_size
        first = np.unique(images // size) * size
        whole: Ints = (first[:, None] + np.arange(size)).ravel()
        return whole[whole < len(self.source)]


@dataclass
class Origin:
    """All parts of a store."""

    manifest: Manifest
    parts: Sequence[Part]
    reporter: Reporter
    stop: Interrupts

    @property
    def is_merged(self) -> bool:
        """Whether the rows were keyed anew."""
        return is_merged(self.manifest)

    @cached_property
    def source(self) -> ImageSource:
        """All images."""
        if not self.is_merged:
            return self.parts[0].source
        return MergedSource([part.source for part in self.parts], self.manifest["images"]["spec"])

    @cached_property
    def _moved(self) -> Ints:
        return np.asarray(self.manifest["images"].get("moved_to_holdout", []), dtype=np.int64)

    def held_out(self, images: Ints) -> npt.NDArray[np.bool_]:
        """Whether each image of the store is held out."""
        found = np.isin(images, self._moved)
        for part in self.parts:
            here = (images >= part.first) & (images < part.first + len(part.source))
            found[here] |= part.split.held_out(images[here] - part.first)
        return found

    def check_networks(self) -> None:
        """Load them all; raises what `Part.network` raises."""
        for part in self.parts:
            _ = part.network

    def placed(self, part: Part, stride: int, rows: GridRows) -> GridRows:
        """Rows of a part with the numbers and keys that they have in the store."""
        if not self.is_merged:
            return rows
        place_R3 = rows.place_R3.copy()
        place_R3[:, 0] += part.first
        image, y, x = place_R3.astype(np.int64).T
        key_R = row_keys(self.manifest["seed"], stride, image, y, x, self.held_out(image))
        return GridRows(key_R, place_R3, rows.layers)


def open_origin(
    manifest: Manifest,
    images: str | None,
    weights: str | None,
    reporter: Reporter,
    stop: Interrupts,
) -> Origin:
    """Open the images again; StoreError if they are not those that the store was built from.

    `images` and `weights` say where they are now, if elsewhere; of a merged store `images` is
    `merge:[...]` with a source for each part.
    """
    found = manifest["images"]
    if is_merged(manifest):
        return Origin(manifest, _open_parts(manifest, images, weights), reporter, stop)
    if "config" not in manifest:
        made_of = ", ".join(manifest.get("made", {}).get("of", [])[:3]) or "other rows"
        raise StoreError(
            f"expected a store that was built from images, found one made of {made_of}; "
            "convert it again with --overwrite"
        )
    config = from_json(BuildConfig, manifest["config"])
    source = _open(images or found["spec"], found, config, "--images")
    part = Part(manifest, config, source, weights or config.weights)
    return Origin(manifest, [part], reporter, stop)


def _open_parts(manifest: Manifest, images: str | None, weights: str | None) -> list[Part]:
    """The parts of a merged store; an error names the source that cannot be opened."""
    listed: list[dict[str, Any]] = manifest["images"]["parts"]
    option = f"--images '{FORM}'"
    specs = [part["spec"] for part in listed]
    if images is not None:
        specs = [spec for spec, _, _ in parse_merged(images, 0)] if _is_list(images) else [images]
    if len(specs) != len(listed):
        raise StoreError(
            f"expected a source for each of the {len(listed)} that the store was merged of, found "
            f"{len(specs)}; give {option}"
        )
    parts: list[Part] = []
    networks: dict[tuple[str, str], Network] = {}
    first = 0
    for spec, about in zip(specs, listed, strict=True):
        if "config" not in about:
            raise StoreError(
                f"expected a store merged of stores that were built from images, found that the "
                f"rows of {about['spec']} were not, or not by this version; merge again with "
                "--overwrite"
            )
        config = from_json(BuildConfig, about["config"])
        source = _open(spec, about, config, option)
        own = {**manifest, "model": {**manifest["model"], **about["ran"]}}
        chosen = weights or manifest["model"]["weights"]
        parts.append(Part(own, replace(config, images=spec), source, chosen, first, networks))
        first += len(source)
    return parts


def _is_list(images: str) -> bool:
    return images.startswith(PREFIX)


def _open(spec: str, expected: Mapping[str, Any], config: BuildConfig, option: str) -> ImageSource:
    try:
        source = open_source(spec, seed=config.seed, limit=config.limit)
    except ImageError as error:
        raise StoreError(
            f"expected the images that the store was built from, found none in {spec} ({error}); "
            f"give the place where they are now with {option}"
        ) from error
    if source.fingerprint() != expected["fingerprint"]:
        count = "as many" if len(source) == expected["count"] else f"{len(source):,}"
        raise StoreError(
            f"expected the {expected['count']:,} images that the store was built from in {spec}, "
            f"found {count} with other names or sizes; bring the same ones back, or give the "
            f"place where they are with {option}"
        )
    return source
