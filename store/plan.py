"""What a build will do: everything that is fixed before the first picture is decoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from isae.config import to_json
from isae.device import resolve_device
from isae.images import ImageSource, open_source, with_paths
from isae.inception import Network, layer_table, load_model
from isae.store import manifest
from isae.store.config import BuildConfig
from isae.store.extract import Extractor, Grid, plan_grids
from isae.store.images_table import Split
from isae.store.layout import WORK
from isae.store.places import Place, open_place
from isae.store.positions import PositionRule
from isae.store.ranks import Ranks
from isae.store.work import Work

SEGMENT_BYTES = 64 << 20
"""Raw rows of one segment: what a killed build loses at most, for each process."""
SEGMENT_IMAGES = 65536
VERSIONS = ("isae", "arithmetic", "torch", "numpy", "pillow", "numcodecs")
"""Versions that may change the bytes of a store."""
EXPECTED_SIZE = {"small": 0.55, "fast": 0.65}
"""Stored bytes for each raw byte that must be free to begin; 1 for other codecs."""


class Job(Protocol):
    """A store that is to be made: of pictures (Plan), or of other rows (store/gather.py)."""

    place: Place
    work: Work

    @property
    def segments(self) -> int:
        """Number of segments."""

    def identity(self) -> dict[str, Any]:
        """What must be the same to go on from where another run stopped."""

    def expected_bytes(self) -> tuple[int, int]:
        """All raw rows, and what must be free for the store itself."""


@dataclass
class Plan:
    """What a build works with."""

    config: BuildConfig
    place: Place
    work: Work
    source: ImageSource
    network: Network
    size: int
    grids: Sequence[Grid]
    split: Split
    extractor: Extractor
    ranks: Ranks

    @property
    def segment_images(self) -> int:
        """Images of a segment: whole batches of about SEGMENT_BYTES."""
        batch = self.config.batch_size
        wanted = min(SEGMENT_BYTES // self.extractor.bytes_per_image(), SEGMENT_IMAGES)
        return max(wanted // batch, 1) * batch

    @property
    def segments(self) -> int:
        """Number of segments."""
        return -(-len(self.source) // self.segment_images)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a build to go on from where another one stopped."""
        content = to_json(self.config)
        on_cpu = self.network.device.type == "cpu"
        for name in ("out", "scratch", "workers", "batch_size", "max_bad", "device"):
            del content[name]
        return one_text(
            {
                "options": content,
                "images": self.source.fingerprint(),
                "weights": self.network.weights.sha256,
                "network": f"{self.network.dtype} on {self.network.device.type}",
                "versions": {name: manifest.versions()[name] for name in VERSIONS},
                "batch on a GPU": None if on_cpu else self.config.batch_size,
                "size": self.size,
                "images of a segment": self.segment_images,
            }
        )

    def expected_bytes(self) -> tuple[int, int]:
        """Raw rows of all images, and what must be free for the store itself."""
        raw = len(self.source) * self.extractor.bytes_per_image()
        share = EXPECTED_SIZE.get(self.config.codec, 1.0)
        if self.config.quantised:
            share = 0.5
        return raw, int(raw * share)


def make_plan(config: BuildConfig, ranks: Ranks) -> Plan:
    """Open everything that `config` names; raises a subclass of IsaeError for what is wrong."""
    rule = PositionRule.parse(config.positions)
    plan_grids(layer_table(config.model), config.layers, config.size or 224)
    place = open_place(config.out)
    source = open_source(config.images, seed=config.seed, limit=config.limit)
    device = resolve_device(config.device)
    if config.device == "auto" and device.type == "cuda":
        device = torch.device("cuda", ranks.local_rank % torch.cuda.device_count())
    exact = torch.float32 if config.dtype == "float32" else None
    network = load_model(config.model, config.weights, device=device, dtype=exact)
    size = config.size or network.input_size
    grids = plan_grids(network.layers, config.layers, size)
    split = Split(config.seed, len(source), config.holdout)
    kept = torch.float32 if config.dtype == "float32" else torch.float16
    extractor = Extractor(network, grids, rule, config.seed, split, kept)
    work = Work(work_folder(place, config.scratch))
    return Plan(config, place, work, source, network, size, grids, split, extractor, ranks)


def one_text(identity: dict[str, Any]) -> dict[str, Any]:
    """A build's identity with one text for each path, however it was given."""
    if "images" not in identity.get("options", {}):
        return identity
    options = dict(identity["options"])
    options["images"] = with_paths(options["images"], os.path.realpath)
    weights = Path(options["weights"]).expanduser()
    if weights.suffix and weights.is_file():
        options["weights"] = os.path.realpath(weights)
    return {**identity, "options": options}


def work_folder(place: Place, scratch: str | None) -> Path:
    """Where what is done so far is kept: in the store's folder, or beside it on a local disk.

    Always a folder of this build alone: it is emptied when a build begins or ends.
    """
    if place.local is not None and scratch is None:
        return place.local / WORK
    where = place.url if place.local is None else str(place.local.resolve())
    own = f"isae-{hashlib.sha256(where.encode()).hexdigest()[:16]}"
    if scratch is not None:
        return Path(scratch).absolute() / own
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isae" / own
