"""`isae-bench store`: what a store costs to write and to read, and what a training loses by it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from isae.benchmarks.kernels import SCHEMA
from isae.benchmarks.measure import NORMAL, Effort, commit, machine, versions
from isae.benchmarks.store_bars import bars
from isae.benchmarks.store_build import Order, bench_build
from isae.benchmarks.store_memory import bench_memory
from isae.benchmarks.store_peer import Peer
from isae.benchmarks.store_read import bench_read
from isae.benchmarks.store_training import bench_training_from_store
from isae.errors import ConfigError
from isae.store import open_store

PACKAGES = ("zarr", "zarrs", "numcodecs", "pyarrow", "safetensors")


@dataclass(frozen=True)
class StoreJob:
    """What `isae-bench store` is asked to measure."""

    store: Path | None
    """A store that is there; None: the ones built from `images` are read."""
    images: str | None = None
    """Image source of the builds; None: nothing is built."""
    layer: str = "mixed4c"
    build_layers: tuple[str, ...] = ()
    """Layers of the builds; empty: `layer` alone."""
    codecs: tuple[str, ...] = ()
    """Codecs of the builds; empty: the default."""
    sizes: tuple[int, ...] = (112,)
    limit: int = 1000
    rows: int = 131_072
    batch: int = 4096
    threads: int = 2
    cold: bool = False
    train_steps: int = 0
    latents: int = 8192
    k: int = 32
    memory_rows: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError where there is nothing to do, or what this store cannot do."""
        if self.store is None and self.images is None and not self.memory_rows:
            raise ConfigError(
                "expected a STORE to read, --images to build from or --memory-rows, found none; "
                "give one"
            )
        if self.codecs and self.images is None and not self.memory_rows:
            raise ConfigError(
                "expected --images with --codec, which is the codec of builds, found none: a STORE "
                "is read as it is; give --images, or leave --codec out"
            )

    def json(self) -> dict[str, Any]:
        """As JSON; of folders the last two names, which are the same on every machine."""
        found = asdict(self) | {"store": self.store and _short(str(self.store))}
        return found | {"images": self.images and _short(self.images)}


def _short(path: str) -> str:
    return "/".join(path.rstrip("/").split("/")[-2:])


def bench_store(
    job: StoreJob,
    *,
    peers: list[type[Peer]],
    device: torch.device,
    effort: Effort = NORMAL,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure what the job names -> one JSON object.

    `failed` names what is wrong and therefore has no speed: builds that `verify` finds damaged,
    readers that gave other rows than they should or did not shuffle them, steps that are not the
    reference's. `bars` says what a store has to reach and what it reached (store_bars.py). Files
    are written to a temporary folder (TMPDIR says where) and removed.
    """
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "command": "store",
        "machine": machine(device),
        "versions": versions(PACKAGES),
        "commit": commit(),
        "job": {
            **job.json(),
            "peers": [peer.name for peer in peers],
            "device": str(device),
            "effort": asdict(effort),
        },
        "build": [],
        "read": [],
        "training": [],
        "memory": [],
        "failed": [],
    }
    with tempfile.TemporaryDirectory(prefix="isae-bench-") as name:
        folder = Path(name)
        stores = [job.store] if job.store is not None else []
        stores += _builds(job, folder, effort, result, note)
        for number, path in enumerate(stores):
            own = folder / f"read{number}"
            own.mkdir()
            _read(job, path, own, result, (peers, effort, device, note))
        if job.memory_rows:
            result["memory"] = bench_memory(
                list(job.memory_rows),
                folder,
                codec=job.codecs[0] if job.codecs else None,
                batch=job.batch,
                threads=job.threads,
                seed=job.seed,
                note=note,
            )
    result["bars"] = bars(result, training=job.train_steps > 0)
    return result


def _builds(
    job: StoreJob,
    folder: Path,
    effort: Effort,
    result: dict[str, Any],
    note: Callable[[str], None],
) -> list[Path]:
    """Measure the builds; those of the first size stay to be read."""
    found: list[Path] = []
    if job.images is None:
        return found
    layers = job.build_layers or (job.layer,)
    for size in job.sizes:
        for codec in job.codecs or (None,):
            own = folder / f"build-{len(result['build'])}"
            own.mkdir()
            order = Order(job.images, layers, size, codec, job.limit, job.seed)
            result["build"].append(bench_build(order, own, effort, note))
            fault = result["build"][-1]["fault"]
            if fault is not None:
                result["failed"].append(f"build, {size} pixels ({result['build'][-1]['codec']})")
            if size == job.sizes[0] and fault is None:
                found.append(own / "store")
            else:
                shutil.rmtree(own)
    return found


def _read(
    job: StoreJob,
    path: Path,
    folder: Path,
    result: dict[str, Any],
    means: tuple[list[type[Peer]], Effort, torch.device, Callable[[str], None]],
) -> None:
    peers, effort, device, note = means
    store = open_store(path)
    codec = str(store.manifest.get("codec", "zstd-1"))  # the codec before there were others
    codec = "custom" if codec.startswith("[") else codec
    named = {"content_id": store.content_id, "layer": job.layer, "codec": codec}
    size: dict[str, Any] = {
        "rows": job.rows,
        "batch": job.batch,
        "threads": job.threads,
        "seed": job.seed,
    }
    read = bench_read(
        path,
        job.layer,
        folder=folder,
        peers=peers,
        effort=effort,
        cold=job.cold,
        note=note,
        **size,
    )
    result["read"].append({"store": named, **read})
    result["failed"] += [f"{name} ({codec})" for name in read["failed"]]
    shutil.rmtree(folder)
    if job.train_steps and read["readers"][0]["fault"] is None:
        trained = bench_training_from_store(
            path,
            job.layer,
            steps=job.train_steps,
            latents=job.latents,
            k=job.k,
            device=device,
            note=note,
            **size,
        )
        result["training"].append({"store": named, **trained})
        if trained["fault"] is not None:
            result["failed"].append(f"training ({codec})")
