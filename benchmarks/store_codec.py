"""The store's codecs alone, in one thread: how small, how fast, on the very rows of a store.

Codecs take turns chunk list by chunk list, so that a slow minute falls on all. What is decoded must
be what was coded, bit by bit: a codec that fails has a fault instead of numbers.

Shapes: R rows of a chunk, C channels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.benchmarks.measure import Effort, summarise
from isae.store import BuildConfig
from isae.store.codecs import RowCodec, named_codec

Array = npt.NDArray[Any]


def zstd_json(level: int) -> str:
    """The codec that has always been there: zstd with a checksum of its own."""
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    return json.dumps(
        [plain, {"name": "zstd", "configuration": {"level": level, "checksum": True}}]
    )


COMPARED = {
    "small": "small",
    "fast": "fast",
    "none": "none",
    "zstd-1": zstd_json(1),
    "zstd-3": zstd_json(3),
}
"""Codecs that are compared, by the names in the table."""


def chunk_encoder(
    codec: str | None, dtype: np.dtype[Any], columns: int
) -> Callable[[Array], bytes]:
    """A function that codes one chunk [R, C] as a build with --codec `codec` (None: default)."""
    return named_codec(codec or BuildConfig.codec).for_array(dtype, columns).encode


def whole_chunks(rows_RC: Array, size: int) -> list[Array]:
    """Rows cut into chunks of `size`, the last one filled up with zeros."""
    padded_RC = np.zeros((-(-len(rows_RC) // size) * size, rows_RC.shape[1]), rows_RC.dtype)
    padded_RC[: len(rows_RC)] = rows_RC
    return [padded_RC[start : start + size] for start in range(0, len(padded_RC), size)]


def bench_codecs(rows_RC: Array, chunk_rows: int, effort: Effort) -> list[dict[str, Any]]:
    """Code and decode whole chunks of the rows with everybody -> a row of results each."""
    # A chunk that is filled up would flatter those that see zeros best.
    chunks = whole_chunks(rows_RC, min(chunk_rows, len(rows_RC)))
    chunks = chunks[: max(1, len(rows_RC) // chunk_rows)]
    raw = sum(chunk.nbytes for chunk in chunks)
    kind, columns = rows_RC.dtype, rows_RC.shape[1]
    codecs = {n: named_codec(text).for_array(kind, columns) for n, text in COMPARED.items()}
    coded = {name: [codec.encode(chunk) for chunk in chunks] for name, codec in codecs.items()}
    rows: list[dict[str, Any]] = [
        {"codec": n, "fault": _fault(codecs[n], coded[n], chunks)} for n in codecs
    ]
    good = [row["codec"] for row in rows if row["fault"] is None]
    times = _take_turns({n: (codecs[n], coded[n]) for n in good}, chunks, effort)
    for row in rows:
        if row["fault"] is not None:
            continue
        name = row["codec"]
        row["compression"] = raw / sum(map(len, coded[name]))
        for way in ("encode", "decode"):
            speeds = [raw / 1e6 / seconds for seconds in times[name][way]]
            row[f"{way}_mb_per_s"] = summarise(speeds).json()
    return rows


def _fault(codec: RowCodec, coded: Sequence[bytes], chunks: Sequence[Array]) -> str | None:
    out_RC = np.empty_like(chunks[0])
    for number, (data, chunk) in enumerate(zip(coded, chunks, strict=True)):
        # What a codec does not write must not be right from before.
        out_RC.view(np.uint8).fill(0xFF)
        codec.decode(data, out_RC)
        if out_RC.tobytes() != chunk.tobytes():
            return f"expected chunk {number} as it was coded, found other bits"
    return None


def _take_turns(
    codecs: dict[str, tuple[RowCodec, list[bytes]]], chunks: list[Array], effort: Effort
) -> dict[str, dict[str, list[float]]]:
    out_RC = np.empty_like(chunks[0])
    times: dict[str, dict[str, list[float]]] = {n: {"encode": [], "decode": []} for n in codecs}
    while any(_unfinished(way, effort) for one in times.values() for way in one.values()):
        for name, (codec, coded) in codecs.items():
            started = time.perf_counter()
            for chunk in chunks:
                codec.encode(chunk)
            between = time.perf_counter()
            for data in coded:
                codec.decode(data, out_RC)
            times[name]["encode"].append(between - started)
            times[name]["decode"].append(time.perf_counter() - between)
    return times


def _unfinished(seconds: list[float], effort: Effort) -> bool:
    if len(seconds) >= effort.most:
        return False
    return len(seconds) < effort.least or sum(seconds) < effort.seconds / 4
