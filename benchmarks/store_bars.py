"""What a store has to reach, judged from the results of one run of `isae-bench store`.

Medians are judged. A bar that could not be measured, since a check failed, is not met; one whose
part of the benchmark was not asked for is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BUILD_SHARE, TRAINING_SHARE = 0.9, 0.95
TIMES_ZARR = {"fast": 3.0}
"""How many times as fast as zarr-python with the same codec, where it is not TIMES_ZARR_ELSE."""
TIMES_ZARR_ELSE = 2.0
READ_MB_PER_S = 1000.0
TIMES_SMALLER, TIMES_DECODE = 1.25, 1.0
MOST_GROWTH = 0.1
MOST_SIGMAS = 3.0


def bars(result: Mapping[str, Any], *, training: bool) -> list[dict[str, Any]]:
    """Bars of a result: {name, wanted, found, met, at_most}.

    `found` is None if it was not measured; at_most: lower is better. `training` says whether it was
    asked for.
    """
    found: list[dict[str, Any]] = []
    for part in result["build"]:
        name = f"build, {part['size']} pixels, {part['codec']}: share of the cores"
        found.append(_bar(name, BUILD_SHARE, _median(part["share"])))
        name += ", all at once"
        found.append(_bar(name, BUILD_SHARE, _median(part["share_every_core"])))
    for part in result["read"]:
        found += _of_reading(part)
    if training:
        codecs = [part["store"]["codec"] for part in result["read"]]
        trained = {part["store"]["codec"]: part for part in result["training"]}
        for codec in codecs:
            share = trained[codec]["store_against_memory"] if codec in trained else None
            found.append(
                _bar(f"training, {codec}: speed against memory", TRAINING_SHARE, _median(share))
            )
    return found + list(_of_memory(result["memory"]))


def _of_reading(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    codec = part["store"]["codec"]
    first = part["readers"][0]
    yield _bar(f"read, {codec}: MB/s", READ_MB_PER_S, _median(first["read_mb_per_s"]))
    for row in part["readers"]:
        if row["name"] == "zarr":
            wanted = TIMES_ZARR.get(codec, TIMES_ZARR_ELSE)
            times = _median(row["first_times_faster"])
            yield _bar(f"read, {codec}: times zarr-python's speed", wanted, times)
    sigmas = first["shuffle"] and first["shuffle"]["sigmas"]
    yield _bar(f"read, {codec}: shuffle, sigmas", MOST_SIGMAS, sigmas, at_most=True)
    if part["stored_dtype"] == part["dtype"]:  # else it is not bit-exact
        yield from _of_codecs({row["codec"]: row for row in part["codecs"]}, codec)


def _of_codecs(rows: Mapping[str, Any], codec: str) -> Iterator[dict[str, Any]]:
    small, zstd = rows["small"], rows["zstd-3"]
    good = small["fault"] is None and zstd["fault"] is None
    smaller = small["compression"] / zstd["compression"] if good else None
    yield _bar(f"small, rows of {codec}: times smaller than zstd-3", TIMES_SMALLER, smaller)
    speeds = [_median(row["decode_mb_per_s"]) for row in (small, zstd)] if good else []
    times = speeds[0] / speeds[1] if speeds and speeds[0] and speeds[1] else None
    yield _bar(f"small, rows of {codec}: decoding, times zstd-3", TIMES_DECODE, times)


def _of_memory(parts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if len(parts) < 2:
        return
    rows = f"{parts[0]['rows']:,} to {max(part['rows'] for part in parts):,} rows"
    for task in ("build", "read"):
        known = all(part[f"{task}_bytes"] for part in parts)
        growth = max(part[f"{task}_growth"] for part in parts) if known else None
        yield _bar(f"memory of {task}, {rows}: growth", MOST_GROWTH, growth, at_most=True)


def _bar(name: str, wanted: float, found: float | None, *, at_most: bool = False) -> dict[str, Any]:
    met = found is not None and (found <= wanted if at_most else found >= wanted)
    return {"name": name, "wanted": wanted, "found": found, "met": met, "at_most": at_most}


def _median(times: Mapping[str, Any] | None) -> float | None:
    return None if times is None else float(times["median"])
