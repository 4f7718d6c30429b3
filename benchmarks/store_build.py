"""Building a store, against the work that cannot be left out: decoding, forward pass, compression.

Each of the three is measured alone, in a process of its own and one after the other, as processor
time per image; a perfect build on c cores would take their sum / c. The whole build then runs in a
new process too, warmed up by a tiny build, with its decoding processes counted:

    share = images * (decode + forward + codec) / c / wall seconds of the build
    own   = processor time of the build per image - decode - forward - codec

Both include what every build needs to start and to end, which `start_s` tells apart: the wall
seconds of a build of a few images.

A share is given for a store in which `verify` finds nothing wrong, and for no other.

The forward pass, which is nearly all of it, is measured on one core and on all of them at once, and
the smaller processor time counts. Cores share caches, memory and heat, so on all of them a pass may
cost more: `share_every_core` compares with that, which is what the machine can do at most. Rounds
of the four follow each other; a share is of one round.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isae.benchmarks.measure import Effort, summarise
from isae.benchmarks.store_child import in_child
from isae.store import BuildConfig, verify_store

STAGES = ("decode", "forward", "codec")
ROUNDS = 3
WARM_UP_IMAGES = 16
SAMPLE = 256
"""Images on which decoding alone and the forward pass alone are measured, at most."""


@dataclasses.dataclass(frozen=True)
class Order:
    """A build to be measured."""

    images: str
    layers: tuple[str, ...]
    size: int
    codec: str | None
    limit: int
    seed: int

    def config(self, out: Path) -> dict[str, Any]:
        """Options of BuildConfig."""
        found: dict[str, Any] = {"images": self.images, "layers": self.layers, "out": str(out)}
        found |= {"size": self.size, "limit": self.limit, "seed": self.seed}
        if self.codec is not None:
            found["codec"] = self.codec
        return found


def bench_build(
    order: Order, folder: Path, effort: Effort, note: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure the stages and the build in rounds -> one JSON object.

    The last store stays in `folder`/store. `fault` is the first problem that `verify` finds: there
    are no numbers then. Raises RunError if a process fails.
    """
    out = folder / "store"
    rounds: list[dict[str, Any]] = []
    about = {
        "size": order.size,
        "codec": order.codec or BuildConfig.codec,
        "layers": list(order.layers),
    }
    cores = len(os.sched_getaffinity(0))
    for number in range(min(ROUNDS, effort.least)):
        shutil.rmtree(out, ignore_errors=True)
        rounds.append(_round(order, out, effort.seconds, f"round {number + 1}: ", note))
        note(f"round {number + 1}: verifying")
        problems = verify_store(out)
        if problems:
            none = dict.fromkeys(("share", "share_every_core"))
            return {**about, "images": order.limit, "fault": problems[0], **none}
        rounds[-1] |= _judged(rounds[-1], cores)
    return {
        **about,
        "fault": None,
        "images": rounds[-1]["build"]["images"],
        "cores": cores,
        "share": summarise([one["share"] for one in rounds]).json(),
        "share_every_core": summarise([one["share_every_core"] for one in rounds]).json(),
        "core_ms_per_image": {
            name: summarise([one["core_ms_per_image"][name] for one in rounds]).median
            for name in rounds[-1]["core_ms_per_image"]
        },
        "wall_s": summarise([one["build"]["wall_s"] for one in rounds]).json(),
        "start_s": summarise([one["build"]["start"]["wall_s"] for one in rounds]).json(),
        "ideal_wall_s": summarise([one["ideal_wall_s"] for one in rounds]).json(),
        "rounds": rounds,
    }


def _round(
    order: Order, out: Path, seconds: float, prefix: str, note: Callable[[str], None]
) -> dict[str, Any]:
    config = order.config(out)
    task = {"config": config, "seconds": seconds, "sample": min(order.limit, SAMPLE)}
    found: dict[str, Any] = {}
    for stage in ("decode", "forward"):
        note(f"{prefix}{stage} alone, {order.size} pixels")
        found[stage] = in_child({"task": stage, **task})
    note(f"{prefix}the whole build, {order.size} pixels")
    warm_up = {"out": str(out.with_name("warm")), "limit": WARM_UP_IMAGES}
    found["build"] = in_child(
        {"task": "build", "start": True, "config": config, "warm_up": warm_up}
    )
    note(f"{prefix}codec alone")
    codec = {"store": str(out), "codec": order.codec, "images": found["build"]["images"]}
    found["codec"] = in_child({"task": "codec", "seconds": seconds, **codec})
    return found


def _judged(one: dict[str, Any], cores: int) -> dict[str, Any]:
    build = one["build"]
    stages = {stage: 1e3 * one[stage]["cpu_s_per_image"] for stage in STAGES}
    whole = 1e3 * build["cpu_s"] / build["images"]
    ideal = build["images"] * sum(stages.values()) / 1e3 / cores
    slower = one["forward"]["every_core"]["cpu_s_per_image"] - one["forward"]["cpu_s_per_image"]
    shared = ideal + build["images"] * slower / cores
    return {
        "core_ms_per_image": {**stages, "whole": whole, "own": whole - sum(stages.values())},
        "ideal_wall_s": ideal,
        "share": ideal / build["wall_s"],
        "share_every_core": shared / build["wall_s"],
    }
